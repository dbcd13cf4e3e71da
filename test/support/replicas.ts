/**
 * Replicas on memory stores: each has its own door, prober, worker, reaper and clock, and they share the rows and the
 * notifications, as they would share a PostgreSQL. A script of faults hits each replica by itself.
 */
import { Clock, Context, type Duration, Effect, Exit, Layer, Logger, Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import { Notifications } from "../../src/database/Notifications.ts"
import { Replica } from "../../src/database/Replica.ts"
import { Loops } from "../../src/loop/Loops.ts"
import * as AcquireLoop from "../../src/provisioner/AcquireLoop.ts"
import { ExecutionFailed, Executor, type ExecutorUnable, type JobOutput } from "../../src/provisioner/Executor.ts"
import { JobId, type JobRequest, type LeasedJob, request } from "../../src/provisioner/Job.ts"
import { JobStore } from "../../src/provisioner/JobStore.ts"
import * as JobStoreMemory from "../../src/provisioner/JobStoreMemory.ts"
import { LocalWorkers } from "../../src/provisioner/LocalWorkers.ts"
import * as Reaper from "../../src/provisioner/Reaper.ts"
import * as Outage from "../../src/testing/Outage.ts"
import * as OutageClock from "../../src/testing/OutageClock.ts"

/** What is outside the replicas. */
export const World = Layer.mergeAll(
  JobStoreMemory.JobTable.layer,
  Notifications.layerMemory,
  SecureRandom.layerWebCrypto
)

export interface Run {
  readonly job: JobId
  readonly replica: string
  readonly at: number
  readonly event: "started" | "ended" | "interrupted"
}

export interface Options {
  readonly name?: string
  readonly outage?: Outage.Outage
  readonly worker?: AcquireLoop.Options
  readonly reaper?: Reaper.Options | false
  /** Called with each acquire that is asked of the store. */
  readonly onAcquire?: () => void
  /** How long the answer to an acquire is under way. */
  readonly answerAfter?: Duration.Input
  readonly execute?: (job: LeasedJob, output: JobOutput) => Effect.Effect<unknown, ExecutionFailed | ExecutorUnable>
  readonly types?: ReadonlyArray<string>
  readonly ready?: Effect.Effect<void, ExecutorUnable>
}

/** Takes its input `{ millis }` as long as it says, and returns it; `{ fail }` fails. */
export const execute = (job: LeasedJob): Effect.Effect<unknown, ExecutionFailed> => {
  const input = (job.input ?? {}) as { readonly millis?: number; readonly fail?: string }
  return Effect.andThen(
    Effect.sleep(input.millis ?? 0),
    input.fail === undefined
      ? Effect.succeed({ done: job.job })
      : Effect.fail(new ExecutionFailed({ error: input.fail, result: null }))
  )
}

/** The notifications of one process: while it stands still it hears nothing. */
export const ownNotifications = () =>
  Layer.effect(
    Notifications,
    Effect.gen(function*() {
      const shared = yield* Notifications
      const runFork = Effect.runForkWith(yield* Effect.context<never>())
      return Notifications.of({
        ...shared,
        subscribe: (hear) =>
          shared.subscribe((event) => {
            runFork(Effect.andThen(OutageClock.running, Effect.sync(() => hear(event))))
          })
      })
    })
  )

/** Starts a replica; its scope is the caller's, or `stop` ends it earlier. */
export const replica = Effect.fnUntraced(function*(runs: Array<Run>, options: Options = {}) {
  const name = options.name ?? "a"
  const outage = options.outage ?? Outage.none
  const record = (job: LeasedJob, event: Run["event"]) =>
    Effect.map(
      OutageClock.outside,
      (clock) => void runs.push({ job: job.job, replica: name, at: clock.currentTimeMillisUnsafe(), event })
    )
  const RecordingExecutor = Layer.succeed(Executor, {
    types: options.types,
    ready: options.ready,
    run: (job: LeasedJob, output: JobOutput) =>
      record(job, "started").pipe(
        Effect.andThen((options.execute ?? execute)(job, output)),
        Effect.tap(record(job, "ended")),
        Effect.onInterrupt(() => record(job, "interrupted"))
      )
  })
  const CountingStore = Layer.effect(
    JobStore,
    Effect.map(JobStore, (store) => ({
      ...store,
      acquire: (asked) =>
        Effect.suspend(() => {
          options.onAcquire?.()
          return Effect.tap(store.acquire(asked), Effect.sleep(options.answerAfter ?? 0))
        })
    }))
  ).pipe(Layer.provide(JobStoreMemory.layer))
  const layer = Layer.mergeAll(
    AcquireLoop.AcquireLoop.layer(options.worker),
    ...(options.reaper === false ? [] : [Reaper.Reaper.layer(options.reaper)])
  ).pipe(
    Layer.provide(LocalWorkers.layer),
    Layer.provideMerge(CountingStore),
    Layer.provideMerge(Database.layerScripted(outage)),
    Layer.provideMerge(Loops.layer),
    Layer.provide(RecordingExecutor),
    Layer.provide(Layer.succeed(Replica, { id: name, name })),
    Layer.provide(ownNotifications()),
    Layer.provideMerge(OutageClock.layer(outage)),
    Layer.fresh
  )
  const scope = yield* Scope.make()
  const services = yield* Layer.buildWithScope(layer, scope)
  const clock = Context.make(Clock.Clock, Context.get(services, Clock.Clock))
  const stop = Scope.close(scope, Exit.void)
  yield* Effect.addFinalizer(() => stop)
  return {
    /** As the process does it, by its own clock, and when it does not stand still. */
    inside: <A, E, R>(work: Effect.Effect<A, E, R>) =>
      Effect.provideContext(Effect.andThen(OutageClock.running, work), clock),
    store: Context.get(services, JobStore),
    availability: Context.get(services, Availability),
    worker: Context.get(services, AcquireLoop.AcquireLoop),
    stop
  }
})

/** New ids in order of their making. */
export const newJobs = Effect.fnUntraced(function*(requests: ReadonlyArray<Partial<JobRequest>>) {
  const random = yield* SecureRandom.SecureRandom
  return yield* Effect.forEach(
    requests,
    (options) => Effect.map(random.uuidV7(), (id) => ({ ...request({ type: "test", ...options }), id: JobId.make(id) }))
  )
})

/** Collects what is logged, at any level, with the time of the test's clock. */
export const collectLines = () => {
  const lines: Array<{ readonly at: number; readonly level: string; readonly text: string }> = []
  const layer = Logger.layer([
    Logger.make(({ date, logLevel, message }) => {
      lines.push({ at: date.getTime(), level: logLevel, text: [message].flat().map(String).join(" ") })
    })
  ])
  return { lines, layer }
}
