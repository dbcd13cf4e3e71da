/**
 * What is said about an outage or a degradation, and when: pure, from events to lines.
 *
 * An *episode* begins when the database becomes unavailable or degraded, and ends when all has been well for as long as the
 * prober calls stable (30 s). Within an episode are said
 *
 * - its beginning, with the reason;
 * - each other reason, once, and two in a minute: a change from one condition to the other is another reason, and no end;
 * - the progress after 10 s, and then at doubling distances up to an hour: 10 s, 30 s, 70 s, 150 s, …;
 * - the first return, with how long it took; the second loss, which makes it a database that comes and goes; and from
 *   then on nothing but the progress, until it has settled.
 *
 * So one minute has at most eight lines, a second three, and a day at most 37 besides other reasons.
 */
import { Duration } from "effect"
import type { Reason } from "./Unavailable.ts"

export interface Line {
  readonly level: "Info" | "Warn"
  readonly text: string
}

/** `degraded`: the heartbeat is written, and callers are not served, or not all of them. */
export type Condition = "unavailable" | "degraded"

interface Episode {
  readonly since: number
  /** What has been said, and the reasons with their conditions. */
  readonly named: ReadonlySet<string>
  readonly interruptions: number
  /** Since when it is away; `undefined` while it is back, but has not settled. */
  readonly awaySince: number | undefined
  /** The condition now, or that of the last interruption. */
  readonly condition: Condition
  /** It was unavailable since it was last well. */
  readonly wasUnavailable: boolean
  /** Time away in earlier interruptions of this episode. */
  readonly away: number
  readonly attempts: number
  readonly refused: number
  readonly nextProgress: number
  readonly progressDistance: number
  /** When lines were said, in the last second. */
  readonly recent: ReadonlyArray<number>
  /** When other reasons were named, in the last minute. */
  readonly othersNamed: ReadonlyArray<number>
}

export type Voice = Episode | undefined

export const silent: Voice = undefined

/** It has been lost more than once in this episode. */
export const isFlapping = (voice: Voice): boolean => voice !== undefined && voice.interruptions > 1

const firstProgress = 10_000
const longestDistance = 3_600_000

/** Other reasons that are named in a minute. */
const otherReasons = 2
const minute = 60_000
const second = 1_000
/** Lines in a second; what is not an end has to leave room for one. */
const inSecond = 3

const recently = (voice: Episode, at: number) => voice.recent.filter((said) => at - said < second)
const saying = (voice: Episode, at: number): Episode => ({ ...voice, recent: [...recently(voice, at), at] })

type Spoken = readonly [Voice, ReadonlyArray<Line>]

export interface Trouble {
  readonly at: number
  readonly reason: Reason
  readonly detail: string
  /** Attempts since the last event. Default 1. */
  readonly attempts?: number | undefined
}

/** The database has been found unavailable: at first, or again by another attempt. */
export const unavailable = (voice: Voice, event: Trouble): Spoken => trouble(voice, "unavailable", event)

/** The heartbeat was written, and callers are not served: at first, or as another attempt has found. */
export const degraded = (voice: Voice, event: Trouble): Spoken => trouble(voice, "degraded", event)

const trouble = (voice: Voice, condition: Condition, { at, attempts = 1, detail, reason }: Trouble): Spoken => {
  const because = `${reason}: ${detail}`
  const name = `${condition} ${reason}`
  if (voice === undefined) {
    return [{
      since: at,
      named: new Set([name]),
      interruptions: 1,
      awaySince: at,
      condition,
      wasUnavailable: condition === "unavailable",
      away: 0,
      attempts,
      refused: 0,
      nextProgress: at + firstProgress,
      progressDistance: firstProgress,
      recent: [at],
      othersNamed: []
    }, [warning(`database ${condition} (${because})`)]]
  }
  const lost = voice.awaySince === undefined
  const next: Episode = {
    ...voice,
    interruptions: voice.interruptions + (lost ? 1 : 0),
    awaySince: voice.awaySince ?? at,
    condition,
    wasUnavailable: condition === "unavailable" || (!lost && voice.wasUnavailable),
    attempts: voice.attempts + attempts
  }
  if (lost && next.interruptions === 2 && recently(voice, at).length < inSecond) {
    return [saying({ ...next, named: new Set([...voice.named, name]) }, at), [
      warning(`database ${condition} again (${because}): it comes and goes, and what follows is summed up`)
    ]]
  }
  return voice.named.has(name) ? progress(next, at, because) : nameAnother(next, at, name, because)
}

/** What cannot be named now is named by a later attempt, if it is still so. */
const nameAnother = (voice: Episode, at: number, name: string, because: string): Spoken => {
  const othersNamed = voice.othersNamed.filter((named) => at - named < minute)
  if (othersNamed.length >= otherReasons || recently(voice, at).length >= inSecond - 1) {
    return progress(voice, at, because)
  }
  const wasSo = [...voice.named].some((other) => other.startsWith(voice.condition))
  const text = wasSo
    ? `database ${voice.condition} for another reason (${because})`
    : `database ${voice.condition} (${because})`
  const next = { ...voice, named: new Set([...voice.named, name]), othersNamed: [...othersNamed, at] }
  return [saying(next, at), [warning(text)]]
}

/** The database takes writes again, and callers are served. */
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
  const end = voice.wasUnavailable ? "database available again" : "database no longer degraded"
  return [saying(next, at), [{
    level: "Info",
    text: `${end} after ${lasted(next.away)}: ${counted(next.attempts, "attempt")}, ` +
      `${counted(next.refused, "call")} refused`
  }]]
}

/** All has been well for long enough to forget the episode. */
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
  const next = saying({ ...voice, nextProgress: at + distance, progressDistance: distance }, at)
  const away = voice.away + (voice.awaySince === undefined ? 0 : at - voice.awaySince)
  const text = voice.interruptions === 1
    ? `database still ${voice.condition}: ${counted(voice.attempts, "attempt")} over ${lasted(away)} (${because})`
    : `database comes and goes: ${voice.interruptions} interruptions over ${lasted(at - voice.since)}, away for ` +
      `${lasted(away)} of it (${because})`
  return [next, [warning(text)]]
}

const warning = (text: string): Line => ({ level: "Warn", text })

const counted = (count: number, noun: string) => `${count} ${noun}${count === 1 ? "" : "s"}`

/** To a tenth of a second below a minute, to the second above. */
const lasted = (millis: number) =>
  Duration.format(Duration.millis(millis < 60_000 ? Math.round(millis / 100) * 100 : Math.round(millis / 1000) * 1000))
