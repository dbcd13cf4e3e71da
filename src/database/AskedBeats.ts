/**
 * When a heartbeat that somebody asks for may be made: at once, for a few of them, and then at a pace. Each failure may ask
 * for one, and there may be thousands of failures a second. Pure but for its own memory; times are monotonic milliseconds.
 */
export interface AskedBeats {
  /** The earliest time for the next one. */
  readonly dueAt: () => number
  /** A heartbeat was made, asked for or not. */
  readonly made: (at: number) => void
}

/** So many in a row are made at once: a failure is looked at without delay where failures are rare. */
export const atOnce = 5

/** Milliseconds between two, after those. */
export const pace = 500

export const make = (): AskedBeats => {
  /** When those that were made would be due, had they been asked for at the pace. */
  let paidUntil = Number.NEGATIVE_INFINITY
  return {
    dueAt: () => paidUntil - (atOnce - 1) * pace,
    made: (at) => {
      paidUntil = Math.max(paidUntil, at) + pace
    }
  }
}
