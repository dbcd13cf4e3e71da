/**
 * Keeps jobs. Two implementations, `JobStorePostgres` and `JobStoreMemory`, pass one conformance suite.
 *
 * **Every operation is safe to repeat.** When the answer of one is lost (`DatabaseUnavailable` with `outcome: "unknown"`),
 * its caller does it again with the same arguments, and it is as if it had been done once:
 *
 * - `submit` by the id, which the caller makes, and by the idempotency key;
 * - `acquire` by `reclaim`: what this worker holds, but does not know of, is handed out again;
 * - `heartbeat`, `finish`, `release` and `appendOutput` by the fencing token, the status and the index of the first line;
 * - `cancel` and `reap` by the status;
 * - `register` by the id of the worker.
 */
import { Context, Data, type Duration, type Effect } from "effect"
import type { DatabaseUnavailable, QueryFailed } from "../database/Unavailable.ts"
import type {
  InvalidJob,
  Job,
  JobId,
  JobOutcome,
  JobRequest,
  JobStatus,
  Lease,
  LeasedJob,
  OutputLine,
  Tags
} from "./Job.ts"

export class JobNotFound extends Data.TaggedError("JobNotFound")<{ readonly id: JobId }> {
  override get message() {
    return `there is no job ${this.id}`
  }
}

/** The key belongs to a job that was asked for something else. Nothing of the submission was stored. */
export class IdempotencyConflict extends Data.TaggedError("IdempotencyConflict")<{
  readonly idempotencyKey: string
  readonly existing: JobId
}> {
  override get message() {
    return `the idempotency key ${JSON.stringify(this.idempotencyKey)} belongs to job ${this.existing}, ` +
      "which was submitted with other values"
  }
}

/** It had ended before it could be canceled. */
export class JobEnded extends Data.TaggedError("JobEnded")<{ readonly id: JobId; readonly status: JobStatus }> {
  override get message() {
    return `job ${this.id} has already ended as ${this.status}`
  }
}

export type StoreError = DatabaseUnavailable | QueryFailed

/** What remains of `StoreError` for who waits for the database. */
export type QueryError = QueryFailed

export interface NewJob extends JobRequest {
  readonly id: JobId
}

export interface ListOptions {
  readonly status?: JobStatus | undefined
  readonly type?: string | undefined
  /** Only jobs that carry all of these. */
  readonly tags?: Tags | undefined
  /** Only jobs older than this one: the last id of the page before. */
  readonly before?: JobId | undefined
  readonly limit: number
}

/** A worker, as others see it. */
export interface Worker {
  /** Its own, and not that of its process: there may be several workers in one. */
  readonly id: string
  /** The replica whose heartbeat is its own. */
  readonly replica: string
  /** For people. */
  readonly name: string
  /** See `covers` in `Job`. */
  readonly tags: Tags
  /** The types that its executor runs; `undefined`: all. */
  readonly types: ReadonlyArray<string> | undefined
  /** How many jobs it runs at a time. */
  readonly slots: number
}

export interface AcquireOptions {
  readonly worker: Pick<Worker, "id" | "tags" | "types">
  /** At most this many. */
  readonly limit: number
  readonly lease: Duration.Duration
  /** What the worker knows that it holds. If given, the rest of what it holds is handed out again, first. */
  readonly reclaim?: ReadonlyArray<Lease> | undefined
}

/** It was taken, and can not be run: whoever took it has to say so. */
export interface UnreadableJob extends Lease {
  readonly attempt: number
  /** A sentence. */
  readonly problem: string
}

export interface Acquired {
  readonly jobs: ReadonlyArray<LeasedJob>
  /** Taken with them. */
  readonly unreadable: ReadonlyArray<UnreadableJob>
  /** There may be more to take: the limit was reached, or the answer would have become too large. */
  readonly isMore: boolean
  /** Time until a job that waits for its time may start, if there is one. */
  readonly nextDue: Duration.Duration | undefined
}

export type LeaseStatus = "held" | "canceling" | "lost"

export interface Report extends Lease {
  readonly outcome: JobOutcome
  /** The result as JSON, where it has been made already. */
  readonly json?: string | undefined
}

/**
 * What became of a report. `again`: it was stored, and the job waits for its next attempt. `refused`: the lease is another's by
 * now. `locked`: somebody holds a lock on the job, and it was not waited for.
 */
export type Verdict = "stored" | "again" | "refused" | "locked"

export interface OutputBatch extends Lease {
  readonly attempt: number
  /** Consecutive lines; the index of the first is the key. */
  readonly lines: ReadonlyArray<OutputLine>
}

