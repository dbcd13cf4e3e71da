/** Parts of the statements of `JobStorePostgres`: lists, conditions, and decisions that have to be made beside the data. Pure. */
import type { PgClient } from "@effect/sql-pg/PgClient"
import { Duration } from "effect"
import { createHash } from "node:crypto"
import { column, pgArray, pgJsonArray, pgPlainArray } from "../database/PgArray.ts"
import type { Lease } from "./Job.ts"
import { type NewJob, type Report, retryDelayMillis } from "./JobStore.ts"

/**
 * The queue of a type and a set of tags: the first half of a SHA-256, so that it is known without asking, and the same for
 * every replica. `lull.queue_id` is the same in SQL.
 */
export const queueId = (type: string, tagKey: string): string => {
  const hex = createHash("sha256").update(`${Buffer.byteLength(type)}:${type}${tagKey}`).digest("hex")
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`
}

/**
 * Bytes of a JSON column as text, about. Only what was compressed has to be read for it: a hundred bytes may be stored as one.
 */
export const bytesOf = (column: string) =>
  `case when pg_column_compression(${column}) is null then pg_column_size(${column})
    else octet_length(${column}::text) end`

/** A JSON column as text, unless it is larger than that: the driver ends a connection over a row that is too large. */
export const jsonColumn = (column: string, mostBytes: number) =>
  `case when ${bytesOf(column)} <= ${mostBytes} then ${column}::text end`

/** The bytes of what is larger than that. */
const tooManyBytesOf = (column: string, mostBytes: number) =>
  `case when ${bytesOf(column)} > ${mostBytes} then octet_length(${column}::text) end`

/**
 * The payload of a posting, type and tags: below PostgreSQL's 8,000 bytes. What does not fit wakes everybody.
 */
export const postingSql = (type: string, tagKey: string) =>
  `case when octet_length(${tagKey}) < 7000 then '[' || to_json(${type})::text || ',' || ${tagKey} || ']' else '*' end`

/** Whether a report `r` of a job `j` is not its end. */
export const triesAgain = "(r.status = 'failed' and j.status = 'running' and j.attempt < j.max_attempts)"

/**
 * `retryDelayMillis` in SQL. A retry is due by the clock of the database, as its delay has to outlive every process: if that clock is set
 * back meanwhile, it comes later by as much.
 */
export const retryDelaySql = `least(interval '1 second' * power(2, j.attempt - 1), interval '${
  retryDelayMillis(100) / 1000
} seconds')`

/** A time as milliseconds of the Unix epoch. */
export const milliseconds = (column: string, name = column) =>
  `(extract(epoch from ${column}) * 1000)::float8 as ${name}`

/** A job as it is answered, of the table `j`. What is larger than `mostBytes` is left out. */
export const jobColumns = (mostBytes: number) =>
  `j.id, j.type, j.tag_key, j.priority, j.status, ${jsonColumn("j.input", mostBytes)} as input, j.idempotency_key,
    ${milliseconds("j.asked_not_before", "not_before")}, j.timeout_ms, j.max_attempts, j.attempt, j.worker,
    coalesce((select w.name from lull.worker w where w.id = j.worker),
      (select r.name from lull.replica r where r.id = j.worker)) as worker_name,
    ${milliseconds("j.created_at", "created_at")}, ${milliseconds("j.started_at", "started_at")},
    ${milliseconds("j.finished_at", "finished_at")}, ${jsonColumn("j.result", mostBytes)} as result,
    j.result is not null as has_result, j.error`

/** A job as a worker takes it, of the table `j`. */
export const leasedColumns = (mostBytes: number) =>
  `j.id, j.type, ${jsonColumn("j.input", mostBytes)} as input, ${tooManyBytesOf("j.input", mostBytes)} as input_bytes,
    j.tag_key, j.timeout_ms, j.attempt, j.max_attempts, j.token, j.priority`

export const interval = (duration: Duration.Duration) => `${Duration.toMillis(duration)} milliseconds`

/**
 * Whether the lease of a list's row is the job's. As a `case` it is opaque to the planner, which takes jobs that run for
 * rarer than they are, and would look through all of them for each row of the list.
 */
export const isHeldBy = (list: string) =>
  `case when j.token = ${list}.token then j.status in ('running', 'canceling') else false end`

/** Leases as `l (job, token, position)`, from 1. The subqueries hide the length, so that the plan is the same for any. */
export const leaseList = (sql: PgClient, leases: ReadonlyArray<Lease>) =>
  sql`unnest((select ${pgPlainArray(leases.map(({ job }) => job))}::uuid[]),
    (select ${pgPlainArray(leases.map(({ token }) => token))}::bigint[])) with ordinality as l (job, token, position)`

/**
 * Reports as `r (job, token, status, result, error, position)`, from 1, of which columns that are alike in all of them are sent
 * once.
 */
export const reportList = (sql: PgClient, reports: ReadonlyArray<Report>) => {
  const job = pgPlainArray(reports.map(({ job }) => job))
  const token = column(reports.map(({ token }) => token), pgPlainArray)
  const status = column(reports.map(({ outcome }) => outcome.status), pgPlainArray)
  const result = column(
    reports.map(({ json, outcome }) => json ?? JSON.stringify(outcome.result ?? null)),
    pgJsonArray
  )
  const error = column(
    reports.map(({ outcome }) => outcome.status === "succeeded" ? null : outcome.error),
    pgArray
  )
  return sql`(select job, coalesce(token, ${token.alike}::bigint) as token, coalesce(status, ${status.alike}) as status,
      coalesce(result, ${result.alike}) as result, coalesce(error, ${error.alike}) as error, position
    from unnest((select ${job}::uuid[]), (select ${token.each}::bigint[]), (select ${status.each}::text[]),
      (select ${result.each}::text[]), (select ${error.each}::text[])
    ) with ordinality as r (job, token, status, result, error, position)) as r`
}

/** Jobs as `r`, of which columns that are alike in all of them are sent once. `inputs` are their JSON. */
export const jobList = (
  sql: PgClient,
  jobs: ReadonlyArray<NewJob>,
  inputs: ReadonlyArray<string>,
  tagKeys: ReadonlyArray<string>,
  queues: ReadonlyArray<string>
) => {
  const id = pgPlainArray(jobs.map((job) => job.id))
  const type = column(jobs.map((job) => job.type), pgArray)
  const tags = column(tagKeys, pgJsonArray)
  const priority = column(jobs.map((job) => job.priority), pgPlainArray)
  const input = column(inputs, pgJsonArray)
  const queue = column(queues, pgPlainArray)
  const key = column(jobs.map((job) => job.idempotencyKey ?? null), pgArray)
  const notBefore = column(jobs.map((job) => job.notBefore ?? null), pgPlainArray)
  const timeout = column(jobs.map((job) => job.timeout ?? null), pgPlainArray)
  const maxAttempts = column(jobs.map((job) => job.maxAttempts), pgPlainArray)
  return sql`(select id, coalesce(type, ${type.alike}) as type, coalesce(tag_key, ${tags.alike}) as tag_key,
      coalesce(queue, ${queue.alike}::uuid) as queue,
      coalesce(priority, ${priority.alike}::smallint) as priority, coalesce(input, ${input.alike}) as input,
      coalesce(idempotency_key, ${key.alike}) as idempotency_key,
      coalesce(not_before, ${notBefore.alike}::float8) as not_before,
      coalesce(timeout_ms, ${timeout.alike}::bigint) as timeout_ms,
      coalesce(max_attempts, ${maxAttempts.alike}::smallint) as max_attempts
    from unnest((select ${id}::uuid[]), (select ${type.each}::text[]), (select ${tags.each}::text[]),
      (select ${priority.each}::smallint[]), (select ${input.each}::text[]), (select ${key.each}::text[]),
      (select ${notBefore.each}::float8[]), (select ${timeout.each}::bigint[]),
      (select ${maxAttempts.each}::smallint[]), (select ${queue.each}::uuid[])
    ) as r (id, type, tag_key, priority, input, idempotency_key, not_before, timeout_ms, max_attempts, queue)) as r`
}
