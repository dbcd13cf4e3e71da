/** Jobs as rows: what goes to PostgreSQL, and what comes from it. Pure. */
import { Duration } from "effect"
import { type Job, type JobId, type JobStatus, type LeasedJob, type Tags } from "./Job.ts"
import { type OutputBatch, retryDelayMillis } from "./JobStore.ts"

export interface JobRow {
  readonly id: JobId
  readonly type: string
  readonly tag_key: string
  readonly priority: number
  readonly status: JobStatus
  readonly input: unknown
  readonly idempotency_key: string | null
  readonly not_before: number | null
  readonly timeout_ms: bigint | null
  readonly max_attempts: number
  readonly attempt: number
  readonly worker: string | null
  readonly created_at: number
  readonly started_at: number | null
  readonly finished_at: number | null
  readonly result: unknown
  readonly error: string | null
}

export interface LeasedRow {
  readonly id: JobId
  readonly type: string
  readonly input: unknown
  readonly tag_key: string
  readonly timeout_ms: bigint | null
  readonly attempt: number
  readonly max_attempts: number
  readonly token: bigint
  readonly priority: number
}

/** The payload of a posting: below PostgreSQL's 8,000 bytes. What does not fit wakes everybody. */
export const postingSql = (tagKey: string) => `case when octet_length(${tagKey}) < 7000 then ${tagKey} else '*' end`

/** Whether a report `r` of a job `j` is not its end. */
export const triesAgain = "(r.status = 'failed' and j.status = 'running' and j.attempt < j.max_attempts)"

/** `retryDelayMillis` in SQL. */
export const retryDelaySql = `least(interval '1 second' * power(2, j.attempt - 1), interval '${
  retryDelayMillis(100) / 1000
} seconds')`

export const toBatchRow = ({ attempt, job, lines, token }: OutputBatch, position: number) => ({
  job,
  token,
  attempt,
  last_line: lines.at(-1)?.index ?? 0,
  lines,
  position
})

export const fromRow = (row: JobRow): Job => ({
  id: row.id,
  type: row.type,
  tags: parseTags(row.tag_key),
  priority: row.priority,
  status: row.status,
  input: row.input,
  idempotencyKey: row.idempotency_key ?? undefined,
  notBefore: row.not_before ?? undefined,
  timeout: row.timeout_ms === null ? undefined : Number(row.timeout_ms),
  maxAttempts: row.max_attempts,
  attempt: row.attempt,
  worker: row.worker ?? undefined,
  result: row.result,
  error: row.error ?? undefined,
  createdAt: row.created_at,
  startedAt: row.started_at ?? undefined,
  finishedAt: row.finished_at ?? undefined
})

const untagged: Tags = {}

const parseTags = (key: string): Tags => (key === "{}" ? untagged : JSON.parse(key))

export const interval = (duration: Duration.Duration) => `${Duration.toMillis(duration)} milliseconds`

export const fromLeasedRow = (row: LeasedRow): LeasedJob => ({
  job: row.id,
  token: Number(row.token),
  type: row.type,
  input: row.input,
  tags: parseTags(row.tag_key),
  timeout: row.timeout_ms === null ? undefined : Number(row.timeout_ms),
  attempt: row.attempt,
  maxAttempts: row.max_attempts
})
