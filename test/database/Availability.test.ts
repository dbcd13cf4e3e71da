import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Layer, Random, Ref, SubscriptionRef } from "effect"
import { TestClock } from "effect/testing"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import { Loops } from "../../src/loop/Loops.ts"
import * as Outage from "../../src/testing/Outage.ts"
import { collectLines } from "../support/replicas.ts"

const hour = 3_600_000

const scripted = (faults: ReadonlyArray<Outage.FaultInput>) =>
  Database.layerScripted(Outage.make(faults)).pipe(Layer.provide(Loops.layer))

/** Writes at this distance for as long as the test runs, and notes what became of it. */
const writer = Effect.fnUntraced(function*(every: Duration.Input = "1 second") {
  const database = yield* Database
  const outcomes = yield* Ref.make<ReadonlyArray<{ readonly at: number; readonly tag: string }>>([])
  yield* database.write("test.write", Effect.void).pipe(
    Effect.match({ onFailure: (error) => error._tag, onSuccess: () => "done" }),
    Effect.flatMap((tag) =>
      Effect.clockWith((clock) => Ref.update(outcomes, (all) => [...all, { at: clock.currentTimeMillisUnsafe(), tag }]))
    ),
    Effect.andThen(Effect.sleep(every)),
    Effect.forever,
    Effect.forkScoped
  )
  return outcomes
})

const state = Effect.map(Availability, (availability) => SubscriptionRef.getUnsafe(availability.state))

