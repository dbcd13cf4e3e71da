import { assert, describe, it } from "@effect/vitest"
import { Effect, Random } from "effect"
import { TestClock } from "effect/testing"
import { make as makeWritableTime } from "../../src/database/WritableTime.ts"
import { isGone } from "../../src/provisioner/Reaper.ts"
import * as Outage from "../../src/testing/Outage.ts"
import { newJobs, replica, type Run, World } from "../support/replicas.ts"

const lease = 30_000

/** Spans in which the reaper could write, in seconds. */
const writable = (...spans: ReadonlyArray<readonly [from: number, to: number]>) => {
  const time = makeWritableTime()
  for (const [from, to] of spans) {
    time.written(from * 1000)
    time.written(to * 1000)
    time.interrupted()
  }
  return time.since
}

describe("isGone", () => {
  const cases: ReadonlyArray<
    readonly [what: string, overdueSeconds: number, spans: ReadonlyArray<readonly [number, number]>, gone: boolean]
  > = [
    ["a lease that has just run out, and could write all the time", 1, [[0, 1_000]], true],
    ["could not write for one second of the lease", 0, [[0, 980], [981, 1_000]], false],
    ["an hour's outage that ended just now", 3_000, [[0, 5], [999, 1_000]], false],
    ["an outage that ended a lease ago", 500, [[0, 5], [970, 1_000]], true],
    [
      "a database that comes and goes, and was there for a lease in all",
      500,
      [[500, 510], [600, 610], [700, 710]],
      true
    ],
    ["a reaper that has just started", 100, [[990, 1_000]], false]
  ]
  for (const [what, overdue, spans, gone] of cases) {
    it(`${gone ? "is" : "is not"} proven by the silence of a worker: ${what}`, () => {
      assert.strictEqual(
        isGone({ overdue: overdue * 1000, lease, now: 1_000_000, writableSince: writable(...spans) }),
        gone
      )
    })
  }
})

describe("Reaper", () => {
  it.effect("gives the job of a worker that is gone to another, when it may be started again", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      // Its process is there, and its database is not, for ever: to the others it is gone.
      const lost = yield* replica(runs, {
        name: "lost",
        reaper: false,
        outage: Outage.make([{ kind: "refused", at: "5 seconds" }]),
        worker: { shutdownDeadline: 0, reportDeadline: 0 }
      })
      yield* TestClock.adjust("1 second")
      const [once, again] = yield* newJobs([
        { input: { millis: 3_600_000 } },
        { input: { millis: 50_000 }, maxAttempts: 2 }
      ])
      yield* lost.store.submit([once!, again!])
      yield* TestClock.adjust("1 second")
      const { store } = yield* replica(runs, { name: "well" })
      yield* TestClock.adjust("3 minutes")
      const [failed, done] = yield* Effect.forEach([once!, again!], ({ id }) => store.get(id))
      assert.strictEqual(failed?.status, "failed")
      assert.deepStrictEqual([done?.status, done?.attempt, done?.worker], ["succeeded", 2, "well"])
    }).pipe(Effect.provide(World), Random.withSeed("gone")))

  it.effect("reaps nobody for an hour's outage that all had", () =>
    Effect.gen(function*() {
      const runs: Array<Run> = []
      const outage = Outage.make([{ kind: "refused", at: "10 seconds", for: "1 hour" }])
      const [a] = yield* Effect.forEach(["a", "b", "c"], (name) => replica(runs, { name, outage }))
      yield* TestClock.adjust("1 second")
      const [job] = yield* newJobs([{ input: { millis: 7_200_000 } }])
      yield* a!.store.submit([job!])
      yield* TestClock.adjust("3 hours")
      assert.strictEqual((yield* a!.store.get(job!.id)).status, "succeeded")
      assert.strictEqual(runs.filter((run) => run.event === "started").length, 1)
    }).pipe(Effect.provide(World), Random.withSeed("hour")))
})
