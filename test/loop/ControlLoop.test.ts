import { assert, describe, it } from "@effect/vitest"
import type { Duration } from "effect"
import { Cause, Deferred, Effect, Fiber, Queue, Random, SubscriptionRef } from "effect"
import { TestClock } from "effect/testing"
import * as Backoff from "../../src/loop/Backoff.ts"
import * as ControlLoop from "../../src/loop/ControlLoop.ts"
import { collectLines } from "../support/replicas.ts"

const policy = Backoff.exponential({ floor: "10 millis", cap: "1 second", jitter: 0 })

/** A loop whose sessions each stay as long as `stays` says, and then fail; with the times of their starts. */
const looped = Effect.fnUntraced(function*(
  stays: (session: number) => Duration.Input,
  options: Partial<ControlLoop.Options<string, never, unknown>> = {}
) {
  const starts: Array<number> = []
  const loop = yield* ControlLoop.make({
    name: "tailnet",
    session: Effect.clockWith((clock) => Effect.sync(() => starts.push(clock.currentTimeMillisUnsafe()))).pipe(
      Effect.flatMap((count) => Effect.sleep(stays(count - 1))),
      Effect.andThen(Effect.fail("broken"))
    ),
    policy,
    ...options
  })
  const fiber = yield* Effect.forkChild(loop.run)
  return { loop, starts, fiber, gaps: () => starts.slice(1).map((at, index) => at - starts[index]!) }
})

describe("ControlLoop", () => {
  it.effect("starts the first session without a delay, and then waits longer and longer up to the cap", () =>
    Effect.gen(function*() {
      const { gaps, starts } = yield* looped(() => 0)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(starts[0], 0)
      assert.deepStrictEqual(gaps().slice(0, 10), [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000, 1_000])
    }))

  it.effect("backs off from sessions that start well and end at once, for ever", () =>
    Effect.gen(function*() {
      const { loop, starts } = yield* looped(() => "20 millis")
      yield* TestClock.adjust("1 hour")
      assert.isBelow(starts.length, 3_600 + 10)
      assert.strictEqual((yield* loop.counts).unstable >= starts.length - 1, true)
    }))

  it.effect("starts its delays anew after a session that stayed for `stableAfter`, and not after a shorter one", () =>
    Effect.gen(function*() {
      const stays = [0, 0, 0, 0, 29_999, 0, 30_000, 0]
      const { gaps } = yield* looped((session) => stays[session] ?? 0)
      yield* TestClock.adjust("2 minutes")
      const waited = gaps().map((gap, index) => gap - (stays[index] ?? 0)).slice(0, 8)
      assert.deepStrictEqual(waited, [10, 20, 40, 80, 160, 320, 10, 20])
    }))

  it.effect("treats a session that returns as one that failed to stay", () =>
    Effect.gen(function*() {
      let sessions = 0
      const loop = yield* ControlLoop.make({ name: "acquire", session: Effect.sync(() => sessions++), policy })
      yield* Effect.forkChild(loop.run)
      yield* TestClock.adjust("10 seconds")
      assert.isAtMost(sessions, 18)
    }))

  it.effect("survives a defect, says so at once, and goes on", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      let sessions = 0
      const loop = yield* ControlLoop.make({
        name: "acquire",
        session: Effect.suspend(() => ++sessions === 1 ? Effect.die(new Error("a bug")) : Effect.never),
        policy
      })
      yield* Effect.forkChild(loop.run)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(sessions, 2)
      assert.strictEqual(lines.length, 1)
      assert.strictEqual(lines[0]?.level, "Error")
    }).pipe(Effect.provide(layer))
  })

  it.effect("ends at once when it is interrupted during a delay", () =>
    Effect.gen(function*() {
      const { fiber, loop } = yield* looped(() => 0)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(SubscriptionRef.getUnsafe(loop.status)._tag, "Waiting")
      yield* Fiber.interrupt(fiber) // no time passes
      assert.strictEqual(SubscriptionRef.getUnsafe(loop.status)._tag, "Stopped")
    }))

  it.effect("ends a delay early when it is woken, spread by chance", () =>
    Effect.gen(function*() {
      const starts: Array<number> = []
      for (const seed of ["a", "b", "c", "d", "e"]) {
        const wake = yield* Deferred.make<void>()
        const { fiber, starts: own } = yield* looped(() => 0, { wake: Deferred.await(wake), wakeSpread: "200 millis" })
          .pipe(Random.withSeed(seed))
        yield* TestClock.adjust("10 seconds")
        const before = own.length
        const woken = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
        yield* Deferred.succeed(wake, undefined)
        yield* TestClock.adjust("200 millis")
        assert.isAbove(own.length, before)
        starts.push(own[before]! - woken)
        yield* Fiber.interrupt(fiber)
      }
      assert.isTrue(starts.every((after) => after >= 0 && after <= 200), `${starts}`)
      assert.isAbove(new Set(starts).size, 1)
    }))

  it.effect("speaks on changes of state only: the first of each cause, and the recovery", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      const outcomes = yield* Queue.unbounded<Effect.Effect<never, string>>()
      const loop = yield* ControlLoop.make({ name: "tailnet", session: Effect.flatten(Queue.take(outcomes)), policy })
      yield* Effect.forkChild(loop.run)
      for (let index = 0; index < 500; index++) {
        yield* Queue.offer(outcomes, Effect.fail(index % 2 === 0 ? "refused" : "reset"))
        yield* TestClock.adjust("1 second")
      }
      yield* Queue.offer(outcomes, Effect.never)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(lines.map((line) => line.level), ["Warn", "Warn", "Info"])
      assert.include(lines[0]!.text, "refused")
      assert.include(lines[1]!.text, "reset")
      assert.include(lines[2]!.text, "500 failed sessions")
    }).pipe(Effect.provide(layer))
  })

  it.effect("leaves causes to others that it was told to be quiet about", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      yield* looped(() => 0, { quiet: (cause) => cause.reasons.every(Cause.isFailReason) })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(lines, [])
    }).pipe(Effect.provide(layer))
  })
})
