import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Clock,
  Data,
  Deferred,
  Duration,
  Effect,
  Fiber,
  Logger,
  Queue,
  Random,
  Schedule,
  Schema,
  SubscriptionRef
} from "effect"
import { TestClock } from "effect/testing"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import * as Backoff from "../../src/loop/Backoff.ts"
import * as ControlLoop from "../../src/loop/ControlLoop.ts"
import { Loops } from "../../src/loop/Loops.ts"
import * as Outage from "../../src/testing/Outage.ts"
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
  const ten = Schedule.spaced("10 seconds")
  /** As somebody would write it who does without types. */
  const untyped = <A>(effect: Effect.Effect<unknown, unknown>): Effect.Effect<A> =>
    Effect.orDie(Effect.as(effect, undefined as A))

  it.effect("is not made hot by a wake that has completed already: the database is up, and the session fails at once", () =>
    Effect.gen(function*() {
      const { awaitAvailable } = yield* Availability
      yield* awaitAvailable.pipe(Effect.raceFirst(TestClock.adjust("1 second")))
      const began = yield* Clock.currentTimeMillis
      const { starts } = yield* looped(() => 0, { policy: Backoff.acquire, wake: awaitAvailable, wakeSpread: 0 })
      yield* TestClock.adjust("1 minute")
      const alone = yield* looped(() => 0, { policy: Backoff.acquire })
      yield* TestClock.adjust("1 minute")
      const attempts = starts.filter((at) => at < began + 60_000).length
      assert.isAtMost(attempts, 80)
      assert.approximately(attempts, alone.starts.length, 5)
    }).pipe(Effect.provide(Database.layerScripted(Outage.none)), Effect.provide(Loops.layer)))

  it.effect("sleeps out a delay of which the wake completes within 10 ms, and asks the wake once in a delay", () =>
    Effect.gen(function*() {
      let asked = 0
      const wake = Effect.suspend(() => Effect.sleep(++asked === 2 ? "11 millis" : "10 millis"))
      const { gaps } = yield* looped(() => 0, { policy: ten, wake, wakeSpread: 0 })
      yield* TestClock.adjust("35 seconds")
      assert.deepStrictEqual(gaps(), [10_000, 11, 9_989, 10_000])
      // Once in each delay, and once in the rest of the one that it had ended.
      assert.strictEqual(asked, 5)
    }))

  it.effect("ends at most one delay a second early, and forgets no wake for that", () =>
    Effect.gen(function*() {
      const { gaps, loop } = yield* looped(() => 0, { policy: ten, wake: Effect.sleep("100 millis"), wakeSpread: 0 })
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(gaps(), [100, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 900])
      assert.strictEqual((yield* loop.counts).woken, 10)
    }))

  it.effect("sleeps the rest of a delay after a session that a wake has brought too early", () =>
    Effect.gen(function*() {
      const wake = yield* Deferred.make<void>()
      const { gaps, loop } = yield* looped(() => 0, { policy: ten, wake: Deferred.await(wake), wakeSpread: 0 })
      yield* TestClock.adjust("4 seconds")
      yield* Deferred.succeed(wake, undefined)
      yield* TestClock.adjust("1 second")
      const status = SubscriptionRef.getUnsafe(loop.status)
      assert.strictEqual(status._tag === "Waiting" && status.until, 10_000)
      yield* TestClock.adjust("15 seconds")
      assert.deepStrictEqual(gaps(), [4_000, 6_000, 10_000])
    }))

  it.effect("makes delays below 10 ms to 10 ms after the first three of a run of failures", () =>
    Effect.gen(function*() {
      const stays = [0, 0, 0, 0, 0, 30_000, 0]
      const { gaps } = yield* looped((session) => stays[session] ?? 0, { policy: Schedule.spaced("1 millis") })
      yield* TestClock.adjust("40 seconds")
      assert.deepStrictEqual(gaps().map((gap, index) => gap - (stays[index] ?? 0)).slice(0, 10), [
        1,
        1,
        1,
        10,
        10,
        1,
        1,
        1,
        10,
        10
      ])
    }))

  it.effect("is not hot under a policy without delays, whatever is called stable", () =>
    Effect.gen(function*() {
      const { starts } = yield* looped(() => 0, { policy: Schedule.forever, stableAfter: 0 })
      yield* TestClock.adjust("10 seconds")
      assert.isAtMost(starts.length, 1_005)
    }))

  for (
    const [what, wake, text] of [
      ["dies", Effect.die(new Error("a bug")), "a bug"],
      ["dies later", Effect.andThen(Effect.sleep("1 second"), Effect.die(new Error("a bug"))), "a bug"],
      ["fails", untyped<void>(Effect.fail(new Error("no wake"))), "no wake"],
      ["is interrupted", Effect.interrupt, "it was interrupted"],
      [
        "interrupts itself",
        Effect.withFiber((fiber) => Effect.andThen(Effect.sync(() => fiber.interruptUnsafe()), Effect.never)),
        "it was interrupted"
      ],
      [
        "throws",
        Effect.suspend((): Effect.Effect<void> => {
          throw new Error("a bug")
        }),
        "a bug"
      ]
    ] as const
  ) {
    it.effect(`goes on with its delays when its wake ${what}, and says so once`, () => {
      const { layer, lines } = collectLines()
      return Effect.gen(function*() {
        const { gaps } = yield* looped(() => 0, { policy: ten, wake, quiet: () => true })
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(gaps(), [10_000, 10_000, 10_000, 10_000, 10_000, 10_000])
        assert.deepStrictEqual(lines.map(({ text }) => text), [
          `the wake of tailnet has failed, delays are slept out: ${text}`
        ])
      }).pipe(Effect.provide(layer))
    })
  }

  it.effect("does not wait for a wake that cannot be interrupted", () =>
    Effect.gen(function*() {
      let asked = 0
      const wake = Effect.uninterruptible(Effect.suspend(() => {
        asked++
        return Effect.never
      }))
      const { fiber, starts } = yield* looped(() => 0, { policy: ten, wake })
      yield* TestClock.adjust("1 minute")
      assert.lengthOf(starts, 7)
      assert.strictEqual(asked, 1)
      yield* Fiber.interrupt(fiber)
    }))

  for (
    const [what, broken, text] of [
      ["ends", Schedule.recurs(2), "it has ended, and a loop runs for ever"],
      ["dies", Schedule.modifyDelay(Schedule.forever, () => Effect.die(new Error("a bug"))), "a bug"],
      ["is interrupted", Schedule.modifyDelay(Schedule.forever, () => Effect.interrupt), "it was interrupted"],
      [
        "throws",
        Schedule.modifyDelay(Schedule.forever, () => {
          throw new Error("a bug")
        }),
        "a bug"
      ],
      ["is none", untypedPolicy(undefined), "TypeError"]
    ] as const
  ) {
    it.effect(`goes on when its policy ${what}, at least 8 s apart, and says so once`, () => {
      const { layer, lines } = collectLines()
      return Effect.gen(function*() {
        const { starts } = yield* looped(() => 0, { policy: broken, quiet: () => true })
        yield* TestClock.adjust("1 hour")
        assert.isAtLeast(starts.length, 360)
        assert.isAtMost(starts.length, 453)
        assert.lengthOf(lines, 1)
        assert.include(lines[0]!.text, "the policy of tailnet gives no delay")
        assert.include(lines[0]!.text, text)
      }).pipe(Effect.provide(layer))
    })
  }

  it.effect("waits no less than before when its policy ends", () =>
    Effect.gen(function*() {
      const { gaps } = yield* looped(() => 0, { policy: Schedule.spaced("1 minute").pipe(Schedule.upTo({ times: 2 })) })
      yield* TestClock.adjust("1 hour")
      assert.isAtLeast(Math.min(...gaps()), 48_000)
    }))

  it.effect("goes on when a session cannot be built, and when a predicate or a logger throws", () => {
    const { layer, lines } = collectLines()
    const fault = () => {
      throw new Error("a bug")
    }
    return Effect.gen(function*() {
      const unbuilt = yield* looped(fault)
      const unquiet = yield* looped(() => 0, { quiet: fault })
      const unlogged = yield* looped(() => 0).pipe(Effect.provide(Logger.layer([Logger.make(fault)])))
      const none = yield* ControlLoop.make({ name: "none", session: untypedSession(undefined), policy })
      yield* Effect.forkChild(none.run)
      yield* TestClock.adjust("1 minute")
      for (const { starts } of [unbuilt, unquiet, unlogged]) assert.isAtLeast(starts.length, 60)
      assert.isAtLeast((yield* none.counts).started, 60)
      const said = lines.map(({ text }) => text)
      assert.lengthOf(said.filter((text) => text.startsWith("what tailnet is quiet about cannot be decided")), 1)
      assert.include(said, "tailnet failed unexpectedly and will be started again: a bug")
      assert.include(said, "tailnet failed and will be started again: broken")
      assert.lengthOf(said, 4)
    }).pipe(Effect.provide(layer))
  })

  it.effect("names failures without a message by tag, fields and cause, each once", () => {
    const { layer, lines } = collectLines()
    class BrokerGone extends Data.TaggedError("BrokerGone")<{ readonly broker: string; readonly at: number }> {}
    class BrokerFull extends Data.TaggedError("BrokerFull") {}
    const failures = [
      new BrokerGone({ broker: "b-east", at: 1 }),
      new BrokerGone({ broker: "b-east", at: 2 }),
      new BrokerGone({ broker: "b-west", at: 3 }),
      new BrokerFull()
    ]
    return Effect.gen(function*() {
      let sessions = 0
      const session = Effect.suspend(() => Effect.fail(failures[sessions++ % failures.length]))
      const loop = yield* ControlLoop.make({ name: "mail", session, policy })
      yield* Effect.forkChild(loop.run)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(lines.map(({ text }) => text), [
        "mail failed and will be started again: BrokerGone (broker: b-east, at: 1)",
        "mail failed and will be started again: BrokerGone (broker: b-west, at: 3)",
        "mail failed and will be started again: BrokerFull"
      ])
    }).pipe(Effect.provide(layer))
  })

  it.effect("measures how long a session has stayed by the clock that only goes forward", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      // The time of day jumps by an hour back and forth with each second.
      const jumping: Clock.Clock = {
        ...clock,
        sleep: clock.sleep,
        monotonicTimeNanos: clock.monotonicTimeNanos,
        monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
        currentTimeMillis: Effect.map(clock.currentTimeMillis, (now) => now + (now % 2_000 < 1_000 ? 0 : 3_600_000)),
        currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe()
      }
      const stays = [0, 0, 0, 0, 29_500, 0, 31_500, 0]
      const { gaps } = yield* Effect.provideService(looped((session) => stays[session] ?? 0), Clock.Clock, jumping)
      yield* TestClock.adjust("2 minutes")
      const waited = gaps().map((gap, index) => gap - (stays[index] ?? 0)).slice(0, 8)
      assert.deepStrictEqual(waited, [10, 20, 40, 80, 160, 320, 10, 20])
    }))

  // --- whatever it is given

  const Millis = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
  const Given = {
    /** How long each session stays, and how it ends; again and again. */
    sessions: Schema.NonEmptyArray(
      Schema.Tuple([Millis(40_000), Schema.Literals(["fails", "dies", "returns", "breaks"])])
    ),
    delays: Schema.NonEmptyArray(Schema.Union([Millis(20_000), Schema.Literal("dies")])),
    shortDelays: Schema.Array(Millis(20)),
    wake: Schema.Literals(["never", "complete", "after", "dies", "repeats", "any"]),
    wakeAfter: Schema.NonEmptyArray(Millis(3_000)),
    isShort: Schema.Boolean
  }

  it.effect.prop(
    "makes in no minute more than 60 attempts beside those of its policy, whatever the sessions, the wake and the policy",
    Given,
    ({ delays: long, isShort, sessions, shortDelays, wake: kind, wakeAfter }) =>
      Effect.gen(function*() {
        const delays = [...shortDelays, ...long]
        const lengths = isShort ? sessions.map(([, how]) => [0, how] as const) : sessions
        const wakes = { never: 0, complete: 0, after: 0, dies: 0, repeats: 0, any: 0 }
        const wake = Effect.suspend((): Effect.Effect<unknown> => {
          const after = Effect.sleep(wakeAfter[wakes[kind]++ % wakeAfter.length]!)
          switch (kind) {
            case "never":
              return Effect.never
            case "complete":
              return Effect.void
            case "dies":
              return Effect.andThen(after, Effect.die(new Error("no wake")))
            case "repeats":
              return Effect.sleep("50 millis")
            default:
              return after
          }
        })
        const bursts = mostInAMinute(yield* startsOf(lengths, delays, wake))
        // As dense as a policy can be: its sessions take no time.
        const alone = Math.max(
          ...delays.map((_, from) => mostInAMinute(timesOf([...delays.slice(from), ...delays.slice(0, from)])))
        )
        // A session that has stayed gives the first three delays of a run of failures once more.
        const resets = lengths.some(([length]) => length >= 30_000) ? 3 : 0
        assert.isAtMost(bursts, alone + 60 + resets)
      }).pipe(Random.withSeed("loops")),
    { arbitrary: { runs: 100, seed: 4 } }
  )
})

