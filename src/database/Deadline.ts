/**
 * A deadline that holds for whoever waits, also when the work cannot be interrupted: a `ROLLBACK` on a hung connection,
 * or a statement whose interruption first asks the server.
 *
 * The work runs in a fiber of its own. At the deadline, or when the waiting fiber is interrupted, it is told to stop and
 * not waited for; the socket's own deadline (`Connector`) ends it.
 */
import { Cause, Data, Duration, Effect, Fiber } from "effect"
import { noAnswerCode } from "./Unavailable.ts"

/** The work was not done in time, or its answer has not come: it is unknown which. */
export class NoAnswer extends Data.TaggedError("NoAnswer")<{ readonly within: Duration.Duration }> {
  readonly code = noAnswerCode
  override get message() {
    return `no answer within ${Duration.format(this.within)}`
  }
}

/** The connections were closed under the work, which has been ended. Whether it was done is unknown. */
export class Severed extends Data.TaggedError("Severed")<{}> {
  readonly code = "ECONNABORTED"
  override get message() {
    return "the connections were closed while the work was under way"
  }
}

export const within = <A, E, R>(
  work: Effect.Effect<A, E, R>,
  deadline: Duration.Duration
): Effect.Effect<A, E | NoAnswer | Severed, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      Effect.forkDetach(restore(work), { startImmediately: true }),
      (fiber) =>
        Fiber.join(fiber).pipe(
          // A pool that is closed interrupts who waits for one of its connections. To its caller that is no interruption:
          // when the caller itself is interrupted, this is passed over.
          Effect.catchCauseIf(Cause.hasInterruptsOnly, () => Effect.fail(new Severed())),
          Effect.timeoutOrElse({
            duration: deadline,
            orElse: () => Effect.fail(new NoAnswer({ within: deadline }))
          }),
          restore,
          Effect.onError(() => Effect.sync(() => fiber.interruptUnsafe()))
        )
    )
  )
