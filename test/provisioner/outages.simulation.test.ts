/**
 * Three replicas, one database, faults drawn from a seed: whatever happens, each accepted job is run once and ends, with
 * its output and its result, and the outages are told in few lines. A failure names its seed, which repeats it.
 */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Random, Schedule } from "effect"
import { TestClock } from "effect/testing"
import { JobTable } from "../../src/provisioner/JobStoreMemory.ts"
import * as Outage from "../../src/testing/Outage.ts"
import { collectLines, newJobs, replica, type Run, World } from "../support/replicas.ts"

const seeds = 40
const minute = 60_000
const kinds = Outage.Kind.literals.filter((kind) => !Outage.isOfProcess({ kind }))

/** The database's own voice, and what a loop or a report met that is no outage: a lock, a cancel, a conflict. */
const isExpected =
  /^(database |(acquire|leases|reaper|results tried again|output tried again)( failed| is stable| still)|the (ends|output) of )/

/** Of each replica: that it began, for what other reason, that it is over, and a loop or two that met it. */
const linesPerFault = 5

/** Faults of the database within the first ten minutes, half of them beside the code's own constants. */
const drawOutage = Effect.gen(function*() {
  const constants = [50, 1_000, 2_000, 3_000, 5_000, 10_000, 30_000]
  const count = 1 + Math.floor((yield* Random.next) * 12)
  const faults: Array<Outage.FaultInput> = []
  for (let index = 0; index < count; index++) {
    const kind = kinds[Math.floor((yield* Random.next) * kinds.length)]!
    const constant = constants[Math.floor((yield* Random.next) * constants.length)]!
    const isNear = (yield* Random.next) < 0.5
    const spread = yield* Random.next
    faults.push({
      kind,
      at: (yield* Random.next) * 10 * minute,
      for: isNear ? Math.max(1, constant + (spread - 0.5) * 60) : Math.exp(spread * Math.log(3 * minute)),
      ...(kind === "slow" ? { delay: (yield* Random.next) * 4_000 } : {}),
      ...(kind === "ackLost" ? { times: 1 + Math.floor((yield* Random.next) * 5) } : {})
    })
  }
  return Outage.make(faults)
})

describe("three replicas through whatever happens to their database", () => {
  for (let seed = 1; seed <= seeds; seed++) {
    const { layer, lines } = collectLines()
    it.effect(`keep and run each job once: seed ${seed}`, () =>
      Effect.gen(function*() {
        const outage = yield* drawOutage
        const runs: Array<Run> = []
        const replicas = yield* Effect.forEach(["a", "b", "c"], (name) =>
          replica(runs, {
            name,
            outage,
            worker: { slots: 3, lease: "30 seconds" },
            execute: (job, output) =>
              Effect.gen(function*() {
                yield* output.write("stdout", ["first"])
                yield* Effect.sleep((job.input as { readonly millis: number }).millis)
                yield* output.write("stdout", ["last"])
                return job.job
              })
          }))
        yield* TestClock.adjust("100 millis")
        const accepted: Array<{ readonly id: string }> = []
        for (let index = 0; index < 40; index++) {
          const [job] = yield* newJobs([{ input: { millis: Math.exp((yield* Random.next) * Math.log(90_000)) } }])
          const { store } = replicas[index % 3]!
          // A client that repeats its request until it is answered.
          yield* store.submit([job!]).pipe(
            Effect.retry(Schedule.spaced("1 second")),
            Effect.andThen(Effect.sync(() => accepted.push(job!))),
            Effect.forkScoped
          )
          yield* TestClock.adjust(Duration.millis((yield* Random.next) * 30_000))
        }
        yield* TestClock.adjust("16 minutes")
        const { output, rows } = yield* JobTable
        assert.strictEqual(accepted.length, 40)
        for (const row of rows.values()) {
          const starts = runs.filter((run) => run.job === row.id && run.event === "started")
          assert.strictEqual(starts.length, 1, `starts of ${row.id}`)
          assert.strictEqual(row.status, "succeeded", `${row.id}: ${row.error}`)
          assert.strictEqual(row.result, row.id)
          assert.deepStrictEqual(output.get(row.id)?.map(({ index, text }) => [index, text]), [[0, "first"], [
            1,
            "last"
          ]])
        }
        const said = lines.map(({ text }) => text)
        assert.deepStrictEqual(said.filter((text) => !isExpected.test(text)), [])
        assert.isAtMost(said.length, linesPerFault * replicas.length * (outage.length + 1), said.join("\n"))
      }).pipe(Effect.provide(World), Effect.provide(layer), Random.withSeed(`${seed}`)))
  }
})
