/** `lull serve`: the service, wired from its settings. */
// By module, as the index of the package brings clients of Redis and workers with it.
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { PgClient } from "@effect/sql-pg/PgClient"
import { Cause, Clock, Context, Duration, Effect, Exit, Fiber, Layer, Redacted, Scope } from "effect"
import * as HttpRouter from "effect/http/HttpRouter"
import { HttpServer } from "effect/http/HttpServer"
import { Availability } from "../database/Availability.ts"
import { Database } from "../database/Database.ts"
import * as Foundation from "../database/Foundation.ts"
import { Replica } from "../database/Replica.ts"
import { describe } from "../database/Unavailable.ts"
import * as ClientAddress from "../http/ClientAddress.ts"
import * as Draining from "../http/Draining.ts"
import type * as Guard from "../http/Guard.ts"
import * as Server from "../http/Server.ts"
import * as Sites from "../http/Sites.ts"
import type { Sockets } from "../http/Sockets.ts"
import * as TailnetRoute from "../http/TailnetRoute.ts"
import { Loops } from "../loop/Loops.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { AcquireLoop } from "../provisioner/AcquireLoop.ts"
import { Executor } from "../provisioner/Executor.ts"
import * as JobStorePostgres from "../provisioner/JobStorePostgres.ts"
import type { JobUser } from "../provisioner/JobUser.ts"
import { Provisioner } from "../provisioner/Provisioner.ts"
import { fromConfig, isLoopback, type Settings, unknownSettings } from "../Settings.ts"
import { Coordinator } from "../tailnet/Coordinator.ts"
import { limits } from "../tailnet/Peer.ts"
import * as PeerStorePostgres from "../tailnet/PeerStorePostgres.ts"
import * as TailnetLoop from "../tailnet/TailnetLoop.ts"
import * as Transports from "../tailnet/Transports.ts"
import { describeFailure } from "./failureText.ts"
import {
  commandOf,
  describeDatabase,
  describeWorker,
  hostInUrl,
  type Invocation,
  localAddress,
  suggestion
} from "./greeting.ts"
import { Interruption, type Reason } from "./Interruption.ts"
import * as jobUser from "./jobUser.ts"
import * as serviceLog from "./serviceLog.ts"
import * as serviceSockets from "./serviceSockets.ts"
import { make as makeTokens, type ServiceTokens } from "./serviceTokens.ts"

/** What may be open when the service ends, a log that is followed, is not waited for. */
const closeWithin = Duration.seconds(1)

/** The control plane's own peer: its loop to the coordinator of its own process. */
const ControlPlanePeer = Layer.effectDiscard(Effect.gen(function*() {
  const loops = yield* Loops
  const replica = yield* Replica
  const transport = yield* Transports.inProcess()
  const loop = yield* TailnetLoop.make({ peer: replica.id, transports: [transport] })
  yield* loops.fork("tailnet", loop.run)
}))

/** The API and the tailnet, at the address. */
const httpLayer = (settings: Settings, tokens: ServiceTokens) =>
  Layer.unwrap(Effect.map(serviceSockets.make(settings), (sockets) => httpLayerOn(sockets, settings, tokens)))

const httpLayerOn = ({ isTooMany, server }: Sockets, settings: Settings, tokens: ServiceTokens) => {
  const { host, port } = settings.listen
  const { publicUrl } = settings
  const guard: Guard.Options = {
    token: tokens.token,
    peerToken: tokens.peerToken,
    ...Sites.namesOf(hostInUrl(host), isLoopback(host), publicUrl),
    trustedProxies: ClientAddress.trusting(settings.trustedProxies)
  }
  const Http = HttpRouter.serve(Layer.mergeAll(Server.layer({ ...guard, isTooMany }), TailnetRoute.layer), {
    disableLogger: true,
    disableListenLog: true
  }).pipe(
    Layer.provideMerge(NodeHttpServer.layer(() => server, {
      host,
      port,
      gracefulShutdownTimeout: closeWithin,
      websocket: { maxPayload: limits.message }
    }))
  )
  return Layer.merge(Http, ControlPlanePeer)
}

