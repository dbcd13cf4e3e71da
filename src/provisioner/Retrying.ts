/**
 * How what could not be stored is tried again: an outage is waited for; everything else, a lock, a canceled statement, a
 * conflict, is tried again after a delay that grows. Only a value that the database refuses is not.
 */
import { Duration, Effect, Random } from "effect"
import type { Availability } from "../database/Availability.ts"
import type { DatabaseUnavailable } from "../database/Unavailable.ts"

/** Those who waited for the database do not all come back in the same instant. */
const spread = 200

/** Never at once: a database that is called available, and fails this work, must not be asked in a hot loop. */
const shortest = 10

/** The first delay, in milliseconds, and the longest. */
const firstDelay = 100
const longestDelay = 10_000

/** Does it until the database is there to answer. Other failures are the caller's. */
export const throughOutages =
  (availability: Availability["Service"]) =>
  <A, E>(work: Effect.Effect<A, E>): Effect.Effect<A, Exclude<E, DatabaseUnavailable>> => {
    const again = Effect.fnUntraced(function*(error: DatabaseUnavailable) {
      yield* availability.awaitAvailable
      const random = yield* Random.next
      yield* Effect.sleep(
        Duration.max(error.retryAfter, Duration.millis(shortest + random * spread))
      )
    })
    const loop: Effect.Effect<A, E> = Effect.catchIf(
      work,
      isUnavailable,
      (error) => Effect.andThen(again(error), loop)
    )
    return loop as Effect.Effect<A, Exclude<E, DatabaseUnavailable>>
  }

const isUnavailable = <E>(error: E): error is E & DatabaseUnavailable =>
  typeof error === "object" && error !== null && "_tag" in error && error._tag === "DatabaseUnavailable"

/** Before the next attempt, in milliseconds: 100 ms, 200 ms, …, at most 10 s, of which chance takes up to a fifth off. */
export const retryDelay = (attempt: number): Effect.Effect<number> =>
  Effect.map(
    Random.next,
    (random) => Math.min(firstDelay * 2 ** Math.min(attempt, 10), longestDelay) * (1 - 0.2 * random)
  )
