/**
 * An outage, as a value: what goes wrong with the database, when, and for how long. The same value hits the memory stores
 * (`Database.layerScripted`) on `TestClock`, and a real PostgreSQL (`Database.faulty`).
 *
 * ```ts
 * const outage = Outage.make([{ kind: "refused", at: "10 seconds", for: "1 minute" }])
 * ```
 */
import { Duration, Schema } from "effect"

/**
 * - `refused`: no connection can be made, open ones are gone.
 * - `hung`: nothing is answered. What was sent is done when the hang is over, though nobody waits for it by then.
 * - `slow`: every answer takes `delay` longer.
 * - `readOnly`: writes are refused, reads are answered.
 * - `full`: writes fail for want of disk space.
 * - `locked`: somebody holds a lock on the tables: writes, the heartbeat's too, end at their time limit for locks.
 * - `timedOut`: the server gives up on a statement after `delay`, by its statement timeout. Not on heartbeats.
 * - `canceled`: somebody cancels the statement, as `pg_cancel_backend` does. Not heartbeats.
 * - `conflict`: the transaction is rolled back by a deadlock. Not heartbeats.
 * - `poolRefused`: the heartbeat is well, and no connection can be opened for anybody else: too many connections, a
 *   password that was changed.
 * - `poolHung`: the heartbeat is well, no other connection is open, and none that is asked for gets an answer.
 * - `ackLost`: the work is done, and the connection breaks before the answer.
 * - `connectionDropped`: the connection breaks before the work is done.
 * - `flapping`: `refused` in the first half of each `period`.
 */
export const Kind = Schema.Literals([
  "refused",
  "hung",
  "slow",
  "readOnly",
  "full",
  "locked",
  "timedOut",
  "canceled",
  "conflict",
  "poolRefused",
  "poolHung",
  "ackLost",
  "connectionDropped",
  "flapping"
])
export type Kind = typeof Kind.Type

/** One fault. Times are milliseconds, `at` counts from the start of the layer. */
export const Fault = Schema.Struct({
  kind: Kind,
  at: Schema.Number,
  for: Schema.Number,
  /** Only operations with this name, `Service.method`; the heartbeat is `Availability.probe`. Default: all. */
  operation: Schema.optionalKey(Schema.String),
  /** How many operations it hits. Default: all in its time. */
  times: Schema.optionalKey(Schema.Int),
  /** Of `slow` and `timedOut`. Default 1 second. */
  delay: Schema.optionalKey(Schema.Number),
  /** Of `flapping`. Default 2 seconds. */
  period: Schema.optionalKey(Schema.Number)
})
export type Fault = typeof Fault.Type

/** A list of faults; where several apply, the first in the list wins. */
export const Outage = Schema.Array(Fault)
export type Outage = typeof Outage.Type

export interface FaultInput {
  readonly kind: Kind
  /** Default: from the start. */
  readonly at?: Duration.Input
  /** Default: for ever. */
  readonly for?: Duration.Input
  readonly operation?: string
  readonly times?: number
  readonly delay?: Duration.Input
  readonly period?: Duration.Input
}

const millis = (input: Duration.Input) => Duration.toMillis(Duration.fromInputUnsafe(input))

export const make = (faults: ReadonlyArray<FaultInput>): Outage =>
  faults.map(({ at, delay, for: lasting, period, ...rest }) => ({
    ...rest,
    at: millis(at ?? 0),
    for: lasting === undefined ? Number.POSITIVE_INFINITY : millis(lasting),
    ...(delay === undefined ? {} : { delay: millis(delay) }),
    ...(period === undefined ? {} : { period: millis(period) })
  }))

/** No outage at all. */
export const none: Outage = []

/** Whether the fault strikes an operation at this time. Counting `times` is up to who asks. */
export const strikes = (fault: Fault, now: number, operation: string): boolean => {
  if (now < fault.at || now >= fault.at + fault.for) return false
  if (fault.operation !== undefined && fault.operation !== operation) return false
  if (fault.kind !== "flapping") return true
  const period = fault.period ?? 2_000
  return (now - fault.at) % period < period / 2
}