/** The address of the database: the one that is configured, or that of an embedded server. */
const databaseUrl = Effect.fnUntraced(function*(settings: Settings) {
  if (settings.databaseUrl !== undefined) return settings.databaseUrl
  // Only here: an installation with a database of its own need not have the package.
  const { EmbeddedPostgres } = yield* Effect.promise(() => import("../database/EmbeddedPostgres.ts"))
  const services = yield* Layer.build(EmbeddedPostgres.layer({
    directory: settings.dataDirectory,
    logQuota: serviceLog.quotas(settings).postgres
  }))
  const { directory, url } = Context.get(services, EmbeddedPostgres)
  yield* jobUser.apartFrom(settings, directory)
  yield* Effect.logInfo(`the embedded PostgreSQL runs: ${describeDatabase(Redacted.value(url))}`)
  return url
})

const storesLayer = (settings: Settings, url: Redacted.Redacted<string>, user: JobUser | undefined) =>
  Layer.mergeAll(
    JobStorePostgres.layer,
    Coordinator.layer({ relays: settings.relayMap }).pipe(Layer.provide(PeerStorePostgres.layer)),
    Executor.layerChildProcess({ directory: jobUser.directoryOf(settings), user })
  ).pipe(Layer.provideMerge(Foundation.layerPostgres({
    url,
    listenUrl: settings.databaseListenUrl,
    prepare: settings.databasePrepare,
    maxConnections: settings.databaseConnections
  })))

/** A scope that is closed when this place is reached in the closing of the one around it, the last one first. */
const closedHere = Effect.acquireRelease(Scope.make(), (scope, exit) => Scope.close(scope, exit))

/**
 * All parts, each in its place for the end: the worker first, whose running jobs may end, while the API answers; then the peers
 * are sent elsewhere; then the API; then the stores and the database.
 */
const parts = Effect.fnUntraced(function*(settings: Settings, tokens: ServiceTokens, draining: Draining.State) {
  const user = yield* jobUser.find(settings)
  const stores = yield* Layer.build(storesLayer(settings, yield* databaseUrl(settings), user))
  const httpScope = yield* closedHere
  // While their connections are still there.
  yield* Effect.addFinalizer(() => Context.get(stores, Coordinator).leave)
  const workerScope = yield* closedHere
  const worker = yield* Layer.buildWithScope(
    Provisioner.layerStores({
      worker: {
        slots: settings.workerSlots,
        tags: settings.workerTags,
        shutdownDeadline: settings.shutdownDeadline
      }
    }),
    workerScope
  ).pipe(Effect.provideContext(stores))
  const replica = Context.merge(stores, worker).pipe(Context.add(Draining.Draining, draining))
  const http = yield* Effect.provideContext(Layer.buildWithScope(httpLayer(settings, tokens), httpScope), replica)
  return Context.merge(replica, http)
})

/** Beside the running jobs, all that a shutdown does has its deadline, below this together. */
const shutdownMillis = 60_000

/** The worker waits for so long three times at most: for an answer, for the jobs, and for those that it has stopped. */
const shutdownWaits = 3

export interface Surroundings extends serviceLog.Surroundings {
  /** How the program was called. */
  readonly invocation: Invocation
}

const count = (jobs: number) => jobs === 0 ? "no job runs" : jobs === 1 ? "1 job runs" : `${jobs} jobs run`

/** Says why it ends, and from then on is not ready. */
const ending = () => {
  let since: number | undefined
  const begin = Effect.fnUntraced(function*(
    exit: Exit.Exit<unknown, unknown>,
    reason: Reason | undefined,
    settings: Settings,
    running: number
  ) {
    const isInterrupted = Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)
    const isDead = Exit.isFailure(exit) && exit.cause.reasons.some(Cause.isDieReason)
    // Who could not be started says so as he ends.
    if (!isInterrupted && !isDead) return
    since = yield* Clock.currentTimeMillis
    const why = isInterrupted ? reason?.words ?? "it was interrupted" : "a loop has died"
    const wait = running === 0 ? "" : `, for ${Duration.format(settings.shutdownDeadline)} at most`
    yield* Effect.logInfo(`lull stops: ${why}; ${count(running)}${wait}`)
  })
  const end = Effect.suspend(() => since === undefined ? Effect.void : Effect.logInfo("lull has stopped"))
  return { begin, end, draining: { since: () => since } satisfies Draining.State }
}

