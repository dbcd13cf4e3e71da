import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Random, Schema } from "effect"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import { TestClock } from "effect/testing"
import * as Dialer from "../../src/database/Dialer.ts"

const server = "db:5432"

const failure = (message: string) =>
  new SqlError({ reason: new ConnectionError({ cause: new Error(message), message, operation: "connect" }) })

/** A server that answers as it is told, and notes the attempts that reach it. */
const makeServer = () => {
  const attempts: Array<{ readonly at: number; readonly kind: Dialer.Kind }> = []
  let inFlight = 0
  let mostInFlight = 0
  return {
    attempts,
    mostInFlight: () => mostInFlight,
    /** `again`: how often it is asked in another way. */
    answer:
      (kind: Dialer.Kind, answer: Effect.Effect<void, SqlError>, again = 0) =>
      (connected: () => void, asksAgain: () => void) =>
        Effect.gen(function*() {
          const at = yield* Clock.currentTimeMillis
          attempts.push({ at, kind })
          for (let index = 0; index < again; index++) {
            asksAgain()
            attempts.push({ at, kind })
          }
          inFlight++
          mostInFlight = Math.max(mostInFlight, inFlight)
          connected()
          yield* answer
        }).pipe(Effect.ensuring(Effect.sync(() => inFlight--)))
  }
}

const mostInAMinute = (attempts: ReadonlyArray<{ readonly at: number }>) =>
  Math.max(0, ...attempts.map(({ at }) => attempts.filter((other) => other.at >= at && other.at < at + 60_000).length))

const refused = Effect.fail(failure("sorry, too many clients already"))

