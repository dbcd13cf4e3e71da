/**
 * One measured run of Lull, in a process of its own, so that neither compiled code nor heap is carried over:
 *
 *     DATABASE_URL=… node scripts/bench/lull.ts throughput|submit|latency|idle|work [jobs, or seconds]
 *
 * Everything is done through the package's public face, as an embedding application would. The answer is one line of
 * JSON on standard output; logs go to standard error.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import { Clock, Context, Effect, Exit, Layer, Logger, Redacted, Scope } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { openSync, writeSync } from "node:fs"
import { Availability, Executor, Provisioner } from "../../src/index.ts"

const [what = "", amount] = process.argv.slice(2)
const url = Redacted.make(process.env["DATABASE_URL"] ?? "")

/** Jobs at a time: trivial jobs in the same process cost nothing while their results wait to be stored. */
const slots = Number(process.env["BENCH_SLOTS"] ?? 2_000)

/** Jobs in one submission, as for the peers. */
const chunk = 1_000

/** A whole Lull in a scope of its own: pool, prober, listener, worker, reaper. */
const open = Effect.fnUntraced(function*(handler?: (index: number) => void) {
  const layer = Provisioner.layerPostgres({
    url,
    // Who only submits takes nothing: no job of ours carries this tag.
    worker: handler === undefined ? { tags: { only: "submits" } } : { slots }
  }).pipe(
    Layer.provide(Executor.layerHandlers({
      bench: (job) =>
        Effect.sync(() => {
          const { i } = job.input as { readonly i: number }
          handler?.(i)
          return { handled: i }
        })
    })),
    Layer.fresh
  )
  const scope = yield* Scope.make()
  const services = yield* Layer.buildWithScope(layer, scope)
  const close = Scope.close(scope, Exit.void)
  yield* Effect.addFinalizer(() => close)
  yield* Context.get(services, Availability).awaitAvailable
  return { provisioner: Context.get(services, Provisioner), close }
})

const submission = (i: number) => ({ type: "bench", input: { i } })

const submitMany = Effect.fnUntraced(function*(provisioner: Provisioner["Service"], jobs: number) {
  for (let from = 0; from < jobs; from += chunk) {
    yield* provisioner.submitAll(
      Array.from({ length: Math.min(chunk, jobs - from) }, (_, at) => submission(from + at))
    )
  }
})

/** A connection beside Lull's, to look at the tables. */
const observer = PgClient.make({ url, maxConnections: 1 })

const secondsOf = <A, E, R>(work: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const from = performance.now()
    return Effect.map(work, () => (performance.now() - from) / 1000)
  })

const cpuSeconds = (since?: NodeJS.CpuUsage) => {
  const { system, user } = process.cpuUsage(since)
  return (user + system) / 1e6
}

const quantile = (values: ReadonlyArray<number>, share: number) =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(share * values.length))]

/** Jobs per second, from the first call of the handler until all results are in the table. */
const throughput = Effect.fnUntraced(function*(jobs: number) {
  const sql = yield* observer
  const producer = yield* open()
  yield* submitMany(producer.provisioner, jobs)
  yield* producer.close
  yield* sql.unsafe("vacuum analyze")
  yield* sql.unsafe("checkpoint")
  let seen = 0
  let first = 0
  const all = Promise.withResolvers<void>()
  const cpu = process.cpuUsage()
  yield* open(() => {
    if (seen++ === 0) first = performance.now()
    if (seen === jobs) all.resolve()
  })
  yield* Effect.promise(() => all.promise)
  yield* Effect.repeat(
    sql.unsafe<{ readonly n: number }>(
      "select count(*)::int as n from lull.job where status in ('pending', 'running', 'canceling')"
    ),
    { until: ([row]) => row?.n === 0 }
  )
  const seconds = (performance.now() - first) / 1000
  const used = cpuSeconds(cpu)
  const [stored] = yield* sql.unsafe<{ readonly n: number }>(
    "select count(*)::int as n from lull.job where status = 'succeeded' and result->>'handled' = input->>'i'"
  )
  if (stored?.n !== jobs || seen !== jobs) {
    return yield* Effect.die(new Error(`${seen} runs and ${stored?.n} results of ${jobs} jobs`))
  }
  return { perSecond: jobs / seconds, cpuSeconds: used }
})

