/**
 * One worker through one outage, beside the same for its peers:
 *
 *     node scripts/bench/outage.ts lull|graphile:PROFILE|pgboss:PROFILE idle|loaded [--fault stop] [--seconds 60]
 *
 * `loaded`: 20 jobs of 300 ms a second, and a backlog of 200 when the database goes. `idle`: nothing to do at all. The worker
 * is a process of its own, which embeds the library and logs as the library does by itself; what it ran is in a ledger that
 * needs no database. The answer is one line of JSON on standard output.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Context, Effect, Layer, Logger, Redacted, Schedule } from "effect"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { Availability, Executor, Provisioner } from "../../src/index.ts"
import { kinds, stage } from "../storm/faults.ts"
import * as Measured from "../storm/measured.ts"

const { positionals: [candidate = "", load = ""], values: flags } = parseArgs({
  allowPositionals: true,
  options: { fault: { type: "string", default: "stop" }, seconds: { type: "string", default: "60" } }
})
const kind = kinds.find((one) => one === flags.fault)
if (candidate === "" || !["idle", "loaded"].includes(load) || kind === undefined) {
  process.stderr.write(
    `usage: outage.ts lull|graphile:PROFILE|pgboss:PROFILE idle|loaded [--fault ${kinds.join("|")}]\n`
  )
  process.exit(2)
}
const [peerName, profileName] = candidate.split(":")

const jobsEvery = "50 millis"
const backlog = 200

interface Subject {
  readonly script: string
  readonly parameters: ReadonlyArray<string>
  /** Stores a job; fails while the database is away. */
  readonly add: (i: number) => Effect.Effect<unknown, unknown>
  /** Jobs that are not ended, and jobs that somebody holds. */
  readonly pendingSql: string
  readonly lockedSql: string
}

const path = (file: string) => fileURLToPath(new URL(file, import.meta.url))

/** Submits, and takes nothing. */
const lull = Effect.fnUntraced(function*(url: string) {
  const services = yield* Layer.build(
    Provisioner.layerPostgres({ url: Redacted.make(url), worker: { tags: { only: "submits" } } }).pipe(
      Layer.provide(Executor.layerHandlers({})),
      Layer.provide(Logger.layer([]))
    )
  )
  yield* Context.get(services, Availability).awaitAvailable
  const provisioner = Context.get(services, Provisioner)
  const subject: Subject = {
    script: path("lull.ts"),
    parameters: ["work"],
    add: (i) => provisioner.submit({ type: "bench", input: { i } }),
    pendingSql: "select count(*)::int as n from lull.job where status in ('pending', 'running', 'canceling')",
    lockedSql: "select count(*)::int as n from lull.job where status in ('running', 'canceling')"
  }
  return subject
})

/** What `peers.mjs` has for each peer. */
interface Peer extends Pick<Subject, "pendingSql" | "lockedSql"> {
  readonly setup: () => Promise<void>
  readonly producer: () => Promise<{ readonly add: (i: number) => Promise<unknown> }>
}

const peer = Effect.fnUntraced(function*(url: string) {
  process.env["DATABASE_URL"] = url
  const peers: { readonly choose: (name: string, profile: string) => { readonly peer: Peer } } = yield* Effect.promise(
    () => import(new URL("peers/peers.mjs", import.meta.url).href)
  )
  const { peer } = peers.choose(peerName ?? "", profileName ?? "")
  yield* Effect.promise(() => peer.setup())
  const producer = yield* Effect.promise(() => peer.producer())
  const subject: Subject = {
    script: path("peers/worker.mjs"),
    parameters: [peerName ?? "", profileName ?? ""],
    add: (i) => Effect.tryPromise(() => producer.add(i)),
    pendingSql: peer.pendingSql,
    lockedSql: peer.lockedSql
  }
  return subject
})

interface Entry {
  readonly event: string
  readonly job: number
  readonly at: number
}

const readLedger = (file: string): ReadonlyArray<Entry> =>
  readFileSync(file, "utf8").split("\n").filter(Boolean).map((line) => {
    const [event = "", job, at] = line.split(" ")
    return { event, job: Number(job), at: Number(at) }
  })

const counted = (entries: ReadonlyArray<Entry>) => {
  const counts = new Map<number, number>()
  for (const { job } of entries) counts.set(job, (counts.get(job) ?? 0) + 1)
  return counts
}

const program = Effect.gen(function*() {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "lull-bench-"))),
    (made) => Effect.sync(() => rmSync(made, { recursive: true, force: true }))
  )
  const database = yield* stage(kind)
  const subject: Subject = yield* candidate === "lull" ? lull(database.url) : peer(database.url)
  const ledger = join(directory, "ledger")
  writeFileSync(ledger, "")
  const worker = yield* Measured.start({
    name: "worker",
    directory,
    script: subject.script,
    parameters: subject.parameters,
    environment: { DATABASE_URL: database.url, LEDGER: ledger },
    databasePort: database.port
  })
  yield* Effect.repeat(Effect.sleep("50 millis"), {
    until: () => readLedger(ledger).some(({ event }) => event === "r")
  })

  let next = 0
  const stored = new Set<number>()
  const add = Effect.suspend(() => {
    const i = next++
    return Effect.ignore(Effect.tap(subject.add(i), Effect.sync(() => stored.add(i))))
  })
  const produce = (seconds: number) =>
    Effect.repeat(Effect.forkScoped(add), { schedule: Schedule.spaced(jobsEvery), times: seconds * 20 })

  const isLoaded = load === "loaded"
  if (isLoaded) {
    yield* produce(8)
    yield* Effect.forEach(Array.from({ length: backlog }), () => add, { discard: true })
  } else yield* Effect.sleep("15 seconds")
  const cpuBefore = worker.cpuSeconds() ?? Number.NaN
  const { from, to } = yield* database.outage(Number(flags.seconds), () => [])
  const cpuAfter = worker.cpuSeconds()
  const isAlive = worker.isAlive()
  if (isLoaded) yield* produce(5)
  yield* Effect.sleep("30 seconds")

  const lines = worker.lines.filter(({ at, text }) => at >= from && at <= to + 5_000 && !/ with success$/.test(text))
  const connects = worker.connects().filter((at) => at >= from && at <= to)
  const entries = readLedger(ledger)
  const starts = entries.filter(({ event }) => event === "s")
  const ends = counted(entries.filter(({ event }) => event === "e"))
  const count = (sql: string) => Effect.map(database.last().execute(sql), ([row]) => Number(row?.["n"]))
  process.stdout.write(`${
    JSON.stringify({
      lines: lines.length,
      worstSecond: Measured.worstSecond(lines.map(({ at }) => at), from),
      connects: connects.length,
      cpuSeconds: cpuAfter === undefined ? null : cpuAfter - cpuBefore,
      alive: Number(isAlive),
      ...(isLoaded
        ? {
          firstJobMillis: Math.min(...starts.map(({ at }) => at).filter((at) => at >= to)) - to,
          lost: [...stored].filter((i) => !ends.has(i)).length,
          twice: [...counted(starts).values()].filter((times) => times > 1).length,
          pending: yield* count(subject.pendingSql),
          locked: yield* count(subject.lockedSql)
        }
        : {})
    })
  }\n`)
  // Whatever connections the peers' producers have left.
  yield* Effect.forkDetach(Effect.andThen(Effect.sleep("10 seconds"), Effect.sync(() => process.exit(0))))
})

NodeRuntime.runMain(Effect.scoped(program))