describe("Dialer", () => {
  it.effect("answers with the failure of others until the backoff has passed, without an attempt", () =>
    Effect.gen(function*() {
      const dialer = yield* Dialer.make
      const { answer, attempts } = makeServer()
      const work = Effect.flip(dialer.dial({ server, kind: "work" }, answer("work", refused)))
      const first = yield* work
      for (let index = 0; index < 100; index++) assert.strictEqual(yield* work, first)
      assert.strictEqual(attempts.length, 1)
      yield* TestClock.adjust("50 millis")
      yield* work
      assert.strictEqual(attempts.length, 2)
    }))

  it.effect("lets the prober go on, and others again when it has got in", () =>
    Effect.gen(function*() {
      const dialer = yield* Dialer.make
      const { answer, attempts } = makeServer()
      yield* Effect.flip(dialer.dial({ server, kind: "work" }, answer("work", refused)))
      yield* Effect.flip(dialer.dial({ server, kind: "probe" }, answer("probe", refused)))
      yield* Effect.flip(dialer.dial({ server, kind: "listener" }, answer("listener", Effect.void)))
      yield* dialer.dial({ server, kind: "probe" }, answer("probe", Effect.void))
      yield* dialer.dial({ server, kind: "listener" }, answer("listener", Effect.void))
      assert.deepStrictEqual(attempts.map(({ kind }) => kind), ["work", "probe", "probe", "listener"])
    }))

  it.effect("does not forget failures for a success, but for 30 seconds without one", () =>
    Effect.gen(function*() {
      const dialer = yield* Dialer.make
      const { answer, attempts } = makeServer()
      const dial = (what: Effect.Effect<void, SqlError>) =>
        Effect.ignore(dialer.dial({ server, kind: "first" }, answer("first", what)))
      // Every second one succeeds: the delays grow all the same.
      for (let step = 0; step < 2_000; step++) {
        yield* dial(attempts.length % 2 === 0 ? refused : Effect.void)
        yield* TestClock.adjust("10 millis")
      }
      assert.isAtMost(attempts.length, 60)
      yield* TestClock.adjust("30 seconds")
      assert.isFalse(dialer.isTroubled(server))
      yield* dial(refused)
      yield* TestClock.adjust("50 millis")
      assert.strictEqual(dialer.retryAfter({ server, kind: "first" }), 0)
    }))

  it.effect("has one attempt in flight while a server is in trouble, and does not slow one that is well", () =>
    Effect.gen(function*() {
      const dialer = yield* Dialer.make
      const slowly = Effect.sleep("300 millis")
      const well = makeServer()
      const logins = yield* Effect.forkChild(Effect.all(
        Array.from({ length: 10 }, () => dialer.dial({ server: "well", kind: "work" }, well.answer("work", slowly))),
        { concurrency: "unbounded" }
      ))
      yield* TestClock.adjust("300 millis")
      yield* Fiber.join(logins)
      const troubled = makeServer()
      yield* Effect.ignore(dialer.dial({ server, kind: "work" }, troubled.answer("work", refused)))
      yield* TestClock.adjust("1 second")
      const others = yield* Effect.forkChild(Effect.all(
        Array.from({ length: 5 }, () => dialer.dial({ server, kind: "work" }, troubled.answer("work", slowly))),
        { concurrency: "unbounded" }
      ))
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(others)
      assert.strictEqual(troubled.mostInFlight(), 1)
    }))

  it.effect("keeps what is left of a minute for the prober, and for work that finds nothing open", () =>
    Effect.gen(function*() {
      const dialer = yield* Dialer.make
      const { answer, attempts } = makeServer()
      const dial = (kind: Dialer.Kind, what: Effect.Effect<void, SqlError> = Effect.void) =>
        Effect.ignore(dialer.dial({ server, kind }, answer(kind, what)))
      // It goes and comes back each 1.3 seconds, and everything wants to connect with each return.
      for (let round = 0; round < 40; round++) {
        yield* dial("probe", refused)
        yield* TestClock.adjust("1 second")
        yield* dial("probe")
        yield* dial("first")
        for (let index = 0; index < 5; index++) yield* dial("work")
        yield* dial("listener")
        yield* TestClock.adjust("300 millis")
      }
      const gaps = attempts.flatMap(({ at, kind }) => kind === "first" ? [at] : [])
        .map((at, index, all) => at - (all[index - 1] ?? 0))
      assert.isAtMost(Math.max(...gaps), 10_000)
      assert.isAtMost(mostInAMinute(attempts), 75)
    }))

  it.effect("lets the prober go before an attempt that is under way", () =>
    Effect.gen(function*() {
      const dialer = yield* Dialer.make
      const { answer, attempts } = makeServer()
      yield* Effect.ignore(dialer.dial({ server, kind: "work" }, answer("work", refused)))
      yield* TestClock.adjust("1 second")
      const hung = yield* Effect.forkChild(
        Effect.flip(dialer.dial({ server, kind: "work" }, answer("work", Effect.never)))
      )
      yield* TestClock.adjust("1 second")
      yield* dialer.dial({ server, kind: "probe" }, answer("probe", Effect.void))
      yield* Fiber.join(hung)
      assert.strictEqual(attempts.length, 3)
    }))

  it.effect("does not let one server wait for another", () =>
    Effect.gen(function*() {
      const dialer = yield* Dialer.make
      const silent = makeServer()
      const well = makeServer()
      yield* Effect.ignore(dialer.dial({ server: "silent", kind: "listener" }, silent.answer("listener", refused)))
      yield* TestClock.adjust("4 seconds")
      yield* Effect.forkChild(
        dialer.dial({ server: "silent", kind: "listener" }, silent.answer("listener", Effect.never))
      )
      yield* TestClock.adjust("10 millis")
      yield* dialer.dial({ server: "well", kind: "work" }, well.answer("work", Effect.void))
      assert.strictEqual(silent.attempts.length, 2)
    }))

  it.effect("is interrupted for a caller that is not, so that this one loses nothing", () =>
    Effect.gen(function*() {
      const dialer = yield* Dialer.make
      const { answer } = makeServer()
      const dialing = yield* Effect.forkChild(
        Effect.uninterruptible(dialer.dial({ server, kind: "work" }, answer("work", Effect.never)))
      )
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(dialing)
    }))

  it.effect("spreads what is left of a minute, so that work is never without a connection for long", () =>
    Effect.gen(function*() {
      const dialer = yield* Dialer.make
      const { answer, attempts } = makeServer()
      yield* Effect.ignore(dialer.dial({ server, kind: "work" }, answer("work", refused)))
      for (let at = 0; at < 60_000; at += 50) {
        yield* Effect.ignore(dialer.dial({ server, kind: "first" }, answer("first", Effect.void)))
        yield* TestClock.adjust("50 millis")
      }
      const gaps = attempts.slice(1).map(({ at }, index) => at - attempts[index]!.at)
      assert.isAtMost(Math.max(...gaps), 6_000)
      assert.isAtMost(mostInAMinute(attempts), 75)
    }))

  it.effect("does not lose a turn to somebody who stops waiting for it", () =>
    Effect.gen(function*() {
      const dialer = yield* Dialer.make
      const { answer } = makeServer()
      yield* Effect.ignore(dialer.dial({ server, kind: "work" }, answer("work", refused)))
      yield* TestClock.adjust("1 second")
      const dial = (what: Effect.Effect<void>) => dialer.dial({ server, kind: "work" }, answer("work", what))
      const first = yield* Effect.forkChild(dial(Effect.sleep("1 second")))
      const second = yield* Effect.forkChild(dial(Effect.void))
      const third = yield* Effect.forkChild(dial(Effect.void))
      yield* TestClock.adjust("10 millis")
      yield* Fiber.interrupt(second)
      yield* Fiber.interrupt(first)
      yield* Fiber.join(third)
    }))

  it.effect("counts connections that break again and again as failures, and one that breaks as none", () =>
    Effect.gen(function*() {
      const dialer = yield* Dialer.make
      // Its three connections break with their server.
      for (let index = 0; index < 3; index++) yield* dialer.broke(server, 1_000, failure("broken"))
      assert.isFalse(dialer.isTroubled(server))
      yield* TestClock.adjust("1 second")
      yield* dialer.broke(server, 40_000, failure("broken"))
      assert.isFalse(dialer.isTroubled(server))
      yield* dialer.broke(server, 500, failure("broken"))
      assert.isTrue(dialer.isTroubled(server))
    }))

  it.effect.prop(
    "lets at most 75 attempts a minute reach a server, whatever combination of failures, successes and breaks",
    { seed: Schema.Int, share: Schema.Literals([0, 0.1, 0.5, 0.9, 1]), every: Schema.Literals([10, 100, 400, 1_300]) },
    ({ every, seed, share }) =>
      Effect.gen(function*() {
        const dialer = yield* Dialer.make
        const { answer, attempts } = makeServer()
        const kinds: ReadonlyArray<Dialer.Kind> = ["probe", "work", "listener", "first", "replacement"]
        yield* Effect.ignore(dialer.dial({ server, kind: "work" }, answer("work", refused)))
        for (let at = 0; at < 180_000; at += every) {
          for (const kind of kinds) {
            const succeeds = (yield* Random.next) < share
            const again = Math.floor((yield* Random.next) * 3)
            yield* Effect.ignore(dialer.dial({ server, kind }, answer(kind, succeeds ? Effect.void : refused, again)))
          }
          // It comes and goes for as long as this takes.
          if ((yield* Random.next) < 0.5) yield* dialer.broke(server, 1_000, failure("broken"))
          yield* dialer.suspect(server, failure("it is away"))
          yield* TestClock.adjust(every)
        }
        assert.isAtMost(mostInAMinute(attempts), 75)
        assert.isAtLeast(attempts.filter(({ kind }) => kind === "probe").length, 30)
      }).pipe(Random.withSeed(seed)),
    { arbitrary: { runs: 12 } }
  )
})
