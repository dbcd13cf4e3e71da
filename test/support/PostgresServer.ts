/**
 * A PostgreSQL that a test may hurt: stopped, killed, hung, made read-only, followed by a standby. Each has a directory
 * and a port of its own, keeps both over restarts, and trusts everybody on the loopback as `postgres`. It leaves no
 * process behind, however it was left, also when the test's process is killed.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import { Effect, Exit, Layer, Redacted, Schedule, Scope } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import type { SqlError } from "effect/sql/SqlError"
import { execFileSync, spawnSync } from "node:child_process"
import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Binaries from "../../src/database/embedded/Binaries.ts"
import * as Cluster from "../../src/database/embedded/Cluster.ts"
import type { EmbeddedPostgresError } from "../../src/database/embedded/Failures.ts"
import * as Processes from "../../src/database/embedded/Processes.ts"
import * as ServerAccount from "../../src/database/embedded/ServerAccount.ts"

export interface Options {
  /** Default: a free one. */
  readonly port?: number
  /** Settings of PostgreSQL, for its command line: these win over `alter system`. */
  readonly configuration?: Readonly<Record<string, string>>
  /** Runs the server under this command, as `faketime`'s preload: `exec` of the program and its arguments follows. */
  readonly under?: string
  /** Files in the data directory, for its account alone: certificates and their keys. */
  readonly files?: Readonly<Record<string, string>>
  /** Lines of `pg_hba.conf`, before that which trusts everybody. */
  readonly hba?: ReadonlyArray<string>
  /** Whether it waits for the disk. Default: no, which survives everything but the end of the machine. */
  readonly fsync?: boolean
  /** A server that is stopped: the new one is its standby. */
  readonly from?: PostgresServer
  /** Default: yes, and `make` returns when it accepts connections. */
  readonly isStarted?: boolean
}

export interface PostgresServer {
  readonly url: string
  readonly port: number
  readonly cluster: Cluster.Cluster
  /** The file with its log. */
  readonly log: string
  /** Of the postmaster that runs, or `undefined`. */
  readonly pid: Effect.Effect<number | undefined>
  /** Starts it, unless it runs, and waits until it accepts connections. */
  readonly start: Effect.Effect<void, EmbeddedPostgresError>
  readonly startNoWait: Effect.Effect<void, EmbeddedPostgresError>
  /** `smart` waits for the clients to go, `fast` ends their sessions, `immediate` leaves the rest to recovery. */
  readonly stop: (mode: "smart" | "fast" | "immediate") => Effect.Effect<void>
  /** SIGKILL to the postmaster and all its children; returns when they are gone. */
  readonly kill: Effect.Effect<void>
  /** SIGSTOP to the postmaster and all its children: connections stay, and new ones are accepted by the kernel. */
  readonly hang: Effect.Effect<void>
  readonly resume: Effect.Effect<void>
  /** One statement over a connection of its own. */
  readonly execute: (sql: string) => Effect.Effect<ReadonlyArray<Record<string, unknown>>, SqlError>
  /** From now on new transactions cannot, or can, write. Sessions that exist see it at their next transaction. */
  readonly readOnly: (on: boolean) => Effect.Effect<void, SqlError>
  /** A standby becomes a primary; returns when it accepts writes. */
  readonly promote: Effect.Effect<void, SqlError>
  /** Stops this server, copies it, and starts both; the copy follows. */
  readonly makeStandby: Effect.Effect<PostgresServer, EmbeddedPostgresError, Scope.Scope>
}

const settings = { shared_buffers: "16MB", max_connections: "100", jit: "off" }

const signals = { smart: "SIGTERM", fast: "SIGINT", immediate: "SIGQUIT" } as const

export const make = (
  options: Options = {}
): Effect.Effect<PostgresServer, EmbeddedPostgresError, Scope.Scope> => Effect.suspend(() => makeServer(options))

