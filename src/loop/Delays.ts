/**
 * The delays of a policy, whatever the policy does: one that fails, dies or ends does not end the loop that it belongs to, and
 * none makes a loop hot.
 */
import { type Cause, Clock, Duration, Effect, Exit, Pull, Random, Schedule } from "effect"
import { monotonicMillis } from "./Monotonic.ts"
import * as OwnFiber from "./OwnFiber.ts"

/** After the first delays of a run of failures none is shorter: that is 100 attempts a second, and a loop no longer hot. */
export const shortestMillis = 10
/** A first retry at once is worth it: most connections that break are back with the next attempt. */
export const freeDelays = 3
/** Where the policy gives no delay: as long as the longest of `Backoff.session`, or as the last delay that there was. */
const fallbackMillis = 10_000

/** The delay that counts. `given`: how many there were in this run of failures, this one included. */
export const bounded = (millis: number, given: number): number =>
  millis >= shortestMillis ? millis : given > freeDelays || Number.isNaN(millis) ? shortestMillis : Math.max(0, millis)

export interface Delays<E> {
  /** The next delay in milliseconds. */
  readonly next: (cause: Cause.Cause<E>) => Effect.Effect<number>
  /** What failed before is forgotten. */
  readonly restart: Effect.Effect<void>
}

/** `onFault` is told why there is no delay, and what is waited for instead. */
export const make = Effect.fnUntraced(function*<E, P>(
  policy: Schedule.Schedule<P, Cause.Cause<E>>,
  onFault: (cause: Cause.Cause<unknown>, millis: number) => Effect.Effect<void>
): Effect.fn.Return<Delays<E>> {
  const toStep = Effect.suspend(() => Schedule.toStep(policy)).pipe(
    Effect.catchCause((cause) => Effect.succeed(() => Effect.failCause(cause)))
  )
  let step = yield* toStep
  let given = 0
  let last = 0
  let startedAt = yield* Clock.currentTimeMillis
  let started = yield* monotonicMillis

  const ask = Effect.fnUntraced(function*(cause: Cause.Cause<E>) {
    // A policy may look at the time of day (a cron), but what has elapsed is not measured by it.
    const now = startedAt + (yield* monotonicMillis) - started
    const [, delay] = yield* step(now, cause).pipe(
      Pull.catchDone(() => Effect.die(new Error("it has ended, and a loop runs for ever")))
    )
    return Duration.toMillis(delay)
  })

  return {
    next: Effect.fnUntraced(function*(cause) {
      const asked = yield* OwnFiber.exitOf(ask(cause))
      given++
      if (Exit.isSuccess(asked)) {
        last = asked.value
        return bounded(asked.value, given)
      }
      const millis = Math.max(last, fallbackMillis)
      yield* onFault(asked.cause, millis)
      // Spread, as the same policy fails in all replicas.
      return millis * (1 - 0.2 * (yield* Random.next))
    }),
    restart: Effect.gen(function*() {
      step = yield* toStep
      given = 0
      startedAt = yield* Clock.currentTimeMillis
      started = yield* monotonicMillis
    })
  }
})
