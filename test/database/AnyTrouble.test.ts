/** Mixes of failures, drawn at random: what has to be true of each of them. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Random, SubscriptionRef } from "effect"
import { TestClock } from "effect/testing"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import { Link } from "../../src/database/Link.ts"
import * as ScriptedLink from "../../src/database/ScriptedLink.ts"
import { Loops } from "../../src/loop/Loops.ts"
import { monotonicMillis } from "../../src/loop/Monotonic.ts"
import * as Outage from "../../src/testing/Outage.ts"

/**
 * In any minute: five at once and two a second that are asked for or regular, and the attempts of the backoff, 75. In a quiet
 * minute there are thirty.
 */
const mostProbes = 200

/** A scripted database whose heartbeats are counted. */
const counted = (faults: ReadonlyArray<Outage.FaultInput>) => {
  const probes: Array<number> = []
  const link = Layer.effect(
    Link,
    Effect.map(Link, (inner) =>
      Link.of({
        ...inner,
        probe: (fresh) =>
          Effect.flatMap(monotonicMillis, (at) => {
            probes.push(at)
            return inner.probe(fresh)
          })
      }))
  ).pipe(Layer.provide(ScriptedLink.layer(Outage.make(faults))))
  return { layer: Database.layerLink().pipe(Layer.provide(link), Layer.provide(Loops.layer)), probes }
}

/** The most of them that lie within a minute. */
const busiestMinute = (times: ReadonlyArray<number>) => {
  let most = 0
  let first = 0
  for (let last = 0; last < times.length; last++) {
    while (times[last]! - times[first]! >= 60_000) first++
    most = Math.max(most, last - first + 1)
  }
  return most
}

type Whose = "application" | "own" | "vital"

/** Calls without a pause to speak of; some callers lose their patience. */
const caller = Effect.fnUntraced(function*(whose: Whose, operation: string) {
  const database = yield* Database
  const pass = whose === "application" ? database.write : database.own[whose === "own" ? "write" : "vital"]
  yield* pass(operation, Effect.void).pipe(
    Effect.timeoutOption(`${yield* Random.nextIntBetween(300, 9_000)} millis`),
    Effect.ignoreCause,
    Effect.andThen(Effect.sleep(`${yield* Random.nextIntBetween(5, 60)} millis`)),
    Effect.forever,
    Effect.forkScoped
  )
})

const callers: ReadonlyArray<readonly [Whose, string]> = [
  ["application", "test.application"],
  ["application", "test.another"],
  ["own", "test.own"],
  ["own", "test.second"],
  ["vital", "test.vital"]
]

const kinds = Outage.Kind.literals.filter((kind) => !Outage.isOfProcess({ kind }))
const targets = [...callers.map(([, operation]) => operation), "Availability.probe", undefined]

/** Of the first two minutes. */
const drawFaults = Effect.gen(function*() {
  const draw = <A>(items: ReadonlyArray<A>) => Effect.map(Random.nextIntBetween(0, items.length), (at) => items[at]!)
  const faults: Array<Outage.FaultInput> = []
  for (let count = 0; count < 14; count++) {
    const operation = yield* draw(targets)
    const at = yield* Random.nextIntBetween(1, 90)
    faults.push({
      kind: yield* draw(kinds),
      at: `${at} seconds`,
      for: `${yield* Random.nextIntBetween(1, 30)} seconds`,
      delay: `${yield* Random.nextIntBetween(10, 7_000)} millis`,
      ...operation !== undefined && { operation }
    })
  }
  return faults
})

describe("Any mix of failures", () => {
  for (const seed of ["a", "b", "c", "d", "e", "f", "g", "h"]) {
    it.effect(
      `brings a bounded number of heartbeats, and is over when it is over: ${seed}`,
      () =>
        Effect.gen(function*() {
          const { layer, probes } = counted(yield* drawFaults)
          yield* Effect.gen(function*() {
            const availability = yield* Availability
            const database = yield* Database
            for (const [whose, operation] of callers) yield* caller(whose, operation)
            yield* TestClock.adjust("2 minutes")
            yield* TestClock.adjust("20 seconds")
            const now = SubscriptionRef.getUnsafe(availability.state)
            assert.strictEqual(now._tag, "Available", JSON.stringify(now))
            for (const [whose, operation] of callers) {
              if (whose === "own") yield* database.own.write(operation, Effect.void)
            }
            assert.isAtMost(busiestMinute(probes), mostProbes)
          }).pipe(Effect.provide(layer))
        }).pipe(Random.withSeed(seed)),
      30_000
    )
  }

  for (
    const kind of [
      "conflict",
      "locked",
      "full",
      "readOnly",
      "connectionDropped",
      "timedOut",
      "canceled",
      "poolRefused"
    ] as const
  ) {
    for (const whose of ["application", "own", "vital"] as const) {
      it.effect(`brings a bounded number of heartbeats when every second call fails: ${kind}, ${whose}`, () => {
        const { layer, probes } = counted(
          Array.from({ length: 600 }, (_, index) => ({
            kind,
            at: `${1_000 + index * 100} millis`,
            for: "50 millis",
            delay: "1 millis",
            operation: "test.call"
          } as const))
        )
        return Effect.gen(function*() {
          const database = yield* Database
          const pass = whose === "application" ? database.write : database.own[whose === "own" ? "write" : "vital"]
          for (let count = 0; count < 2; count++) {
            yield* pass("test.call", Effect.void).pipe(
              Effect.ignore,
              Effect.andThen(Effect.sleep("10 millis")),
              Effect.forever,
              Effect.forkScoped
            )
          }
          yield* TestClock.adjust("65 seconds")
          assert.isAtMost(busiestMinute(probes), mostProbes)
        }).pipe(Effect.provide(layer))
      }, 30_000)
    }
  }
})
