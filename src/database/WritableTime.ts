/**
 * How much time has passed in which the database was seen to take our writes: the spans between heartbeats that followed
 * each other without a failure. Pure but for its own sum.
 *
 * Times are monotonic, so that a clock that is set changes nothing. A gap longer than heartbeats can be apart is no writable
 * time, whatever was written before and after it: the process was stopped, its machine suspended, its event loop blocked.
 */
export interface WritableTime {
  /** A heartbeat was written at this time. */
  readonly written: (at: number) => void
  /** A heartbeat failed: the next one begins a new span. */
  readonly interrupted: () => void
  /** Milliseconds of writable time so far. */
  readonly total: () => number
}

/** `longestGap`: milliseconds between two heartbeats that may still be one span. */
export const make = (longestGap: number): WritableTime => {
  let total = 0
  let last: number | undefined
  return {
    written: (at) => {
      if (last !== undefined && at - last <= longestGap) total += Math.max(0, at - last)
      last = at
    },
    interrupted: () => {
      last = undefined
    },
    total: () => total
  }
}
