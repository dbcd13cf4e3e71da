/**
 * What is said about an outage, and when: pure, from events to lines.
 *
 * An *episode* begins when the database becomes unavailable, and ends when it has stayed available for as long as the
 * prober calls stable (30 s). Within an episode are said
 *
 * - its beginning, with the reason;
 * - each other reason, once;
 * - the progress after 10 s, and then at doubling distances up to an hour: 10 s, 30 s, 70 s, 150 s, …;
 * - the first return, with how long it took; the second loss, which makes it a database that comes and goes; and from
 *   then on nothing but the progress, until it has settled.
 *
 * So one minute has at most six lines besides other reasons, and a day at most 37.
 */
import { Duration } from "effect"
import type { Reason } from "./Unavailable.ts"

export interface Line {
  readonly level: "Info" | "Warn"
  readonly text: string
}

interface Episode {
  readonly since: number
  readonly reasons: ReadonlySet<Reason>
  readonly interruptions: number
  /** Since when it is away; `undefined` while it is back, but has not settled. */
  readonly awaySince: number | undefined
  /** Time away in earlier interruptions of this episode. */
  readonly away: number
  readonly attempts: number
  readonly refused: number
  readonly nextProgress: number
  readonly progressDistance: number
}

export type Voice = Episode | undefined

export const silent: Voice = undefined

/** It has been lost more than once in this episode. */
export const isFlapping = (voice: Voice): boolean => voice !== undefined && voice.interruptions > 1

const firstProgress = 10_000
const longestDistance = 3_600_000

type Spoken = readonly [Voice, ReadonlyArray<Line>]

/** The database has been found unavailable: at first, or again by another attempt. */
export const unavailable = (
  voice: Voice,
  event: { readonly at: number; readonly reason: Reason; readonly detail: string }
): Spoken => {
  const because = `${event.reason}: ${event.detail}`
  if (voice === undefined) {
    return [{
      since: event.at,
      reasons: new Set([event.reason]),
      interruptions: 1,
      awaySince: event.at,
      away: 0,
      attempts: 1,
      refused: 0,
      nextProgress: event.at + firstProgress,
      progressDistance: firstProgress
    }, [warning(`database unavailable (${because})`)]]
  }
  const lost = voice.awaySince === undefined
  const next: Episode = {
    ...voice,
    reasons: voice.reasons.has(event.reason) ? voice.reasons : new Set([...voice.reasons, event.reason]),
    interruptions: voice.interruptions + (lost ? 1 : 0),
    awaySince: voice.awaySince ?? event.at,
    attempts: voice.attempts + 1
  }
  if (lost && next.interruptions === 2) {
    return [next, [
      warning(`database unavailable again (${because}): it comes and goes, and what follows is summed up`)
    ]]
  }
  if (!voice.reasons.has(event.reason)) return [next, [warning(`database unavailable for another reason (${because})`)]]
  return progress(next, event.at, because)
}

/** The database takes writes again. */
export const available = (voice: Voice, at: number, refused: number): Spoken => {
  if (voice === undefined) return [voice, []]
  if (voice.awaySince === undefined) {
    // Its return has been told; only of one that comes and goes is there more to tell.
    return voice.interruptions === 1 ? [voice, []] : progress(voice, at, "it is available now")
  }
  const next: Episode = {
    ...voice,
    awaySince: undefined,
    away: voice.away + at - voice.awaySince,
    refused: voice.refused + refused
  }
  if (voice.interruptions > 1) return progress(next, at, "it is available now")
  return [next, [{
    level: "Info",
    text: `database available again after ${lasted(next.away)}: ${counted(next.attempts, "attempt")}, ` +
      `${counted(next.refused, "call")} refused`
  }]]
}

/** It has stayed available for long enough to forget the episode. */
export const settled = (voice: Voice, at: number): Spoken => {
  if (voice === undefined || voice.interruptions === 1) return [silent, []]
  return [silent, [{
    level: "Info",
    text: `database has settled: ${voice.interruptions} interruptions over ${lasted(at - voice.since)}, away for ` +
      `${lasted(voice.away)} of it, ${counted(voice.attempts, "attempt")}, ${counted(voice.refused, "call")} refused`
  }]]
}

const progress = (voice: Episode, at: number, because: string): Spoken => {
  if (at < voice.nextProgress) return [voice, []]
  const distance = Math.min(voice.progressDistance * 2, longestDistance)
  // Nothing is made up for: after a long silence one line follows, and the next at its distance.
  const next: Episode = { ...voice, nextProgress: at + distance, progressDistance: distance }
  const away = voice.away + (voice.awaySince === undefined ? 0 : at - voice.awaySince)
  const text = voice.interruptions === 1
    ? `database still unavailable: ${counted(voice.attempts, "attempt")} over ${lasted(away)} (${because})`
    : `database comes and goes: ${voice.interruptions} interruptions over ${lasted(at - voice.since)}, away for ` +
      `${lasted(away)} of it (${because})`
  return [next, [warning(text)]]
}

const warning = (text: string): Line => ({ level: "Warn", text })

const counted = (count: number, noun: string) => `${count} ${noun}${count === 1 ? "" : "s"}`

/** To a tenth of a second below a minute, to the second above. */
const lasted = (millis: number) =>
  Duration.format(Duration.millis(millis < 60_000 ? Math.round(millis / 100) * 100 : Math.round(millis / 1000) * 1000))