const makeServer = Effect.fnUntraced(function*(options: Options) {
  const { configuration = {}, fsync = false } = options
  const cluster = yield* makeCluster(options)
  const port = options.port ?? (yield* Cluster.freePort)
  const url = `postgres://postgres@127.0.0.1:${port}/postgres`
  let running: { readonly server: Cluster.Server; readonly scope: Scope.Closeable } | undefined

  const startNoWait = Effect.gen(function*() {
    if (running !== undefined && !running.server.hasExited()) return
    yield* settle
    const scope = yield* Scope.make()
    const server = yield* Cluster.start(cluster, port, {
      ...settings,
      fsync: fsync ? "on" : "off",
      ...configuration
    })
      .pipe(Scope.provide(scope), Effect.onError(() => Scope.close(scope, Exit.void)))
    running = { server, scope }
  })
  /** Ends whatever still runs, and what belongs to it. */
  const settle = Effect.suspend(() => {
    if (running === undefined) return Effect.void
    const { scope } = running
    running = undefined
    return Scope.close(scope, Exit.void)
  })
  const start = Effect.gen(function*() {
    yield* startNoWait
    if (running !== undefined) yield* Cluster.ready(cluster, running.server)
  }).pipe(
    // Children of a server that was killed may hold its shared memory for a moment.
    Effect.retry({
      schedule: Schedule.spaced("100 millis"),
      times: 100,
      while: (error) =>
        error._tag === "EmbeddedPostgresFailed" && error.output.some((line) => line.includes("shared memory block"))
    })
  )

  /** The postmaster and its children, which are all there are. While they come and go, it is asked again. */
  const signalAll = (signal: NodeJS.Signals, pid: number) => {
    const seen = new Set<number>()
    Processes.signal(pid, signal)
    for (let found = childrenOf(pid); found.some((child) => !seen.has(child)); found = childrenOf(pid)) {
      for (const child of found) {
        seen.add(child)
        Processes.signal(child, signal)
      }
    }
    return [pid, ...seen]
  }
  const pid = Effect.sync(() => running === undefined || running.server.hasExited() ? undefined : running.server.pid)
  const withPid = (use: (pid: number) => Effect.Effect<void>) =>
    Effect.flatMap(pid, (pid) => pid === undefined ? Effect.void : use(pid))
  const hang = withPid((pid) => Effect.sync(() => signalAll("SIGSTOP", pid)))
  const resume = withPid((pid) => Effect.sync(() => signalAll("SIGCONT", pid)))
  const kill = withPid(Effect.fnUntraced(function*(pid) {
    // A postmaster that is stopped forks nobody behind our back.
    Processes.signal(pid, "SIGSTOP")
    const children = childrenOf(pid)
    for (const child of [...children, pid]) Processes.signal(child, "SIGKILL")
    yield* Processes.waitUntil(() => ![pid, ...children].some(Processes.isRunning), "20 seconds")
  })).pipe(Effect.andThen(settle))
  const stop = (mode: "smart" | "fast" | "immediate") =>
    resume.pipe(
      Effect.andThen(Effect.sync(() => running !== undefined && Processes.signal(running.server.pid, signals[mode]))),
      Effect.andThen(Effect.suspend(() => running === undefined ? Effect.void : running.server.exited)),
      Effect.andThen(settle)
    )
  yield* Effect.addFinalizer(() =>
    resume.pipe(
      Effect.andThen(withPid((pid) => Effect.sync(() => Processes.signal(pid, "SIGQUIT")))),
      Effect.andThen(Processes.waitUntil(() => running === undefined || running.server.hasExited(), "7 seconds")),
      Effect.andThen(kill),
      Effect.andThen(Effect.sync(() => removeSharedMemory(cluster.data)))
    )
  )

  const execute = (sql: string) => statement(url, sql)
  const readOnly = Effect.fnUntraced(function*(on: boolean) {
    const value = on ? "on" : "off"
    yield* execute(`alter system set default_transaction_read_only = ${value}`)
    yield* execute("select pg_reload_conf()")
    yield* execute("select current_setting('default_transaction_read_only') as now").pipe(
      Effect.repeat({ schedule: Schedule.spaced("20 millis"), until: ([row]) => row?.["now"] === value })
    )
  })
  const promote = Effect.asVoid(execute("select pg_promote(true, 60)"))
  const self: PostgresServer = {
    url,
    port,
    cluster,
    log: logOf(cluster.data),
    pid,
    start,
    startNoWait,
    stop,
    kill,
    hang,
    resume,
    execute,
    readOnly,
    promote,
    makeStandby: Effect.suspend(() =>
      stop("fast").pipe(
        Effect.andThen(make({ fsync, configuration, from: self, isStarted: false })),
        Effect.tap(start),
        Effect.tap((standby) => standby.start)
      )
    )
  }
  if (options.isStarted ?? true) yield* start
  return self
})

