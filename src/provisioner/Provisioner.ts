/**
 * The provisioner in one layer: what an application embeds to hand out jobs and run them.
 *
 * ```ts
 * const Live = Provisioner.layerPostgres({ url: Redacted.make("postgres://…"), worker: { slots: 10 } }).pipe(
 *   Layer.provide(Executor.layerHandlers({ greet: (job) => Effect.succeed(`hello ${String(job.input)}`) }))
 * )
 *
 * const program = Effect.gen(function*() {
 *   const provisioner = yield* Provisioner
 *   const job = yield* provisioner.submit({ type: "greet", input: "world" })
 *   const ended = yield* provisioner.awaitEnd(job.id)
 * })
 * ```
 *
 * The layer needs no database to be there when it is built: it works when the database comes. What each part does, and
 * how to replace it, is in the modules that are wired here.
 */
import { Array, Context, Data, Duration, Effect, Layer, Schedule } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { Availability } from "../database/Availability.ts"
import type { InvalidDatabaseUrl } from "../database/ConnectionUrl.ts"
import * as Foundation from "../database/Foundation.ts"
import { openTransaction } from "../database/Link.ts"
import type { Notifications } from "../database/Notifications.ts"
import type { Replica } from "../database/Replica.ts"
import { DatabaseUnavailable } from "../database/Unavailable.ts"
import type { Loops } from "../loop/Loops.ts"
import * as AcquireLoop from "./AcquireLoop.ts"
import type { Executor } from "./Executor.ts"
import { type InvalidJob, isTerminal, type Job, type JobId, type JobRequest, request } from "./Job.ts"
import * as JobIds from "./JobIds.ts"
import { type IdempotencyConflict, type JobNotFound, JobStore, type QueryError, type StoreError } from "./JobStore.ts"
import * as JobStoreMemory from "./JobStoreMemory.ts"
import * as JobStorePostgres from "./JobStorePostgres.ts"
import { LocalWorkers } from "./LocalWorkers.ts"
import * as Reaper from "./Reaper.ts"
import { traced } from "./Traced.ts"
import * as Unserved from "./Unserved.ts"

export type Submission = Partial<JobRequest> & { readonly type: string }

export class Provisioner extends Context.Service<Provisioner, {
  /** Stores a job. When the answer is lost it asks again, for up to `settleWithin`, and so knows in most cases. */
  readonly submit: (submission: Submission) => Effect.Effect<Job, StoreError | IdempotencyConflict | InvalidJob>
  /** Stores many at once, all or none. At most `limits.submission`. */
  readonly submitAll: (
    submissions: ReadonlyArray<Submission>
  ) => Effect.Effect<ReadonlyArray<Job>, StoreError | IdempotencyConflict | InvalidJob>
  /**
   * Waits until the job has ended, through outages, and answers with it. Looks four times a second at most. Fails with
   * `ResultUnreadable` if the job has ended and its result can not be read.
   */
  readonly awaitEnd: (id: JobId) => Effect.Effect<Job, JobNotFound | ResultUnreadable | QueryError>
  /** Why a pending job is not started: no worker runs jobs of its type with its tags. `undefined`: one does, or it is not known. */
  readonly remark: (job: Job) => Effect.Effect<string | undefined>
}>()("lull/provisioner/Provisioner") {
  /** On PostgreSQL, with a worker in this process. */
  static readonly layerPostgres = (
    options: Foundation.PostgresOptions & WorkerOptions
  ): Layer.Layer<Services, InvalidDatabaseUrl, Executor> =>
    Provisioner.layerStores(options).pipe(
      Layer.provideMerge(JobStorePostgres.layer),
      Layer.provideMerge(Foundation.layerPostgres(options))
    )

  /** In memory, behind a scripted outage: for tests on `TestClock`. */
  static readonly layerMemory = (
    options: Foundation.MemoryOptions & WorkerOptions = {}
  ): Layer.Layer<Services, never, Executor> =>
    Provisioner.layerStores(options).pipe(
      Layer.provideMerge(JobStoreMemory.layer),
      Layer.provide(JobStoreMemory.JobTable.layer),
      Layer.provideMerge(Foundation.layerMemory(options))
    )

  /** On whatever stores are given. */
  static readonly layerStores = (
    options: WorkerOptions
  ): Layer.Layer<
    Provisioner | AcquireLoop.AcquireLoop | Reaper.Reaper,
    never,
    Availability | Executor | JobStore | Loops | Notifications | Replica | SecureRandom.SecureRandom
  > =>
    Layer.mergeAll(
      Layer.effect(Provisioner, make),
      AcquireLoop.AcquireLoop.layer(options.worker),
      Reaper.Reaper.layer({ lease: options.worker?.lease, ...options.reaper })
    ).pipe(Layer.provide(LocalWorkers.layer))
}

