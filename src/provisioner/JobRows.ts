/** Jobs as rows: what goes to PostgreSQL, and what comes from it. Pure. */
import { type Job, type JobId, type JobStatus, type LeasedJob, type Tags } from "./Job.ts"
import type { OutputBatch } from "./JobStore.ts"

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
