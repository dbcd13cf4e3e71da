/**
 * Elapsed time. The clock of the wall is set, by people and by NTP; what is measured is measured by this one, of which only
 * differences mean anything. On `TestClock` both go together.
 */
import { Clock, Effect } from "effect"

/** Milliseconds since some moment that stays the same while the process lives. */
export const monotonicMillis: Effect.Effect<number> = Effect.map(
  Clock.monotonicTimeNanos,
  (nanos) => Number(nanos) / 1e6
)
