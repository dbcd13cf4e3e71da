/**
 * An outage, as a value: what goes wrong with the database, or with the process itself, when, and for how long. The same value hits
 * the memory stores (`Database.layerScripted`) on `TestClock`, and a real PostgreSQL (`Database.faulty`). The faults of the process are
 * those of its clock: `OutageClock.layer`, beneath all that is meant to be the process.
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
 *
 * Of the process, and not of its database; seen by what runs on the clock of `OutageClock.layer`:
 *
 * - `clockStep`: the time of day is wrong by `by`, forwards or backwards, and then right again. Elapsed time goes on as it does.
 * - `stall`: the process stands still, as by SIGSTOP: none of its timers ends, and then all that are due do at once.
 * - `suspend`: its machine is suspended. Elapsed time stands still with it, and only the time of day says afterwards that it was away.
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
  "flapping",
  "clockStep",
  "stall",
  "suspend"
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
  period: Schema.optionalKey(Schema.Number),
  /** Of `clockStep`: how far the clock is ahead, or behind if it is negative. Default 1 hour. */
  by: Schema.optionalKey(Schema.Number)
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
  readonly by?: Duration.Input
}

const millis = (input: Duration.Input) => Duration.toMillis(Duration.fromInputUnsafe(input))

export const make = (faults: ReadonlyArray<FaultInput>): Outage =>
  faults.map(({ at, by, delay, for: lasting, period, ...rest }) => ({
    ...rest,
    at: millis(at ?? 0),
    for: lasting === undefined ? Number.POSITIVE_INFINITY : millis(lasting),
    ...(delay === undefined ? {} : { delay: millis(delay) }),
    ...(period === undefined ? {} : { period: millis(period) }),
    ...(by === undefined ? {} : { by: millis(by) })
  }))

/** No outage at all. */
export const none: Outage = []

/** Whether it is one of the process, and no operation of the database meets it. */
export const isOfProcess = ({ kind }: Pick<Fault, "kind">): boolean =>
  kind === "clockStep" || kind === "stall" || kind === "suspend"

/** Whether its time is now. */
export const isAt = (fault: Fault, now: number): boolean => now >= fault.at && now < fault.at + fault.for

/** Whether the fault strikes an operation at this time. Counting `times` is up to who asks. */
export const strikes = (fault: Fault, now: number, operation: string): boolean => {
  if (!isAt(fault, now) || isOfProcess(fault)) return false
  if (fault.operation !== undefined && fault.operation !== operation) return false
  if (fault.kind !== "flapping") return true
  const period = fault.period ?? 2_000
  return (now - fault.at) % period < period / 2
}
