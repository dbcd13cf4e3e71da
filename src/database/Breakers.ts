/**
 * Which of Lull's own operations are refused, as they fail again and again while the heartbeat is well: a circuit breaker
 * for each. Pure but for its own memory: what happens comes in with its time, decisions come out.
 *
 * - An operation that failed twice in a row for one reason is **open**: it is refused at once, but for one trial at each
 *   step of the backoff. Any success of it closes it, and lets the others that failed for the same reason try at once.
 * - All open operations share the steps, so that the attempts do not grow with their number; the one that has waited for
 *   longest is next.
 * - An operation that nobody calls any more is forgotten after five seconds, or it would be called failing for ever. Of a
 *   full disk nobody's silence is evidence: somebody has to have written what needs new space.
 */
import type { Reason } from "./Unavailable.ts"

/** Why a call was refused, and when the next trial may be made. */
export interface Open {
  readonly operation: string
  readonly reason: Reason
  readonly detail: string
  /** Since when it is refused. */
  readonly since: number
  readonly nextTrial: number
}

export type Admission = { readonly _tag: "Pass" } | { readonly _tag: "Trial" } | Open & { readonly _tag: "Refused" }

export interface Failure {
  readonly at: number
  readonly reason: Reason
  readonly detail: string
}

export interface Breakers {
  /** Somebody calls an operation. What is admitted has to be answered with `succeeded`, `failed` or `withoutEvidence`. */
  readonly call: (operation: string, at: number) => Admission
  /** Answers whether an operation was open, and is closed now. */
  readonly succeeded: (operation: string) => boolean
  /** `Opened`, `StillOpen`: the next trial is to be paced by `pace`. */
  readonly failed: (operation: string, failure: Failure) => "Counted" | "Opened" | "StillOpen"
  /** It ended in a way that says nothing of the database: interrupted, refused data, a conflict. */
  readonly withoutEvidence: (operation: string) => void
  /** The next trial of any operation is made at this time, or later. */
  readonly pace: (nextTrial: number) => void
  /** Forgets what nobody calls. `hasSpace`: a write that needs new space has just passed. Answers whether one was open. */
  readonly forget: (at: number, hasSpace: boolean) => boolean
  /** An operation is open for want of space, and nobody calls it, so that nobody would notice that there is space again. */
  readonly needsSpaceTest: (at: number) => boolean
  /** Nothing has failed. */
  readonly isEmpty: () => boolean
  /** The one that is open for longest. */
  readonly worst: () => Open | undefined
  /** The database was away, or is another one: what was known of it means nothing now. */
  readonly clear: () => void
}

/** Failures in a row that open an operation. */
const failuresThatOpen = 2

/** What has no reason of its own may be the fault of one row: others' successes come in between, if there are others. */
const unknownFailuresThatOpen = 3

/** An operation that was not called for this long is forgotten. */
export const forgetAfter = 5_000

/** How long a step waits for the operation whose turn it is, before it is anybody's. */
const turnLasts = 250

/** Until the answer to a trial is there, no other is made for this long: of any operation, and of the same one. */
const trialLasts = 1_000
const answerLasts = 10_000

interface Operation {
  reason: Reason
  detail: string
  failures: number
  openSince: number | undefined
  lastCall: number
  lastTrial: number
  /** A trial is under way, since `lastTrial`. */
  isTrying: boolean
  /** Another operation that had failed for the same reason has succeeded. */
  mayTry: boolean
}

/** An answer that has not come by then does not come any more, and the operation would be refused for ever. */
const isTrying = (operation: Operation, at: number) => operation.isTrying && at - operation.lastTrial < answerLasts

export const make = (): Breakers => {
  const operations = new Map<string, Operation>()
  let nextTrial = 0

  const open = (name: string, operation: Operation): Open => ({
    operation: name,
    reason: operation.reason,
    detail: operation.detail,
    since: operation.openSince ?? 0,
    nextTrial
  })

  /** No other open operation that is still called has waited for longer. */
  const isItsTurn = (operation: Operation, at: number) => {
    for (const other of operations.values()) {
      if (
        other !== operation && other.openSince !== undefined && !isTrying(other, at) &&
        other.lastTrial < operation.lastTrial && at - other.lastCall < forgetAfter
      ) return false
    }
    return true
  }

  return {
    call: (name, at) => {
      const operation = operations.get(name)
      if (operation === undefined) return passes
      operation.lastCall = at
      if (operation.openSince === undefined) return passes
      const isDue = operation.mayTry ||
        (at >= nextTrial && (isItsTurn(operation, at) || at >= nextTrial + turnLasts))
      if (isTrying(operation, at) || !isDue) return { _tag: "Refused", ...open(name, operation) }
      if (!operation.mayTry) nextTrial = at + trialLasts
      operation.mayTry = false
      operation.isTrying = true
      operation.lastTrial = at
      return { _tag: "Trial" }
    },
    succeeded: (name) => {
      const operation = operations.get(name)
      if (operation === undefined) return false
      operations.delete(name)
      if (operation.openSince === undefined) return false
      for (const other of operations.values()) other.mayTry ||= other.reason === operation.reason
      return true
    },
    failed: (name, { at, detail, reason }) => {
      let operation = operations.get(name)
      if (operation === undefined) {
        operation = {
          reason,
          detail,
          failures: 0,
          openSince: undefined,
          lastCall: at,
          lastTrial: at,
          isTrying: false,
          mayTry: false
        }
        operations.set(name, operation)
      }
      if (operation.reason !== reason) operation.failures = 0
      operation.failures++
      operation.reason = reason
      operation.detail = detail
      operation.isTrying = false
      operation.mayTry = false
      if (operation.openSince !== undefined) return "StillOpen"
      if (operation.failures < (reason === "Failing" ? unknownFailuresThatOpen : failuresThatOpen)) return "Counted"
      operation.openSince = at
      operation.lastTrial = at
      return "Opened"
    },
    withoutEvidence: (name) => {
      const operation = operations.get(name)
      if (operation !== undefined) operation.isTrying = false
    },
    pace: (at) => {
      nextTrial = at
    },
    forget: (at, hasSpace) => {
      let wasOpen = false
      for (const [name, operation] of operations) {
        if (isTrying(operation, at) || at - operation.lastCall < forgetAfter) continue
        if (operation.reason === "Full" && operation.openSince !== undefined && !hasSpace) continue
        operations.delete(name)
        wasOpen ||= operation.openSince !== undefined
      }
      return wasOpen
    },
    needsSpaceTest: (at) => {
      for (const operation of operations.values()) {
        if (
          operation.reason === "Full" && operation.openSince !== undefined && at - operation.lastCall >= forgetAfter
        ) {
          return true
        }
      }
      return false
    },
    isEmpty: () => operations.size === 0,
    worst: () => {
      let worst: Open | undefined
      for (const [name, operation] of operations) {
        if (operation.openSince === undefined) continue
        if (worst === undefined || operation.openSince < worst.since) worst = open(name, operation)
      }
      return worst
    },
    clear: () => {
      operations.clear()
      nextTrial = 0
    }
  }
}

const passes: Admission = { _tag: "Pass" }
