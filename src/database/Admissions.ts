/**
 * What the door asks before each call, and says after it: the inner side of `Availability`. For the door alone.
 */
import { Context, type Duration, type Effect } from "effect"
import type { Failure, Reason } from "./Unavailable.ts"

/** Whose work it is: an application's, or Lull's own, of which some has to get through while the pool does not. */
export interface Caller {
  readonly operation: string
  readonly whose: "application" | "own" | "vital"
}

/** Why a call is refused. */
export interface Refusal {
  readonly reason: Reason
  readonly detail: string
  /** In milliseconds of the Unix epoch. */
  readonly since: number
  readonly attempts: number
  /** When it is worth asking again. */
  readonly retryAfter: Duration.Duration
}

/** `HeartbeatOnly`: over the heartbeat's connection, as the pool is in trouble. */
export type Admission =
  | { readonly _tag: "Pass" | "HeartbeatOnly" }
  | { readonly _tag: "Refused"; readonly refusal: Refusal }

/** What went wrong with work that was admitted. `Overdue`: it took longer than the door's deadline. */
export type Ended = Failure | { readonly _tag: "Overdue"; readonly detail: string }

export class Admissions extends Context.Service<Admissions, {
  /** Asked before each call. What is admitted has to be answered with one of the next three. */
  readonly admit: (caller: Caller) => Effect.Effect<Admission>
  /** `at`: monotonic milliseconds. `lane`: on whose connection it was done. */
  readonly succeeded: (caller: Caller, how: { readonly at: number; readonly lane: "pool" | "heartbeat" }) => void
  /** Work ended in a way that may say something of the database. `isByOthers`: and nothing of its operation. */
  readonly failed: (caller: Caller, ended: Ended, isByOthers: boolean) => Effect.Effect<void>
  /** Work ended in a way that says nothing. */
  readonly withoutEvidence: (caller: Caller) => void
  /** Why callers are not served now; `undefined` if they are. */
  readonly refusal: Effect.Effect<Refusal | undefined>
  /** Asks for a heartbeat, and waits until it has decided, or one that is under way has found a trouble; not for longer than this. */
  readonly verdict: (within: Duration.Duration) => Effect.Effect<void>
}>()("lull/database/Admissions") {}
