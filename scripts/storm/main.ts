/**
 * `npm run storm`: the demonstration and the proof. Starts a PostgreSQL and a Lull service on it, loads it, takes the
 * database away, gives it back, and prints what it cost; beside it the two naive loops in the same outage.
 *
 *     npm run storm -- [--fault stop|kill|…|all] [--seconds 60] [--json] [--no-naive] [--peers 200 --replicas 2]
 *
 * With `--peers` there is a tailnet beside the jobs: so many peers on so many replicas, each of which says something new every
 * second; and a second table of what they knew of each other.
 *
 * Everything is in a temporary directory, and on the loopback. Ctrl-C ends all of it.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Clock, Effect, Schedule, type Scope } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import * as Cluster from "../../src/database/embedded/Cluster.ts"
import { isKind, type Kind, kinds, missing, stage, withDescendants } from "./faults.ts"
import * as Load from "./load.ts"
import * as Measured from "./measured.ts"
import type { Report } from "./peers.ts"
import { print, printTailnet, type Row, type Tailnet } from "./report.ts"

const { values: flags } = parseArgs({
  options: {
    fault: { type: "string", default: "stop" },
    seconds: { type: "string", default: "60" },
    json: { type: "boolean", default: false },
    "no-naive": { type: "boolean", default: false },
    peers: { type: "string", default: "0" },
    replicas: { type: "string", default: "1" },
    keep: { type: "boolean", default: false }
  }
})

const seconds = Number(flags.seconds)
const peerCount = Number(flags.peers)
const replicaCount = Number(flags.replicas)
const faults = flags.fault === "all" ? kinds : flags.fault.split(",").filter(isKind)
if (faults.length !== (flags.fault === "all" ? kinds : flags.fault.split(",")).length || !(seconds > 0)) {
  process.stderr.write(`--fault is one or several of ${kinds.join(", ")}, or all; --seconds is a number above 0\n`)
  process.exit(2)
}
for (const kind of faults) {
  const what = missing(kind)
  if (what === undefined) continue
  process.stderr.write(`the fault ${kind} needs ${what}\n`)
  process.exit(2)
}

const say = (text: string) => Effect.sync(() => process.stderr.write(`${text}\n`))

/** The loops that made the storm; and the same, with nothing changed but the layer of their loggers. */
const naiveLoops = [
  { process: "naive loops", environment: {} },
  { process: "naive loops, deduplicated", environment: { STORM_DEDUPLICATED: "yes" } }
]

/** Before the outage: long enough for all connections to be there. */
const warmUp = "8 seconds"
const backlog = 200
const jobsEvery = 50

const untilReady = (address: string) =>
  Effect.tryPromise(() => fetch(`${address}/readyz`)).pipe(
    Effect.filterOrFail((response) => response.ok, () => new Error("not ready")),
    Effect.retry({ schedule: Schedule.spaced("100 millis"), times: 300 })
  )

