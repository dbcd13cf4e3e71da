import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { Executor } from "../../src/provisioner/Executor.ts"
import type { Job } from "../../src/provisioner/Job.ts"
import { JobStore } from "../../src/provisioner/JobStore.ts"
import { Provisioner } from "../../src/provisioner/Provisioner.ts"
import { collectLines } from "../support/replicas.ts"

const Live = (options: Parameters<typeof Provisioner.layerMemory>[0] = {}) =>
  Provisioner.layerMemory(options).pipe(
    Layer.provide(Executor.layerHandlers({ greet: (job) => Effect.succeed(`hello ${String(job.input)}`) })),
    Layer.tap(() => TestClock.adjust("100 millis"))
  )

describe("Provisioner", () => {
  it.effect("refuses what a job may not be, before anything is stored", () =>
    Effect.gen(function*() {
      const provisioner = yield* Provisioner
      const store = yield* JobStore
      const error = yield* Effect.flip(
        provisioner.submitAll([{ type: "greet" }, { type: "", maxAttempts: 0, input: 1n }])
      )
      assert.strictEqual(error._tag, "InvalidJob")
      assert.match(error.message, /job 1, type: .*; job 1, maxAttempts: .*|job 1, type: /)
      assert.deepStrictEqual(yield* store.list({ limit: 10 }), [])
    }).pipe(Effect.provide(Live())))

  it.effect("takes a hundred submissions at once, and no more bytes than fit", () =>
    Effect.gen(function*() {
      const provisioner = yield* Provisioner
      const large = { type: "greet", input: "x".repeat(1_000_000) }
      const error = yield* Effect.flip(provisioner.submitAll(Array.from({ length: 20 }, () => large)))
      assert.include(error.message, "all inputs of one submission have at most 16777216 bytes")
      assert.lengthOf(yield* provisioner.submitAll(Array.from({ length: 16 }, () => large)), 16)
    }).pipe(Effect.provide(Live())))

  it.effect("fails to wait for a result that can not be read, and names it", () =>
    Effect.gen(function*() {
      const provisioner = yield* Provisioner
      const { id } = yield* provisioner.submit({ type: "greet" })
      yield* TestClock.adjust("1 second")
      const error = yield* Effect.flip(provisioner.awaitEnd(id))
      assert.strictEqual(error._tag, "ResultUnreadable")
      assert.include(error.message, id)
      // The store answers that the result is too large for it.
    }).pipe(Effect.provide(withUnreadableResults)))

  const { layer, lines } = collectLines()
  it.effect("says once of each type and set of tags that no worker serves it, if that lasts", () =>
    Effect.gen(function*() {
      const provisioner = yield* Provisioner
      for (let round = 0; round < 50; round++) {
        yield* provisioner.submitAll([
          { type: "greet" },
          { type: "absent" },
          { type: "greet", tags: { os: "linux" } }
        ])
        yield* TestClock.adjust("1 second")
      }
      assert.deepStrictEqual(lines.map(({ text }) => text).toSorted(), [
        "no worker with the tag os=linux runs jobs of the type \"greet\": they wait for one",
        "no worker without tags runs jobs of the type \"absent\": they wait for one"
      ])
    }).pipe(Effect.provide(Live()), Effect.provide(layer)))
})

const withUnreadableResults = Layer.effectContext(Effect.gen(function*() {
  const services = yield* Layer.build(Live())
  const store = Context.get(services, JobStore)
  const unreadable = (job: Job): Job => ({ ...job, result: null, omitted: ["result"] })
  const Store = Layer.succeed(JobStore, { ...store, get: (id) => Effect.map(store.get(id), unreadable) })
  const provisioner = yield* Layer.build(
    Provisioner.layerStores({ worker: { slots: 4 } }).pipe(
      Layer.provide(Store),
      Layer.provide(Executor.layerHandlers({})),
      Layer.provide(Layer.succeedContext(services))
    )
  )
  return Context.add(services, Provisioner, Context.get(provisioner, Provisioner))
}))
