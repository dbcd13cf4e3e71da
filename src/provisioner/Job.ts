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
import { Data, Result, Schema, SchemaIssue } from "effect"

/** A UUID of version 7: it sorts by time of creation, which is what makes "oldest first" an index scan. */
export const JobId = Schema.String.pipe(Schema.check(Schema.isUUID()), Schema.brand("JobId"))
export type JobId = typeof JobId.Type

/** The states of a job, in the order of its life. The last three are terminal. */
export const JobStatus = Schema.Literals(["pending", "running", "canceling", "succeeded", "failed", "canceled"])
export type JobStatus = typeof JobStatus.Type

export const isTerminal = (status: JobStatus): boolean =>
  status === "succeeded" || status === "failed" || status === "canceled"

/** Limits of what a job may carry, on every way in. Requests beyond them are refused with the name of the field. */
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
  /** The last moment that a `Date` can name, and PostgreSQL too. */
  notBefore: 8.64e15,
  /** Jobs in one submission. */
  submission: 10_000,
  /** Bytes of all inputs of one submission, as JSON. */
  submissionBytes: 16 * 1_048_576,
  /** Bytes of one input, as JSON: it is held in memory by the worker, and sent with others. Larger things belong into a file or a table. */
  inputBytes: 1_048_576,
  /** Words of a command. Linux takes two megabytes of them with the environment. */
  commandWords: 16_384,
  environmentVariables: 4_096,
  /** Bytes of a result, as JSON. */
  resultBytes: 1_048_576,
  /** Characters of the sentence that says why a job failed; what is longer is cut. */
  errorLength: 8_192,
  /** How deep a JSON value may be nested: PostgreSQL and JavaScript both walk it on their stacks. */
  depth: 256
} as const

/** PostgreSQL's text and JSON know neither NUL nor half a surrogate pair. */
export const isStorable = (text: string): boolean => !text.includes("\0") && text.isWellFormed()

const storable = Schema.makeFilter((text: string) =>
  isStorable(text) || "must not contain NUL or half a surrogate pair"
)

const whole = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

export const JobType = Schema.NonEmptyString.check(Schema.isMaxLength(limits.typeLength), storable)

// The keys are a check of its own: a record leaves out keys that its key schema refuses, and says nothing.
export const Tags = Schema.Record(
  Schema.String,
  Schema.String.check(Schema.isMaxLength(limits.tagValueLength))
).check(
  Schema.isPropertyNames(Schema.NonEmptyString.check(Schema.isMaxLength(limits.tagKeyLength))),
  Schema.makeFilter((tags: Readonly<Record<string, string>>) => {
    const entries = Object.entries(tags)
    if (entries.length > limits.tags) return `at most ${limits.tags} tags`
    return entries.every(([key, value]) => isStorable(key) && isStorable(value)) ||
      "must not contain NUL or half a surrogate pair"
  })
)
export type Tags = typeof Tags.Type

export const Priority = whole(-limits.priority, limits.priority)
export const MaxAttempts = whole(1, limits.maxAttempts)
export const IdempotencyKey = Schema.NonEmptyString.check(Schema.isMaxLength(limits.idempotencyKeyLength), storable)

/** What a submitter asks for, with every default filled in. Whatever the way in, this is what is checked. */
export const JobRequest = Schema.Struct({
  /** Which executor runs it; `command` is the one that the service brings. */
  type: JobType,
  /** Handed to the executor as it is: any JSON value. */
  input: Schema.Unknown,
  /** Only a worker whose tags cover these takes the job; a job without tags is for workers without tags. */
  tags: Tags,
  /** Higher runs first; equal ones oldest first. Default 0. */
  priority: Priority,
  /** A second submission with the same key is the same job. At most 255 characters. */
  idempotencyKey: Schema.UndefinedOr(IdempotencyKey),
  /** Not started before this time, in milliseconds of the Unix epoch. */
  notBefore: Schema.UndefinedOr(whole(0, limits.notBefore)),
  /** Run time of one attempt, in milliseconds, after which it is stopped and failed. Default: no limit. */
  timeout: Schema.UndefinedOr(whole(1, limits.timeoutSeconds * 1_000)),
  /** How often the job may be started. Default 1: provisioning is not idempotent. */
  maxAttempts: MaxAttempts
})
export type JobRequest = typeof JobRequest.Type

/** Of a job that asks for none: one for all, so that such jobs are seen to be alike. */
export const untagged: Tags = Object.freeze({})

export const request = (
  options: Partial<JobRequest> & { readonly type: string; readonly input?: unknown }
): JobRequest => ({
  type: options.type,
  input: options.input ?? null,
  tags: options.tags ?? untagged,
  priority: options.priority ?? 0,
  idempotencyKey: options.idempotencyKey,
  notBefore: options.notBefore,
  timeout: options.timeout,
  maxAttempts: options.maxAttempts ?? 1
})

