/**
 * A deadline that holds for whoever waits, also when the work cannot be interrupted: a `ROLLBACK` on a hung connection,
 * or a statement whose interruption first asks the server.
 *
 * The work runs in a fiber of its own. At the deadline, or when the waiting fiber is interrupted, it is told to stop and
 * not waited for; the socket's own deadline (`Connector`) ends it.
 */
import { Data, Duration, Effect, Fiber } from "effect"
import { noAnswerCode } from "./Unavailable.ts"

/** The work was not done in time, or its answer has not come: it is unknown which. */
export class NoAnswer extends Data.TaggedError("NoAnswer")<{ readonly within: Duration.Duration }> {
  readonly code = noAnswerCode
  override get message() {
    return `no answer within ${Duration.format(this.within)}`
  }
}

export const within = <A, E, R>(
  work: Effect.Effect<A, E, R>,
  deadline: Duration.Duration
): Effect.Effect<A, E | NoAnswer, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      Effect.forkDetach(restore(work), { startImmediately: true }),
      (fiber) =>
        restore(Fiber.join(fiber)).pipe(
          Effect.timeoutOrElse({
            duration: deadline,
            orElse: () => Effect.fail(new NoAnswer({ within: deadline }))
          }),
          restore,
          Effect.onError(() => Effect.sync(() => fiber.interruptUnsafe()))
        )
    )
  )