const run = Effect.fnUntraced(function*(kind: Kind, directory: string) {
  yield* say(`${kind}: starting PostgreSQL and Lull`)
  const database = yield* stage(kind)
  const serve = Effect.fnUntraced(function*(replica: number) {
    const port = yield* Cluster.freePort
    const measured = yield* Measured.start({
      name: `lull-${kind}-${replica}`,
      directory,
      script: fileURLToPath(new URL("../../src/main.ts", import.meta.url)),
      parameters: ["serve"],
      environment: {
        LULL_DATABASE_URL: database.url,
        LULL_LISTEN: `127.0.0.1:${port}`,
        LULL_DATA_DIR: join(directory, `data-${kind}-${replica}`),
        // The jobs are the first one's, so that there is one ledger.
        LULL_WORKER_SLOTS: replica === 0 ? "10" : "0",
        LULL_LOG_FORMAT: "logfmt"
      },
      databasePort: database.port
    })
    const at = `http://127.0.0.1:${port}`
    yield* untilReady(at)
    return { measured, address: at }
  })
  const [{ address, measured: lull }, ...otherReplicas] = yield* Effect.forEach(
    [0, ...Array.from({ length: replicaCount - 1 }, (_, more) => more + 1)] as const,
    serve
  ) as Effect.Effect<[Replica, ...Array<Replica>], Error, Scope.Scope>
  const peers = peerCount === 0 ? undefined : yield* Measured.start({
    name: `peers-${kind}`,
    directory,
    script: fileURLToPath(new URL("./peers.ts", import.meta.url)),
    parameters: [String(peerCount), address, ...otherReplicas.map((replica) => replica.address)],
    environment: {},
    databasePort: database.port
  })
  const ledgerFile = join(directory, `ledger-${kind}`)
  const load = Load.make(address, ledgerFile)
  const stopLoad = load.begin(jobsEvery)
  yield* Effect.sleep(warmUp)
  yield* Effect.promise(() => load.submit(backlog))

  const others = flags["no-naive"] ?
    [] :
    yield* Effect.forEach(naiveLoops, ({ environment, process }, at) =>
      Effect.map(
        Measured.start({
          name: `naive-${at}-${kind}`,
          directory,
          script: fileURLToPath(new URL("./naive.ts", import.meta.url)),
          environment: { ...environment, LULL_DATABASE_URL: database.url },
          databasePort: database.port
        }),
        (measured) => ({ process, measured })
      ))
  if (others.length > 0) yield* Effect.sleep("3 seconds")

  yield* say(`${kind}: the database is going away for ${seconds} s`)
  const watched = [lull, ...others.map(({ measured }) => measured)]
  const cpuBefore = watched.map((each) => each.cpuSeconds())
  const service = () => lull.child.pid === undefined ? [] : withDescendants(lull.child.pid)
  const { from, to } = yield* database.outage(seconds, service)
  const cpuAfter = watched.map((each) => each.cpuSeconds())
  const isAlive = lull.isAlive()
  // What is written within the five seconds after it belongs to it.
  yield* Effect.sleep("5 seconds")
  const otherRows = others.map(({ measured, process }, at): Row => ({
    process,
    ...observe(measured, from, to),
    cpuSeconds: difference(cpuBefore[at + 1], cpuAfter[at + 1]),
    alive: measured.isAlive()
  }))
  for (const { measured } of others) measured.child.kill("SIGKILL")

  yield* say(`${kind}: it takes writes again; the backlog is being worked off`)
  yield* Effect.promise(stopLoad)
  yield* Effect.promise(load.settle)
  const deadline = (yield* Clock.currentTimeMillis) + 120_000
  const unended = () => {
    const { ends } = Load.readLedger(ledgerFile)
    return [...load.accepted].filter((key) => !ends.has(key))
  }
  while (unended().length > 0 && (yield* Clock.currentTimeMillis) < deadline) yield* Effect.sleep("500 millis")
  yield* Effect.sleep("3 seconds")

  const [locked] = yield* database.last().execute(
    "select count(*)::int as jobs from lull.job where status in ('running', 'canceling')"
  )
  const [unfinished] = yield* database.last().execute(
    "select count(*)::int as jobs from lull.job where status <> 'succeeded'"
  )
  const ledger = Load.readLedger(ledgerFile)
  const firstStart = Math.min(...[...ledger.starts.values()].flat().filter((at) => at >= to))
  const row: Row = {
    process: "lull",
    ...observe(lull, from, to),
    cpuSeconds: difference(cpuBefore[0], cpuAfter[0]),
    alive: isAlive,
    firstJobMillis: Math.round(firstStart - to),
    jobs: load.accepted.size,
    lost: unended().length,
    notSucceeded: Number(unfinished?.["jobs"]),
    twice: [...ledger.starts.values()].filter((starts) => starts.length > 1).length,
    locked: Number(locked?.["jobs"]),
    refusals: load.refusals.length,
    slowestRefusalMillis: Math.round(slowestOnceKnown(lull, load, from))
  }
  const replicaRows = otherReplicas.map(({ measured }, at): Row => ({
    process: `lull, replica ${at + 2}`,
    ...observe(measured, from, to),
    cpuSeconds: undefined,
    alive: measured.isAlive()
  }))
  return {
    kind,
    seconds: Math.round((to - from) / 100) / 10,
    rows: [row, ...replicaRows, ...otherRows],
    ...(peers === undefined ? {} : { tailnet: observePeers(peers, from, to) })
  }
})

