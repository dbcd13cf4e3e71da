/**
 * Runs what others have written in a fiber of its own. What is no effect at all (`yield* undefined`) ends the whole fiber that
 * comes upon it, past everything that would catch it; and a fiber can interrupt itself. Here that fiber is not the caller's.
 */
import { Effect, type Exit, Fiber } from "effect"

/** How it ended. Interrupted with the caller, which waits for its end. */
export const exitOf = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Exit.Exit<A, E>, never, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      Effect.forkChild(effect, { startImmediately: true }),
      (fiber) => Effect.onInterrupt(restore(Fiber.await(fiber)), () => Fiber.interrupt(fiber))
    )
  )