/** The job has ended, and its result is too large to be read, or is no JSON. */
export class ResultUnreadable extends Data.TaggedError("ResultUnreadable")<{ readonly id: JobId; readonly job: Job }> {
  override get message() {
    return `job ${this.id} has ended as ${this.job.status}, and its result can not be read: it is too large, or not JSON`
  }
}

/** All that the layers give, for those who want a part. */
export type Services =
  | Provisioner
  | AcquireLoop.AcquireLoop
  | Reaper.Reaper
  | JobStore
  | Foundation.Services

export interface WorkerOptions {
  readonly worker?: AcquireLoop.Options | undefined
  readonly reaper?: Reaper.Options | undefined
}

/**
 * How long a submission whose answer was lost is asked for again, before its caller is told that it is unknown: enough for a
 * connection that broke, and not so long that the callers of an outage pile up.
 */
const settleWithin = Duration.seconds(1)

const make = Effect.gen(function*() {
  const availability = yield* Availability
  const jobIds = JobIds.make(yield* SecureRandom.SecureRandom)
  const store = yield* JobStore
  const unserved = yield* Unserved.make(store, yield* LocalWorkers)

  const submitAll = Effect.fnUntraced(function*(submissions: ReadonlyArray<Submission>) {
    const jobs = yield* submitJobs(submissions)
    yield* unserved.watch(jobs)
    return jobs
  }, traced("Provisioner.submitAll"))

  const submitJobs = Effect.fnUntraced(function*(submissions: ReadonlyArray<Submission>) {
    const ids = yield* jobIds(submissions.length)
    const jobs = Array.zipWith(submissions, ids, (submission, id) => ({ ...request(submission), id }))
    // In a transaction of the application it is the whole of that which would have to be done again.
    if ((yield* openTransaction) !== undefined) return yield* store.submit(jobs)
    // The ids are ours, so that the same jobs can be submitted again.
    return yield* Effect.catchIf(
      store.submit(jobs),
      (error) => error._tag === "DatabaseUnavailable" && error.outcome === "unknown",
      (lost) =>
        availability.awaitAvailable.pipe(
          Effect.andThen(store.submit(jobs)),
          Effect.retry({
            schedule: Schedule.spaced("100 millis"),
            while: (error) => error instanceof DatabaseUnavailable
          }),
          Effect.timeoutOrElse({ duration: settleWithin, orElse: () => Effect.fail(lost) })
        )
    )
  })

  return Provisioner.of({
    submitAll,
    submit: (submission) =>
      Effect.flatMap(
        submitAll([submission]),
        ([job]) =>
          job === undefined ? Effect.die(new Error("a submission of one was answered with none")) : Effect.succeed(job)
      ),
    remark: unserved.remark,
    awaitEnd: Effect.fnUntraced(function*(id) {
      while (true) {
        const job = yield* Effect.catchTag(
          store.get(id),
          "DatabaseUnavailable",
          () => Effect.as(availability.awaitAvailable, undefined)
        )
        if (job !== undefined && isTerminal(job.status)) {
          return job.omitted.includes("result") ? yield* new ResultUnreadable({ id, job }) : job
        }
        yield* Effect.sleep(lookEvery)
      }
    })
  })
})

/** Between two looks at a job whose end is awaited. */
const lookEvery = Duration.millis(250)