describe("Availability", () => {
  it.effect("is available with its first heartbeat, and says nothing of it", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* state)._tag, "Available")
      assert.deepStrictEqual(lines, [])
    }).pipe(Effect.provide(scripted([])), Effect.provide(layer))
  })

  it.effect("starts without its database, says so once, and is there when it comes", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      yield* TestClock.adjust("5 seconds")
      const now = yield* state
      assert.strictEqual(now._tag, "Unavailable")
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual((yield* state)._tag, "Available")
      assert.deepStrictEqual(lines.map((line) => line.level), ["Warn", "Info"])
    }).pipe(Effect.provide(scripted([{ kind: "refused", for: "7 seconds" }])), Effect.provide(layer))
  })

  it.effect("tells a minute's outage in at most 8 lines, and tries at most 75 times", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      const outcomes = yield* writer()
      yield* TestClock.adjust("69 seconds")
      const away = yield* state
      assert.strictEqual(away._tag, "Unavailable")
      if (away._tag !== "Unavailable") return
      assert.strictEqual(away.reason, "Unreachable")
      assert.isAtMost(away.attempts, 75)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* state)._tag, "Available")
      assert.isAtMost(lines.length, 8)
      const back = (yield* Ref.get(outcomes)).find(({ at, tag }) => at > 60_000 && tag === "done")
      assert.isAtMost(back!.at, 71_000)
    }).pipe(
      Effect.provide(scripted([{ kind: "refused", at: "10 seconds", for: "1 minute" }])),
      Effect.provide(layer),
      Random.withSeed("minute")
    )
  })

  it.effect("stays within its promises for a day's outage, and is back within one capped delay", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      yield* writer("20 seconds")
      yield* TestClock.adjust(Duration.millis(25 * hour - 1))
      const away = yield* state
      if (away._tag !== "Unavailable") return assert.fail("it is away")
      // 5 s apart from the fifth minute on.
      assert.isAtMost(away.attempts, 75 + 24 * 3_600 / 4)
      const before = lines.length
      yield* TestClock.adjust("5010 millis")
      assert.strictEqual((yield* state)._tag, "Available")
      assert.isAtMost(lines.length, 40)
      const ends = lines.slice(before)
      assert.strictEqual(ends.length, 1)
      assert.match(ends[0]!.text, /available again after 1d/)
    }).pipe(
      Effect.provide(scripted([{ kind: "refused", at: "1 hour", for: "1 day" }])),
      Effect.provide(layer),
      Random.withSeed("day")
    )
  }, 20_000)

  it.effect("takes a server that answers reads and refuses writes for read-only, and does not ask it in a hot loop", () =>
    Effect.gen(function*() {
      yield* writer()
      yield* TestClock.adjust("1 minute")
      const away = yield* state
      if (away._tag !== "Unavailable") return assert.fail("it takes no writes")
      assert.strictEqual(away.reason, "ReadOnly")
      assert.isAtMost(away.attempts, 75)
    }).pipe(Effect.provide(scripted([{ kind: "readOnly", at: "5 seconds" }]))))

  it.effect("takes a server that never answers for hung, within the deadline", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust("9 seconds")
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* state)._tag, "Available")
      // The next heartbeat is sent within 2 s, and has 3 s.
      yield* TestClock.adjust("5001 millis")
      const away = yield* state
      if (away._tag !== "Unavailable") return assert.fail("it does not answer")
      assert.strictEqual(away.reason, "Hung")
    }).pipe(Effect.provide(scripted([{ kind: "hung", at: "10 seconds", for: "1 hour" }]))))

  it.effect("lets no caller wait for a hung server longer than the deadline, and later ones not at all", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust("1 second")
      const database = yield* Database
      const waiting = yield* Effect.forkChild(Effect.exit(database.write("test.write", Effect.void)))
      yield* TestClock.adjust("5 seconds")
      const exit = waiting.pollUnsafe()
      assert.isTrue(exit !== undefined && Exit.isSuccess(exit))
      const refused = yield* Effect.flip(database.write("test.write", Effect.void)) // no time passes
      assert.strictEqual(refused._tag, "DatabaseUnavailable")
      if (refused._tag === "DatabaseUnavailable") assert.strictEqual(refused.outcome, "notDone")
    }).pipe(Effect.provide(scripted([{ kind: "hung", at: "1 second", for: "1 hour" }]))))

  it.effect("does not start its delays anew for a database that flaps, nor speak each time", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      yield* writer()
      yield* TestClock.adjust("1 minute")
      assert.isAtMost(lines.length, 8)
      yield* TestClock.adjust("10 minutes")
      assert.isAtMost(lines.length, 14)
    }).pipe(Effect.provide(scripted([{ kind: "flapping", period: "4 seconds" }])), Effect.provide(layer))
  })

  it.effect("doubts at once when a store reports a failure, and clears the doubt with one heartbeat", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust("1 second")
      const database = yield* Database
      const first = yield* Effect.flip(database.write("test.write", Effect.void))
      assert.strictEqual(first._tag, "DatabaseUnavailable")
      if (first._tag === "DatabaseUnavailable") assert.strictEqual(first.outcome, "unknown")
      yield* TestClock.adjust("1 millis")
      yield* database.write("test.write", Effect.void)
      assert.strictEqual((yield* state)._tag, "Available")
    }).pipe(Effect.provide(scripted([{ kind: "connectionDropped", operation: "test.write", times: 1 }]))))

  it.effect("wakes who waits for it", () =>
    Effect.gen(function*() {
      const availability = yield* Availability
      const waiting = yield* Effect.forkChild(availability.awaitAvailable)
      yield* TestClock.adjust("9 seconds")
      assert.isUndefined(waiting.pollUnsafe())
      yield* TestClock.adjust("2 seconds")
      assert.isDefined(waiting.pollUnsafe())
    }).pipe(Effect.provide(scripted([{ kind: "refused", for: "10 seconds" }]))))

  it.effect("counts only the time in which it could write", () =>
    Effect.gen(function*() {
      const availability = yield* Availability
      yield* TestClock.adjust("20 seconds")
      assert.isAtMost(availability.writableMillis(), 12_000)
      assert.isAtLeast(availability.writableMillis(), 7_000)
      const before = availability.writableMillis()
      yield* TestClock.adjust("2 seconds")
      assert.isAtMost(availability.writableMillis() - before, 4_000)
    }).pipe(Effect.provide(scripted([{ kind: "refused", at: "5 seconds", for: "8 seconds" }]))))
})
