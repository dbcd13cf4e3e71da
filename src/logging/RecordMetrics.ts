/**
 * What became of log records, as metrics. What is written is counted when it is, and not by a timer: at any time the lines that
 * were handed to each logger are those `passed` and the summaries. What is held is counted when the next of it are told.
 */
import { type Context, Metric } from "effect"

const ofRecords = (outcome: string) =>
  Metric.counter("lull_log_records_total", {
    description: "Log records, by what became of them; those held are told in summaries",
    incremental: true,
    attributes: { outcome }
  })

const counters = {
  /** Handed to the loggers. */
  passed: ofRecords("passed"),
  /** Not handed on, but counted; those told since are among them. */
  held: ofRecords("held"),
  told: ofRecords("told"),
  overflowed: ofRecords("overflowed"),
  /** A logger threw. */
  failed: ofRecords("failed"),
  summaries: Metric.counter("lull_log_summaries_total", {
    description: "Lines that tell of log records that were held",
    incremental: true
  }),
  evicted: Metric.counter("lull_log_kinds_evicted_total", {
    description: "Kinds of log records that were forgotten to make room",
    incremental: true
  })
}

export type Outcome = keyof typeof counters

/** Counts so many. All are there from the beginning, with zero. */
export const make = (context: Context.Context<never>): (outcome: Outcome, records: number) => void => {
  for (const counter of Object.values(counters)) counter.updateUnsafe(0, context)
  return (outcome, records) => counters[outcome].updateUnsafe(records, context)
}
