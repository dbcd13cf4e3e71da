/**
 * Three replicas, one database that comes and goes, and clocks that are set and stand still, drawn from a seed: each accepted job is run
 * once and ends. A failure names its seed, which repeats it.
 */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Random, Schedule } from "effect"
import { TestClock } from "effect/testing"
import { JobTable } from "../../src/provisioner/JobStoreMemory.ts"
import * as Outage from "../../src/testing/Outage.ts"
import { newJobs, replica, type Run, World } from "../support/replicas.ts"

const seeds = 20
const minute = 60_000

/** Its leases are renewed each five seconds, and while it stands still they are not: together less than a lease. */
const lease = "30 seconds"
const longestStandstill = 15_000

/** Minutes in which one begins: so far apart that leases are renewed in between. */
const standstills = [1, 3, 5, 7]

const ofDatabase = Effect.gen(function*() {
  const faults: Array<Outage.FaultInput> = []
  for (const start of [2, 6]) {
    faults.push({
      kind: "refused",
      at: (start + (yield* Random.next)) * minute,
      for: (yield* Random.next) * 40_000
    })
  }
  return faults
})

const ofProcess = Effect.gen(function*() {
  const faults: Array<Outage.FaultInput> = []
  for (let set = 0; set < 6; set++) {
    const far = Math.exp((yield* Random.next) * Math.log(86_400_000 * 400))
    faults.push({
      kind: "clockStep",
      at: (yield* Random.next) * 10 * minute,
      for: (yield* Random.next) * 3 * minute,
      by: (yield* Random.next) < 0.5 ? far : -far
    })
  }
  for (const start of standstills) {
    faults.push({
      kind: (yield* Random.next) < 0.5 ? "stall" : "suspend",
      at: (start + (yield* Random.next)) * minute,
      for: (yield* Random.next) * longestStandstill
    })
  }
  return faults
})

describe("three replicas whose clocks are set and that stand still, each by itself", () => {
  for (let seed = 1; seed <= seeds; seed++) {
    it.effect(`keep and run each job once: seed ${seed}`, () =>
      Effect.gen(function*() {
        const database = yield* ofDatabase
        const runs: Array<Run> = []
        const replicas = yield* Effect.forEach(["a", "b", "c"], (name) =>
          Effect.flatMap(ofProcess, (own) =>
            replica(runs, {
              name,
              outage: Outage.make([...database, ...own]),
              worker: { slots: 3, lease },
              reaper: { lease }
            })))
        yield* TestClock.adjust("100 millis")
        const accepted: Array<string> = []
        for (let index = 0; index < 40; index++) {
          const [job] = yield* newJobs([{ input: { millis: Math.exp((yield* Random.next) * Math.log(90_000)) } }])
          // A client that repeats its request until it is answered.
          const { inside, store } = replicas[index % 3]!
          yield* inside(store.submit([job!])).pipe(
            Effect.retry(Schedule.spaced("1 second")),
            Effect.andThen(Effect.sync(() =>
              accepted.push(job!.id)
            )),
            Effect.forkScoped
          )
          yield* TestClock.adjust(Duration.millis((yield* Random.next) * 30_000))
        }
        yield* TestClock.adjust("10 minutes")
        const { rows } = yield* JobTable
        assert.strictEqual(accepted.length, 40)
        for (const row of rows.values()) {
          const starts = runs.filter((run) => run.job === row.id && run.event === "started")
          assert.strictEqual(starts.length, 1, `starts of ${row.id}`)
          assert.strictEqual(row.status, "succeeded", `${row.id}: ${row.error}`)
        }
      }).pipe(Effect.provide(World), Random.withSeed(`${seed}`)))
  }
})
