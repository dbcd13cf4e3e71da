/** Jobs of replicas whose clock is set, and that stand still: tokens and writable time decide, and no time of day. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Layer, Random, SubscriptionRef } from "effect"
import { TestClock } from "effect/testing"
import { waitUntil } from "../../src/database/embedded/Processes.ts"
import type { LeasedJob } from "../../src/provisioner/Job.ts"
import { JobTable } from "../../src/provisioner/JobStoreMemory.ts"
import { LocalWorkers } from "../../src/provisioner/LocalWorkers.ts"
import * as ProcessGroup from "../../src/provisioner/ProcessGroup.ts"
import * as Unserved from "../../src/provisioner/Unserved.ts"
import * as Outage from "../../src/testing/Outage.ts"
import * as OutageClock from "../../src/testing/OutageClock.ts"
import { collectLines, newJobs, replica, type Run, World } from "../support/replicas.ts"

const steps = [-120, 120, -3_600, 3_600, -86_400, 86_400]
const named = (seconds: number) => `${seconds > 0 ? "forwards" : "backwards"} by ${Math.abs(seconds)} s`

/** A shutdown waits for nothing: after a test the clock stands still. */
const atOnce = { shutdownDeadline: 0, reportDeadline: 0 }

const of = (runs: ReadonlyArray<Run>, event: Run["event"]) => runs.filter((run) => run.event === event)

describe("a replica whose clock is set", () => {
  for (const seconds of steps) {
    it.effect(`${named(seconds)}, and right again, runs each of its jobs once, and takes none of others`, () =>
      Effect.gen(function*() {
        const runs: Array<Run> = []
        const outage = Outage.make([
          { kind: "clockStep", at: "15 seconds", for: "70 seconds", by: seconds * 1_000 },
          { kind: "refused", at: "40 seconds", for: "5 seconds" }
        ])
        const set = yield* replica(runs, { name: "set", outage, worker: { slots: 2, ...atOnce } })
        yield* TestClock.adjust("1 second")
        const ofSet = yield* newJobs([{ input: { millis: 120_000 } }, { input: { millis: 120_000 } }])
        yield* set.inside(set.store.submit(ofSet))
        yield* TestClock.adjust("1 second")
        const right = yield* replica(runs, { name: "right", worker: { slots: 2, ...atOnce } })
        yield* TestClock.adjust("1 second")
        const ofRight = yield* newJobs([{ input: { millis: 120_000 } }, { input: { millis: 120_000 } }])
        yield* right.store.submit(ofRight)
        yield* TestClock.adjust("3 minutes")
        assert.deepStrictEqual(of(runs, "started").map(({ replica }) => replica), ["set", "set", "right", "right"])
        const { rows } = yield* JobTable
        for (const { id } of [...ofSet, ...ofRight]) assert.strictEqual(rows.get(id)?.status, "succeeded")
      }).pipe(Effect.provide(World), Random.withSeed("set")))

    it.effect(`${named(seconds)} finds a worker that is gone, neither sooner nor later`, () =>
      Effect.gen(function*() {
        const runs: Array<Run> = []
        const gone = yield* replica(runs, {
          name: "gone",
          reaper: false,
          outage: Outage.make([{ kind: "refused", at: "5 seconds" }]),
          worker: atOnce
        })
        yield* TestClock.adjust("1 second")
        const [job] = yield* newJobs([{ input: { millis: 3_600_000 } }])
        yield* gone.store.submit([job!])
        yield* TestClock.adjust("1 second")
        yield* replica(runs, {
          name: "set",
          outage: Outage.make([{ kind: "clockStep", at: "15 seconds", by: seconds * 1_000 }]),
          worker: atOnce
        })
        const { rows } = yield* JobTable
        yield* TestClock.adjust("28 seconds")
        assert.strictEqual(rows.get(job!.id)?.status, "running")
        yield* TestClock.adjust("45 seconds")
        assert.strictEqual(rows.get(job!.id)?.status, "failed")
      }).pipe(Effect.provide(World), Random.withSeed("gone")))

    it.effect(`${named(seconds)} says when to ask again as it is, and for how long the database has been away`, () =>
      Effect.gen(function*() {
        const outage = Outage.make([
          { kind: "refused", at: "10 seconds" },
          { kind: "clockStep", at: "20 seconds", by: seconds * 1_000 }
        ])
        const { availability, inside, store } = yield* replica([], { outage, worker: atOnce })
        yield* TestClock.adjust("15 seconds")
        for (let asked = 0; asked < 200; asked++) {
          yield* TestClock.adjust("50 millis")
          const refused = yield* Effect.flip(inside(store.list({ limit: 1 })))
          assert.strictEqual(refused._tag, "DatabaseUnavailable")
          if (refused._tag === "DatabaseUnavailable") assert.isAtMost(Duration.toMillis(refused.retryAfter), 1_000)
        }
        assert.strictEqual(SubscriptionRef.getUnsafe(availability.state)._tag, "Unavailable")
        // The heartbeat before it was written less than two seconds earlier.
        const away = yield* inside(availability.unavailableMillis)
        assert.isAtMost(away, 15_000)
        assert.isAtLeast(away, 13_000)
      }).pipe(Effect.provide(World), Random.withSeed("asked")))
  }
})