interface Replica {
  readonly measured: Measured.Measured
  readonly address: string
}

/** What the peers knew of each other, from their reports. */
const observePeers = (peers: Measured.Measured, from: number, to: number): Tailnet => {
  const reports = peers.lines.flatMap(({ text }) => text.startsWith("{") ? [JSON.parse(text) as Report] : [])
  const before = reports.findLast(({ at }) => at < from)
  const during = reports.filter(({ at }) => at >= from && at <= to)
  const settled = reports.find(({ at, lagOther, lagSame }) => at > to && lagSame === 0 && lagOther === 0)
  return {
    peers: peerCount,
    replicas: replicaCount,
    lagSameMillis: Math.max(0, ...during.map(({ lagSame }) => lagSame)),
    convergedMillis: settled === undefined ? undefined : settled.at - to,
    left: (reports.at(-1)?.left ?? 0) - (before?.left ?? 0),
    sessions: (reports.at(-1)?.sessions ?? 0) - (before?.sessions ?? 0),
    lines: peers.lines.filter(({ at, text }) => at >= from && at <= to + 5_000 && !text.startsWith("{")).length
  }
}

/**
 * Of the requests that began when the service knew, as it had said. Before that a request in flight waits for the answer
 * of a hung server, or asks again whether its job was stored.
 */
const slowestOnceKnown = (lull: Measured.Measured, load: Load.Load, from: number) => {
  const known = lull.lines.find(({ at, text }) => at >= from && /database (unavailable|degraded)/.test(text))?.at ??
    from
  return Math.max(0, ...load.refusals.filter(({ at }) => at > known).map(({ millis }) => millis))
}

/** From the beginning of the outage until the service has said that it is over. */
const observe = (measured: Measured.Measured, from: number, to: number) => {
  const lines = measured.lines.filter(({ at }) => at >= from && at <= to + 5_000)
  const connects = measured.connects().filter((at) => at >= from && at <= to)
  const begin = from - 5_000
  const perSecond = new Array<number>(Math.ceil((to + 5_000 - begin) / 1_000)).fill(0)
  for (const { at } of measured.lines) {
    if (at >= begin && at < begin + perSecond.length * 1_000) perSecond[Math.floor((at - begin) / 1_000)]!++
  }
  return {
    perSecond,
    lines: lines.length,
    worstSecond: Measured.worstSecond(lines.map(({ at }) => at), from),
    connects: connects.length,
    connectsFirstMinute: connects.filter((at) => at <= from + 60_000).length
  }
}

const difference = (before: number | undefined, after: number | undefined) =>
  before === undefined || after === undefined ? undefined : Math.round((after - before) * 100) / 100

const program = Effect.gen(function*() {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "lull-storm-"))),
    (made) =>
      flags.keep
        ? say(`logs and ledgers are in ${made}`)
        : Effect.sync(() => rmSync(made, { recursive: true, force: true, maxRetries: 5 }))
  )
  const results = yield* Effect.forEach(faults, (kind) => Effect.scoped(run(kind, directory)))
  process.stdout.write(
    flags.json ? `${JSON.stringify(results, null, 2)}\n` : `${print(results)}${printTailnet(results)}`
  )
  const kept = results.every(({ rows: [lull] }) => lull !== undefined && isWithinPromises(lull))
  if (!kept) process.exitCode = 1
})

/** Promises 1 to 4, for an outage of a minute. */
const isWithinPromises = (row: Row) =>
  row.lines <= 8 && row.worstSecond <= 3 && row.connectsFirstMinute <= 75 && row.alive &&
  (row.firstJobMillis ?? Infinity) <= 1_500 && row.lost === 0 && row.twice === 0 && row.locked === 0

NodeRuntime.runMain(Effect.scoped(program))