const untypedPolicy = (policy: unknown) => policy as Schedule.Schedule<unknown, Cause.Cause<string>>
const untypedSession = (session: unknown) => session as Effect.Effect<void>

/** The starts of a loop in two minutes. */
const startsOf = Effect.fnUntraced(function*(
  sessions: ReadonlyArray<readonly [number, "fails" | "dies" | "returns" | "breaks"]>,
  delays: ReadonlyArray<number | "dies">,
  wake: Effect.Effect<unknown>
) {
  const starts: Array<number> = []
  let delay = 0
  const loop = yield* ControlLoop.make({
    name: "any",
    session: Effect.gen(function*() {
      starts.push(yield* Clock.currentTimeMillis)
      const [length, how] = sessions[(starts.length - 1) % sessions.length]!
      yield* Effect.sleep(length)
      if (how === "fails") return yield* Effect.fail("broken")
      if (how === "dies") return yield* Effect.die(new Error("broken"))
      if (how === "breaks") return yield* untypedSession(undefined)
    }),
    policy: Schedule.modifyDelay(Schedule.forever, () => {
      const next = delays[delay++ % delays.length]!
      return next === "dies" ? Effect.die(new Error("no delay")) : Effect.succeed(Duration.millis(next))
    }),
    wake
  })
  const fiber = yield* Effect.forkChild(loop.run)
  yield* TestClock.adjust("2 minutes")
  assert.isUndefined(fiber.pollUnsafe())
  yield* Fiber.interrupt(fiber)
  return starts
})

/** The starts of sessions that take no time, in two minutes. */
const timesOf = (delays: ReadonlyArray<number | "dies">) => {
  const times = [0]
  for (let at = 0, step = 0; at < 120_000; step++) {
    const next = delays[step % delays.length]!
    // The shortest of what is waited instead.
    at += next === "dies" ? 8_000 : step < 3 ? next : Math.max(10, next)
    times.push(at)
  }
  return times
}

const mostInAMinute = (times: ReadonlyArray<number>) => {
  let most = 0
  for (let from = 0, to = 0; to < times.length; to++) {
    while (times[to]! - times[from]! >= 60_000) from++
    most = Math.max(most, to - from + 1)
  }
  return most
}
