import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { SecureRandom } from "effect/crypto/SecureRandom"
import * as SecureRandoms from "effect/crypto/SecureRandom"
import { TestClock } from "effect/testing"
import { JobId } from "../../src/provisioner/Job.ts"
import * as JobIds from "../../src/provisioner/JobIds.ts"

/** The time in the first 48 bits of a UUID of version 7. */
const timeOf = (id: JobId) => Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16)

describe("JobIds", () => {
  it.effect("makes UUIDs of version 7 that grow, within a batch, between batches, and when the clock goes back", () =>
    Effect.gen(function*() {
      const jobIds = JobIds.make(yield* SecureRandom)
      yield* TestClock.setTime(1_800_000_000_000)
      const ids = [...yield* jobIds(5_000), ...yield* jobIds(1)]
      yield* TestClock.setTime(1_800_000_000_001)
      ids.push(...yield* jobIds(3))
      yield* TestClock.setTime(1_700_000_000_000)
      ids.push(...yield* jobIds(3), ...yield* jobIds(0))
      assert.lengthOf(ids, 5_007)
      assert.isTrue(ids.every(Schema.is(JobId)))
      assert.isTrue(ids.every((id) => /^.{14}7.{4}[89ab]/.test(id)))
      assert.deepStrictEqual(ids.toSorted(), ids)
      assert.strictEqual(new Set(ids).size, ids.length)
      assert.strictEqual(timeOf(ids[0]!), 1_800_000_000_000)
      assert.strictEqual(timeOf(ids.at(-1)!), 1_800_000_000_001)
    }).pipe(Effect.provide(SecureRandoms.layerWebCrypto)))

  it.effect("makes other ids in each process, also in the same millisecond", () =>
    Effect.gen(function*() {
      const random = yield* SecureRandom
      const all = yield* Effect.forEach(Array.from({ length: 200 }), () => JobIds.make(random)(20))
      assert.strictEqual(new Set(all.flat()).size, 4_000)
    }).pipe(Effect.provide(SecureRandoms.layerWebCrypto)))
})
