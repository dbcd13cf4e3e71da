/**
 * What can be done to the database, to the way to it, and to the service itself; each is real. A fault begins, and its end is
 * given back, so that two of them can be at work at once.
 */
import { Clock, Effect, Schedule, type Scope } from "effect"
import { execFileSync, spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as PostgresServer from "../../test/support/PostgresServer.ts"
import * as TcpRelay from "../../test/support/TcpRelay.ts"
import { hold, session } from "./holder.ts"

/** Of which every part of a fault is made: what it may hurt. */
export interface Ground {
  readonly server: PostgresServer.PostgresServer
  /** Process ids of the service that is measured, with the processes that it has started. */
  readonly service: () => ReadonlyArray<number>
  /** Sets the clock of the server, in seconds from the real time. */
  readonly setClock: (seconds: number) => void
  /** A small disk, on which Lull's tables are. */
  readonly disk: string
}

type Undo = Effect.Effect<unknown, unknown>
type Fault = (ground: Ground) => Effect.Effect<Undo, unknown, Scope.Scope>

/** Does it again and again, until it is undone. */
const steadily = (every: number, work: Effect.Effect<unknown, unknown>): Effect.Effect<Undo, never, Scope.Scope> =>
  Effect.map(
    Effect.forkScoped(Effect.repeat(Effect.ignore(work), Schedule.spaced(every))),
    (fiber) => Effect.sync(() => fiber.interruptUnsafe())
  )

const backends = `pid <> pg_backend_pid() and application_name = 'lull'`

const faultsOf = {
  /** A server that is stopped. */
  stop: ({ server }) => Effect.as(server.stop("immediate"), server.startNoWait),
  /** A server and all its processes, killed. */
  kill: ({ server }) => Effect.as(server.kill, server.startNoWait),
  /** A server that accepts connections and answers nothing. */
  hang: ({ server }) => Effect.as(server.hang, server.resume),
  /** One restart after another: a server in a crash loop, or under an operator's hands. */
  restarts: ({ server }) =>
    steadily(
      1_000,
      server.stop("fast").pipe(Effect.andThen(Effect.sleep("300 millis")), Effect.andThen(server.start))
    ).pipe(Effect.map((undo) => Effect.andThen(undo, server.start))),
  /** A server that was switched to read-only. */
  readonly: ({ server }) => Effect.as(server.readOnly(true), server.readOnly(false)),
  /** A table that somebody has locked, as a careless migration does. */
  locks: ({ server }) => hold(server, "lock table lull.job in access exclusive mode"),
  /** Somebody who cancels whatever runs. */
  cancel: ({ server }) =>
    steadily(
      100,
      server.execute(`select pg_cancel_backend(pid) from pg_stat_activity where ${backends} and state = 'active'`)
    ),
  /** Another program that takes all connections; the service's own are ended until it has those, too. */
  pool: Effect.fnUntraced(function*({ server }) {
    const [row] = yield* server.execute("select current_setting('max_connections')::int as most")
    const holders: Array<Undo> = []
    const end = yield* session(server)
    const take = Effect.tap(Effect.option(hold(server, "select 1")), (holder) =>
      Effect.sync(() => {
        if (holder._tag === "Some") holders.push(holder.value)
      }))
    yield* Effect.replicateEffect(take, Number(row?.["most"]), { discard: true })
    // Each that is ended leaves a place, which is taken by who is there first.
    yield* Effect.replicateEffect(
      Effect.andThen(
        Effect.ignore(end(`select pg_terminate_backend(pid) from pg_stat_activity where ${backends}`)),
        Effect.replicateEffect(take, 8, { concurrency: 8, discard: true })
      ),
      40,
      { discard: true }
    )
    return Effect.suspend(() => Effect.forEach(holders, (holder) => holder, { discard: true }))
  }),
  /** A disk without room for another page of Lull's tables. */
  full: ({ disk }) =>
    Effect.sync(() => {
      const file = join(disk, "filler")
      spawnSync("dd", ["if=/dev/zero", `of=${file}`, "bs=64k"], { stdio: "ignore" })
      return Effect.sync(() => rmSync(file, { force: true }))
    }),
  /** Packets to and from the server vanish. */
  blackhole: ({ server }) =>
    Effect.sync(() => {
      const table = `lull_storm_${process.pid}`
      const nft = (...words: ReadonlyArray<string>) => execFileSync("nft", words)
      nft("add", "table", "inet", table)
      nft("add", "chain", "inet", table, "in", "{ type filter hook input priority 0; }")
      nft("add", "rule", "inet", table, "in", "tcp", "dport", String(server.port), "drop")
      nft("add", "rule", "inet", table, "in", "tcp", "sport", String(server.port), "drop")
      return Effect.sync(() => nft("delete", "table", "inet", table))
    }),
  /** A machine that is suspended, with all its jobs, and goes on later. */
  frozen: ({ service }) =>
    Effect.sync(() => {
      const frozen = service()
      for (const pid of frozen) signal(pid, "SIGSTOP")
      return Effect.sync(() => frozen.forEach((pid) => signal(pid, "SIGCONT")))
    }),
  /** The server's clock, an hour ahead; and then back again. */
  clock: ({ setClock }) =>
    Effect.sync(() => {
      setClock(3_600)
      return Effect.sync(() => setClock(0))
    }),
  /** Listeners that are ended all the time. */
  notifications: ({ server }) =>
    steadily(
      500,
      server.execute(
        `select pg_terminate_backend(pid) from pg_stat_activity where ${backends} and (query ilike 'listen%' or query = 'select 1')`
      )
    ),
  /** A table that is away, and comes back as it was. */
  schema: ({ server }) =>
    Effect.as(
      server.execute("alter table lull.job rename to job_put_aside"),
      server.execute("alter table lull.job_put_aside rename to job")
    )
} as const satisfies Record<string, Fault>

const signal = (pid: number, name: NodeJS.Signals) => {
  try {
    process.kill(pid, name)
  } catch {
    // It has ended meanwhile.
  }
}

/** Two at once: what helps against one must not be in the way of the other. */
const pairs = [
  "locks+restarts",
  "pool+hang",
  "frozen+stop",
  "clock+kill",
  "cancel+notifications",
  "full+readonly"
] as const

type Single = keyof typeof faultsOf
const singles = Object.keys(faultsOf) as ReadonlyArray<Single>

export const kinds: ReadonlyArray<Kind> = [...singles, "switchover", ...pairs]
export type Kind = Single | "switchover" | typeof pairs[number]

export const isKind = (text: string): text is Kind => kinds.some((kind) => kind === text)

const partsOf = (kind: Exclude<Kind, "switchover">): ReadonlyArray<Fault> =>
  kind.split("+").map((part) => faultsOf[part as Single])

/** What the faults need, and Debian's package that has it. */
export const missing = (kind: Kind): string | undefined => {
  if (kind.includes("blackhole") && spawnSync("nft", ["--version"]).status !== 0) return "nft (package nftables)"
  if (kind.includes("clock") && faketime === undefined) return "libfaketime (package libfaketime)"
  if (/full|blackhole/.test(kind) && process.getuid?.() !== 0) return "root"
  return undefined
}

const faketime = ["x86_64", "aarch64"].map((machine) => `/usr/lib/${machine}-linux-gnu/faketime/libfaketime.so.1`)
  .find((file) => existsSync(file))

export interface Stage {
  /** Where the measured processes connect. */
  readonly port: number
  readonly url: string
  /** The fault, from its beginning to the moment at which it is over. */
  readonly outage: (
    seconds: number,
    service: () => ReadonlyArray<number>
  ) => Effect.Effect<{ readonly from: number; readonly to: number }, unknown, Scope.Scope>
  /** The server that has the data in the end. */
  readonly last: () => PostgresServer.PostgresServer
}

export const stage = (kind: Kind): Effect.Effect<Stage, unknown, Scope.Scope> =>
  kind === "switchover" ? switchover : Effect.gen(function*() {
    const { configuration, disk } = kind.includes("full") ? yield* smallDisk : { configuration: {}, disk: "" }
    const clock = kind.includes("clock") ? yield* fakeClock : undefined
    const server = yield* PostgresServer.make({
      fsync: true,
      configuration,
      ...(clock === undefined ? {} : { under: clock.under })
    })
    if (disk !== "") yield* useDisk(server, disk)
    return {
      port: server.port,
      url: server.url,
      last: () => server,
      outage: Effect.fnUntraced(function*(seconds, service) {
        yield* scratch(server)
        const from = yield* Clock.currentTimeMillis
        const ground: Ground = { server, service, disk, setClock: clock?.set ?? (() => {}) }
        const undo = yield* Effect.forEach(partsOf(kind), (part) => part(ground))
        yield* Effect.sleep(`${seconds} seconds`)
        // In the order in which they began: what is up again has to be there for the next to be undone.
        for (const end of undo.toReversed()) yield* end
        return { from, to: yield* writable(server) }
      })
    }
  })

/** Half of a gigabyte would take long to fill; Lull's tables need little. */
const smallDisk = Effect.acquireRelease(
  Effect.sync(() => {
    const disk = mkdtempSync(join(tmpdir(), "lull-storm-disk-"))
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=64m,mode=0777", "tmpfs", disk])
    return { disk, configuration: {} }
  }),
  ({ disk }) =>
    Effect.sync(() => {
      spawnSync("umount", ["-l", disk])
      rmSync(disk, { recursive: true, force: true })
    })
)

/** New tables are made on it; the log of the server stays elsewhere, or a full disk would be a crash. */
const useDisk = Effect.fnUntraced(function*(server: PostgresServer.PostgresServer, disk: string) {
  const directory = join(disk, "tables")
  execFileSync("mkdir", ["-m", "0700", directory])
  const { ids } = server.cluster.account
  if (ids !== undefined) execFileSync("chown", [`${ids.uid}:${ids.gid}`, directory])
  yield* server.execute(`create tablespace small location '${directory}'`)
  yield* server.execute("alter database postgres set default_tablespace = small")
})

const fakeClock = Effect.acquireRelease(
  Effect.sync(() => {
    const directory = mkdtempSync(join(tmpdir(), "lull-storm-clock-"))
    execFileSync("chmod", ["0755", directory])
    const file = join(directory, "offset")
    const set = (seconds: number) => writeFileSync(file, `${seconds >= 0 ? "+" : ""}${seconds}\n`)
    set(0)
    const under = `exec env LD_PRELOAD=${faketime} FAKETIME_TIMESTAMP_FILE=${file} FAKETIME_NO_CACHE=1 ` +
      "DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_FAKE_MONOTONIC=1"
    return { directory, under, set }
  }),
  ({ directory }) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

/** A process with all that it has started, however deep. */
export const withDescendants = (pid: number): ReadonlyArray<number> => {
  const parents = new Map(readdirSync("/proc").map(Number).filter((id) => id > 0).map((id) => [id, parentOf(id)]))
  const found = [pid]
  for (let at = 0; at < found.length; at++) {
    for (const [child, parent] of parents) if (parent === found[at]) found.push(child)
  }
  return found
}

const parentOf = (pid: number): number => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1")
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1])
  } catch {
    return 0
  }
}

