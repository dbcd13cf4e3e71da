/** Jobs as rows: what goes to PostgreSQL, and what comes from it. Pure. */
import { Option, Result, Schema } from "effect"
import type { Job, JobId, JobStatus, LeasedJob, Tags } from "./Job.ts"
import type { OutputBatch, UnreadableJob } from "./JobStore.ts"

export interface JobRow {
  readonly id: JobId
  readonly type: string
  readonly tag_key: string
  readonly priority: number
  readonly status: JobStatus
  /** JSON, or nothing where it is too large for this answer. */
  readonly input: string | null
  readonly idempotency_key: string | null
  readonly not_before: number | null
  readonly timeout_ms: bigint | null
  readonly max_attempts: number
  readonly attempt: number
  readonly worker: string | null
  readonly worker_name: string | null
  readonly created_at: number
  readonly started_at: number | null
  readonly finished_at: number | null
  /** JSON, or nothing; in the latter case `has_result` says whether it was too large. */
  readonly result: string | null
  readonly has_result: boolean
  readonly error: string | null
}

export interface LeasedRow {
  readonly id: JobId
  readonly type: string
  readonly input: string | null
  /** Of an input that is too large. */
  readonly input_bytes: number | null
  readonly tag_key: string
  readonly timeout_ms: bigint | null
  readonly attempt: number
  readonly max_attempts: number
  readonly token: bigint
  readonly priority: number
}

export const toBatchRow = ({ attempt, job, lines, token }: OutputBatch, position: number) => ({
  job,
  token,
  attempt,
  last_line: lines.at(-1)?.index ?? 0,
  lines,
  position
})

export const fromRow = (row: JobRow): Job => {
  const input = readJson(row.input)
  const result = readJson(row.result)
  return {
    id: row.id,
    type: row.type,
    tags: parseTags(row.tag_key),
    priority: row.priority,
    status: row.status,
    input: input.value,
    idempotencyKey: row.idempotency_key ?? undefined,
    notBefore: row.not_before ?? undefined,
    timeout: row.timeout_ms === null ? undefined : Number(row.timeout_ms),
    maxAttempts: row.max_attempts,
    attempt: row.attempt,
    worker: row.worker ?? undefined,
    workerName: row.worker_name ?? undefined,
    result: result.value,
    error: row.error ?? undefined,
    createdAt: row.created_at,
    startedAt: row.started_at ?? undefined,
    finishedAt: row.finished_at ?? undefined,
    omitted: [
      ...input.isRead ? [] : ["input" as const],
      ...result.isRead || !row.has_result ? [] : ["result" as const]
    ]
  }
}

const parseJson = (text: string) => Result.try((): unknown => JSON.parse(text))

const readJson = (text: string | null): { readonly value: unknown; readonly isRead: boolean } => {
  const parsed = text === null ? undefined : parseJson(text)
  return parsed !== undefined && Result.isSuccess(parsed)
    ? { value: parsed.success, isRead: true }
    : { value: null, isRead: false }
}

const untagged: Tags = {}

/** Written by ourselves; what somebody else has made of it must not hide the job. */
const parseTags = (key: string): Tags => {
  if (key === "{}") return untagged
  const tags = decodeTags(key)
  return Option.isSome(tags) ? tags.value : untagged
}

const decodeTags = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Record(Schema.String, Schema.String)))

/** Jobs that were taken; those whose input can not be read with the reason. */
export const fromLeasedRows = (rows: ReadonlyArray<LeasedRow>) => {
  const jobs: Array<LeasedJob> = []
  const unreadable: Array<UnreadableJob> = []
  for (const row of rows) {
    const input = row.input === null ? undefined : parseJson(row.input)
    if (input !== undefined && Result.isSuccess(input)) jobs.push(toLeasedJob(row, input.success))
    else unreadable.push(toUnreadable(row))
  }
  return { jobs, unreadable }
}

const toLeasedJob = (row: LeasedRow, input: unknown): LeasedJob => ({
  job: row.id,
  token: Number(row.token),
  type: row.type,
  input,
  tags: parseTags(row.tag_key),
  timeout: row.timeout_ms === null ? undefined : Number(row.timeout_ms),
  attempt: row.attempt,
  maxAttempts: row.max_attempts
})

const toUnreadable = (row: LeasedRow): UnreadableJob => {
  const problem = row.input === null ? `${row.input_bytes} bytes are too large to be read` : "it is not JSON"
  return {
    job: row.id,
    token: Number(row.token),
    attempt: row.attempt,
    problem: `its input can not be read: ${problem}`
  }
}
