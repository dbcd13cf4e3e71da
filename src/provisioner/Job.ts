/**
 * The job model: what a job is, which states it passes, and the pure decisions about it. No driver, no clock, no
 * service is imported here; `JobStore` keeps jobs, `AcquireLoop` runs them, `Executor` does what they ask for.
 *
 * ```text
 *            acquire                result: succeeded
 *  pending ───────────▶ running ─────────────────────▶ succeeded
 *     │ ▲                │  │ │  result: failed, or the worker is gone, and no attempt is left
 *     │ └────────────────┘  │ └──────────────────────▶ failed
 *     │   failed or reaped, │
 *     │   attempts left     │ cancel
 *     │ cancel              ▼            the worker confirms, or is gone
 *     └───────────────▶ canceled ◀──────────── canceling
 * ```
 *
 * A job that is `canceling` may still end as `succeeded` or `failed`, when its own end came first.
 */
import { Data, Schema } from "effect"

/** A UUID of version 7: it sorts by time of creation, which is what makes "oldest first" an index scan. */
export const JobId = Schema.String.pipe(Schema.check(Schema.isUUID()), Schema.brand("JobId"))
export type JobId = typeof JobId.Type

/** The states of a job, in the order of its life. The last three are terminal. */
export const JobStatus = Schema.Literals(["pending", "running", "canceling", "succeeded", "failed", "canceled"])
export type JobStatus = typeof JobStatus.Type

export const isTerminal = (status: JobStatus): boolean =>
  status === "succeeded" || status === "failed" || status === "canceled"

/** Limits of what a job may carry. Requests beyond them are refused with the name of the field. */
export const limits = {
  /** Tags of one job or worker. */
  tags: 16,
  tagKeyLength: 64,
  tagValueLength: 256,
  typeLength: 64,
  idempotencyKeyLength: 255,
  /** PostgreSQL's `smallint`; higher runs first. */
  priority: 32_767,
  maxAttempts: 100,
  /** A week. */
  timeoutSeconds: 604_800,
  /** Jobs in one submission. */
  submission: 10_000
} as const

export const Tags = Schema.Record(
  Schema.NonEmptyString.pipe(Schema.check(Schema.isMaxLength(limits.tagKeyLength))),
  Schema.String.pipe(Schema.check(Schema.isMaxLength(limits.tagValueLength)))
).pipe(
  Schema.check(
    Schema.makeFilter((tags: Readonly<Record<string, string>>) =>
      Object.keys(tags).length <= limits.tags || `at most ${limits.tags} tags`
    )
  )
)
export type Tags = typeof Tags.Type

/** What a submitter asks for. Every field has been checked and has its default filled in. */
export interface JobRequest {
  /** Which executor runs it; `command` is the one that the service brings. */
  readonly type: string
  /** Handed to the executor as it is: any JSON value. */
  readonly input: unknown
  /** Only a worker whose tags cover these takes the job; a job without tags is for workers without tags. */
  readonly tags: Tags
  /** Higher runs first; equal ones oldest first. Default 0. */
  readonly priority: number
  /** A second submission with the same key is the same job. At most 255 characters. */
  readonly idempotencyKey: string | undefined
  /** Not started before this time, in milliseconds of the Unix epoch. */
  readonly notBefore: number | undefined
  /** Run time of one attempt, in milliseconds, after which it is stopped and failed. Default: no limit. */
  readonly timeout: number | undefined
  /** How often the job may be started. Default 1: provisioning is not idempotent. */
  readonly maxAttempts: number
}

export const request = (
  options: Partial<JobRequest> & { readonly type: string; readonly input?: unknown }
): JobRequest => ({
  tags: {},
  priority: 0,
  idempotencyKey: undefined,
  notBefore: undefined,
  timeout: undefined,
  maxAttempts: 1,
  input: null,
  ...options
})

/** How a job ended. `result` is what its executor returned: any JSON value. */
export type JobOutcome =
  | { readonly status: "succeeded"; readonly result: unknown }
  | { readonly status: "failed"; readonly result: unknown; readonly error: string }
  | { readonly status: "canceled"; readonly result: unknown; readonly error: string }

/** A job as it is kept. Times are milliseconds of the Unix epoch, by the clock of the database. */
export interface Job extends JobRequest {
  readonly id: JobId
  readonly status: JobStatus
  /** How often it has been started. */
  readonly attempt: number
  /** The replica that holds, or held, its lease. */
  readonly worker: string | undefined
  readonly result: unknown
  /** Why it failed or was canceled, in one sentence. */
  readonly error: string | undefined
  readonly createdAt: number
  readonly startedAt: number | undefined
  readonly finishedAt: number | undefined
}

/** A job that has just been stored. */
export const pendingJob = (requested: JobRequest & { readonly id: JobId }, createdAt: number): Job => ({
  ...requested,
  status: "pending",
  attempt: 0,
  worker: undefined,
  result: null,
  error: undefined,
  createdAt,
  startedAt: undefined,
  finishedAt: undefined
})

/** The right to run one attempt of a job: a stale token is refused by everything that writes about the job. */
export interface Lease {
  readonly job: JobId
  /** The fencing token: grows with each lease of this job. */
  readonly token: number
}

/** A job that this worker holds, with what it needs to run it. */
export interface LeasedJob extends Lease {
  readonly type: string
  readonly input: unknown
  readonly tags: Tags
  readonly timeout: number | undefined
  readonly attempt: number
  readonly maxAttempts: number
}

/** One line of a job's output. */
export interface OutputLine {
  /** Position in the output of this attempt, from 0, without gaps. */
  readonly index: number
  readonly stream: "stdout" | "stderr" | "lull"
  /** When it was read, in milliseconds of the Unix epoch. */
  readonly at: number
  /** Without its line end. Bytes that are not UTF-8, and NUL, have become U+FFFD. */
  readonly text: string
}

/** The lease is somebody else's by now, or the job has ended: whatever was reported changed nothing. */
export class LeaseLost extends Data.TaggedError("LeaseLost")<{ readonly job: JobId; readonly token: number }> {
  override get message() {
    return `job ${this.job} is no longer held under token ${this.token}`
  }
}

/** The tags of a set as one string, the same for the same tags in any order: the key under which waiting jobs are found. */
export const tagKey = (tags: Tags): string => {
  const keys = Object.keys(tags).sort()
  if (keys.length === 0) return "{}"
  return JSON.stringify(Object.fromEntries(keys.map((key) => [key, tags[key]])))
}

/** Whether a worker may take a job: its tags cover the job's, and an untagged job is for an untagged worker. */
export const covers = (worker: Tags, job: Tags): boolean => {
  const wanted = Object.entries(job)
  if (wanted.length === 0) return Object.keys(worker).length === 0
  return wanted.every(([key, value]) => worker[key] === value)
}

/** What becomes of a job whose worker is gone. */
export const afterLoss = (job: {
  readonly status: JobStatus
  readonly attempt: number
  readonly maxAttempts: number
}): "pending" | "failed" | "canceled" =>
  job.status === "canceling" ? "canceled" : job.attempt < job.maxAttempts ? "pending" : "failed"