/** Jobs per second, in calls of 1,000, and then one by one. */
const submit = Effect.fnUntraced(function*(jobs: number) {
  const { provisioner } = yield* open()
  const seconds = yield* secondsOf(submitMany(provisioner, jobs))
  const singles = Math.ceil(jobs / 10)
  const singleSeconds = yield* secondsOf(
    Effect.forEach(Array.from({ length: singles }, (_, i) => i), (i) => provisioner.submit(submission(i)), {
      discard: true
    })
  )
  return { perSecond: jobs / seconds, singlesPerSecond: singles / singleSeconds }
})

/** Milliseconds from the call of `submit` until the handler is entered, in an open loop at low load. */
const latency = Effect.fnUntraced(function*(jobs: number) {
  const sent: Array<number> = []
  const started: Array<number> = []
  let seen = 0
  const all = Promise.withResolvers<void>()
  const { provisioner } = yield* open((i) => {
    if (i < 0) return
    started[i] = performance.now()
    if (++seen === jobs) all.resolve()
  })
  for (let i = 1; i <= 5; i++) yield* provisioner.submit(submission(-i))
  yield* Effect.sleep("4 seconds")
  for (let i = 0; i < jobs; i++) {
    sent[i] = performance.now()
    yield* Effect.forkScoped(provisioner.submit(submission(i)), { startImmediately: true })
    yield* Effect.sleep(gapMillis * (0.5 + Math.random()))
  }
  yield* Effect.promise(() => all.promise)
  const waits = started.map((at, i) => at - (sent[i] ?? at))
  return { p50: quantile(waits, 0.5), p99: quantile(waits, 0.99), max: Math.max(...waits) }
})

const gapMillis = 50

/** Transactions per second and CPU of a worker with an empty queue. */
const idle = Effect.fnUntraced(function*(seconds: number) {
  const sql = yield* observer
  const transactions = Effect.map(
    sql.unsafe<{ readonly n: number }>(
      "select (xact_commit + xact_rollback)::int as n from pg_stat_database where datname = current_database()"
    ),
    ([row]) => row?.n ?? 0
  )
  const measure = Effect.gen(function*() {
    const from = yield* transactions
    const cpu = process.cpuUsage()
    yield* Effect.sleep(seconds * 1000)
    return { transactions: (yield* transactions) - from, cpu: cpuSeconds(cpu) }
  })
  const base = yield* measure
  yield* open(() => {})
  yield* Effect.sleep("3 seconds")
  const working = yield* measure
  return {
    transactionsPerSecond: (working.transactions - base.transactions) / seconds,
    cpuPercent: 100 * working.cpu / seconds
  }
})

/** Works until it is killed; what it ran is in the file LEDGER, as for the peers. */
const work = Effect.gen(function*() {
  const ledger = openSync(process.env["LEDGER"] ?? "", "a")
  const mark = (event: string, i: number) =>
    Effect.map(Clock.currentTimeMillis, (at) => writeSync(ledger, `${event} ${i} ${at}\n`))
  const services = yield* Layer.build(
    Provisioner.layerPostgres({ url, worker: { slots: 10 } }).pipe(
      Layer.provide(Executor.layerHandlers({
        bench: (job) => {
          const { i } = job.input as { readonly i: number }
          return mark("s", i).pipe(Effect.andThen(Effect.sleep("300 millis")), Effect.andThen(mark("e", i)))
        }
      }))
    )
  )
  yield* Context.get(services, Availability).awaitAvailable
  yield* mark("r", 0)
  return yield* Effect.never
})

const measured = (): Effect.Effect<unknown, unknown, Scope.Scope | Reactivity.Reactivity> => {
  switch (what) {
    case "throughput":
      return throughput(Number(amount ?? 20_000))
    case "submit":
      return submit(Number(amount ?? 20_000))
    case "latency":
      return latency(Number(amount ?? 500))
    case "idle":
      return idle(Number(amount ?? 20))
    case "work":
      return work
    default:
      return Effect.die(new Error(`nothing is measured as ${what}`))
  }
}

const answer = await Effect.runPromise(
  Effect.scoped(Effect.suspend(measured)).pipe(
    Effect.provide(Layer.mergeAll(Reactivity.layer, Layer.succeed(Logger.LogToStderr, true)))
  )
)
process.stdout.write(`${JSON.stringify(answer)}\n`)
