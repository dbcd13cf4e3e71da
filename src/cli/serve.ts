/** `lull serve`: the service, wired from its settings. */
// By module, as the index of the package brings clients of Redis and workers with it.
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Cause, Clock, Context, Duration, Effect, Fiber, Layer, Logger, Redacted, References } from "effect"
import * as HttpRouter from "effect/http/HttpRouter"
import { HttpServer } from "effect/http/HttpServer"
import { createServer } from "node:http"
import { join } from "node:path"
import { Availability } from "../database/Availability.ts"
import { Replica } from "../database/Replica.ts"
import { describe } from "../database/Unavailable.ts"
import * as Server from "../http/Server.ts"
import * as TailnetRoute from "../http/TailnetRoute.ts"
import * as DedupLogger from "../logging/DedupLogger.ts"
import * as RotatingFile from "../logging/RotatingFile.ts"
import { Loops } from "../loop/Loops.ts"
import { Executor } from "../provisioner/Executor.ts"
import { Provisioner } from "../provisioner/Provisioner.ts"
import { fromConfig, type LogFormat, type Settings, unknownSettings } from "../Settings.ts"
import { Coordinator } from "../tailnet/Coordinator.ts"
import { limits } from "../tailnet/Peer.ts"
import * as PeerStorePostgres from "../tailnet/PeerStorePostgres.ts"
import * as TailnetLoop from "../tailnet/TailnetLoop.ts"
import * as Transports from "../tailnet/Transports.ts"

/** How many connections are taken at a time, of which most are those of peers; further ones wait in the kernel. */
const mostConnections = 16_000

/** What may be open when the service ends, a log that is followed, is not waited for. */
const closeWithin = Duration.seconds(1)

/** `consoleLogFmt` and `consoleJson` write to stdout whatever `LogToStderr` says; only the pretty one obeys it. */
const logger = (format: LogFormat, isTerminal: boolean) => {
  switch (format) {
    case "pretty":
      return Logger.consolePretty({ colors: isTerminal })
    case "logfmt":
      return Logger.withConsoleError(Logger.formatLogFmt)
    case "json":
      return Logger.withConsoleError(Logger.formatJson)
  }
}

const logLevels = {
  all: "All",
  trace: "Trace",
  debug: "Debug",
  info: "Info",
  warn: "Warn",
  error: "Error",
  fatal: "Fatal",
  none: "None"
} as const

/** Logs go to stderr, as stdout is for results; and to a file, unless that is not wanted. */
const logging = Effect.fnUntraced(
  function*(settings: Settings, isTerminal: boolean, onHangup: OnHangup) {
    const format: LogFormat = settings.logFormat ?? (isTerminal ? "pretty" : "logfmt")
    const stderr = logger(format, isTerminal)
    const file = yield* Effect.provide(logFile(settings), Logger.layer([stderr]))
    if (file !== undefined) {
      const runFork = Effect.runForkWith(yield* Effect.context<never>())
      onHangup(() => runFork(file.reopen))
    }
    return DedupLogger.layer({ loggers: file === undefined ? [stderr] : [stderr, file.logger] })
  },
  (effect, settings) =>
    Layer.unwrap(effect).pipe(Layer.provideMerge(Layer.mergeAll(
      Layer.succeed(Logger.LogToStderr, true),
      Layer.succeed(References.MinimumLogLevel, logLevels[settings.logLevel])
    )))
)

const logFile = Effect.fnUntraced(function*({ dataDirectory, logFile, logFormat, logQuota }: Settings) {
  if (logFile === "none") return undefined
  const file = RotatingFile.make({
    path: logFile ?? join(dataDirectory, "log", "lull.log"),
    quota: logQuota,
    format: logFormat === "json" ? undefined : Logger.formatLogFmt
  })
  if (logFile !== undefined) return yield* file
  // Nobody has asked for it, so nobody should be kept from starting by it.
  return yield* Effect.catch(file, (error) => Effect.as(Effect.logWarning(error.message), undefined))
})

const hostInUrl = (host: string) => host.includes(":") ? `[${host}]` : host

/** The control plane's own peer: its loop to the coordinator of its own process. */
const ControlPlanePeer = Layer.effectDiscard(Effect.gen(function*() {
  const loops = yield* Loops
  const replica = yield* Replica
  const transport = yield* Transports.inProcess()
  const loop = yield* TailnetLoop.make({ peer: replica.id, transports: [transport] })
  yield* loops.fork("tailnet", loop.run)
}))