export interface FieldProblem {
  /** Which job of the submission, from 0. */
  readonly job: number
  /** The field, as `input.command[0]`. Empty for the whole of it. */
  readonly field: string
  readonly problem: string
}

/** Nothing of the submission was stored: what is wrong, and would be right, field by field. */
export class InvalidJob extends Data.TaggedError("InvalidJob")<{ readonly problems: ReadonlyArray<FieldProblem> }> {
  override get message() {
    return this.problems.map(({ field, job, problem }) => {
      const where = [...job === 0 ? [] : [`job ${job}`], ...field === "" ? [] : [field]].join(", ")
      return where === "" ? problem : `${where}: ${problem}`
    }).join("; ")
  }
}

/** How many problems are named at most. */
const mostProblems = 20

const decodeRequest = Schema.decodeUnknownResult(JobRequest)
const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()

export const pathText = (path: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }>): string =>
  path.reduce<string>((text, part) => {
    const key = typeof part === "object" ? part.key : part
    return typeof key === "number" ? `${text}[${key}]` : text === "" ? String(key) : `${text}.${String(key)}`
  }, "")

const isType = Schema.is(JobType)
const isPriority = Schema.is(Priority)
const isIdempotencyKey = Schema.is(JobRequest.fields.idempotencyKey)
const isNotBefore = Schema.is(JobRequest.fields.notBefore)
const isTimeout = Schema.is(JobRequest.fields.timeout)
const isMaxAttempts = Schema.is(MaxAttempts)

/** As `Tags` says: a schema takes microseconds for each tag, and there may be many. */
const areTags = (tags: unknown): boolean =>
  typeof tags === "object" && tags !== null && !Array.isArray(tags) &&
  Object.keys(tags).length <= limits.tags &&
  Object.entries(tags).every(([key, value]: [string, unknown]) =>
    key !== "" && key.length <= limits.tagKeyLength && isStorable(key) &&
    typeof value === "string" && value.length <= limits.tagValueLength && isStorable(value)
  )

/**
 * Whether nothing is wrong with it, when nothing is with another one: a field that both have alike is not looked at again. `JobRequest` decides
 * about all that is not found good here.
 */
const isGood = (asked: JobRequest, good: JobRequest) =>
  (asked.type === good.type || isType(asked.type)) &&
  (asked.priority === good.priority || isPriority(asked.priority)) &&
  (asked.tags === good.tags || areTags(asked.tags)) &&
  (asked.idempotencyKey === good.idempotencyKey || isIdempotencyKey(asked.idempotencyKey)) &&
  (asked.notBefore === good.notBefore || isNotBefore(asked.notBefore)) &&
  (asked.timeout === good.timeout || isTimeout(asked.timeout)) &&
  (asked.maxAttempts === good.maxAttempts || isMaxAttempts(asked.maxAttempts))

/** A schema decodes every tag before it counts them. */
const hasTooManyTags = ({ tags }: JobRequest) =>
  typeof tags === "object" && tags !== null && Object.keys(tags).length > limits.tags

/**
 * What is wrong with a submission, or nothing; and the JSON of each input, which is made here once. Pure.
 */
export const checkRequests = (
  requests: ReadonlyArray<JobRequest>
): Result.Result<ReadonlyArray<string>, InvalidJob> => {
  const problems: Array<FieldProblem> = []
  const inputs: Array<string> = []
  if (requests.length > limits.submission) {
    const problem = `at most ${limits.submission} jobs in one submission`
    return Result.fail(new InvalidJob({ problems: [{ job: 0, field: "", problem }] }))
  }
  let total = 0
  let good: JobRequest | undefined
  for (const [job, asked] of requests.entries()) {
    if (problems.length >= mostProblems || total > limits.submissionBytes) break
    if (hasTooManyTags(asked)) {
      problems.push({ job, field: "tags", problem: `at most ${limits.tags} tags` })
      continue
    }
    if (good === undefined || !isGood(asked, good)) {
      const decoded = decodeRequest(asked)
      if (Result.isSuccess(decoded)) good = asked
      else {
        for (const { message, path } of formatIssue(decoded.failure.issue).issues) {
          problems.push({ job, field: pathText(path ?? []), problem: message })
        }
      }
    }
    const input = jsonText(asked.input, limits.inputBytes)
    if (Result.isFailure(input)) problems.push({ job, field: "input", problem: input.failure })
    else {
      inputs.push(input.success)
      total += input.success.length
    }
  }
  if (total > limits.submissionBytes) {
    problems.push({
      job: 0,
      field: "",
      problem: `all inputs of one submission have at most ${limits.submissionBytes} bytes of JSON, these have more`
    })
  }
  return problems.length === 0
    ? Result.succeed(inputs)
    : Result.fail(new InvalidJob({ problems: problems.slice(0, mostProblems) }))
}

