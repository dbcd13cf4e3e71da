/**
 * Time that only goes forward, for how long something lasted. The time of day jumps: it is set, a machine is suspended, a
 * server corrects it.
 */
import { Clock, Effect } from "effect"

/** Milliseconds since some moment that is the same for as long as the process lives. */
export const monotonicMillis: Effect.Effect<number> = Effect.map(
  Clock.monotonicTimeNanos,
  (nanos) => Number(nanos) / 1e6
)
