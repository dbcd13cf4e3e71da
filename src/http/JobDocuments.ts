/** Jobs as the API speaks of them: what is asked for, what is answered, and the way between these and `Job`. */
import { Schema } from "effect"
import { CommandInput } from "../provisioner/ChildProcess.ts"
import { commandType } from "../provisioner/Executor.ts"
import {
  IdempotencyKey,
  isStorable,
  type Job,
  JobStatus,
  limits,
  MaxAttempts,
  Priority,
  Tags
} from "../provisioner/Job.ts"
import type { Submission } from "../provisioner/Provisioner.ts"

const nullable = <S extends Schema.Top>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))

/** With its offset: a local time is another one on each machine. */
const timePattern = /^(\d{4})-(\d\d)-(\d\d)T\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)$/

/** A day that is in no calendar, as the 31st of February, would silently become another. */
const isTime = (text: string): boolean => {
  const [, year, month, day] = timePattern.exec(text) ?? []
  if (year === undefined || month === undefined || day === undefined || Number.isNaN(Date.parse(text))) return false
  const lastDay = new Date(Date.UTC(Number(year), Number(month), 0)).getUTCDate()
  return Number(day) <= lastDay && Date.parse(text) >= 0
}

const Time = Schema.String.check(
  Schema.makeFilter((text: string) => isTime(text) || "must be a time that exists, as 2026-01-31T12:00:00Z")
)

const notStorable = "must not contain NUL or half a surrogate pair"

type Path = ReadonlyArray<string | number>

/** Where in a JSON value there are texts that cannot be kept, as texts or as names. */
const unstorable = (
  value: unknown,
  path: Path = []
): ReadonlyArray<{ readonly path: Path; readonly issue: string }> => {
  if (typeof value === "string") return isStorable(value) ? [] : [{ path, issue: notStorable }]
  if (Array.isArray(value)) return value.flatMap((item: unknown, index) => unstorable(item, [...path, index]))
  if (typeof value !== "object" || value === null) return []
  return Object.entries(value).flatMap(([name, item]: [string, unknown]) =>
    isStorable(name) ? unstorable(item, [...path, name]) : [{ path, issue: `names ${notStorable}` }]
  )
}

/** A job that is asked for. Only `input` is needed. The limits are those of `JobRequest`, which is checked, too. */
export const JobSubmission = Schema.Struct({
  type: Schema.optionalKey(Schema.Literal(commandType)),
  input: CommandInput,
  tags: Schema.optionalKey(Tags),
  priority: Schema.optionalKey(Priority),
  idempotencyKey: nullable(IdempotencyKey),
  notBefore: nullable(Time),
  timeoutSeconds: nullable(Schema.Number.check(Schema.isBetween({ minimum: 0.001, maximum: limits.timeoutSeconds }))),
  maxAttempts: Schema.optionalKey(MaxAttempts)
}).check(Schema.makeFilter((job) => unstorable(job))).annotate({ identifier: "JobSubmission" })
export type JobSubmission = typeof JobSubmission.Type

/** Many at once: all are stored, or none. */
export const JobSubmissions = Schema.Array(JobSubmission).check(
  Schema.isMinLength(1),
  Schema.isMaxLength(limits.submission)
)

export const toSubmission = (submission: JobSubmission): Submission => ({
  type: commandType,
  input: submission.input,
  tags: submission.tags ?? {},
  priority: submission.priority ?? 0,
  idempotencyKey: submission.idempotencyKey ?? undefined,
  notBefore: submission.notBefore ? Date.parse(submission.notBefore) : undefined,
  timeout: submission.timeoutSeconds ? Math.round(submission.timeoutSeconds * 1000) : undefined,
  maxAttempts: submission.maxAttempts ?? 1
})

/** A job as it is answered. Times are RFC 3339, in UTC. */
export const JobDocument = Schema.Struct({
  id: Schema.String,
  status: JobStatus,
  type: Schema.String,
  input: Schema.Unknown,
  tags: Tags,
  priority: Schema.Int,
  idempotencyKey: Schema.NullOr(Schema.String),
  notBefore: Schema.NullOr(Schema.String),
  timeoutSeconds: Schema.NullOr(Schema.Number),
  maxAttempts: Schema.Int,
  attempt: Schema.Int,
  worker: Schema.NullOr(Schema.String),
  /** For people: the name of that worker, while it is known. */
  workerName: Schema.NullOr(Schema.String),
  result: Schema.Unknown,
  error: Schema.NullOr(Schema.String),
  createdAt: Schema.String,
  startedAt: Schema.NullOr(Schema.String),
  finishedAt: Schema.NullOr(Schema.String),
  /** Fields that are too large for this answer, and are `null` in it; of a list, `GET /jobs/{id}` has them whole. */
  omitted: Schema.Array(Schema.Literals(["input", "result"])),
  /** Of a pending job: why it is not started, where no worker runs such jobs. */
  remark: Schema.NullOr(Schema.String)
}).annotate({ identifier: "Job" })
export type JobDocument = typeof JobDocument.Type

const time = (at: number | undefined) => at === undefined ? null : new Date(at).toISOString()

export const fromJob = (job: Job, remark?: string): JobDocument => ({
  id: job.id,
  status: job.status,
  type: job.type,
  input: job.input,
  tags: job.tags,
  priority: job.priority,
  idempotencyKey: job.idempotencyKey ?? null,
  notBefore: time(job.notBefore),
  timeoutSeconds: job.timeout === undefined ? null : job.timeout / 1000,
  maxAttempts: job.maxAttempts,
  attempt: job.attempt,
  worker: job.worker ?? null,
  workerName: job.workerName ?? null,
  result: job.result ?? null,
  error: job.error ?? null,
  createdAt: new Date(job.createdAt).toISOString(),
  startedAt: time(job.startedAt),
  finishedAt: time(job.finishedAt),
  omitted: job.omitted,
  remark: remark ?? null
})

export const JobList = Schema.Struct({
  jobs: Schema.Array(JobDocument),
  /** For `?cursor=` of the next page; `null` on the last. */
  cursor: Schema.NullOr(Schema.String)
}).annotate({ identifier: "JobList" })

/** One line of a job's output. */
export const OutputDocument = Schema.Struct({
  attempt: Schema.Int,
  index: Schema.Int,
  stream: Schema.Literals(["stdout", "stderr", "lull"]),
  at: Schema.String,
  text: Schema.String
}).annotate({ identifier: "OutputLine" })
