/** Whatever a server answers, what jobs said and how they ended arrives; on a store that fails by a script. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Duration, Effect, Layer, SubscriptionRef } from "effect"
import { TestClock } from "effect/testing"
import { Availability, type State } from "../../src/database/Availability.ts"
import { DatabaseUnavailable, kindOf, QueryFailed } from "../../src/database/Unavailable.ts"
import { Loops } from "../../src/loop/Loops.ts"
import { JobId, type Lease, type LeasedJob } from "../../src/provisioner/Job.ts"
import { JobStore, type OutputBatch, type Report, type Verdict } from "../../src/provisioner/JobStore.ts"
import * as Reporter from "../../src/provisioner/Reporter.ts"
import { collectLines } from "../support/replicas.ts"
import { uuid } from "../support/TailnetWorld.ts"

const job = (number: number, token = 1): LeasedJob => ({
  job: JobId.make(uuid(number)),
  token,
  type: "test",
  input: null,
  tags: {},
  timeout: undefined,
  attempt: 1,
  maxAttempts: 1
})
const succeeded = (result: unknown = null) => ({ outcome: { status: "succeeded", result } }) as const
const numberOf = ({ job }: Lease) => Number(job.slice(-12))

const failure = (sqlState: string, detail = "scripted") =>
  new QueryFailed({
    operation: "JobStore.scripted",
    kind: kindOf(sqlState),
    outcome: "notDone",
    sqlState,
    detail,
    cause: undefined
  })
const away = new DatabaseUnavailable({
  reason: "Unreachable",
  since: 0,
  attempts: 1,
  retryAfter: Duration.zero,
  outcome: "unknown",
  operation: "JobStore.scripted",
  detail: "scripted"
})

type Failing = QueryFailed | DatabaseUnavailable | "locked" | undefined

interface Statement {
  readonly jobs: ReadonlyArray<number>
  readonly reports: ReadonlyArray<Report>
  readonly lines: ReadonlyArray<string>
  /** -1: whether a job is locked. */
  readonly now: number
  readonly skipLocked: boolean
}

/** `fails`: what a statement answers. */
const world = Effect.fnUntraced(function*(fails: (statement: Statement) => Failing) {
  const ends = new Map<number, Report>()
  const output = new Map<number, Array<string>>()
  const statements: Array<{ readonly at: number; readonly jobs: ReadonlyArray<number> }> = []
  const answered: Array<readonly [number, Verdict]> = []
  const statement = <A>(
    leases: ReadonlyArray<Lease>,
    more: {
      readonly reports?: ReadonlyArray<Report>
      readonly lines?: ReadonlyArray<string>
      readonly skipLocked?: boolean
    },
    done: () => ReadonlyArray<A>
  ) =>
    Effect.clockWith((clock) =>
      Effect.suspend(() => {
        const now = clock.currentTimeMillisUnsafe()
        const jobs = leases.map(numberOf)
        statements.push({ at: now, jobs })
        const answer = fails({ reports: [], lines: [], skipLocked: false, ...more, jobs, now })
        return answer === undefined || answer === "locked" ? Effect.succeed(done()) : Effect.fail(answer)
      })
    )
  const store = Layer.mock(JobStore, {
    finish: (reports, options) => {
      const skipLocked = options?.skipLocked === true
      const isLocked = (report: Report) =>
        fails({ jobs: [numberOf(report)], reports: [report], lines: [], now: -1, skipLocked }) === "locked"
      return statement(reports, { reports, skipLocked }, () =>
        reports.map((report): Verdict => {
          if (skipLocked && isLocked(report)) return "locked"
          ends.set(numberOf(report), report)
          return "stored"
        }))
    },
    release: (leases) => statement(leases, {}, () => leases.map(() => true)),
    appendOutput: (batches: ReadonlyArray<OutputBatch>) =>
      statement(
        batches,
        { lines: batches.flatMap(({ lines }) => lines.map(({ text }) => text)) },
        () =>
          batches.map((batch) => {
            output.set(numberOf(batch), [...output.get(numberOf(batch)) ?? [], ...batch.lines.map(({ text }) => text)])
            return true
          })
      )
  })
  const services = yield* Layer.build(Layer.mergeAll(
    store,
    Loops.layer,
    Layer.mock(Availability, {
      state: yield* SubscriptionRef.make<State>({ _tag: "Starting", since: 0 }),
      awaitAvailable: Effect.void,
      decided: Effect.void,
      isOpen: () => true,
      report: () => {},
      writableMillis: () => 0,
      history: () => 0
    })
  ))
  const reporter = yield* Effect.provide(
    Reporter.make({ onAnswered: (lease, verdict) => answered.push([numberOf(lease), verdict]) }),
    services
  )
  return { reporter, ends, output, statements, answered, loops: Context.get(services, Loops) }
})

