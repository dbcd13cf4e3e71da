/**
 * For records whose writer has already decided how often they are worth saying: a deduplicator lets them through, as it
 * would otherwise take the second report of an outage for a repeat of the first.
 */
import { Context, Effect } from "effect"

export const PassAlways: Context.Reference<boolean> = Context.Reference("lull/logging/PassAlways", {
  defaultValue: () => false
})

/** All that is logged by an effect passes. */
export const passAlways: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> = Effect.provideService(
  PassAlways,
  true
)
