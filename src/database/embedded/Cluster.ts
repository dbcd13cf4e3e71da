/**
 * A data directory and the server on it ("database cluster" in PostgreSQL's words): making the one and running the
 * other, under a `ServerGuard`. Who may work here, and what happens when the server dies, is decided elsewhere.
 */
import { Duration, Effect } from "effect"
import { randomBytes, randomInt } from "node:crypto"
import { chown, constants, mkdir, open, readdir, readFile, rename, rm, rmdir, writeFile } from "node:fs/promises"
import { createServer } from "node:net"
import { basename, dirname, join } from "node:path"
import type { Binaries } from "./Binaries.ts"
import { DataVersionMismatch, detail, DirectoryInUse, EmbeddedPostgresFailed, type Step } from "./Failures.ts"
import * as Processes from "./Processes.ts"
import type { Account } from "./ServerAccount.ts"
import * as ServerGuard from "./ServerGuard.ts"
import * as ServerLog from "./ServerLog.ts"

/** Where a cluster is and what runs it. */
export interface Cluster {
  /** The data directory, without symbolic links, in a directory where we may make files. */
  readonly data: string
  /** Takes the output of the programs. */
  readonly log: ServerLog.ServerLog
  readonly binaries: Binaries
  /** The major version of the binaries. */
  readonly version: string
  readonly account: Account
  /** Whether the account may pass to the data. If not, the programs get the directory as an open file of root's. */
  readonly isReachable: boolean
}

/** How the server calls itself in its command line; tells our servers from those that somebody started by hand. */
const clusterName = "lull"

/** Lines of output that an error carries. */
const outputLines = 8

/** Tried again, with growing pauses, for some 4 seconds. */
const removal = { recursive: true, force: true, maxRetries: 20, retryDelay: 20 } as const

/**
 * Makes the data directory if there is none. It is made aside and renamed when complete, so that nothing half done is
 * found there after a crash; what earlier attempts left aside is removed.
 */
export const initialise = Effect.fnUntraced(function*(cluster: Cluster, options: {
  readonly user: string
  /** Without one, everybody who can connect is let in. */
  readonly password?: string
  readonly isDurable: boolean
}) {
  const { account, binaries, data } = cluster
  yield* Effect.scoped(Effect.gen(function*() {
    const aside = `${data}.new-${randomBytes(6).toString("hex")}`
    yield* attempt(cluster, "initdb", async () => {
      for (const name of await readdir(dirname(data))) {
        // An initdb that is being ended by its guard still writes there, and in the end removes it itself.
        if (name.startsWith(`${basename(data)}.new-`)) {
          await rm(join(dirname(data), name), removal).catch(() => {})
        }
      }
      await mkdir(aside, { mode: 0o700 })
    })
    yield* Effect.addFinalizer(() => Effect.ignore(Effect.tryPromise(() => rm(aside, removal))))
    const passwordFile = join(aside, "password")
    yield* attempt(cluster, "initdb", async () => {
      await writeFile(passwordFile, `${options.password ?? ""}\n`, { mode: 0o600 })
      if (account.ids === undefined) return
      await chown(passwordFile, account.ids.uid, account.ids.gid)
      await chown(aside, account.ids.uid, account.ids.gid)
    })
    const server = yield* run(cluster, "initdb", aside, (aside) => [
      binaries.initdb,
      `--pgdata=${join(aside, "data")}`,
      `--username=${options.user}`,
      "--encoding=UTF8",
      "--no-locale",
      "--no-instructions",
      ...(options.password === undefined ? ["--auth=trust"] : [
        "--auth=scram-sha-256",
        `--pwfile=${join(aside, "password")}`
      ]),
      ...(options.isDurable ? [] : ["--no-sync"])
    ])
    const end = yield* server.exited
    if (end !== ServerGuard.success) {
      const output = yield* server.output
      return yield* failed(cluster, "initdb", isNameless(output) ? nameless : end, output)
    }
    yield* attempt(cluster, "initdb", () => rename(join(aside, "data"), data))
  }))
})