/**
 * A value as JSON, as it will be stored and read again, or why it can not be: not a JSON value, too large, too deep. A value
 * that is absent is `null`.
 */
export const jsonText = (value: unknown, mostBytes: number): Result.Result<string, string> => {
  const text = Result.try(() => JSON.stringify(value ?? null))
  if (Result.isFailure(text)) {
    const cause = text.failure
    return Result.fail(`must be a JSON value: ${cause instanceof Error ? cause.message.split("\n")[0] : String(cause)}`)
  }
  // What JSON leaves out at the top, a function or a symbol, has no text.
  if (text.success === undefined) return Result.fail("must be a JSON value")
  const { length } = text.success
  // One character has three bytes at most, so that short texts need not be counted.
  const bytes = length > mostBytes || 3 * length <= mostBytes ? length : Buffer.byteLength(text.success)
  if (bytes > mostBytes) return Result.fail(`must have at most ${mostBytes} bytes as JSON, and has ${bytes}`)
  return depthOf(text.success) > limits.depth
    ? Result.fail(`must be nested at most ${limits.depth} deep`)
    : Result.succeed(text.success)
}

/** How deep a JSON text is nested. */
export const depthOf = (json: string): number => {
  // Shorter than this, it can not be deeper.
  if (json.length <= limits.depth) return 0
  let depth = 0
  let deepest = 0
  let inText = false
  for (let at = 0; at < json.length; at++) {
    const code = json.charCodeAt(at)
    if (inText) {
      if (code === 0x5c) at++
      else if (code === 0x22) inText = false
    } else if (code === 0x22) inText = true
    else if (code === 0x7b || code === 0x5b) deepest = Math.max(deepest, ++depth)
    else if (code === 0x7d || code === 0x5d) depth--
  }
  return deepest
}

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
  /** The worker that holds, or held, its lease. */
  readonly worker: string | undefined
  /** Its name, for people, while it is known. */
  readonly workerName: string | undefined
  readonly result: unknown
  /** Why it failed or was canceled, in one sentence. */
  readonly error: string | undefined
  readonly createdAt: number
  readonly startedAt: number | undefined
  readonly finishedAt: number | undefined
  /** What was left out of this answer, as it is too large for it; `null` stands in its place. */
  readonly omitted: ReadonlyArray<"input" | "result">
}

/** A job that has just been stored. */
export const pendingJob = (requested: JobRequest & { readonly id: JobId }, createdAt: number): Job => ({
  id: requested.id,
  type: requested.type,
  input: requested.input,
  tags: requested.tags,
  priority: requested.priority,
  idempotencyKey: requested.idempotencyKey,
  notBefore: requested.notBefore,
  timeout: requested.timeout,
  maxAttempts: requested.maxAttempts,
  status: "pending",
  attempt: 0,
  worker: undefined,
  workerName: undefined,
  result: null,
  error: undefined,
  createdAt,
  startedAt: undefined,
  finishedAt: undefined,
  omitted: nothing
})

const nothing: Job["omitted"] = Object.freeze([])

/** The right to run one attempt of a job: a stale token is refused by everything that writes about the job. */
export interface Lease {
  readonly job: JobId
  /** The fencing token: grows with each lease of this job. */
  readonly token: number
}

/** A lease as a key: whatever is kept of a run is kept of this job *and* this token. */
export const leaseKey = ({ job, token }: Lease): string => `${job}/${token}`

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

/** The tags of a set as one string, the same for the same tags in any order: the key under which waiting jobs are found. */
export const tagKey = (tags: Tags): string => {
  const given = Object.keys(tags)
  if (given.length === 0) return "{}"
  const keys = given.toSorted()
  // There may be many, and to make them again takes longer than all the rest.
  if (keys.every((key, at) => key === given[at])) return JSON.stringify(tags)
  return JSON.stringify(Object.fromEntries(keys.map((key) => [key, tags[key]])))
}

/** Whether a worker may take a job: its tags cover the job's, and an untagged job is for an untagged worker. */
export const covers = (worker: Tags, job: Tags): boolean => {
  const wanted = Object.entries(job)
  if (wanted.length === 0) return Object.keys(worker).length === 0
  return wanted.every(([key, value]) => worker[key] === value)
}

/** What is said of a job that was canceled before it ran, or before it ran again. */
export const canceledWhilePending = (attempt: number): string =>
  attempt === 0
    ? "canceled before it was started"
    : `canceled while it waited to be started again, after attempt ${attempt}`

/** What is said of a job that was taken from its worker. */
export const workerIsGone = "its worker is gone: nothing was heard of it for longer than its lease"

/** What becomes of a job whose worker is gone. */
export const afterLoss = (job: {
  readonly status: JobStatus
  readonly attempt: number
  readonly maxAttempts: number
}): "pending" | "failed" | "canceled" =>
  job.status === "canceling" ? "canceled" : job.attempt < job.maxAttempts ? "pending" : "failed"
