import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { monotonicMillis } from "../../src/loop/Monotonic.ts"
import * as Outage from "../../src/testing/Outage.ts"
import * as OutageClock from "../../src/testing/OutageClock.ts"

/** A process under a script: what its clocks say, and when its timers end, by the time of the test. */
const processUnder = Effect.fnUntraced(function*(faults: ReadonlyArray<Outage.FaultInput>) {
  const outside = yield* Clock.Clock
  const clock = yield* Layer.build(OutageClock.layer(Outage.make(faults)))
  const ended: Array<readonly [millis: number, at: number]> = []
  return {
    ended,
    time: Effect.provideContext(Effect.all([Clock.currentTimeMillis, monotonicMillis]), clock),
    timer: (millis: number) =>
      Effect.sleep(millis).pipe(
        Effect.andThen(Effect.sync(() => ended.push([millis, outside.currentTimeMillisUnsafe()]))),
        Effect.provideContext(clock),
        Effect.forkScoped({ startImmediately: true })
      ),
    running: Effect.provideContext(OutageClock.running, clock)
  }
})

describe("the clock of a process", () => {
  for (const by of [-120_000, 120_000, -3_600_000, 3_600_000]) {
    it.effect(`is set by ${by / 1_000} s, and right again: elapsed time and timers go on as they do`, () =>
      Effect.gen(function*() {
        const { ended, time, timer } = yield* processUnder([{ kind: "clockStep", at: 1_000, for: 2_000, by }])
        yield* timer(500)
        yield* timer(1_500)
        yield* timer(4_000)
        yield* TestClock.adjust(999)
        assert.deepStrictEqual(yield* time, [999, 999])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* time, [1_000 + by, 1_000])
        yield* timer(600)
        yield* TestClock.adjust(2_000)
        assert.deepStrictEqual(yield* time, [3_000, 3_000])
        yield* TestClock.adjust(2_000)
        assert.deepStrictEqual(ended, [[500, 500], [1_500, 1_500], [600, 1_600], [4_000, 4_000]])
      }))
  }

  it.effect("stalls: no timer ends meanwhile, and all that are due do at once", () =>
    Effect.gen(function*() {
      const { ended, running, time, timer } = yield* processUnder([{ kind: "stall", at: 1_000, for: 9_000 }])
      for (const millis of [999, 1_000, 5_000, 9_999, 10_500]) yield* timer(millis)
      yield* TestClock.adjust(2_000)
      const waiting = yield* Effect.forkScoped(running, { startImmediately: true })
      yield* TestClock.adjust(7_999)
      assert.deepStrictEqual(ended, [[999, 999]])
      assert.deepStrictEqual(yield* time, [9_999, 9_999])
      assert.isUndefined(waiting.pollUnsafe())
      yield* TestClock.adjust(1_000)
      assert.deepStrictEqual(ended.slice(1), [[1_000, 10_000], [5_000, 10_000], [9_999, 10_000], [10_500, 10_500]])
      assert.isDefined(waiting.pollUnsafe())
    }))

  it.effect("is suspended: elapsed time and timers stand still, and the time of day goes on", () =>
    Effect.gen(function*() {
      const { ended, time, timer } = yield* processUnder([{ kind: "suspend", at: 1_000, for: 3_600_000 }])
      for (const millis of [999, 1_000, 5_000]) yield* timer(millis)
      yield* TestClock.adjust("30 minutes")
      assert.deepStrictEqual(yield* time, [1_800_000, 1_000])
      yield* timer(10)
      yield* TestClock.adjust("30 minutes")
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(yield* time, [3_605_000, 5_000])
      assert.deepStrictEqual(ended, [
        [999, 999],
        [1_000, 3_601_000],
        [10, 3_601_010],
        [5_000, 3_605_000]
      ])
    }))

  it.effect("is suspended and stalls after it: a timer waits for both", () =>
    Effect.gen(function*() {
      const { ended, timer } = yield* processUnder([
        { kind: "stall", at: 2_500, for: 1_000 },
        { kind: "suspend", at: 1_000, for: 1_000 }
      ])
      yield* timer(1_600)
      yield* TestClock.adjust(10_000)
      assert.deepStrictEqual(ended, [[1_600, 3_500]])
    }))

  for (const kind of ["clockStep", "stall", "suspend"] as const) {
    it(`is no fault of the database: ${kind}`, () => {
      const [fault] = Outage.make([{ kind }])
      assert.isFalse(Outage.strikes(fault!, 10, "JobStore.acquire"))
    })
  }
})
