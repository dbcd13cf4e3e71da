/**
 * What is said of notifications that do not arrive while the database is there: each cause once, when it has lasted, with what it
 * means, and that it is over. Pure but for its own memory; times are monotonic milliseconds.
 *
 * A listener that is cut off, and connects again at once, is nothing to speak of; the absence of the database is
 * `Availability`'s to tell, and may reach the listener first.
 */
import { maskText } from "../logging/Masking.ts"

export interface ListenerVoice {
  /** A session has failed. `deafSince`: since when it hears nothing. `epoch`: of the connections of the database. */
  readonly failed: (failure: Failed) => string | undefined
  /** The database serves nobody: what failed before means nothing now. */
  readonly interrupted: () => void
  /** It has heard, and stayed. */
  readonly well: () => string | undefined
}

export interface Failed {
  readonly at: number
  readonly deafSince: number
  readonly epoch: number
  readonly text: string
  /** It is known to last. Default false. */
  readonly isCertain?: boolean | undefined
}

/** A failure that has not lasted for so long may be an outage, or be over. */
export const worthSaying = 5_000

/** Distinct causes that are said in one trouble. */
const mostCauses = 8

export const make = (): ListenerVoice => {
  const said = new Set<string>()
  /** Since when each cause was met. */
  const met = new Map<string, number>()
  let seenEpoch: number | undefined
  return {
    failed: ({ at, deafSince, epoch, isCertain = false, text }) => {
      if (seenEpoch !== epoch) met.clear()
      seenEpoch = epoch
      const kind = maskText(text)
      const since = met.get(kind) ?? deafSince
      if (met.size < mostCauses) met.set(kind, since)
      if ((!isCertain && at - since < worthSaying) || said.has(kind) || said.size >= mostCauses) return undefined
      said.add(kind)
      return `notifications of the database do not arrive, jobs are found by polling meanwhile: ${text}`
    },
    interrupted: () => met.clear(),
    well: () => {
      met.clear()
      if (said.size === 0) return undefined
      said.clear()
      return "notifications of the database arrive again"
    }
  }
}