/** Containers often run under an id that no file knows. A server does not mind, but the making of its data does. */
const isNameless = (output: ReadonlyArray<string>) =>
  output.some((line) => /could not look up (effective|current) user/.test(line))

const nameless = "the user id that it runs under has no name on this machine, and initdb needs one: " +
  "add it to /etc/passwd, or run under a user that is there"

/** Whether there is data; fails if another major version wrote it, or if it is something else. */
export const exists = Effect.fnUntraced(function*(cluster: Cluster) {
  const { data, version } = cluster
  const found = yield* attempt(cluster, "prepare", async () => {
    try {
      return (await readFile(join(data, "PG_VERSION"), "utf8")).trim()
    } catch (error) {
      if (!isAbsence(error)) throw error
    }
    try {
      // A directory that somebody made in advance.
      await rmdir(data)
    } catch (error) {
      if (!isAbsence(error)) throw new Error(`${data} is neither empty nor data of PostgreSQL`, { cause: error })
    }
    return undefined
  })
  if (found === undefined || found === version) return found !== undefined
  return yield* new DataVersionMismatch({ directory: data, found, supported: version })
})

/** A port below those that the system gives to outgoing connections. */
const ports = { from: 20_000, to: 32_000 } as const

/**
 * A free port on the loopback. Not one that the system chooses: that range also serves outgoing connections, and a
 * client that tries again and again to reach a server that is down would one day connect to itself and keep the port.
 */
export const freePort: Effect.Effect<number> = Effect.callback<number, Error>((resume) => {
  const port = randomInt(ports.from, ports.to)
  const server = createServer()
  server.once("error", (error) => resume(Effect.fail(error)))
  server.listen(port, "127.0.0.1", () => server.close(() => resume(Effect.succeed(port))))
}).pipe(Effect.retry({ times: 100 }), Effect.orDie)

/**
 * Starts the server, which ends with the scope. It does not accept connections yet: see `ready`.
 */
export const start = Effect.fnUntraced(function*(
  cluster: Cluster,
  port: number,
  configuration: Readonly<Record<string, string>> = {}
) {
  const settings = {
    cluster_name: clusterName,
    listen_addresses: "127.0.0.1",
    port: String(port),
    unix_socket_directories: "",
    log_destination: "stderr",
    logging_collector: "off",
    ...configuration
  }
  const words = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])
  return yield* run(cluster, "start", cluster.data, (data) => [
    cluster.binaries.postgres,
    "-D",
    data,
    ...words,
    // By its command line a server is recognised, by us and by people.
    ...data === cluster.data ? [] : ["-c", `lull.directory=${cluster.data}`]
  ])
})

export type Server = Effect.Success<ReturnType<typeof start>>

/** Recovery after a crash has to read what was written since the last checkpoint, which may take its time. */
const startPatience = Duration.minutes(5)

/** Waits until the server accepts connections. */
export const ready = Effect.fnUntraced(function*(cluster: Cluster, server: Server) {
  const isReady = Effect.map(readPidFile(cluster.data), (file) => file?.pid === server.pid && file.status === "ready")
  const wait = Effect.gen(function*() {
    while (!(yield* isReady)) {
      if (server.hasExited()) return yield* failed(cluster, "start", yield* server.exited, yield* server.output)
      yield* Effect.sleep(Processes.poll)
    }
  })
  yield* Effect.timeoutOrElse(wait, {
    duration: startPatience,
    orElse: () =>
      Effect.flatMap(
        server.output,
        (output) =>
          Effect.fail(failed(cluster, "start", `it is not ready after ${Duration.format(startPatience)}`, output))
      )
  })
})

/** A process cannot have this id. */
const nobodysPid = 2_147_483_647

/** Above the twelve seconds that a guard takes at most. */
const endPatience = "20 seconds"

