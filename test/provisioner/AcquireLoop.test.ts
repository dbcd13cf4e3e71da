import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { newJobs, replica, type Run, World } from "../support/replicas.ts"

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
      assert.strictEqual(runs.length, 2)
    }).pipe(Effect.provide(World)))
})