const stored = (ends: ReadonlyMap<number, Report>) => [...ends.keys()].toSorted((a, b) => a - b)
const upTo = (count: number) => Array.from({ length: count }, (_, at) => at + 1)

describe("how jobs ended", () => {
  const { layer, lines } = collectLines()
  const warnings = () => lines.filter(({ level }) => level === "Warn" || level === "Error")

  // What a server may answer to a statement that is right: a lock held too long, a cancel, a deadlock, a conflict with recovery,
  // an internal error, a trigger of somebody else, a missing right, a limit of the server.
  for (
    const state of ["57014", "55P03", "40P01", "40001", "XX000", "P0001", "42501", "55006", "25P02", "0B000", "58030"]
  ) {
    it.effect(`is stored after ${state} for seven seconds, of each job once`, () =>
      Effect.gen(function*() {
        lines.length = 0
        const { answered, ends, reporter, statements } = yield* world(({ now }) =>
          now < 7_000 ? failure(state) : undefined
        )
        for (const number of upTo(36)) reporter.report(job(number), succeeded(number))
        yield* TestClock.adjust("30 seconds")
        assert.deepStrictEqual(stored(ends), upTo(36))
        assert.isTrue(
          [...ends].every(([number, { outcome }]) => outcome.status === "succeeded" && outcome.result === number)
        )
        assert.strictEqual(answered.length, 36)
        assert.deepStrictEqual(reporter.unanswered(), [])
        assert.isAtMost(statements.length, 100)
        assert.isAtMost(warnings().length, 2)
      }).pipe(Effect.provide(layer)))
  }

  it.effect("is stored of all but the one whose value the database refuses, which ends without it", () =>
    Effect.gen(function*() {
      const { ends, reporter, statements } = yield* world(({ reports }) =>
        reports.some(({ outcome }) => outcome.result === 500) ? failure("22P02", "invalid input") : undefined
      )
      for (const number of upTo(1_000)) reporter.report(job(number), succeeded(number))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(stored(ends), upTo(1_000))
      for (const [number, { outcome }] of ends) {
        assert.strictEqual(outcome.status, number === 500 ? "failed" : "succeeded")
      }
      assert.deepStrictEqual(ends.get(500)?.outcome, {
        status: "failed",
        result: null,
        error: "its result could not be stored: invalid input"
      })
      assert.isAtMost(statements.length, 25)
      assert.deepStrictEqual(reporter.unanswered(), [])
    }).pipe(Effect.provide(layer)))

  it.effect("is not held back by one that fails again and again, which is named once and stored at last", () =>
    Effect.gen(function*() {
      lines.length = 0
      const { ends, reporter } = yield* world(({ jobs, now }) =>
        jobs.includes(7) && now < 600_000 ? failure("P0001", "no, says a trigger") : undefined
      )
      for (const number of upTo(20)) reporter.report(job(number), succeeded())
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(stored(ends), upTo(20).filter((number) => number !== 7))
      for (const number of upTo(40).slice(20)) reporter.report(job(number), succeeded())
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(ends.size, 39)
      assert.deepStrictEqual(reporter.unanswered(), [job(7).job])
      yield* TestClock.adjust("11 minutes")
      assert.strictEqual(ends.size, 40)
      assert.isAtMost(warnings().length, 2)
    }).pipe(Effect.provide(layer)))

  it.effect("is not held back by a job on which somebody holds a lock", () =>
    Effect.gen(function*() {
      let isLocked = true
      const { answered, ends, reporter } = yield* world(({ jobs, now, skipLocked }) => {
        if (!isLocked || !jobs.includes(3)) return undefined
        return skipLocked ? "locked" : now === -1 ? undefined : failure("55P03")
      })
      for (const number of upTo(5)) reporter.report(job(number), succeeded())
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(stored(ends), [1, 2, 4, 5])
      yield* TestClock.adjust("1 minute")
      isLocked = false
      yield* TestClock.adjust("11 seconds")
      assert.deepStrictEqual(stored(ends), upTo(5))
      assert.strictEqual(answered.length, 5)
    }).pipe(Effect.provide(layer)))

  it.effect("is stored through an outage, however long, without asking in a hot loop", () =>
    Effect.gen(function*() {
      const { ends, reporter, statements } = yield* world(({ now }) => now < 3_600_000 ? away : undefined)
      reporter.report(job(1), succeeded())
      yield* TestClock.adjust("1 minute")
      assert.isAtMost(statements.length, 2 * 60 * 20)
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(stored(ends), [1])
    }).pipe(Effect.provide(layer)))

  it.effect("is never reported for a run under the token of another", () =>
    Effect.gen(function*() {
      const { ends, reporter, statements } = yield* world(({ now }) => now < 1_000 ? failure("57014") : undefined)
      reporter.report(job(1, 4), succeeded("of the first"))
      reporter.forget(job(1, 4))
      reporter.report(job(1, 5), succeeded("of the second"))
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(ends.get(1)?.token, 5)
      assert.deepStrictEqual(ends.get(1)?.outcome, succeeded("of the second").outcome)
      assert.isTrue(statements.every(({ jobs }) => jobs.length <= 1))
      assert.deepStrictEqual(reporter.unanswered(), [])
    }).pipe(Effect.provide(layer)))

  it.effect("goes in statements that are bounded in bytes", () =>
    Effect.gen(function*() {
      const { ends, reporter, statements } = yield* world(() => undefined)
      const result = "x".repeat(1_000_000)
      for (const number of upTo(12)) reporter.report(job(number), succeeded(result))
      assert.isAtLeast(reporter.unansweredBytes(), 12_000_000)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(ends.size, 12)
      assert.isTrue(statements.every(({ jobs }) => jobs.length <= 4))
      assert.strictEqual(reporter.unansweredBytes(), 0)
    }).pipe(Effect.provide(layer)))
})