/**
 * Makes sure that no server of an earlier life runs on the data, and that its `postmaster.pid` does not prevent the next
 * one. Only for the holder of the directory's lock. A server that was not started from here is left alone and refused.
 */
export const endPrevious = Effect.fnUntraced(function*(cluster: Cluster) {
  const { data } = cluster
  const file = yield* readPidFile(data)
  if (file === undefined || !Processes.isRunning(file.pid)) return
  const command = Processes.commandLine(file.pid)
  const isServer = command.includes("postgres") && (Processes.worksIn(file.pid, data) ?? command.includes(data))
  if (!isServer) {
    // The id belongs to somebody else by now, but PostgreSQL would believe in it. The rest of the file stays: with it
    // PostgreSQL finds children of the old server that are still there.
    yield* attempt(cluster, "prepare", async () => {
      const path = join(data, "postmaster.pid")
      await writeFile(path, (await readFile(path, "utf8")).replace(/^\d+/, String(nobodysPid)))
    })
    return
  }
  if (!command.includes(`cluster_name=${clusterName}`)) {
    return yield* new DirectoryInUse({ directory: data, pid: file.pid })
  }
  // Its guard is at work, or was killed as well. The same signal from both does no harm.
  const isGone = () => !Processes.isRunning(file.pid)
  for (
    const [signal, patience] of [["SIGINT", "5 seconds"], ["SIGQUIT", "7 seconds"], ["SIGKILL", endPatience]] as const
  ) {
    Processes.signal(file.pid, signal)
    Processes.signal(file.pid, "SIGCONT")
    if (yield* Processes.waitUntil(isGone, patience)) return
  }
  return yield* new DirectoryInUse({ directory: data, pid: file.pid })
})

/** What the server says about itself: its process, and "starting", "ready", "standby" or "stopping". */
const readPidFile = (data: string) =>
  Effect.tryPromise(() => readFile(join(data, "postmaster.pid"), "utf8")).pipe(
    Effect.map((text) => {
      const lines = text.split("\n")
      const pid = Math.abs(Number(lines[0]))
      return pid > 0 ? { pid, status: lines[7]?.trim() } : undefined
    }),
    Effect.orElseSucceed(() => undefined)
  )

/** A program that works in the directory; the words of its command get the name by which it reaches that. */
const run = Effect.fnUntraced(function*(
  cluster: Cluster,
  step: Step,
  directory: string,
  command: (directory: string) => ReadonlyArray<string>
) {
  const last: Array<string> = []
  const lines = ServerLog.lines((line) => {
    cluster.log.write(line)
    if (line.trim() !== "") last.push(line)
    if (last.length > outputLines) last.shift()
  })
  const start = (name: string, descriptor?: number) =>
    Effect.mapError(
      ServerGuard.run(cluster.account, command(name), {
        label: cluster.data,
        write: lines.push,
        directory: descriptor
      }),
      (detail) => failed(cluster, step, detail)
    )
  const guarded = yield* cluster.isReachable ? start(directory) : Effect.acquireUseRelease(
    attempt(cluster, step, () => open(directory, constants.O_RDONLY | constants.O_DIRECTORY)),
    ({ fd }) => start(ServerGuard.heldDirectory, fd),
    (held) => Effect.ignore(Effect.tryPromise(() => held.close()))
  )
  const output = Effect.map(guarded.outputRead, (): ReadonlyArray<string> => {
    lines.end()
    return [...last]
  })
  return { ...guarded, output }
})

const attempt = <A>(cluster: Cluster, step: Step, run: () => Promise<A>) =>
  Effect.tryPromise({ try: run, catch: (error) => failed(cluster, step, detail(error)) })

const failed = (cluster: Cluster, step: Step, detail: string, output: ReadonlyArray<string> = []) =>
  new EmbeddedPostgresFailed({ step, directory: cluster.data, detail, output })

const isAbsence = (error: unknown) => error instanceof Error && "code" in error && error.code === "ENOENT"
