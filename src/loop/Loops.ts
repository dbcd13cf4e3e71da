/**
 * The fibers that have to live as long as the program. A forked fiber that fails says nothing by itself; a loop that is
 * watched here ends the program with its cause instead. Nothing in Lull dies silently.
 *
 * **Somebody has to join them.** The main effect of a program that uses layers with loops ends with
 *
 * ```ts
 * yield* Loops.join // waits for ever, or dies of the cause of the first loop that ended
 * ```
 *
 * If nobody does, a loop that has died leaves a program that goes on without it. Then that is said, at level `Fatal`, five
 * seconds later; the process is not ended, as that would be for its author to decide.
 */
import { Cause, Context, Deferred, Duration, Effect, Exit, Fiber, Layer, type Scope } from "effect"
import * as Composition from "../logging/Composition.ts"
import { errorText } from "../logging/ErrorText.ts"

/** A program may be on its way to `join`: it starts, or it has just caught a failure. */
const joinedWithin = Duration.seconds(5)

export class Loops extends Context.Service<Loops, {
  /** Forks a loop into the scope, and watches it until the scope interrupts it. */
  readonly fork: <R>(name: string, loop: Effect.Effect<never, never, R>) => Effect.Effect<void, never, R | Scope.Scope>
  /** Waits for ever, or dies of the cause of the first loop that ended. */
  readonly join: Effect.Effect<never>
}>()("lull/loop/Loops") {
  /** Waits for ever, or dies of the cause of the first loop that ended: the end of a program's main effect. */
  static readonly join: Effect.Effect<never, never, Loops> = Effect.flatMap(Loops, (loops) => loops.join)

  static readonly layer = Layer.effect(
    Loops,
    Effect.gen(function*() {
      const scope = yield* Effect.scope
      const firstDeath = yield* Deferred.make<never>()
      let joining = 0
      let isUnjoinedSaid = false

      const sayUnjoined = (name: string) =>
        Effect.suspend(() => {
          if (joining > 0 || isUnjoinedSaid) return Effect.void
          isUnjoinedSaid = true
          return Effect.logFatal(
            `nobody joins Loops: the program goes on without ${name}, which has died; ` +
              "end the main effect with `yield* Loops.join`, so that the program ends with the cause"
          )
        })

      const died = (name: string, cause: Cause.Cause<never>) =>
        Effect.logFatal(`${name} has died: ${errorText(cause)}`, cause).pipe(
          // A logger that throws must not hide it from who joins.
          Effect.ensuring(Deferred.failCause(firstDeath, cause)),
          Effect.ensuring(Effect.forkIn(Effect.andThen(Effect.sleep(joinedWithin), sayUnjoined(name)), scope)),
          Effect.annotateLogs("loop", name)
        )

      return Loops.of({
        fork: Effect.fnUntraced(function*(name, loop) {
          yield* Composition.check
          const runFork = Effect.runForkWith(yield* Effect.context<never>())
          let isEnding = false
          const fiber = yield* Effect.acquireRelease(
            Effect.forkDetach(Effect.annotateLogs(loop, "loop", name)),
            (forked) =>
              Effect.suspend(() => {
                isEnding = true
                return Fiber.interrupt(forked)
              })
          )
          // Not by the loop's own fiber: some ends pass everything that would run in it.
          fiber.addObserver((exit) => {
            if (!isEnding) runFork(died(name, causeOf(exit)))
          })
        }),
        join: Effect.suspend(() => {
          joining++
          // Who was told of a death has joined, and who was interrupted does so no more.
          return Effect.onInterrupt(Deferred.await(firstDeath), () =>
            Effect.sync(() => {
              joining--
            }))
        })
      })
    })
  )
}

/** A loop that returns, or is interrupted by somebody else than its scope, has ended as much as one that died. */
const causeOf = (exit: Exit.Exit<never>): Cause.Cause<never> =>
  Exit.isSuccess(exit)
    ? Cause.die(new Error("it returned, and a loop runs for ever"))
    : Cause.hasInterruptsOnly(exit.cause)
    ? Cause.die(new Error("it was interrupted, and not by its scope"))
    : exit.cause