/** The old primary lives on, read-only, with our connections open; then new connections reach the promoted standby. */
const switchover = Effect.gen(function*() {
  const primary = yield* PostgresServer.make({ fsync: true, configuration: { wal_level: "replica" } })
  const standby = yield* primary.makeStandby
  const relay = yield* TcpRelay.make({ target: primary.port })
  return {
    port: relay.port,
    url: `postgres://postgres@127.0.0.1:${relay.port}/postgres`,
    last: () => standby,
    outage: (seconds: number) =>
      Effect.gen(function*() {
        yield* scratch(primary)
        const from = yield* Clock.currentTimeMillis
        yield* primary.readOnly(true)
        yield* Effect.sleep(`${seconds} seconds`)
        // Whatever was committed has to have arrived before the standby takes over.
        yield* Effect.repeat(
          Effect.all([
            primary.execute("select pg_current_wal_lsn()::text as at"),
            standby.execute("select pg_last_wal_replay_lsn()::text as at")
          ]),
          { until: ([[sent], [replayed]]) => sent?.["at"] === replayed?.["at"] }
        )
        yield* relay.setTarget(standby.port)
        yield* standby.promote
        return { from, to: yield* writable(standby) }
      })
  }
})

const scratch = (server: PostgresServer.PostgresServer) =>
  server.execute("create table if not exists storm_scratch (at timestamptz) tablespace pg_default")

/** The first moment at which a write of ours is taken. */
const writable = (server: PostgresServer.PostgresServer) =>
  Effect.andThen(
    Effect.eventually(
      Effect.andThen(Effect.sleep("10 millis"), server.execute("insert into storm_scratch values (now())"))
    ),
    Clock.currentTimeMillis
  )