/** A lease as it is stored. */
export interface KnownLease extends Lease {
  readonly worker: string
  /** Another text after each renewal. */
  readonly renewal: string
  /** Of one that was suspected: somebody holds a lock on its row, so that it could not be renewed. */
  readonly isLocked: boolean
}

export interface OutputPosition {
  readonly attempt: number
  readonly index: number
}

export interface StoredLine extends OutputLine {
  readonly attempt: number
}

export class JobStore extends Context.Service<JobStore, {
  /**
   * Stores jobs, all or none, and tells the workers whom they concern. Answers in the order of the request; a job whose
   * idempotency key was known already is answered with the job that has it.
   */
  readonly submit: (
    jobs: ReadonlyArray<NewJob>
  ) => Effect.Effect<ReadonlyArray<Job>, StoreError | IdempotencyConflict | InvalidJob>
  readonly get: (id: JobId) => Effect.Effect<Job, StoreError | JobNotFound>
  /** Newest first. Large inputs and results are left out; see `omitted` in `Job`. */
  readonly list: (options: ListOptions) => Effect.Effect<ReadonlyArray<Job>, StoreError>
  /** A pending job is canceled at once; a running one when its worker has stopped it. */
  readonly cancel: (id: JobId) => Effect.Effect<Job, StoreError | JobNotFound | JobEnded>
  /** Says what this worker can run, so that others know. Again after a failover. */
  readonly register: (worker: Worker) => Effect.Effect<void, StoreError>
  /** For each: whether a worker that lives runs jobs of this type with these tags. */
  readonly served: (
    queues: ReadonlyArray<Pick<JobRequest, "type" | "tags">>
  ) => Effect.Effect<ReadonlyArray<boolean>, StoreError>
  /**
   * Takes jobs under a lease: the oldest of the highest priority of which the worker covers the tags and runs the type. Bounded
   * in number and in bytes.
   */
  readonly acquire: (options: AcquireOptions) => Effect.Effect<Acquired, StoreError>
  /** Prolongs leases, and answers for each, in the same order, whether it is still held. */
  readonly heartbeat: (
    leases: ReadonlyArray<Lease>,
    lease: Duration.Duration
  ) => Effect.Effect<ReadonlyArray<LeaseStatus>, StoreError>
  /**
   * Stores how jobs ended, and answers for each, in the same order. With `skipLocked` rows on which somebody holds a lock are not
   * waited for.
   */
  readonly finish: (
    reports: ReadonlyArray<Report>,
    options?: { readonly skipLocked?: boolean }
  ) => Effect.Effect<ReadonlyArray<Verdict>, StoreError>
  /** Gives jobs back that were taken and not started, as if they had not been. Answers whether each was accepted. */
  readonly release: (leases: ReadonlyArray<Lease>) => Effect.Effect<ReadonlyArray<boolean>, StoreError>
  /** Adds to the output of running jobs. Answers for each, in the same order, whether it was accepted: a stale token is not. */
  readonly appendOutput: (batches: ReadonlyArray<OutputBatch>) => Effect.Effect<ReadonlyArray<boolean>, StoreError>
  /** The output of a job in order, after a position. */
  readonly readOutput: (
    id: JobId,
    options: { readonly after?: OutputPosition | undefined; readonly limit: number }
  ) => Effect.Effect<ReadonlyArray<StoredLine>, StoreError>
  /** All leases, and of those that are suspected whether they are locked. Fails where a renewal would fail, too. */
  readonly leases: (suspected: ReadonlyArray<JobId>) => Effect.Effect<ReadonlyArray<KnownLease>, StoreError>
  /** Takes these jobs from their workers, unless their leases were renewed since; see `afterLoss` in `Job`. */
  readonly reap: (leases: ReadonlyArray<KnownLease>) => Effect.Effect<ReadonlyArray<JobId>, StoreError>
}>()("lull/provisioner/JobStore") {}

/** How long a job that failed with attempts left waits for the next: 1 s, 2 s, 4 s, …, at most a minute. */
export const retryDelayMillis = (attempt: number): number => Math.min(1_000 * 2 ** (attempt - 1), 60_000)

/** What is written to the notification channel about jobs. */
export const topics = { posted: "job-posted", canceling: "job-canceling" } as const

/** What a repeated idempotency key has to agree in. */
export const isSameRequest = (a: JobRequest, b: JobRequest, tagKey: (tags: Tags) => string): boolean =>
  a.type === b.type && a.priority === b.priority && a.timeout === b.timeout && a.maxAttempts === b.maxAttempts &&
  a.notBefore === b.notBefore && tagKey(a.tags) === tagKey(b.tags) && canonical(a.input) === canonical(b.input)

const canonical = (value: unknown): string =>
  JSON.stringify(value, (_, part: unknown) =>
    typeof part === "object" && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part) ?? "null"