/** Which server answers. Nobody waits for it, and nobody minds when it cannot be asked. */
const serverVersion = Effect.fnUntraced(function*(database: Database["Service"]) {
  const work = Effect.flatMap(PgClient, (sql) => sql<{ version: string }>`SELECT version() AS version`)
  const rows = yield* Effect.orElseSucceed(database.read("Service.version", work), () => [])
  const version = /^\S{1,40} [\d.]{1,20}\S{0,40}/.exec(rows[0]?.version ?? "")?.[0]
  if (version !== undefined) yield* Effect.logInfo(`the database is served by ${version}`)
})

/** Runs until it is interrupted, or a loop has died. */
const service = Effect.fnUntraced(function*(settings: Settings, surroundings: Surroundings) {
  const { environment } = surroundings.invocation
  const unknown = unknownSettings(Object.keys(environment))
  if (unknown.length > 0) {
    yield* Effect.logWarning(`${unknown.join(", ")}: there is no such setting; see lull serve --help`)
  }
  const worker = { slots: settings.workerSlots, tags: settings.workerTags }
  const database = settings.databaseUrl === undefined
    ? `an embedded PostgreSQL in ${settings.dataDirectory}`
    : `the ${describeDatabase(Redacted.value(settings.databaseUrl))}`
  yield* Effect.logInfo(`lull uses ${database}, and ${describeWorker(worker)}`)

  yield* jobUser.warn(settings)

  const interruption = yield* Interruption
  const tokens = makeTokens(settings)
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  if (!surroundings.isTerminal) surroundings.onHangup(() => runFork(tokens.reload))
  const { begin, draining, end } = ending()
  let running = () => 0
  const startedAt = yield* monotonicMillis
  const body = Effect.gen(function*() {
    const services = yield* parts(settings, tokens, draining)
    running = () => Context.get(services, AcquireLoop).running().length
    const bound = Context.get(services, HttpServer).address
    const port = "port" in bound ? bound.port : settings.listen.port
    const address = `http://${hostInUrl(settings.listen.host)}:${port}`
    yield* Effect.logInfo(`lull listens at ${address}`)
    const greeting = yield* Effect.forkChild(Effect.gen(function*() {
      yield* Context.get(services, Availability).awaitAvailable
      const took = Duration.millis(Math.round((yield* monotonicMillis) - startedAt))
      yield* Effect.logInfo(`lull is ready at ${address} after ${Duration.format(took)}`)
      yield* serverVersion(Context.get(services, Database))
      yield* Effect.logInfo(suggestion({
        command: commandOf(surroundings.invocation),
        address: localAddress(settings.listen.host, port),
        asksForToken: settings.token !== undefined,
        worker
      }))
    }))
    return yield* Effect.ensuring(Context.get(services, Loops).join, Fiber.interrupt(greeting))
  })
  return yield* body.pipe(
    Effect.onExit((exit) => begin(exit, interruption.reason(), settings, running())),
    Effect.scoped,
    Effect.onExit(() => end)
  )
})

export const serve = Effect.fnUntraced(function*(surroundings: Surroundings) {
  const settings = yield* fromConfig
  const interruption = yield* Interruption
  interruption.isTheEnd(shutdownMillis + shutdownWaits * Duration.toMillis(settings.shutdownDeadline))
  // With a terminal it is the end of that; without one it means what it means to a service.
  if (surroundings.isTerminal) interruption.includesHangup()
  yield* jobUser.makeDataDirectory(settings)
  return yield* Effect.provide(service(settings, surroundings), serviceLog.layer(settings, surroundings))
})

/** What is said, in one line, of an error that somebody can do something about. */
export const explain = (cause: Cause.Cause<unknown>): string => {
  const error = Cause.squash(cause)
  const { code } = describe(error)
  const detail = describeFailure(error)
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