const service = (settings: Settings, databaseUrl: Redacted.Redacted<string>) => {
  const { host, port } = settings.listen
  const isLoopback = host === "localhost" || host === "::1" || host.startsWith("127.")
  const guard = {
    token: settings.token && Redacted.value(settings.token),
    peerToken: settings.peerToken && Redacted.value(settings.peerToken),
    hosts: isLoopback ? ["localhost", "127.0.0.1", "[::1]", hostInUrl(host)] : undefined
  }
  const Http = HttpRouter.serve(Layer.mergeAll(Server.layer(guard), TailnetRoute.layer), {
    disableLogger: true,
    disableListenLog: true
  }).pipe(
    Layer.provideMerge(NodeHttpServer.layer(() => {
      const server = createServer()
      server.maxConnections = mostConnections
      return server
    }, { host, port, gracefulShutdownTimeout: closeWithin, websocket: { maxPayload: limits.message } }))
  )
  return Layer.mergeAll(Http, ControlPlanePeer).pipe(
    Layer.provideMerge(Coordinator.layer({ relays: settings.relayMap }).pipe(Layer.provide(PeerStorePostgres.layer))),
    Layer.provideMerge(Provisioner.layerPostgres({
      url: databaseUrl,
      listenUrl: settings.databaseListenUrl,
      prepare: settings.databasePrepare,
      maxConnections: settings.databaseConnections,
      worker: {
        slots: settings.workerSlots,
        tags: settings.workerTags,
        shutdownDeadline: settings.shutdownDeadline
      }
    })),
    Layer.provide(Executor.layerChildProcess({ directory: join(settings.dataDirectory, "jobs") }))
  )
}

/** The address of the database: the one that is configured, or that of an embedded server. */
const withDatabase = (settings: Settings) => {
  if (settings.databaseUrl !== undefined) return service(settings, settings.databaseUrl)
  return Layer.unwrap(Effect.gen(function*() {
    // Only here: an installation with a database of its own need not have the package.
    const { EmbeddedPostgres } = yield* Effect.promise(() => import("../database/EmbeddedPostgres.ts"))
    return Layer.unwrap(Effect.map(EmbeddedPostgres, ({ url }) => service(settings, url))).pipe(
      Layer.provide(EmbeddedPostgres.layer({ directory: settings.dataDirectory }))
    )
  }))
}

/** Calls what it is given when the process is to open its log file anew. */
export type OnHangup = (reopen: () => void) => void

/** Runs until it is interrupted, or a loop has died. `environment`: the names of all variables. */
export const serve = (isTerminal: boolean, environment: ReadonlyArray<string>, onHangup: OnHangup) =>
  Effect.gen(function*() {
    const settings = yield* fromConfig
    return yield* Effect.gen(function*() {
      const unknown = unknownSettings(environment)
      if (unknown.length > 0) {
        yield* Effect.logWarning(`${unknown.join(", ")}: there is no such setting; see lull serve --help`)
      }
      const startedAt = yield* Clock.currentTimeMillis
      const services = yield* Layer.build(withDatabase(settings))
      const bound = Context.get(services, HttpServer).address
      const port = "port" in bound ? bound.port : settings.listen.port
      const address = `http://${hostInUrl(settings.listen.host)}:${port}`
      yield* Effect.logInfo(`lull listens at ${address}`)
      const greeting = yield* Effect.forkChild(Effect.gen(function*() {
        yield* Context.get(services, Availability).awaitAvailable
        const took = Duration.millis((yield* Clock.currentTimeMillis) - startedAt)
        yield* Effect.logInfo(`lull is ready at ${address} after ${Duration.format(took)}`)
        yield* Effect.logInfo("try: npm run lull -- job submit --wait --follow -- echo hello")
      }))
      return yield* Context.get(services, Loops).join.pipe(
        // While their connections are still there.
        Effect.ensuring(Context.get(services, Coordinator).leave),
        Effect.ensuring(Fiber.interrupt(greeting))
      )
    }).pipe(Effect.scoped, Effect.provide(logging(settings, isTerminal, onHangup)))
  })

/** What is said, in one line, of an error that somebody can do something about. */
export const explain = (cause: Cause.Cause<unknown>): string => {
  const { code, detail } = describe(Cause.squash(cause))
  switch (code) {
    case "EADDRINUSE":
      return `${detail}: another program listens there; choose another address with LULL_LISTEN`
    case "EADDRNOTAVAIL":
    case "EACCES":
      return `${detail}; choose another address with LULL_LISTEN`
    default:
      return detail
  }
}
