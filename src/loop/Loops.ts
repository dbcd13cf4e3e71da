/**
 * The fibers that have to live as long as the program. A forked fiber that fails says nothing by itself; whoever is
 * watched here ends the program with its cause instead (`join`). Nothing in Lull dies silently.
 */
import { Cause, Context, Effect, FiberSet, Layer, type Scope } from "effect"

export class Loops extends Context.Service<Loops, {
  /** Forks a loop into the scope, and watches it until the scope interrupts it. */
  readonly fork: <R>(name: string, loop: Effect.Effect<never, never, R>) => Effect.Effect<void, never, R | Scope.Scope>
  /** Waits for ever, or dies of the cause of the first loop that ended. */
  readonly join: Effect.Effect<never>
}>()("lull/loop/Loops") {
  static readonly layer = Layer.effect(
    Loops,
    Effect.gen(function*() {
      const fibers = yield* FiberSet.make<never, never>()
      return Loops.of({
        fork: (name, loop) =>
          loop.pipe(
            Effect.annotateLogs("loop", name),
            Effect.tapCause((cause) =>
              Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.logFatal(`${name} has died`, cause)
            ),
            Effect.forkScoped,
            Effect.flatMap((fiber) => FiberSet.add(fibers, fiber))
          ),
        join: Effect.andThen(FiberSet.join(fibers), Effect.never)
      })
    })
  )
}
