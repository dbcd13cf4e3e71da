/** What a worker does when it shares its process, stands still, has no executor for a job or no ground to stand on. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit } from "effect"
import { TestClock } from "effect/testing"
import { ExecutionFailed, ExecutorUnable } from "../../src/provisioner/Executor.ts"
import { JobTable } from "../../src/provisioner/JobStoreMemory.ts"
import * as Outage from "../../src/testing/Outage.ts"
import { collectLines, newJobs, replica, type Run, World } from "../support/replicas.ts"

const started = (runs: ReadonlyArray<Run>) => runs.filter((run) => run.event === "started")

/** A shutdown waits for nothing: after a test the clock stands still. */
const atOnce = { shutdownDeadline: 0, reportDeadline: 0 }

describe("two workers in one process", () => {
  it.effect("keep to their own jobs, also when the answer to an acquire is lost", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const worker = (queue: string, outage = Outage.none) =>
        replica(runs, { name: "one", outage, worker: { tags: { queue }, name: queue, ...atOnce } })
      const a = yield* worker(
        "a",
        Outage.make([{ kind: "ackLost", operation: "JobStore.acquire", at: "5 seconds", times: 1 }])
      )
      yield* worker("b")
      yield* TestClock.adjust("1 second")
      const [forB] = yield* newJobs([{ tags: { queue: "b" }, input: { millis: 60_000 } }])
      yield* a.store.submit([forB!])
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(started(runs).map(({ job }) => job), [forB!.id])
      const [forA] = yield* newJobs([{ tags: { queue: "a" } }])
      yield* a.store.submit([forA!])
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(started(runs).map(({ job }) => job), [forB!.id, forA!.id])
      assert.strictEqual((yield* a.store.get(forA!.id)).workerName, "a")
      assert.strictEqual((yield* a.store.get(forB!.id)).workerName, "b")
    }).pipe(Effect.provide(World)))
})

describe("a worker that stood still for longer than a lease", () => {
  it.effect("stops its own run before it begins the next of the same job, and reports nothing of it", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const outcomes = ["first", "second"]
      let begun = 0
      const frozen = yield* replica(runs, {
        name: "frozen",
        outage: Outage.make([{ kind: "refused", at: "3 seconds", for: "1 minute" }]),
        worker: { slots: 4, ...atOnce },
        reaper: false,
        execute: (_, output) =>
          Effect.suspend(() => {
            const outcome = outcomes[begun++] ?? "third"
            return output.write("stdout", [outcome]).pipe(
              Effect.andThen(Effect.sleep("10 minutes")),
              Effect.as(outcome),
              // A command takes a while to end.
              Effect.onInterrupt(() => Effect.sleep("3 seconds"))
            )
          })
      })
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{ maxAttempts: 2 }])
      yield* frozen.store.submit([job!])
      yield* TestClock.adjust("1 second")
      const other = yield* replica(runs, { name: "reaper", worker: { slots: 0, ...atOnce } })
      // The reaper sees no renewal, and gives the job to whoever asks first: the worker that has it still.
      yield* TestClock.adjust("90 seconds")
      const [first, stopped, second] = runs
      assert.deepStrictEqual([first?.event, stopped?.event, second?.event], ["started", "interrupted", "started"])
      assert.isAtLeast(second!.at, stopped!.at)
      assert.strictEqual((yield* other.store.get(job!.id)).attempt, 2)
      yield* other.stop
      yield* TestClock.adjust("12 minutes")
      const ended = yield* frozen.store.get(job!.id)
      assert.deepStrictEqual([ended.status, ended.result, ended.attempt], ["succeeded", "second", 2])
      const { output } = yield* JobTable
      assert.deepStrictEqual(output.get(job!.id)?.map(({ attempt, text }) => [attempt, text]), [
        [1, "first"],
        [2, "second"]
      ])
      assert.deepStrictEqual(frozen.worker.unanswered(), [])
    }).pipe(Effect.provide(World)))

  it.effect("asks what it still holds before it takes anything new", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const outage = Outage.make([{ kind: "refused", at: "3 seconds", for: "2 minutes" }])
      const away = yield* replica(runs, {
        name: "away",
        outage,
        reaper: false,
        worker: { heartbeatEvery: "1 hour", ...atOnce }
      })
      yield* TestClock.adjust("1 second")
      const [long] = yield* newJobs([{ maxAttempts: 3, input: { millis: 600_000 } }])
      yield* away.store.submit([long!])
      yield* TestClock.adjust("1 second")
      const here = yield* replica(runs, { name: "here", worker: atOnce })
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual((yield* here.store.get(long!.id)).workerName, "here")
      const [next] = yield* newJobs([{ priority: 1 }])
      yield* TestClock.adjust("4 seconds")
      yield* here.store.submit([next!])
      yield* TestClock.adjust("10 seconds")
      const interrupted = runs.find((run) => run.replica === "away" && run.event === "interrupted")
      assert.strictEqual(interrupted?.job, long!.id)
    }).pipe(Effect.provide(World)))
})

describe("a worker takes only what its executor runs", () => {
  it.effect("beside a worker of another application on the same database", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      yield* replica(runs, { name: "mine", types: ["mine"] })
      const all = yield* replica(runs, { name: "theirs", types: ["theirs", "shared"] })
      yield* TestClock.adjust("1 second")
      const jobs = yield* newJobs(
        Array.from({ length: 20 }, (_, at) => ({ type: ["mine", "theirs", "nobody's", "shared"][at % 4]! }))
      )
      yield* all.store.submit(jobs)
      yield* TestClock.adjust("1 minute")
      const done = yield* Effect.forEach(jobs, ({ id }) => all.store.get(id))
      assert.deepStrictEqual(
        done.map(({ status, type, workerName }) => `${type} ${status} ${workerName}`).slice(0, 4),
        [
          "mine succeeded mine",
          "theirs succeeded theirs",
          "nobody's pending undefined",
          "shared succeeded theirs"
        ]
      )
      assert.isTrue(done.every(({ status }) => status !== "failed"))
    }).pipe(Effect.provide(World)))
})

