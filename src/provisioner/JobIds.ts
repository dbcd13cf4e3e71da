/**
 * Ids for new jobs: UUIDs of version 7, many at a time, each greater than all before it in this process, so that jobs of
 * one priority start in the order of their submission.
 *
 * A counter of 42 bits that begins at random in each millisecond (RFC 9562, section 6.2, method 1), and 32 random bits. When
 * the clock stands still or goes back, the counter goes on.
 */
import { Clock, Effect } from "effect"
import type { SecureRandom } from "effect/crypto/SecureRandom"
import { JobId } from "./Job.ts"

export type JobIds = (count: number) => Effect.Effect<ReadonlyArray<JobId>>

/** The counter begins in the lower half of its range. */
const seedBits = { high: 0x1ff, low: 2 ** 32 }

/** Drawn at once, for many calls: a call for a few bytes takes longer than all the rest. */
const drawnBytes = 4_096

export const make = (random: SecureRandom["Service"]): JobIds => {
  let time = 0
  let counter = 0
  let drawn: Buffer = Buffer.alloc(0)

  const take = (bytes: number): Effect.Effect<Buffer> => {
    if (drawn.length < bytes) {
      return Effect.flatMap(random.randomBytes(Math.max(bytes, drawnBytes)), (more) => {
        drawn = Buffer.from(more.buffer, more.byteOffset, more.byteLength)
        return take(bytes)
      })
    }
    const taken = drawn.subarray(0, bytes)
    drawn = drawn.subarray(bytes)
    return Effect.succeed(taken)
  }

  return (count) =>
    Effect.zipWith(Clock.currentTimeMillis, Effect.suspend(() => take(8 + 4 * count)), (now, bytes) => {
      if (now > time) {
        time = now
        counter = (bytes.readUInt32BE(0) & seedBits.high) * seedBits.low + bytes.readUInt32BE(4)
      }
      const stamp = time.toString(16).padStart(12, "0")
      const prefix = `${stamp.slice(0, 8)}-${stamp.slice(8)}-7`
      // Text of all random bits at once: one by one it takes as long as all the rest.
      const random = bytes.toString("hex", 8)
      return Array.from({ length: count }, (_, at) => {
        const high = (0x1000 + Math.floor(++counter / 2 ** 30)).toString(16).slice(1)
        const low = (0x8000_0000 + counter % 2 ** 30).toString(16)
        return JobId.make(
          `${prefix}${high}-${low.slice(0, 4)}-${low.slice(4)}${random.slice(8 * at, 8 * at + 8)}`,
          { disableChecks: true }
        )
      })
    })
}
