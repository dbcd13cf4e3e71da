import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Layer, Random, SubscriptionRef } from "effect"
import { TestClock } from "effect/testing"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import { within } from "../../src/database/Deadline.ts"
import { Link } from "../../src/database/Link.ts"
import * as ScriptedLink from "../../src/database/ScriptedLink.ts"
import type { Reason } from "../../src/database/Unavailable.ts"
import { Loops } from "../../src/loop/Loops.ts"
import * as Outage from "../../src/testing/Outage.ts"
import { collectLines } from "../support/replicas.ts"

const scripted = (faults: ReadonlyArray<Outage.FaultInput>) =>
  Database.layerScripted(Outage.make(faults)).pipe(Layer.provide(Loops.layer))

const state = Effect.map(Availability, (availability) => SubscriptionRef.getUnsafe(availability.state))

/** Calls again and again until the test ends, as a loop of Lull's does, and counts what became of it. */
const caller = Effect.fnUntraced(function*(whose: "own" | "vital" | "application", operation: string) {
  const database = yield* Database
  const pass = whose === "application" ? database.write : whose === "own" ? database.own.write : database.own.vital
  const count = { done: 0, met: 0, refused: 0 }
  yield* pass(operation, Effect.void).pipe(
    Effect.match({
      onFailure: (error) =>
        error._tag === "DatabaseUnavailable" && error.cause === undefined ? count.refused++ : count.met++,
      onSuccess: () => count.done++
    }),
    Effect.andThen(Effect.sleep("100 millis")),
    Effect.forever,
    Effect.forkScoped
  )
  return count
})

/** A minute of a trouble from the tenth second on, and what has to be true of all of them. */
const aMinuteOf = Effect.fnUntraced(function*(reason: Reason, lines: ReadonlyArray<{ readonly text: string }>) {
  yield* TestClock.adjust("9900 millis")
  assert.strictEqual((yield* state)._tag, "Available")
  yield* TestClock.adjust("5100 millis")
  const early = yield* state
  if (early._tag !== "Degraded") return assert.fail(`it is ${early._tag}`)
  assert.strictEqual(early.reason, reason)
  yield* TestClock.adjust("54 seconds")
  const late = yield* state
  if (late._tag !== "Degraded") return assert.fail(`it is ${late._tag}`)
  assert.strictEqual(late.since, early.since)
  assert.isAtMost(late.attempts, 75)
  assert.isAbove(late.attempts, 20)
  yield* TestClock.adjust("6 seconds")
  assert.strictEqual((yield* state)._tag, "Available")
  yield* TestClock.adjust("40 seconds")
  assert.isAtMost(lines.length, 8)
  assert.match(lines[0]?.text ?? "", new RegExp(`^database degraded \\(${reason}: `))
  assert.match(lines.at(-1)?.text ?? "", /^database no longer degraded after (5[5-9]s|1m)/)
})

const minute = { at: "10 seconds", for: "1 minute" } as const