describe("a worker that stood still", () => {
  /** Of what each run has returned. */
  const returning = (name: string) => (job: LeasedJob) => Effect.as(Effect.sleep("2 minutes"), `${name} ${job.attempt}`)

  const away = Effect.fnUntraced(function*(fault: Outage.FaultInput, maxAttempts: number) {
    const { layer, lines } = collectLines()
    const runs: Array<Run> = []
    const still = yield* replica(runs, {
      name: "still",
      outage: Outage.make([fault]),
      worker: { slots: 2, ...atOnce },
      execute: returning("still")
    }).pipe(Effect.provide(layer))
    yield* TestClock.adjust("1 second")
    const jobs = yield* newJobs([{ maxAttempts }, { maxAttempts }])
    yield* still.inside(still.store.submit(jobs))
    yield* TestClock.adjust("1 second")
    yield* replica(runs, { name: "other", worker: { slots: 2, ...atOnce }, execute: returning("other") })
    yield* TestClock.adjust("15 minutes")
    const { rows } = yield* JobTable
    return { runs, lines: lines.map(({ text }) => text), rows: jobs.map(({ id }) => rows.get(id)!) }
  })

  for (const kind of ["stall", "suspend"] as const) {
    it.effect(`for a part of its lease (${kind}) goes on with its jobs`, () =>
      Effect.gen(function*() {
        const { rows, runs } = yield* away({ kind, at: "20 seconds", for: "15 seconds" }, 2)
        assert.deepStrictEqual(of(runs, "started").map(({ replica }) => replica), ["still", "still"])
        for (const row of rows) assert.deepStrictEqual([row.status, row.result], ["succeeded", "still 1"])
      }).pipe(Effect.provide(World), Random.withSeed("part")))

    it.effect(`for longer than its lease (${kind}) stops what it has lost, and nothing of it is taken for the result`, () =>
      Effect.gen(function*() {
        const { lines, rows, runs } = yield* away({ kind, at: "20 seconds", for: "1 minute" }, 2)
        assert.deepStrictEqual(of(runs, "started").map(({ replica }) => replica), ["still", "still", "other", "other"])
        assert.deepStrictEqual(of(runs, "interrupted").map(({ replica }) => replica), ["still", "still"])
        for (const row of rows) assert.deepStrictEqual([row.status, row.result], ["succeeded", "other 2"])
        assert.include(lines.join("\n"), "stopped: the lease was lost to another worker")
      }).pipe(Effect.provide(World), Random.withSeed("longer")))

    it.effect(`until long after its jobs were done elsewhere (${kind}) changes nothing of them`, () =>
      Effect.gen(function*() {
        const { rows, runs } = yield* away({ kind, at: "20 seconds", for: "10 minutes" }, 2)
        assert.strictEqual(of(runs, "started").length, 4)
        for (const row of rows) assert.deepStrictEqual([row.status, row.result], ["succeeded", "other 2"])
      }).pipe(Effect.provide(World), Random.withSeed("done")))

    it.effect(`and gets a job back that it has lost ends its first run before the next (${kind})`, () =>
      Effect.gen(function*() {
        const runs: Array<Run> = []
        const still = yield* replica(runs, {
          name: "still",
          outage: Outage.make([{ kind, at: "20 seconds", for: "1 minute" }]),
          worker: { slots: 4, ...atOnce },
          reaper: false,
          execute: returning("still")
        })
        yield* TestClock.adjust("1 second")
        const jobs = yield* newJobs([{ maxAttempts: 2 }, { maxAttempts: 2 }])
        yield* still.inside(still.store.submit(jobs))
        yield* TestClock.adjust("1 second")
        yield* replica(runs, { name: "reaper", worker: { slots: 0, ...atOnce } })
        yield* TestClock.adjust("10 minutes")
        const { rows } = yield* JobTable
        for (const { id } of jobs) {
          assert.deepStrictEqual(
            runs.filter(({ job }) => job === id).map(({ event }) => event),
            ["started", "interrupted", "started", "ended"]
          )
          assert.deepStrictEqual([rows.get(id)?.status, rows.get(id)?.result], ["succeeded", "still 2"])
        }
      }).pipe(Effect.provide(World), Random.withSeed("back")))

    it.effect(`takes nothing from workers that it has not heard of meanwhile (${kind})`, () =>
      Effect.gen(function*() {
        const runs: Array<Run> = []
        yield* replica(runs, {
          name: "still",
          outage: Outage.make([{ kind, at: "20 seconds", for: "1 minute" }]),
          worker: { slots: 0, ...atOnce }
        })
        const other = yield* replica(runs, { name: "other", worker: atOnce })
        yield* TestClock.adjust("1 second")
        const jobs = yield* newJobs([{ input: { millis: 180_000 } }, { input: { millis: 180_000 } }])
        yield* other.store.submit(jobs)
        yield* TestClock.adjust("5 minutes")
        assert.strictEqual(of(runs, "started").length, 2)
        const { rows } = yield* JobTable
        for (const { id } of jobs) assert.strictEqual(rows.get(id)?.status, "succeeded")
      }).pipe(Effect.provide(World), Random.withSeed("nothing")))
  }
})

