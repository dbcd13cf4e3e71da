/**
 * Ends what has had no heartbeat for its lease: jobs whose worker is gone.
 *
 * Silence during one's own outage is no evidence. A reaper counts only time in which it could itself write to the
 * database (`Availability.writableMillisSince`): after an hour without it nobody is reaped for having been silent in that
 * hour, and live workers have a whole lease to be heard again. So a job is taken from its worker when its lease has run out
 * *and* this replica could write for at least a lease since the last heartbeat.
 *
 * Every replica reaps; the fencing token and the row's lock decide who does it.
 */
import { Clock, Context, Duration, Effect, Layer } from "effect"
import { Availability } from "../database/Availability.ts"
import { DatabaseUnavailable } from "../database/Unavailable.ts"
import * as Backoff from "../loop/Backoff.ts"
import * as ControlLoop from "../loop/ControlLoop.ts"
import { Loops } from "../loop/Loops.ts"
import { type ExpiredLease, JobStore, type StoreError } from "./JobStore.ts"

export interface Options {
  /** As long as that of the workers. Default 30 seconds. */
  readonly lease?: Duration.Input | undefined
  /** Between two looks. Default 10 seconds. */
  readonly every?: Duration.Input | undefined
}

/** Jobs in one look; there is another at once when there are more. */
const atOnce = 100

/** Whether the silence of a worker proves that it is gone. Times in milliseconds. */
export const isGone = (silence: {
  readonly overdue: number
  readonly lease: number
  readonly now: number
  readonly writableSince: (at: number) => number
}): boolean => silence.writableSince(silence.now - silence.overdue - silence.lease) >= silence.lease

export class Reaper extends Context.Service<Reaper, {
  /** One look; answers how many jobs were reaped. */
  readonly look: Effect.Effect<number, StoreError>
}>()("lull/provisioner/Reaper") {
  static readonly layer = (options: Options = {}): Layer.Layer<Reaper, never, Availability | JobStore | Loops> =>
    Layer.effect(
      Reaper,
      Effect.gen(function*() {
        const availability = yield* Availability
        const loops = yield* Loops
        const store = yield* JobStore
        const lease = Duration.toMillis(Duration.fromInputUnsafe(options.lease ?? Duration.seconds(30)))
        const every = Duration.fromInputUnsafe(options.every ?? Duration.seconds(10))

        const look = Effect.gen(function*() {
          const expired = yield* store.expired(atOnce)
          const now = yield* Clock.currentTimeMillis
          const gone = expired.filter((job: ExpiredLease) =>
            isGone({
              overdue: Duration.toMillis(job.overdue),
              lease,
              now,
              writableSince: availability.writableMillisSince
            })
          )
          const reaped = yield* store.reap(gone)
          if (reaped.length > 0) {
            yield* Effect.logWarning(
              `${reaped.length} ${reaped.length === 1 ? "job was" : "jobs were"} taken from workers that are gone: ` +
                [...new Set(gone.map((job) => job.worker))].slice(0, 5).join(", ")
            )
          }
          return reaped.length
        })

        const session = Effect.forever(Effect.gen(function*() {
          yield* availability.awaitAvailable
          const reaped = yield* look
          if (reaped < atOnce) yield* Effect.sleep(every)
        }))

        const loop = yield* ControlLoop.make({
          name: "reaper",
          session,
          policy: Backoff.acquire,
          quiet: (cause) =>
            cause.reasons.every((reason) => reason._tag === "Fail" && reason.error instanceof DatabaseUnavailable)
        })
        yield* loops.fork(loop.name, loop.run)
        return Reaper.of({ look })
      })
    )
}
