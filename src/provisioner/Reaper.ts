/**
 * Takes jobs from workers that are gone.
 *
 * A worker is gone when the lease of its job **has not changed for a whole lease of this reaper's own writable time**: time
 * on a monotonic clock in which this replica could itself write (`Availability.writableMillis`). No clock of the database or of
 * another machine is asked, so that one that jumps changes nothing, in either direction; an outage counts for nobody, nor does
 * time in which this process stood still.
 *
 * - What was seen of another history of the data (a failover, a restore) proves nothing: all leases are watched from the
 *   beginning, and live workers renew theirs in the first seconds.
 * - What runs in this process is never taken, whatever its lease says (`LocalWorkers`).
 * - A row on which somebody holds a lock could not be renewed: its time begins when the lock is gone.
 * - A look is a write, so that it fails on a table that takes none: leases could not have been renewed either.
 *
 * Every replica reaps; a lease that was renewed since it was seen, the fencing token and the row's lock decide who does it.
 */
import { Context, Duration, Effect, Layer } from "effect"
import { Availability } from "../database/Availability.ts"
import { DatabaseUnavailable } from "../database/Unavailable.ts"
import * as Backoff from "../loop/Backoff.ts"
import * as ControlLoop from "../loop/ControlLoop.ts"
import { Loops } from "../loop/Loops.ts"
import { JobId, leaseKey } from "./Job.ts"
import { JobStore, type KnownLease, type StoreError } from "./JobStore.ts"
import { LocalWorkers } from "./LocalWorkers.ts"

export interface Options {
  /** As long as that of the workers. Default 30 seconds. */
  readonly lease?: Duration.Input | undefined
  /** Between two looks. Default 10 seconds. */
  readonly every?: Duration.Input | undefined
}

/** Jobs that are taken in one statement. */
const atOnce = 100

interface Seen {
  readonly renewal: string
  /** Since when it has not changed, in writable time. */
  readonly since: number
  /** Since when it is known that its row could be changed, if that was asked. */
  readonly freeSince: number | undefined
}

/** What is known of leases. */
export type Watch = ReadonlyMap<string, Seen>

export const nothingSeen: Watch = new Map()

/** From this part of a lease on, one that has not changed is suspected. */
const suspicious = 1 / 2

/** For this part of a lease its row has to have been free: a worker that lives renews it several times meanwhile. */
const chance = 1 / 3

/** Leases that have not changed for long enough to ask whether somebody holds a lock on them. */
export const suspects = (known: Watch, now: number, lease: number): ReadonlyArray<string> =>
  [...known].filter(([, { since }]) => now - since >= lease * suspicious).map(([key]) => key)

/**
 * A look: what is known from now on, and which leases have not changed for too long. Pure. `asked` and `answered` are the
 * writable time before and after the leases were read: both err on the side of patience.
 */
export const look = (
  known: Watch,
  seen: ReadonlyArray<KnownLease>,
  time: { readonly asked: number; readonly answered: number; readonly lease: number }
): readonly [Watch, gone: ReadonlyArray<KnownLease>] => {
  const asked = new Set(suspects(known, time.asked, time.lease))
  const next = new Map<string, Seen>()
  const gone: Array<KnownLease> = []
  for (const lease of seen) {
    const key = leaseKey(lease)
    const before = known.get(key)
    // A row that somebody has locked could not be renewed: its silence proves nothing.
    if (before === undefined || before.renewal !== lease.renewal || (asked.has(key) && lease.isLocked)) {
      next.set(key, { renewal: lease.renewal, since: time.answered, freeSince: undefined })
      continue
    }
    next.set(key, { ...before, freeSince: before.freeSince ?? (asked.has(key) ? time.answered : undefined) })
    const { freeSince, since } = before
    const hadItsChance = freeSince !== undefined && time.asked - freeSince >= time.lease * chance
    if (hadItsChance && time.asked - since >= time.lease) gone.push(lease)
  }
  return [next, gone]
}

export class Reaper extends Context.Service<Reaper, {
  /** One look; answers how many jobs were taken from their workers. */
  readonly look: Effect.Effect<number, StoreError>
}>()("lull/provisioner/Reaper") {
  static readonly layer = (
    options: Options = {}
  ): Layer.Layer<Reaper, never, Availability | LocalWorkers | JobStore | Loops> => Layer.effect(Reaper, make(options))
}

const jobsOf = (keys: Iterable<string>) =>
  [...keys].map((key) => JobId.make(key.split("/")[0] ?? "", { disableChecks: true }))

const make = Effect.fnUntraced(function*(options: Options) {
  const availability = yield* Availability
  const localWorkers = yield* LocalWorkers
  const loops = yield* Loops
  const store = yield* JobStore
  const lease = Duration.toMillis(Duration.fromInputUnsafe(options.lease ?? Duration.seconds(30)))
  const every = Duration.fromInputUnsafe(options.every ?? Duration.seconds(10))
  let watch = nothingSeen
  let history = availability.history()

  const lookOnce = Effect.gen(function*() {
    const asked = availability.writableMillis()
    const suspected = new Set(suspects(watch, asked, lease))
    const seen = yield* store.leases(jobsOf(suspected))
    if (availability.history() !== history) {
      history = availability.history()
      watch = nothingSeen
    }
    const [next, silent] = look(watch, seen, { asked, answered: availability.writableMillis(), lease })
    watch = next
    const gone = silent.filter((known) => !localWorkers.holds(known))
    let count = 0
    for (let from = 0; from < gone.length; from += atOnce) {
      count += (yield* store.reap(gone.slice(from, from + atOnce))).length
    }
    if (count > 0) {
      yield* Effect.logWarning(
        `${count} ${count === 1 ? "job was" : "jobs were"} taken from workers that are gone: ` +
          [...new Set(gone.map(({ worker }) => worker))].slice(0, 5).join(", ")
      )
    }
    return count
  })

  const loop = yield* ControlLoop.make({
    name: "reaper",
    session: Effect.forever(
      Effect.andThen(availability.awaitAvailable, Effect.andThen(lookOnce, Effect.sleep(every)))
    ),
    policy: Backoff.acquire,
    quiet: (cause) =>
      cause.reasons.every((reason) => reason._tag === "Fail" && reason.error instanceof DatabaseUnavailable)
  })
  yield* loops.fork(loop.name, loop.run)
  return Reaper.of({ look: lookOnce })
})
