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
  pathText,
  Priority,
  Tags,
  untagged
} from "../provisioner/Job.ts"
import type { Submission } from "../provisioner/Provisioner.ts"

const nullable = <S extends Schema.Top>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))

/** With its offset: a local time is another one on each machine. */
const timePattern =
  /^(\d{4})-(\d\d)-(\d\d)T([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,9})?)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$/

/** A day that is in no calendar, as the 31st of February, would silently become another. */
const isTime = (text: string): boolean => {
  const [, year, month, day] = timePattern.exec(text) ?? []
  if (year === undefined || month === undefined || day === undefined || Number.isNaN(Date.parse(text))) return false
  const lastDay = new Date(Date.UTC(Number(year), Number(month), 0)).getUTCDate()
  return Number(day) <= lastDay && Date.parse(text) >= 0 && Date.parse(text) <= lastTime
}

/** The last that has a year of four digits in UTC, as it is answered. */
const lastTime = Date.UTC(9_999, 11, 31, 23, 59, 59, 999)

/** Of a body as of a query: a moment that exists. */
export const Time = Schema.String.check(
  Schema.makeFilter((text: string) => isTime(text) || "must be a time that exists, as 2026-01-31T12:00:00Z")
)

const notStorable = "must not contain NUL or half a surrogate pair"

type Issue = { readonly path: ReadonlyArray<string | number>; readonly issue: string }

/** The texts of a job that cannot be kept, as texts or as names. All else was found to be none. */
const unstorable = ({ input }: { readonly input: CommandInput }): ReadonlyArray<Issue> => [
  ...input.command.flatMap((word, index) =>
    isStorable(word) ? [] : [{ path: ["input", "command", index], issue: notStorable }]
  ),
  ...Object.entries(input.env).flatMap(([name, value]) =>
    !isStorable(name)
      ? [{ path: ["input", "env"], issue: `names ${notStorable}` }]
      : isStorable(value)
      ? []
      : [{ path: ["input", "env", name], issue: notStorable }]
  ),
  ...input.stdin === null || isStorable(input.stdin) ? [] : [{ path: ["input", "stdin"], issue: notStorable }]
]

/** Fields that are not known are named one by one, up to this many. */
const mostFields = 32

/** What may have many entries, where it is, and how many. */
const lengths: ReadonlyArray<readonly [path: ReadonlyArray<string>, most: number, of: string]> = [
  [[], mostFields, "fields"],
  [["input"], mostFields, "fields"],
  [["input", "command"], limits.commandWords, "words"],
  [["input", "env"], limits.environmentVariables, "variables"],
  [["tags"], limits.tags, "tags"]
]

/**
 * The first list or object of a job that has too many entries, before a schema decodes every one of them. What has other types
 * than it should have is left to the schema.
 */
export const lengthProblem = (
  job: unknown,
  within: ReadonlyArray<string | number>
): { readonly field: string; readonly problem: string } | undefined => {
  for (const [path, most, of] of lengths) {
    const count = countOf(path.reduce(entryOf, job))
    if (count > most) {
      return { field: pathText([...within, ...path]), problem: `must have at most ${most} ${of}, and has ${count}` }
    }
  }
  return undefined
}

const countOf = (value: unknown): number =>
  Array.isArray(value) ? value.length : typeof value === "object" && value !== null ? Object.keys(value).length : 0

const entryOf = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null && Object.hasOwn(value, name) ? Reflect.get(value, name) : undefined

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
  tags: submission.tags ?? untagged,
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
