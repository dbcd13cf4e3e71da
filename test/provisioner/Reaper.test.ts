import { assert, describe, it } from "@effect/vitest"
import { Effect, Random } from "effect"
import { TestClock } from "effect/testing"
import { make as makeWritableTime } from "../../src/database/WritableTime.ts"
import { JobId } from "../../src/provisioner/Job.ts"
import type { KnownLease } from "../../src/provisioner/JobStore.ts"
import { look, nothingSeen } from "../../src/provisioner/Reaper.ts"
import * as Outage from "../../src/testing/Outage.ts"
import { newJobs, replica, type Run, World } from "../support/replicas.ts"
import { uuid } from "../support/TailnetWorld.ts"

const lease = 30_000
const held = (renewal: string, isLocked = false): KnownLease => ({
  job: JobId.make(uuid(1)),
  token: 1,
  worker: "w",
  renewal,
  isLocked
})

describe("look", () => {
  type Look = readonly [at: number, renewal: string, isLocked?: boolean]
  const watched = (looks: ReadonlyArray<Look>) => {
    let watch = nothingSeen
    let gone: ReadonlyArray<KnownLease> = []
    for (const [at, renewal, isLocked] of looks) {
      ;[watch, gone] = look(watch, [held(renewal, isLocked)], { asked: at, answered: at, lease })
    }
    return gone.length === 1
  }
  // Each look: the writable time, what the lease was then, and whether somebody held a lock on it.
  const cases: ReadonlyArray<readonly [what: string, looks: ReadonlyArray<Look>, gone: boolean]> = [
    ["a lease that was never seen before, however old", [[90_000, "a"]], false],
    ["a lease that has not changed for a whole lease", [[0, "a"], [10_000, "a"], [20_000, "a"], [30_000, "a"]], true],
    ["a lease that has not changed for a little less", [[0, "a"], [10_000, "a"], [20_000, "a"], [29_999, "a"]], false],
    ["a lease that changed in between", [[0, "a"], [10_000, "b"], [20_000, "b"], [30_000, "b"]], false],
    ["a lease that went back, as after a restore", [[0, "b"], [10_000, "a"], [20_000, "a"], [30_000, "a"]], false],
    ["looks between which nothing could be written", [[0, "a"], [0, "a"], [0, "a"], [0, "a"]], false],
    ["a worker that stopped later", [[0, "a"], [10_000, "b"], [20_000, "b"], [30_000, "b"], [40_000, "b"]], true],
    [
      "a row that was locked for longer than a lease, and has just become free",
      [[0, "a"], [10_000, "a"], [20_000, "a", true], [30_000, "a", true], [40_000, "a"]],
      false
    ],
    [
      "a worker that is gone and whose row was locked for a while",
      [[0, "a"], [20_000, "a", true], [30_000, "a"], [40_000, "a"], [50_000, "a"], [60_000, "a"]],
      true
    ],
    ["a first look after a long time, in which nobody asked for locks", [[0, "a"], [40_000, "a"]], false]
  ]
  for (const [what, looks, isGone] of cases) {
    it(`${isGone ? "takes" : "does not take"} a job for ${what}`, () => {
      assert.strictEqual(watched(looks), isGone)
    })
  }

  it("errs on the side of patience about the time that an answer takes", () => {
    let [watch] = look(nothingSeen, [held("a")], { asked: 0, answered: 4_000, lease })
    ;[watch] = look(watch, [held("a")], { asked: 20_000, answered: 20_000, lease })
    assert.lengthOf(look(watch, [held("a")], { asked: 33_000, answered: 36_000, lease })[1], 0)
    assert.lengthOf(look(watch, [held("a")], { asked: 34_000, answered: 36_000, lease })[1], 1)
  })

  it("knows no more leases than there are", () => {
    const [watch] = look(nothingSeen, [held("a")], { asked: 0, answered: 0, lease })
    assert.strictEqual(look(watch, [], { asked: 1, answered: 1, lease })[0].size, 0)
  })
})

describe("writable time", () => {
  const total = (times: ReadonlyArray<number | "failed">) => {
    const time = makeWritableTime(6_000)
    for (const at of times) {
      if (at === "failed") time.interrupted()
      else time.written(at)
    }
    return time.total()
  }
  it("is the time between heartbeats that followed each other", () => {
    assert.strictEqual(total([0, 2_000, 4_000]), 4_000)
    assert.strictEqual(total([0, 2_000, "failed", 4_000, 6_000]), 4_000)
  })
  it("is not the time in which this process stood still", () => {
    assert.strictEqual(total([0, 2_000, 42_000, 44_000]), 4_000)
  })
  it("does not go back with a clock", () => {
    assert.strictEqual(total([2_000, 0, 2_000]), 2_000)
  })
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
      assert.deepStrictEqual([done?.status, done?.attempt, done?.workerName], ["succeeded", 2, "well"])
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
