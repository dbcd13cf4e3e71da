import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Layer, Random } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import { TestClock } from "effect/testing"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import { Listener } from "../../src/database/Listener.ts"
import { Notifications } from "../../src/database/Notifications.ts"
import { Loops } from "../../src/loop/Loops.ts"
import * as Outage from "../../src/testing/Outage.ts"
import { collectLines } from "../support/replicas.ts"

const refused = new SqlError({
  reason: new ConnectionError({
    cause: Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" }),
    operation: "connect"
  })
})

/** Never gets a connection: what is told is told without it. */
const DeafListener = Layer.succeed(Listener, { listen: () => Effect.fail(refused) })

const noSuchDatabase = (name: string) =>
  new SqlError({
    reason: new ConnectionError({
      cause: Object.assign(new Error(`database "${name}" does not exist`), { code: "3D000" }),
      operation: "connect"
    })
  })

/** Fails with what is true at the time, after as long as it takes. */
const FailingListener = (errorAt: (seconds: number) => SqlError, takes: number) =>
  Layer.succeed(Listener, {
    listen: () =>
      Effect.delay(
        Effect.flatMap(Clock.currentTimeMillis, (at) => Effect.fail(errorAt(at / 1_000))),
        takes
      )
  })

const notifications = (faults: ReadonlyArray<Outage.FaultInput>, listener: Layer.Layer<Listener> = DeafListener) =>
  Notifications.layerPostgres.pipe(
    Layer.provideMerge(Database.layerScripted(Outage.make(faults))),
    Layer.provide(listener),
    Layer.provide(Loops.layer),
    Layer.provide(SecureRandom.layerWebCrypto)
  )

/** Down for 0.3 s, up for 1 s, fifteen times. */
const restarts = Array.from({ length: 15 }, (_, index): Outage.FaultInput => ({
  kind: "refused",
  at: `${2_000 + 1_300 * index} millis`,
  for: "300 millis"
}))

/** Times of the test's clock, in steps of ten milliseconds. */
const watch = Effect.fnUntraced(function*(steps: number) {
  const availability = yield* Availability
  const missed: Array<number> = []
  const returns: Array<{ readonly at: number; readonly until: number }> = []
  let at = 0
  yield* (yield* Notifications).subscribe(() => missed.push(at))
  // Who works with the database finds out that it is away.
  yield* (yield* Database).write("test.write", Effect.void).pipe(
    Effect.ignore,
    Effect.andThen(Effect.sleep("20 millis")),
    Effect.forever,
    Effect.forkScoped
  )
  let openSince: number | undefined
  for (let step = 0; step < steps; step++) {
    at = step * 10
    if (availability.isOpen()) openSince ??= at
    else if (openSince !== undefined) {
      returns.push({ at: openSince, until: at })
      openSince = undefined
    }
    yield* TestClock.adjust("10 millis")
  }
  return { missed, returns }
})

describe("Notifications without a listener", () => {
  it.effect("tell with each return of the database that some were missed, however often it goes", () =>
    Effect.gen(function*() {
      const { missed, returns } = yield* watch(2_200)
      assert.isAtLeast(returns.length, 8)
      const longEnough = returns.filter(({ at, until }) => until - at >= 300)
      for (const { at } of longEnough) {
        assert.isTrue(missed.some((time) => time >= at - 10 && time <= at + 250), `the return at ${at} ms`)
      }
    }).pipe(Effect.provide(notifications(restarts))))

  it.effect("go on telling it, ever less often, and nothing while the database is away", () =>
    Effect.gen(function*() {
      const { missed } = yield* watch(9_000)
      const within = (from: number, to: number) => missed.filter((time) => time >= from && time < to).length
      assert.isAtLeast(within(0, 5_000), 4)
      assert.isAtLeast(within(10_000, 30_000), 2)
      assert.isAtMost(within(10_000, 30_000), 20)
      assert.strictEqual(within(36_000, 59_000), 0)
      assert.isAtLeast(within(60_000, 65_000), 2)
      assert.isAtMost(within(75_000, 90_000), 10)
    }).pipe(Effect.provide(notifications([{ kind: "refused", at: "31 seconds", for: "29 seconds" }]))))
})

describe("What keeps notifications from arriving", () => {
  for (const takes of [0, 3_000]) {
    it.effect(`is said once for each cause, with what it means, when it lasts: failures after ${takes} ms`, () => {
      const { layer, lines } = collectLines()
      const listener = FailingListener((seconds) => noSuchDatabase(seconds < 60 ? "jobs" : "queue"), takes)
      return Effect.gen(function*() {
        yield* TestClock.adjust("3 seconds")
        assert.deepStrictEqual(lines, [])
        yield* TestClock.adjust("7 seconds")
        assert.deepStrictEqual(lines.map(({ level, text }) => [level, text]), [[
          "Warn",
          "notifications of the database do not arrive, jobs are found by polling meanwhile: database \"jobs\" does not exist"
        ]])
        yield* TestClock.adjust("49 seconds")
        assert.lengthOf(lines, 1)
        yield* TestClock.adjust("1 hour")
        assert.lengthOf(lines, 2)
        assert.include(lines[1]?.text ?? "", "database \"queue\" does not exist")
      }).pipe(Effect.provide(notifications([], listener)), Effect.provide(layer), Random.withSeed("listen"))
    })
  }

  it.effect("is not the listener's to say while the database is away, or serves nobody", () => {
    const { layer, lines } = collectLines()
    // The listener finds it out before anybody else, and is the last to get through.
    const listener = Layer.succeed(Listener, {
      listen: () => Effect.flatMap(Clock.currentTimeMillis, (at) => at < 361_000 ? Effect.fail(refused) : Effect.never)
    })
    return Effect.gen(function*() {
      yield* TestClock.adjust("10 minutes")
      assert.isAbove(lines.length, 4)
      assert.isTrue(lines.every(({ text }) => !text.includes("notifications")))
    }).pipe(
      Effect.provide(notifications(
        [0, 1, 2, 3, 4, 5].flatMap((minute): Array<Outage.FaultInput> => [{
          kind: minute % 2 === 0 ? "refused" : "poolRefused",
          at: `${60_000 * minute + 3_000} millis`,
          for: "56 seconds"
        }]),
        listener
      )),
      Effect.provide(layer)
    )
  })
})
