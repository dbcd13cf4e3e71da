/**
 * A delay that a wake may end early; and what keeps a wake from making the loop hot, whoever wrote it:
 *
 * - One that completes within 10 ms of the beginning of a delay was complete before, and says nothing about the cause of this
 *   failure: it is ignored, and not asked again in this delay.
 * - At most one delay a second is ended by it. One that comes earlier waits for the rest of that second.
 * - One that fails, dies or is interrupted is no wake.
 */
import { type Cause, Duration, Effect, Exit, Fiber, Random } from "effect"
import { monotonicMillis } from "./Monotonic.ts"

/** Two turns of a busy event loop; and nothing that people do. */
export const alreadyCompleteMillis = 10
/** Beside the attempts of the policy these are at most 60 a minute. */
export const atMostEveryMillis = 1_000

/** Not a fraction of a millisecond less, as timers do: sixty times a second too early would be 61 in a minute. */
const sleepUntil = Effect.fnUntraced(function*(at: number) {
  for (let left = at - (yield* monotonicMillis); left > 0; left = at - (yield* monotonicMillis)) {
    yield* Effect.sleep(Duration.millis(Math.ceil(left)))
  }
})

export interface Wakes {
  /** Sleeps for so many milliseconds; answers whether it was ended early. */
  readonly sleep: (millis: number) => Effect.Effect<boolean>
}

export const make = (options: {
  readonly wake: Effect.Effect<unknown>
  /** A wake is followed by a random part of this, so that many loops do not start in the same instant. */
  readonly spreadMillis: number
  /** Told what a wake failed with. */
  readonly onFault: (cause: Cause.Cause<unknown>) => Effect.Effect<void>
}): Wakes => {
  let lastAt = Number.NEGATIVE_INFINITY
  let asked: Fiber.Fiber<unknown> | undefined

  /** In a fiber of its own: it may interrupt itself, or not let itself be interrupted, and the delay still ends. */
  const ask = Effect.gen(function*() {
    if (asked !== undefined) yield* Fiber.await(asked)
    const fiber = yield* Effect.forkDetach(Effect.suspend(() => options.wake), { startImmediately: true })
    asked = fiber
    return yield* Effect.callback<Exit.Exit<unknown>>((resume) => {
      fiber.addObserver((exit) => resume(Effect.succeed(exit)))
      return Effect.sync(() => fiber.interruptUnsafe())
    })
  })

  const untilWoken = Effect.gen(function*() {
    const beganAt = yield* monotonicMillis
    const exit = yield* ask
    if (Exit.isFailure(exit)) return yield* Effect.andThen(options.onFault(exit.cause), Effect.never)
    const now = yield* monotonicMillis
    if (now - beganAt <= alreadyCompleteMillis) return yield* Effect.never
    yield* sleepUntil(Math.max(now + options.spreadMillis * (yield* Random.next), lastAt + atMostEveryMillis))
    return true
  })

  return {
    sleep: Effect.fnUntraced(function*(millis) {
      const isWoken = yield* Effect.raceFirst(Effect.as(Effect.sleep(Duration.millis(millis)), false), untilWoken)
      if (isWoken) lastAt = yield* monotonicMillis
      return isWoken
    })
  }
}