describe("Degraded", () => {
  for (const withCallers of [true, false]) {
    const when = withCallers ? "" : ", also when nobody calls"
    it.effect(`is known, told and over within seconds when no connection can be opened${when}`, () => {
      const { layer, lines } = collectLines()
      return Effect.gen(function*() {
        const own = withCallers ? yield* caller("own", "test.own") : undefined
        yield* aMinuteOf("Refusing", lines)
        if (own !== undefined) {
          // Those who came before it was known.
          assert.isAtMost(own.met, 3)
          assert.isAbove(own.refused, 500)
        }
      }).pipe(
        Effect.provide(scripted([{ kind: "poolRefused", ...minute }])),
        Effect.provide(layer),
        Random.withSeed("pool")
      )
    })

    it.effect(`is known, told and over within seconds when new connections get no answer${when}`, () => {
      const { layer, lines } = collectLines()
      return Effect.gen(function*() {
        const own = withCallers ? yield* caller("own", "test.own") : undefined
        const vital = yield* caller("vital", "test.vital")
        yield* aMinuteOf("Hung", lines)
        if (own !== undefined) assert.isAtMost(own.met, 3)
        // It waits for the pool once.
        assert.deepStrictEqual([vital.met, vital.refused], [0, 0])
        assert.isAbove(vital.done, 600)
      }).pipe(
        Effect.provide(scripted([{ kind: "poolHung", ...minute }])),
        Effect.provide(layer),
        Random.withSeed("logins")
      )
    })

    it.effect(`is known, told and over within seconds when a table is locked${when}`, () => {
      const { layer, lines } = collectLines()
      return Effect.gen(function*() {
        if (withCallers) yield* caller("own", "test.own")
        yield* aMinuteOf("Locked", lines)
      }).pipe(Effect.provide(scripted([{ kind: "locked", ...minute }])), Effect.provide(layer), Random.withSeed("lock"))
    })
  }

  for (const [kind, reason] of [["full", "Full"], ["timedOut", "Slow"]] as const) {
    it.effect(`is known, told and over within seconds when one of Lull's operations fails: ${kind}`, () => {
      const { layer, lines } = collectLines()
      return Effect.gen(function*() {
        const failing = yield* caller("own", "test.failing")
        const other = yield* caller("own", "test.other")
        yield* aMinuteOf(reason, lines)
        // One trial at each step of the backoff, and nobody else suffers.
        assert.isAtMost(failing.met, 77)
        assert.deepStrictEqual([other.met, other.refused], [0, 0])
        assert.isAbove(failing.done, 200)
      }).pipe(
        Effect.provide(scripted([
          { kind, ...minute, delay: "100 millis", operation: "test.failing" }
        ])),
        Effect.provide(layer),
        Random.withSeed("operation")
      )
    })
  }

  it.effect("is not what a pool is whose connections are all busy with the work of applications", () => {
    const { layer, lines } = collectLines()
    const busy = Layer.effect(
      Link,
      Effect.map(Link, (inner) => Link.of({ ...inner, reach: within(Effect.never, Duration.seconds(1)) }))
    ).pipe(Layer.provide(ScriptedLink.layer(Outage.none)))
    return Effect.gen(function*() {
      const availability = yield* Availability
      for (let count = 0; count < 60; count++) {
        yield* TestClock.adjust("1 second")
        assert.isTrue(availability.isOpen() || count < 2)
      }
      assert.deepStrictEqual(lines, [])
    }).pipe(
      Effect.provide(Database.layerLink().pipe(Layer.provide(busy), Layer.provide(Loops.layer))),
      Effect.provide(layer)
    )
  })

  it.effect("has the attempts of one, however many operations fail", () =>
    Effect.gen(function*() {
      const callers = yield* Effect.forEach(["a", "b", "c", "d", "e", "f"], (name) => caller("own", `test.${name}`))
      yield* TestClock.adjust("70 seconds")
      const now = yield* state
      if (now._tag !== "Degraded") return assert.fail("it is degraded")
      assert.isAtMost(now.attempts, 75 + 6)
      // Two failures that open each, and the trials of all together.
      assert.isAtMost(callers.reduce((sum, { met }) => sum + met, 0), 6 * 2 + 75)
      for (const { met } of callers) assert.isAtLeast(met, 8)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* state)._tag, "Available")
    }).pipe(
      Effect.provide(scripted(["a", "b", "c", "d", "e", "f"].map((name) => ({
        kind: "full",
        operation: `test.${name}`,
        ...minute
      })))),
      Random.withSeed("many")
    ))

  it.effect("goes to who waits for the database only when callers are served again", () =>
    Effect.gen(function*() {
      const availability = yield* Availability
      yield* TestClock.adjust("15 seconds")
      assert.isFalse(availability.isOpen())
      const waiting = yield* Effect.forkChild(availability.awaitAvailable)
      yield* TestClock.adjust("54 seconds")
      assert.isUndefined(waiting.pollUnsafe())
      yield* TestClock.adjust("6 seconds")
      assert.isDefined(waiting.pollUnsafe())
    }).pipe(Effect.provide(scripted([{ kind: "poolRefused", ...minute }])), Random.withSeed("wait")))

  it.effect("lets what keeps leases through while the pool has no connection", () =>
    Effect.gen(function*() {
      const vital = yield* caller("vital", "test.vital")
      yield* TestClock.adjust("69 seconds")
      assert.strictEqual((yield* state)._tag, "Degraded")
      assert.deepStrictEqual([vital.met, vital.refused], [0, 0])
      assert.isAbove(vital.done, 600)
    }).pipe(Effect.provide(scripted([{ kind: "poolRefused", ...minute }]))))

  it.effect("counts no time as writable in which tables are locked, and all in which only the pool is in trouble", () =>
    Effect.gen(function*() {
      const written = Effect.gen(function*() {
        const availability = yield* Availability
        yield* TestClock.adjust("10 seconds")
        const before = availability.writableMillis()
        yield* TestClock.adjust("1 minute")
        return availability.writableMillis() - before
      })
      const locked = yield* Effect.provide(written, scripted([{ kind: "locked", at: "10 seconds" }]))
      assert.isAtMost(locked, 3_000)
      const refused = yield* Effect.provide(written, scripted([{ kind: "poolRefused", at: "10 seconds" }]))
      assert.isAtLeast(refused, 50_000)
    }))

  it.effect("counts no time as writable in which leases could not be renewed", () =>
    Effect.gen(function*() {
      yield* caller("vital", "test.vital")
      yield* TestClock.adjust("12 seconds")
      const availability = yield* Availability
      const before = availability.writableMillis()
      yield* TestClock.adjust("50 seconds")
      assert.isAtMost(availability.writableMillis() - before, 3_000)
    }).pipe(Effect.provide(scripted([{ kind: "timedOut", operation: "test.vital", at: "10 seconds" }]))))

  it.effect("counts no time as writable in which leases could not be renewed, also while applications are at work", () =>
    Effect.gen(function*() {
      const database = yield* Database
      yield* caller("vital", "test.vital")
      yield* database.read("test.application", Effect.sleep("4 seconds")).pipe(Effect.forever, Effect.forkScoped)
      yield* TestClock.adjust("12 seconds")
      const availability = yield* Availability
      const before = availability.writableMillis()
      yield* TestClock.adjust("50 seconds")
      assert.isAtMost(availability.writableMillis() - before, 4_000)
    }).pipe(Effect.provide(scripted([
      { kind: "slow", delay: "10 seconds", operation: "test.vital", at: "10 seconds" }
    ]))))

  for (
    const kind of [
      "locked",
      "timedOut",
      "canceled",
      "full",
      "conflict",
      "readOnly",
      "connectionDropped",
      "slow"
    ] as const
  ) {
    it.effect(`is nothing that an application's own failures bring about: ${kind}`, () => {
      const { layer, lines } = collectLines()
      return Effect.gen(function*() {
        const application = yield* caller("application", "test.application")
        const own = yield* caller("own", "test.own")
        yield* TestClock.adjust("5 minutes")
        const now = yield* state
        if (now._tag !== "Available") return assert.fail(`it is ${now._tag}`)
        // No connection was made anew, nobody else was refused, nothing was said.
        assert.strictEqual(now.epoch, 1)
        assert.deepStrictEqual([own.met, own.refused, application.refused], [0, 0, 0])
        assert.isAbove(application.met, 20)
        assert.deepStrictEqual(lines, [])
      }).pipe(
        Effect.provide(scripted([{ kind, operation: "test.application", delay: "10 seconds" }])),
        Effect.provide(layer)
      )
    })
  }

  it.effect("is nothing that a cancellation or a conflict of Lull's own work brings about", () =>
    Effect.gen(function*() {
      const canceled = yield* caller("own", "test.canceled")
      const conflict = yield* caller("own", "test.conflict")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* state)._tag, "Available")
      assert.isAbove(canceled.met, 100)
      assert.isAbove(conflict.met, 100)
    }).pipe(Effect.provide(scripted([
      { kind: "canceled", operation: "test.canceled" },
      { kind: "conflict", operation: "test.conflict" }
    ]))))

  it.effect("is over when an operation works again, though its trials came to nothing because applications were at work", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      const database = yield* Database
      const own = yield* caller("own", "test.own")
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* state)._tag, "Degraded")
      const application = yield* database.read("test.application", Effect.sleep("4 seconds")).pipe(
        Effect.forever,
        Effect.forkScoped
      )
      yield* TestClock.adjust("8 seconds")
      yield* Fiber.interrupt(application)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* state)._tag, "Available")
      assert.isAbove(own.done, 20)
      assert.match(lines.at(-1)?.text ?? "", /^database no longer degraded/)
    }).pipe(
      Effect.provide(scripted([
        { kind: "full", operation: "test.own", for: "500 millis" },
        { kind: "slow", operation: "test.own", delay: "10 seconds", for: "9 seconds" }
      ])),
      Effect.provide(layer)
    )
  })

  for (const kind of ["locked", "hung"] as const) {
    it.effect(`is over when an operation works again, though what its trial met was nobody's verdict: ${kind}`, () =>
      Effect.gen(function*() {
        yield* caller("own", "test.own")
        yield* TestClock.adjust("20 seconds")
        assert.strictEqual((yield* state)._tag, "Available")
      }).pipe(Effect.provide(scripted([
        { kind: "full", operation: "test.own", for: "500 millis" },
        { kind: "connectionDropped", operation: "test.own", at: "500 millis", for: "3 seconds" },
        { kind, operation: "Availability.probe", at: "500 millis", for: "3 seconds" }
      ]))))
  }

  it.effect("is told with the fields of its state, and no others", () =>
    Effect.gen(function*() {
      yield* caller("own", "test.own")
      yield* TestClock.adjust("5 seconds")
      assert.hasAllKeys(yield* state, [
        "_tag",
        "reason",
        "detail",
        "lastError",
        "since",
        "attempts",
        "nextAttempt",
        "server",
        "epoch"
      ])
    }).pipe(Effect.provide(scripted([{ kind: "full", operation: "test.own" }]))))

  it.effect("says in a caller's error what the server said, and carries it", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust("1 second")
      const database = yield* Database
      const met = yield* Effect.flip(database.own.write("test.own", Effect.void))
      if (met._tag !== "DatabaseUnavailable") return assert.fail(met._tag)
      assert.deepStrictEqual([met.reason, met.outcome], ["Full", "notDone"])
      assert.include(met.message, "could not extend file")
      assert.isDefined(met.cause)
      yield* Effect.flip(database.own.write("test.own", Effect.void))
      const refused = yield* Effect.flip(database.own.write("test.own", Effect.void))
      if (refused._tag !== "DatabaseUnavailable") return assert.fail(refused._tag)
      assert.isUndefined(refused.cause)
      assert.include(refused.message, "could not extend file")
    }).pipe(Effect.provide(scripted([{ kind: "full", operation: "test.own" }]))))
})

