/** Parts of the statements of `JobStorePostgres`: lists, conditions, and decisions that have to be made beside the data. Pure. */
import type { PgClient } from "@effect/sql-pg/PgClient"
import { Duration } from "effect"
import { column, pgArray, pgJsonArray, pgPlainArray } from "../database/PgArray.ts"
import type { Lease } from "./Job.ts"
import { type NewJob, type Report, retryDelayMillis } from "./JobStore.ts"

/** The payload of a posting: below PostgreSQL's 8,000 bytes. What does not fit wakes everybody. */
export const postingSql = (tagKey: string) => `case when octet_length(${tagKey}) < 7000 then ${tagKey} else '*' end`

/** Whether a report `r` of a job `j` is not its end. */
export const triesAgain = "(r.status = 'failed' and j.status = 'running' and j.attempt < j.max_attempts)"

/** `retryDelayMillis` in SQL. */
export const retryDelaySql = `least(interval '1 second' * power(2, j.attempt - 1), interval '${
  retryDelayMillis(100) / 1000
} seconds')`

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

/** Reports as `r (job, token, status, result, error, position)`, from 1. */
export const reportList = (sql: PgClient, reports: ReadonlyArray<Report>) =>
  sql`unnest((select ${pgPlainArray(reports.map(({ job }) => job))}::uuid[]),
    (select ${pgPlainArray(reports.map(({ token }) => token))}::bigint[]),
    (select ${pgPlainArray(reports.map(({ outcome }) => outcome.status))}::text[]),
    (select ${pgJsonArray(reports.map(({ outcome }) => JSON.stringify(outcome.result ?? null)))}::text[]),
    (select ${pgArray(reports.map(({ outcome }) => outcome.status === "succeeded" ? null : outcome.error))}::text[])
  ) with ordinality as r (job, token, status, result, error, position)`

/** Jobs as `r`, of which columns that are alike in all of them are sent once. */
export const jobList = (sql: PgClient, jobs: ReadonlyArray<NewJob>, tagKeys: ReadonlyArray<string>) => {
  const id = pgPlainArray(jobs.map((job) => job.id))
  const type = column(jobs.map((job) => job.type), pgArray)
  const tags = column(tagKeys, pgJsonArray)
  const priority = column(jobs.map((job) => job.priority), pgPlainArray)
  const input = column(jobs.map((job) => JSON.stringify(job.input ?? null)), pgJsonArray)
  const key = column(jobs.map((job) => job.idempotencyKey ?? null), pgArray)
  const notBefore = column(jobs.map((job) => job.notBefore ?? null), pgPlainArray)
  const timeout = column(jobs.map((job) => job.timeout ?? null), pgPlainArray)
  const maxAttempts = column(jobs.map((job) => job.maxAttempts), pgPlainArray)
  return sql`(select id, coalesce(type, ${type.alike}) as type, coalesce(tag_key, ${tags.alike}) as tag_key,
      coalesce(priority, ${priority.alike}::smallint) as priority, coalesce(input, ${input.alike}) as input,
      coalesce(idempotency_key, ${key.alike}) as idempotency_key,
      coalesce(not_before, ${notBefore.alike}::float8) as not_before,
      coalesce(timeout_ms, ${timeout.alike}::bigint) as timeout_ms,
      coalesce(max_attempts, ${maxAttempts.alike}::smallint) as max_attempts
    from unnest((select ${id}::uuid[]), (select ${type.each}::text[]), (select ${tags.each}::text[]),
      (select ${priority.each}::smallint[]), (select ${input.each}::text[]), (select ${key.each}::text[]),
      (select ${notBefore.each}::float8[]), (select ${timeout.each}::bigint[]), (select ${maxAttempts.each}::smallint[])
    ) as r (id, type, tag_key, priority, input, idempotency_key, not_before, timeout_ms, max_attempts)) as r`
}