describe("what waits in a process whose clock is set", () => {
  for (const seconds of steps) {
    const outage = Outage.make([{ kind: "clockStep", at: "1 second", by: seconds * 1_000 }])

    it.effect(`${named(seconds)}: what is left of a job is killed after its grace, and that it stays is said`, () => {
      const { layer, lines } = collectLines()
      return Effect.gen(function*() {
        let hasExited = false
        // No process has such an id.
        const group = { id: 2 ** 30, hasExited: () => hasExited }
        const ending = yield* ProcessGroup.terminate(group, Duration.seconds(10)).pipe(
          Effect.provide(OutageClock.layer(outage)),
          Effect.forkScoped
        )
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 18 })
        assert.lengthOf(lines, 0)
        yield* TestClock.adjust("2 seconds")
        assert.lengthOf(lines, 1)
        hasExited = true
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(ending), "killed")
      }).pipe(Effect.scoped, Effect.provide(layer))
    })

    it.effect(`${named(seconds)}: the end of a server is waited for as long as was said`, () =>
      Effect.gen(function*() {
        const waiting = yield* waitUntil(() => false, "10 seconds").pipe(
          Effect.provide(OutageClock.layer(outage)),
          Effect.forkScoped
        )
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 8 })
        assert.isUndefined(waiting.pollUnsafe())
        yield* TestClock.adjust("2 seconds")
        assert.isFalse(yield* Fiber.join(waiting))
      }))
  }

  it.effect("back to when a worker was looked for: it is looked for again, as the answer is old", () =>
    Effect.gen(function*() {
      let asked = 0
      const clock = yield* Layer.build(
        OutageClock.layer(Outage.make([{ kind: "clockStep", at: "10 seconds", by: -10_000 }]))
      )
      const { store } = yield* replica([], { worker: atOnce })
      const counting = { ...store, served: () => Effect.sync(() => [asked++ > 0]) }
      const unserved = yield* Unserved.make(counting, yield* LocalWorkers)
      const remark = Effect.provideContext(unserved.remark({ type: "test", tags: { queue: "b" } }), clock)
      assert.include(yield* remark, "no worker")
      yield* TestClock.adjust("4 seconds")
      assert.include(yield* remark, "no worker")
      yield* TestClock.adjust("6 seconds")
      assert.isUndefined(yield* remark)
      assert.strictEqual(asked, 2)
    }).pipe(Effect.provide(Layer.merge(World, LocalWorkers.layer))))
})