describe("Work at the door", () => {
  it.effect("waits for the first probe, within its deadline", () =>
    Effect.gen(function*() {
      const database = yield* Database
      const work = yield* Effect.forkChild(Effect.exit(database.write("test.write", Effect.succeed("done"))))
      yield* TestClock.adjust("1900 millis")
      assert.isUndefined(work.pollUnsafe())
      yield* TestClock.adjust("200 millis")
      assert.deepStrictEqual(work.pollUnsafe(), Exit.succeed(Exit.succeed("done")))
    }).pipe(Effect.provide(scripted([{ kind: "slow", operation: "Availability.probe", delay: "2 seconds" }]))))

  it.effect("is refused as soon as the first probe has failed", () =>
    Effect.gen(function*() {
      const database = yield* Database
      const work = yield* Effect.forkChild(Effect.flip(database.write("test.write", Effect.void)))
      yield* TestClock.adjust("1 millis")
      const exit = work.pollUnsafe()
      if (exit === undefined || Exit.isFailure(exit)) return assert.fail("it waits")
      assert.strictEqual(exit.value._tag, "DatabaseUnavailable")
      assert.include(exit.value.message, "ECONNREFUSED")
    }).pipe(Effect.provide(scripted([{ kind: "refused" }]))))

  it.effect("of an application that takes longer than the deadline fails in its own words", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust("1 second")
      const database = yield* Database
      const work = yield* Effect.forkChild(Effect.flip(database.write("test.write", Effect.sleep("1 hour"))))
      yield* TestClock.adjust("6 seconds")
      const exit = work.pollUnsafe()
      if (exit === undefined || Exit.isFailure(exit)) return assert.fail("it waits")
      const error = exit.value
      if (error._tag !== "QueryFailed") return assert.fail(error._tag)
      assert.deepStrictEqual([error.kind, error.outcome], ["passing", "unknown"])
      assert.include(error.message, "took longer than the door's deadline of 5s")
    }).pipe(Effect.provide(scripted([]))))
})

describe("Attempts", () => {
  it.effect("follow at once where the last one took as long as the delay", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust("1 minute")
      const now = yield* state
      if (now._tag !== "Unavailable") return assert.fail("it is away")
      // Three seconds each, and no delay of a second after each.
      assert.isAtLeast(now.attempts, 19)
      assert.isAtMost(now.attempts, 20)
    }).pipe(Effect.provide(scripted([{ kind: "hung", for: "1 hour" }]))))
})
