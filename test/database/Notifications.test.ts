import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import { TestClock } from "effect/testing"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import { Listener } from "../../src/database/Listener.ts"
import { Notifications } from "../../src/database/Notifications.ts"
import { Loops } from "../../src/loop/Loops.ts"
import * as Outage from "../../src/testing/Outage.ts"

const refused = new SqlError({
  reason: new ConnectionError({
    cause: Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" }),
    operation: "connect"
  })
})

/** Never gets a connection: what is told is told without it. */
const DeafListener = Layer.succeed(Listener, { listen: () => Effect.fail(refused) })

const notifications = (faults: ReadonlyArray<Outage.FaultInput>) =>
  Notifications.layerPostgres.pipe(
    Layer.provideMerge(Database.layerScripted(Outage.make(faults))),
    Layer.provide(DeafListener),
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