/** A server that was killed leaves a small segment, named in its last file; only the next one on the data would remove it. */
const removeSharedMemory = (data: string) => {
  const file = join(data, "postmaster.pid")
  const segment = existsSync(file) ? readFileSync(file, "utf8").split("\n")[6]?.trim().split(/ +/)[1] : undefined
  if (segment !== undefined) spawnSync("ipcrm", ["--shmem-id", segment])
}

const logOf = (data: string) => `${data}.log`

const makeCluster = Effect.fnUntraced(function*(options: Options) {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const made = mkdtempSync(join(tmpdir(), "lull-postgres-"))
      // The account of the server has to pass; what is in it is closed.
      if (process.getuid?.() === 0) chmodSync(made, 0o711)
      return made
    }),
    (made) => Effect.sync(() => rmSync(made, { recursive: true, force: true, maxRetries: 5 }))
  )
  const binaries = yield* Binaries.resolve
  const data = join(directory, "data")
  const chosen = yield* ServerAccount.choose(binaries, data)
  const log = { write: (line: string) => appendFileSync(logOf(data), `${line}\n`) }
  const cluster: Cluster.Cluster = { data, log, ...chosen }
  const { from, under } = options
  if (from === undefined) {
    yield* Cluster.initialise(cluster, { user: "postgres", isDurable: options.fsync ?? false })
    yield* Effect.sync(() => {
      for (const [name, content] of Object.entries(options.files ?? {})) writeOwned(cluster, name, content)
      if (options.hba !== undefined) {
        const hba = readFileSync(join(data, "pg_hba.conf"), "utf8")
        writeOwned(cluster, "pg_hba.conf", `${options.hba.join("\n")}\n${hba}`)
      }
    })
    if (under === undefined) return cluster
    const wrapper = join(directory, "postgres")
    writeFileSync(wrapper, `#!/bin/sh\n${under} "${cluster.binaries.postgres}" "$@"\n`, { mode: 0o755 })
    return { ...cluster, binaries: { ...cluster.binaries, postgres: wrapper } }
  }
  yield* Effect.sync(() => {
    execFileSync("cp", ["-Rp", from.cluster.data, data])
    writeOwned(cluster, "standby.signal", "")
    appendFileSync(
      join(data, "postgresql.auto.conf"),
      `primary_conninfo = 'host=127.0.0.1 port=${from.port} user=postgres'\n`
    )
  })
  return cluster
})

const writeOwned = ({ account, data }: Cluster.Cluster, name: string, content: string) => {
  const path = join(data, name)
  writeFileSync(path, content, { mode: 0o600 })
  if (account.ids !== undefined) chownSync(path, account.ids.uid, account.ids.gid)
}

/** A test that has taken all connections still has one for itself, in a moment in which a refused login has left. */
const statement = (url: string, sql: string) =>
  Effect.scoped(Effect.flatMap(
    PgClient.make({ url: Redacted.make(url), maxConnections: 1 }),
    (client) => client.unsafe<Record<string, unknown>>(sql)
  )).pipe(
    Effect.retry({ schedule: Schedule.spaced("20 millis"), times: 250, while: isFull }),
    Effect.provide(Layer.fresh(Reactivity.layer))
  )

const isFull = ({ reason: { cause } }: SqlError) =>
  typeof cause === "object" && cause !== null && "code" in cause && cause.code === "53300"

/** Processes whose parent is `pid`. */
const childrenOf = (pid: number): Array<number> =>
  readdirSync("/proc").map(Number).filter((other) => {
    if (!(other > 0)) return false
    try {
      const stat = readFileSync(`/proc/${other}/stat`, "latin1")
      const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
      return parent === String(pid) && state !== "Z"
    } catch {
      return false
    }
  })