describe("what jobs say", () => {
  const { layer, lines } = collectLines()

  it.effect("is stored in order after any failure that passes, and their ends after it", () =>
    Effect.gen(function*() {
      const { ends, output, reporter } = yield* world(({ now }) => now < 7_000 ? failure("57014") : undefined)
      for (const number of upTo(20)) {
        const { write } = reporter.output(job(number))
        yield* write("stdout", ["first", "second"])
        yield* write("stdout", ["last"])
        reporter.report(job(number), succeeded())
      }
      yield* TestClock.adjust("1 minute")
      for (const number of upTo(20)) assert.deepStrictEqual(output.get(number), ["first", "second", "last"])
      assert.deepStrictEqual(stored(ends), upTo(20))
    }).pipe(Effect.provide(layer)))

  it.effect("is not held back by a job whose output fails again and again", () =>
    Effect.gen(function*() {
      lines.length = 0
      const { ends, output, reporter } = yield* world(({ jobs, now }) =>
        jobs.includes(7) && now < 120_000 ? failure("55P03") : undefined
      )
      for (const number of upTo(10)) {
        yield* reporter.output(job(number)).write("stdout", ["line"])
        reporter.report(job(number), succeeded())
      }
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual(stored(ends), upTo(10).filter((number) => number !== 7))
      yield* TestClock.adjust("3 minutes")
      assert.deepStrictEqual(output.get(7), ["line"])
      assert.deepStrictEqual(stored(ends), upTo(10))
      assert.strictEqual(lines.length, 1)
    }).pipe(Effect.provide(layer)))

  it.effect("is cut, with a mark, in the one line that the database refuses", () =>
    Effect.gen(function*() {
      const { ends, output, reporter } = yield* world(({ lines: sent }) =>
        sent.includes("bad") ? failure("22021", "invalid byte sequence") : undefined
      )
      for (const number of upTo(3)) {
        yield* reporter.output(job(number)).write("stdout", ["a", number === 2 ? "bad" : "b", "c", "d"])
        reporter.report(job(number), succeeded())
      }
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(output.get(1), ["a", "b", "c", "d"])
      assert.deepStrictEqual(output.get(2), ["a", "[lull: 1 line was cut here: invalid byte sequence]", "c", "d"])
      assert.deepStrictEqual(output.get(3), ["a", "b", "c", "d"])
      assert.deepStrictEqual(stored(ends), upTo(3))
    }).pipe(Effect.provide(layer)))
})
