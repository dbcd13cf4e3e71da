/**
 * The time in which the database was seen to take our writes: the spans between heartbeats that followed each other
 * without a failure. Pure but for its own list, and bounded: the oldest spans are forgotten, which counts them as time in
 * which nothing could be written. That errs on the side of patience.
 */
export interface WritableTime {
  /** A heartbeat was written at this time. */
  readonly written: (at: number) => void
  /** A heartbeat failed: the next one begins a new span. */
  readonly interrupted: () => void
  /** Milliseconds of writable time since `at`. */
  readonly since: (at: number) => number
}

/** Outages that are remembered one by one. */
const rememberedSpans = 64

export const make = (): WritableTime => {
  const spans: Array<{ readonly from: number; to: number }> = []
  let continues = false
  return {
    written: (at) => {
      const last = spans.at(-1)
      if (continues && last !== undefined) {
        last.to = Math.max(last.to, at)
        return
      }
      continues = true
      spans.push({ from: at, to: at })
      if (spans.length > rememberedSpans) spans.shift()
    },
    interrupted: () => {
      continues = false
    },
    since: (at) => {
      let total = 0
      for (const { from, to } of spans) total += Math.max(0, to - Math.max(from, at))
      return total
    }
  }
}