describe("a worker that can run no jobs", () => {
  const { layer, lines } = collectLines()
  it.effect("gives back what it took, leaves the rest to others, says so once, and recovers", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const isBroken = Effect.map(Clock.currentTimeMillis, (now) => now < 120_000)
      const ground = Effect.flatMap(
        isBroken,
        (broken) => broken ? Effect.fail(new ExecutorUnable({ reason: "the disk is full" })) : Effect.void
      )
      const broken = yield* replica(runs, {
        name: "broken",
        worker: { slots: 4 },
        // At first it looks well.
        ready: Effect.flatMap(Clock.currentTimeMillis, (now) => now < 1_000 ? Effect.void : ground),
        execute: () => Effect.andThen(ground, Effect.sleep("1 second"))
      })
      yield* TestClock.adjust("1 second")
      const jobs = yield* newJobs(Array.from({ length: 40 }, () => ({})))
      yield* broken.store.submit(jobs)
      yield* TestClock.adjust("2 seconds")
      const given = yield* Effect.forEach(jobs, ({ id }) => broken.store.get(id))
      assert.isTrue(given.every(({ attempt, status }) => status === "pending" && attempt === 0))
      assert.strictEqual(broken.worker.unable(), "the disk is full")
      assert.isAtMost(started(runs).length, 5)
      yield* replica(runs, { name: "well", worker: { slots: 2 }, execute: () => Effect.sleep("1 second") })
      yield* TestClock.adjust("30 seconds")
      const done = yield* Effect.forEach(jobs, ({ id }) => broken.store.get(id))
      assert.isTrue(
        done.every(({ attempt, status, workerName }) =>
          status === "succeeded" && attempt === 1 && workerName === "well"
        )
      )
      assert.strictEqual(lines.filter(({ text }) => text.includes("can not run jobs")).length, 1)
      yield* TestClock.adjust("95 seconds")
      assert.isUndefined(broken.worker.unable())
      const [next] = yield* newJobs([{}])
      yield* broken.store.submit([next!])
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* broken.store.get(next!.id)).status, "succeeded")
      assert.isAtMost(lines.length, 3, lines.map(({ text }) => text).join("\n"))
    }).pipe(Effect.provide(World), Effect.provide(layer)))

  it.effect("takes none at all when its ground is broken from the start", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const unable = Effect.fail(new ExecutorUnable({ reason: "there is a file in its place" }))
      const broken = yield* replica(runs, { ready: unable, execute: () => unable })
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{}])
      yield* broken.store.submit([job!])
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(runs, [])
      assert.strictEqual((yield* broken.store.get(job!.id)).status, "pending")
    }).pipe(Effect.provide(World)))

  it.effect("is asked gently whether it can, also when asking is a defect", () =>
    Effect.gen(function*() {
      let asked = 0
      const ready = Effect.suspend(() => {
        asked++
        return Effect.die(new Error("no such file"))
      })
      yield* replica([], { ready })
      yield* TestClock.adjust("1 minute")
      assert.isAtLeast(asked, 5)
      assert.isAtMost(asked, 40)
    }).pipe(Effect.provide(World)))
})

describe("a job that failed with attempts left", () => {
  it.effect("is started again after its delay, not at the next poll", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const { store } = yield* replica(runs, {
        worker: { pollEvery: "10 minutes" },
        execute: () => Effect.fail(new ExecutionFailed({ error: "no luck", result: null }))
      })
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{ maxAttempts: 5 }])
      yield* store.submit([job!])
      yield* TestClock.adjust("1 minute")
      const at = started(runs).map((run) => run.at)
      const delays = at.slice(1).map((each, index) => Math.round((each - at[index]!) / 1_000))
      assert.deepStrictEqual(delays, [1, 2, 4, 8])
    }).pipe(Effect.provide(World)))
})

describe("what a handler returns", () => {
  const results: ReadonlyArray<readonly [what: string, value: unknown, expected: RegExp]> = [
    ["more than a mebibyte", "x".repeat(1_100_000), /its result must have at most 1048576 bytes as JSON/],
    ["no JSON", 1n, /its result must be a JSON value/],
    ["a function", () => 1, /its result must be a JSON value/]
  ]
  for (const [what, value, expected] of results) {
    it.effect(`is refused in words where it is ${what}, and the job ends`, () =>
      Effect.gen(function*() {
        const { store } = yield* replica([], { execute: () => Effect.succeed(value) })
        yield* TestClock.adjust("1 second")
        const [job] = yield* newJobs([{}])
        yield* store.submit([job!])
        yield* TestClock.adjust("1 second")
        const ended = yield* store.get(job!.id)
        assert.strictEqual(ended.status, "failed")
        assert.match(ended.error ?? "", expected)
      }).pipe(Effect.provide(World)))
  }

  it.effect("may be an error of any length, which is cut", () =>
    Effect.gen(function*() {
      const error = "e".repeat(100_000)
      const { store } = yield* replica([], {
        execute: () => Effect.fail(new ExecutionFailed({ error, result: Exit.void }))
      })
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{}])
      yield* store.submit([job!])
      yield* TestClock.adjust("1 second")
      assert.match((yield* store.get(job!.id)).error ?? "", /^e+ … \(100000 characters\)$/)
    }).pipe(Effect.provide(World)))
})
