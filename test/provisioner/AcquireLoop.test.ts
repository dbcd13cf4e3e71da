import { assert, describe, it } from "@effect/vitest"
import { Data, Duration, Effect, Random, SubscriptionRef } from "effect"
import { TestClock } from "effect/testing"
import { Notifications } from "../../src/database/Notifications.ts"
import { type JobId, type JobStatus } from "../../src/provisioner/Job.ts"
import { JobTable } from "../../src/provisioner/JobStoreMemory.ts"
import * as Outage from "../../src/testing/Outage.ts"
import { collectLines, newJobs, replica, type Run, World } from "../support/replicas.ts"

const started = (runs: ReadonlyArray<Run>, job?: JobId) =>
  runs.filter((run) => run.event === "started" && (job === undefined || run.job === job))

const statuses = Effect.map(JobTable, ({ rows }) => {
  const counts: Partial<Record<JobStatus, number>> = {}
  for (const row of rows.values()) counts[row.status] = (counts[row.status] ?? 0) + 1
  return counts
})

describe("AcquireLoop", () => {
  it.effect("runs a job and stores its result", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const { store } = yield* replica(runs)
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{}])
      yield* store.submit([job!])
      yield* TestClock.adjust("1 second")
      const stored = yield* store.get(job!.id)
      assert.strictEqual(stored.status, "succeeded")
      assert.deepStrictEqual(stored.result, { done: job!.id })
      assert.deepStrictEqual(runs.map((run) => run.event), ["started", "ended"])
    }).pipe(Effect.provide(World)))

  it.effect("never has two acquire queries in flight, and gives ten free slots ten different jobs", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const { store } = yield* replica(runs, {
        // At the end an acquire may be under way, and the clock stands still by then.
        worker: { slots: 10, shutdownDeadline: 0 },
        // An acquire takes a second, so that ten workers which asked each for itself would be seen.
        outage: Outage.make([{ kind: "slow", operation: "JobStore.acquire", delay: "1 second" }])
      })
      yield* TestClock.adjust("100 millis")
      const jobs = yield* newJobs(Array.from({ length: 30 }, () => ({ input: { millis: 10_000 } })))
      yield* store.submit(jobs)
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(started(runs).length, 10)
      assert.strictEqual(new Set(runs.map((run) => run.job)).size, 10)
      assert.strictEqual(new Set(started(runs).map((run) => run.at)).size, 1)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(started(runs).length, 30)
      assert.deepStrictEqual(yield* statuses, { succeeded: 30 })
    }).pipe(Effect.provide(World)))

  it.effect("asks nothing while there is nothing to do but the safety poll, and is not woken by what is not for it", () =>
    Effect.gen(function*() {
      let acquires = 0
      const { store } = yield* replica([], {
        worker: { pollEvery: "10 seconds", tags: { os: "linux" } },
        onAcquire: () => acquires++
      })
      yield* TestClock.adjust("100 seconds")
      const idle = acquires
      assert.isAtMost(idle, 14)
      const strangers = yield* newJobs(Array.from({ length: 100 }, () => ({ tags: { os: "windows" } })))
      for (const job of strangers) yield* store.submit([job])
      const untagged = yield* newJobs([{}])
      yield* store.submit(untagged)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(acquires, idle)
      const [mine] = yield* newJobs([{ tags: { os: "linux" } }])
      yield* store.submit([mine!])
      // Twice, as the job is a fiber that is only started during the first.
      yield* TestClock.adjust("10 millis")
      yield* TestClock.adjust("10 millis")
      assert.isAbove(acquires, idle)
      assert.strictEqual((yield* store.get(mine!.id)).status, "succeeded")
    }).pipe(Effect.provide(World)))

  it.effect("does not lose a posting that comes during an acquire query", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const { store } = yield* replica(runs, {
        worker: { pollEvery: "1 hour" },
        // The rows are read first, and the answer takes its time: the posting comes between the two.
        answerAfter: "3 seconds"
      })
      yield* TestClock.adjust("1 second")
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{}])
      yield* store.submit([job!])
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(started(runs, job!.id).length, 1)
    }).pipe(Effect.provide(World)))

  it.effect("finds a job by its poll when the notification was lost", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      yield* replica(runs, { worker: { pollEvery: "10 seconds" } })
      yield* TestClock.adjust("1 second")
      // Another replica, whose notifications reach nobody.
      const elsewhere = yield* replica([], { name: "b", worker: { tags: { never: "mine" } } }).pipe(
        Effect.provide(Notifications.layerMemory, { local: true })
      )
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{}])
      yield* elsewhere.store.submit([job!])
      yield* TestClock.adjust("1 second")
      assert.strictEqual(started(runs).length, 0)
      yield* TestClock.adjust("12 seconds")
      assert.strictEqual(started(runs, job!.id).length, 1)
    }).pipe(Effect.provide(World)))

  it.effect("looks once, at once, when the listener has reconnected", () =>
    Effect.gen(function*() {
      let acquires = 0
      yield* replica([], { worker: { pollEvery: "1 hour" }, onAcquire: () => acquires++ })
      yield* TestClock.adjust("1 minute")
      const before = acquires
      const notifications = yield* Notifications
      yield* notifications.publish({ _tag: "Missed" })
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(acquires, before + 1)
    }).pipe(Effect.provide(World)))

  it.effect("starts a job when its time has come, not at the next poll", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const { store } = yield* replica(runs, { worker: { pollEvery: "1 hour" } })
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{ notBefore: 90_000 }])
      yield* store.submit([job!])
      yield* TestClock.adjust("88 seconds")
      assert.strictEqual(started(runs).length, 0)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(started(runs).length, 1)
    }).pipe(Effect.provide(World)))

  for (
    const operation of [
      "JobStore.submit",
      "JobStore.acquire",
      "JobStore.appendOutput",
      "JobStore.heartbeat",
      "JobStore.finish",
      "JobStore.cancel",
      "JobStore.reap",
      "Availability.probe"
    ]
  ) {
    it.effect(`loses nothing and runs nothing twice when the acknowledgement of ${operation} is lost`, () =>
      Effect.gen(function*() {
        const runs: Array<Run> = []
        const outage = Outage.make([{ kind: "ackLost", operation, times: 1 }])
        const { store } = yield* replica(runs, {
          worker: { slots: 3, heartbeatEvery: "1 second", pollEvery: "2 seconds" },
          outage,
          execute: (job, output) =>
            output.write("stdout", [`line of ${job.job}`]).pipe(
              Effect.andThen(Effect.sleep("3 seconds")),
              Effect.as(job.job)
            )
        })
        yield* TestClock.adjust("1 second")
        const jobs = yield* newJobs(Array.from({ length: 7 }, () => ({})))
        // A client repeats what it got no answer to.
        yield* store.submit(jobs).pipe(Effect.eventually, Effect.forkChild)
        yield* TestClock.adjust("1 second")
        yield* store.cancel(jobs[6]!.id).pipe(Effect.ignore, Effect.andThen(store.cancel(jobs[6]!.id)), Effect.ignore)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* statuses, { succeeded: 6, canceled: 1 })
        for (const job of jobs.slice(0, 6)) {
          assert.strictEqual(started(runs, job.id).length, 1)
          assert.strictEqual((yield* store.get(job.id)).result, job.id)
          const output = yield* store.readOutput(job.id, { limit: 10 })
          assert.deepStrictEqual(output.map(({ index, text }) => [index, text]), [[0, `line of ${job.id}`]])
        }
      }).pipe(Effect.provide(World), Random.withSeed(operation)))
  }

  it.effect("lets a job go on through an outage that is longer than its lease, and its result is accepted", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      const runs: Array<Run> = []
      const outage = Outage.make([{ kind: "refused", at: "10 seconds", for: "10 minutes" }])
      const { store } = yield* replica(runs, {
        outage,
        worker: { lease: "30 seconds" },
        reaper: { lease: "30 seconds" }
      })
      // Another replica, which has the same outage and reaps as well.
      yield* replica(runs, { name: "b", outage, reaper: { lease: "30 seconds" }, worker: { slots: 0 } })
      yield* TestClock.adjust("1 second")
      const jobs = yield* newJobs([{ input: { millis: 60_000 } }, { input: { millis: 605_000 } }, {
        input: { millis: 700_000 }
      }])
      yield* store.submit(jobs)
      yield* TestClock.adjust("15 minutes")
      assert.deepStrictEqual(yield* statuses, { succeeded: 3 })
      assert.strictEqual(started(runs).length, 3)
      assert.isFalse(runs.some((run) => run.event === "interrupted"))
      // Of two replicas each has its own voice, and nobody else speaks.
      assert.isTrue(lines.every((line) => line.text.startsWith("database")), lines.map(({ text }) => text).join("\n"))
    }).pipe(Effect.provide(World), Effect.provide(layer), Random.withSeed("lease"))
  })

  it.effect("is refused, told so, and changes nothing, when it was reaped and reports late", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      const runs: Array<Run> = []
      // Cut off for itself, while the other replica is well: it cannot know.
      const { store: cutOff } = yield* replica(runs, {
        name: "cut-off",
        reaper: false,
        outage: Outage.make([{ kind: "refused", at: "10 seconds", for: "5 minutes" }])
      })
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{ input: { millis: 60_000 } }])
      yield* cutOff.submit([job!])
      yield* TestClock.adjust("1 second")
      const { store } = yield* replica(runs, { name: "well", worker: { slots: 0 }, reaper: { lease: "30 seconds" } })
      yield* TestClock.adjust("2 minutes")
      const reaped = yield* store.get(job!.id)
      assert.strictEqual(reaped.status, "failed")
      yield* TestClock.adjust("8 minutes")
      assert.deepStrictEqual(yield* store.get(job!.id), reaped)
      assert.isTrue(lines.some(({ text }) => text.includes(job!.id) && text.includes("refused")))
    }).pipe(Effect.provide(World), Effect.provide(layer), Random.withSeed("late"))
  })

  it.effect("stops a job whose lease was lost, and reports nothing of it", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const { store } = yield* replica(runs, { reaper: false })
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{ input: { millis: 3_600_000 }, maxAttempts: 2 }])
      yield* store.submit([job!])
      yield* TestClock.adjust("1 second")
      const { rows } = yield* JobTable
      const row = rows.get(job!.id)!
      rows.set(job!.id, { ...row, token: row.token + 1, worker: "another" })
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual(runs.at(-1)?.event, "interrupted")
      assert.strictEqual((yield* store.get(job!.id)).worker, "another")
      assert.strictEqual((yield* store.get(job!.id)).status, "running")
    }).pipe(Effect.provide(World)))

  it.effect("cancels a job that runs on another replica, at the latest with its next heartbeat", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      yield* replica(runs, { name: "runner", worker: { heartbeatEvery: "5 seconds" } })
      const other = yield* replica([], { name: "other", worker: { slots: 0 } }).pipe(
        Effect.provide(Notifications.layerMemory, { local: true })
      )
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{ input: { millis: 3_600_000 } }])
      yield* other.store.submit([job!])
      yield* TestClock.adjust("15 seconds")
      assert.strictEqual((yield* other.store.get(job!.id)).status, "running")
      yield* other.store.cancel(job!.id)
      yield* TestClock.adjust("5500 millis")
      const stored = yield* other.store.get(job!.id)
      assert.strictEqual(stored.status, "canceled")
      assert.strictEqual(runs.at(-1)?.event, "interrupted")
    }).pipe(Effect.provide(World)))

  it.effect("stops a job at its time limit, and says so", () =>
    Effect.gen(function*() {
      const { store } = yield* replica([])
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{ input: { millis: 3_600_000 }, timeout: 10_000 }])
      yield* store.submit([job!])
      yield* TestClock.adjust("11 seconds")
      const stored = yield* store.get(job!.id)
      assert.strictEqual(stored.status, "failed")
      assert.strictEqual(stored.error, "stopped at its time limit of 10s")
    }).pipe(Effect.provide(World)))

  it.effect("tries a failing job as often as it may, and keeps the last error", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const { store } = yield* replica(runs)
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{ input: { fail: "no luck" }, maxAttempts: 3 }])
      yield* store.submit([job!])
      yield* TestClock.adjust("1 minute")
      const stored = yield* store.get(job!.id)
      assert.deepStrictEqual([stored.status, stored.attempt, stored.error], ["failed", 3, "no luck"])
      assert.strictEqual(started(runs).length, 3)
    }).pipe(Effect.provide(World)))

  it.effect("fails a job whose executor dies or returns what is no JSON, and goes on", () => {
    const { layer, lines } = collectLines()
    class BrokerGone extends Data.TaggedError("BrokerGone")<{ readonly broker: string }> {}
    return Effect.gen(function*() {
      const { store } = yield* replica([], {
        execute: (job) =>
          job.type === "dies"
            ? Effect.die(new Error("a bug"))
            : job.type === "gone"
            ? Effect.die(new BrokerGone({ broker: "b1" }))
            : Effect.succeed(job.type === "odd" ? 10n : "fine")
      })
      yield* TestClock.adjust("1 second")
      const jobs = yield* newJobs([{ type: "dies" }, { type: "odd" }, { type: "fine" }, { type: "gone" }])
      yield* store.submit(jobs)
      yield* TestClock.adjust("1 second")
      const ended = yield* Effect.forEach(jobs, ({ id }) => store.get(id))
      assert.deepStrictEqual(ended.map((job) => job.status), ["failed", "failed", "succeeded", "failed"])
      assert.strictEqual(ended[0]!.error, "its executor died: a bug")
      assert.strictEqual(ended[3]!.error, "its executor died: BrokerGone (broker: b1)")
      assert.match(ended[1]!.error!, /JSON/)
      const errors = lines.filter((line) => line.level === "Error").map(({ text }) =>
        text.replace(/job [\w-]+/, "job …")
      )
      assert.deepStrictEqual(errors.sort(), [
        "the executor died of job …: BrokerGone (broker: b1)",
        "the executor died of job …: a bug"
      ])
    }).pipe(Effect.provide(World), Effect.provide(layer))
  })

  it.effect("lets running jobs end at shutdown, stops the rest at the deadline, and stores all results", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const { stop, store } = yield* replica(runs, { worker: { slots: 3, shutdownDeadline: "10 seconds" } })
      const { store: watching } = yield* replica([], { name: "watching", worker: { slots: 0 } })
      yield* TestClock.adjust("1 second")
      const jobs = yield* newJobs([
        { input: { millis: 5_000 } },
        { input: { millis: 60_000 } },
        { input: { millis: 60_000 }, maxAttempts: 2 },
        { input: { millis: 1 } }
      ])
      yield* store.submit(jobs)
      yield* TestClock.adjust("1 second")
      const stopping = yield* Effect.forkChild(stop)
      yield* TestClock.adjust("11 seconds")
      assert.isDefined(stopping.pollUnsafe())
      const ended = yield* Effect.forEach(jobs, ({ id }) => watching.get(id))
      // One may start again, and is given back; what was never taken waits for another worker.
      assert.deepStrictEqual(ended.map((job) => job.status), ["succeeded", "failed", "pending", "pending"])
      assert.strictEqual(started(runs).length, 3)
    }).pipe(Effect.provide(World)))

  it.effect("ends in time when the database is away at shutdown, and says what could not be stored", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      const { stop, store } = yield* replica([], {
        worker: { shutdownDeadline: "10 seconds", reportDeadline: "5 seconds" },
        outage: Outage.make([{ kind: "refused", at: "3 seconds" }])
      })
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{ input: { millis: 8_000 } }])
      yield* store.submit([job!])
      yield* TestClock.adjust("5 seconds")
      const stopping = yield* Effect.forkChild(stop)
      yield* TestClock.adjust("15 seconds")
      assert.isDefined(stopping.pollUnsafe())
      assert.isTrue(
        lines.some(({ level, text }) => level === "Error" && text.includes(job!.id)),
        lines.map(({ text }) => text).join("\n")
      )
    }).pipe(Effect.provide(World), Effect.provide(layer))
  })

  it.effect("works again within 1.5 s after a minute's outage, spread out, in few lines", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      const runs: Array<Run> = []
      const outage = Outage.make([{ kind: "refused", at: "10 seconds", for: "1 minute" }])
      const replicas = yield* Effect.forEach(
        ["a", "b", "c"],
        (name) => replica(runs, { name, outage, worker: { slots: 2 } }).pipe(Random.withSeed(name))
      )
      yield* TestClock.adjust("9 seconds")
      const jobs = yield* newJobs(Array.from({ length: 200 }, () => ({ input: { millis: 300 } })))
      yield* replicas[0]!.store.submit(jobs)
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(yield* statuses, { succeeded: 200 })
      assert.strictEqual(started(runs).length, 200)
      const first = replicas.map((_, index) =>
        started(runs).find((run) => run.at >= 70_000 && run.replica === "abc"[index])
      )
      for (const run of first) assert.isAtMost(run!.at - 70_000, 1_500)
      assert.isAbove(new Set(first.map((run) => run!.at)).size, 1)
      assert.isAtMost(lines.length, 3 * 8)
    }).pipe(Effect.provide(World), Effect.provide(layer), Random.withSeed("back"))
  })

  it.effect("has nothing to do and does nothing through a day's outage", () =>
    Effect.gen(function*() {
      let acquires = 0
      const { availability } = yield* replica([], {
        outage: Outage.make([{ kind: "refused", at: "1 minute", for: "1 day" }]),
        onAcquire: () => acquires++
      })
      yield* TestClock.adjust("59 seconds")
      const before = acquires
      yield* TestClock.adjust(Duration.hours(24))
      assert.isAtMost(acquires - before, 1)
      yield* TestClock.adjust("7 seconds")
      assert.strictEqual(SubscriptionRef.getUnsafe(availability.state)._tag, "Available")
      assert.isAbove(acquires, before)
    }).pipe(Effect.provide(World), Random.withSeed("idle")))
})
