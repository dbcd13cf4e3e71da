import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Random, Schedule } from "effect"
import { readFileSync } from "node:fs"
import * as Backoff from "../../src/loop/Backoff.ts"

/** The delays of a policy, with the time since the first failure that they and `attemptMillis` make up. */
const delays = (policy: Schedule.Schedule<unknown>, count: number, attemptMillis = 0) =>
  Effect.gen(function*() {
    const step = yield* Schedule.toStep(policy)
    let now = 0
    const found: Array<number> = []
    for (let index = 0; index < count; index++) {
      const [, delay] = yield* Effect.orDie(step(now, undefined))
      found.push(Duration.toMillis(delay))
      now += Duration.toMillis(delay) + attemptMillis
    }
    return found
  })

const withRandom = (value: number) =>
  Effect.provideService(Random.Random, { nextDoubleUnsafe: () => value, nextIntUnsafe: () => 0 })

describe("Backoff", () => {
  it.effect("makes the delays that its header promises", () =>
    Effect.gen(function*() {
      const header = readFileSync(new URL("../../src/loop/Backoff.ts", import.meta.url), "utf8")
      const inUnits = (millis: number) => millis >= 1000 ? `${millis / 1000} s` : `${millis} ms`
      for (const [name, policy] of [["database", Backoff.database], ["acquire", Backoff.acquire]] as const) {
        const row = header.split("\n").find((line) => line.includes(`| \`${name}\``))
        const promised = row?.split("|").slice(2, 11).map((cell) => cell.trim())
        assert.deepStrictEqual((yield* delays(policy, 9).pipe(withRandom(0))).map(inUnits), promised)
      }
    }))

  it.effect("grows from the floor to the cap, and never beyond the cap, jitter included", () =>
    Effect.gen(function*() {
      const policy = Backoff.exponential({ floor: "10 millis", cap: "1 second" })
      for (let seed = 0; seed < 50; seed++) {
        const found = yield* delays(policy, 40).pipe(Random.withSeed(`${seed}`))
        for (const [index, delay] of found.entries()) {
          const full = Math.min(10 * 2 ** index, 1_000)
          assert.isAtMost(delay, full)
          assert.isAtLeast(delay, full * 0.8)
        }
      }
    }))

  it.effect("spreads replicas at the cap, too", () =>
    Effect.gen(function*() {
      const atCap = yield* Effect.forEach(["a", "b", "c", "d"], (seed) =>
        Effect.map(delays(Backoff.acquire, 20).pipe(Random.withSeed(seed)), (found) => found[19]))
      assert.strictEqual(new Set(atCap).size, 4)
    }))

  it.effect("tries a database at most 75 times in the first minute, however chance falls", () =>
    Effect.gen(function*() {
      const shortest = yield* delays(Backoff.database, 100).pipe(withRandom(0.999_999))
      let at = 0
      // The first attempt is the one that found it gone.
      const attempts = 1 + shortest.filter((delay) => (at += delay) <= 60_000).length
      assert.isAtMost(attempts, 75)
    }))

  it.effect("waits at most 2 % of a long outage, and at most 5 s", () =>
    Effect.gen(function*() {
      const found = yield* delays(Backoff.database, 2_000).pipe(Random.withSeed("long"))
      let elapsed = 0
      for (const delay of found) {
        assert.isAtMost(delay, Math.min(5_000, Math.max(1_000, elapsed * 0.02)) + 1e-6)
        elapsed += delay
      }
      assert.isAbove(Math.max(...found), 4_000)
    }))

  it.effect("goes on after a thousand steps", () =>
    Effect.gen(function*() {
      const found = yield* delays(Backoff.acquire, 3_000)
      assert.isAtMost(found.at(-1)!, 1_000)
      assert.isAtLeast(found.at(-1)!, 800)
    }))
})
