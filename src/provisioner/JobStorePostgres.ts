/**
 * Jobs in PostgreSQL. Each operation is one statement, so that there is nothing between its parts that could be lost;
 * `submit` and `acquire` have a second one that only reads, or only moves jobs whose time has come.
 *
 * Rows are taken with `skip locked` wherever several are taken at once, so that no two replicas wait for each other in a
 * circle.
 *
 * Each statement has one plan, whatever its parameters and however full the tables: a prepared statement keeps the plan that
 * was made when they were empty. So lists come as arrays and numbers as subqueries, of which the planner knows nothing; rows
 * are found by `= any(array(…))` where a join could read the whole table; and the connections plan no sequential scans
 * (`PostgresLink`).
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import { Duration, Effect, Layer } from "effect"
import { Database } from "../database/Database.ts"
import { channel, encode } from "../database/Notifications.ts"
import { pgArray, pgJsonArray, pgPlainArray } from "../database/PgArray.ts"
import { type Job, type JobId, type JobStatus, type OutputLine, pendingJob, tagKey } from "./Job.ts"
import { fromLeasedRow, fromRow, type JobRow, type LeasedRow, toBatchRow } from "./JobRows.ts"
import { interval, isHeldBy, jobList, leaseList, postingSql, reportList, retryDelaySql, triesAgain } from "./JobSql.ts"
import {
  IdempotencyConflict,
  isSameRequest,
  JobEnded,
  JobNotFound,
  JobStore,
  type LeaseStatus,
  type NewJob,
  topics
} from "./JobStore.ts"

/** The other side of an outer join that found nothing. */
interface NoRow {
  readonly id: null
  readonly due: number | null
}

const uniqueViolation = "23505"

/** Leases that are watched: more than any fleet has. */
const mostLeases = 100_000

/** Batches of output that one reading looks into: some megabytes at most. */
const batchesAtOnce = 64

export const layer: Layer.Layer<JobStore, never, Database> = Layer.effect(
  JobStore,
  Effect.gen(function*() {
    const { own: database } = yield* Database

    const milliseconds = (column: string) => `(extract(epoch from ${column}) * 1000)::float8 as ${column}`
    const columns = `id, type, tag_key, priority, status, input, idempotency_key, ${
      milliseconds("not_before")
    }, timeout_ms,
      max_attempts, attempt, worker, ${milliseconds("created_at")}, ${milliseconds("started_at")},
      ${milliseconds("finished_at")}, result, error`

    /** New jobs, their sets of tags, and their postings; `tail` is what follows the insertion. */
    const insert = (sql: PgClient, jobs: ReadonlyArray<NewJob>, tail: string) => {
      const tagKeys = jobs.map(({ tags }) => tagKey(tags))
      const distinct = pgJsonArray([...new Set(tagKeys)])
      return sql`with inserted as (
          insert into lull.job (id, type, tag_key, priority, input, idempotency_key, not_before, waiting, timeout_ms,
            max_attempts)
          select id, type, tag_key, priority, input::json, idempotency_key, to_timestamp(not_before / 1000),
            coalesce(to_timestamp(not_before / 1000) > now(), false), timeout_ms, max_attempts
          from ${jobList(sql, jobs, tagKeys)} ${sql.literal(tail)}
        ), tag_sets as (
          insert into lull.tag_set (key, tags) select key, key::jsonb from unnest(${distinct}::text[]) as key
          on conflict do nothing
        ), notified as materialized (
          select pg_notify(${channel}, ${`${topics.posted} `} || ${sql.literal(postingSql("key"))})
          from unnest(${distinct}::text[]) as key
        )`
    }

    /** Jobs that nobody has stored before. If one was, all are refused as not unique. */
    const submitNew = (jobs: ReadonlyArray<NewJob>) =>
      Effect.map(
        database.write(
          "JobStore.submit",
          Effect.flatMap(PgClient, (sql) =>
            sql<{ created_at: number }>`${insert(sql, jobs, "")}
              select (extract(epoch from now()) * 1000)::float8 as created_at
              where (select count(*) from notified) >= 0`)
        ),
        ([row]) => jobs.map((job) => pendingJob(job, row?.created_at ?? 0))
      )

    const submitOnce: JobStore["Service"]["submit"] = Effect.fnUntraced(function*(jobs) {
      const work = Effect.gen(function*() {
        const sql = yield* PgClient
        const rows = yield* sql<{ id: JobId; created_at: number }>`${
          insert(sql, jobs, "order by id on conflict do nothing returning id, created_at")
        }
          select id, (extract(epoch from created_at) * 1000)::float8 as created_at from inserted
          where (select count(*) from notified) >= 0`
        const createdAt = new Map(rows.map((row) => [row.id, row.created_at]))
        if (createdAt.size === jobs.length) return { createdAt, known: [] }
        const missing = jobs.filter((job) => !createdAt.has(job.id))
        const known = yield* sql<JobRow>`select ${sql.literal(columns)} from lull.job
          where id = any(${pgPlainArray(missing.map((job) => job.id))}::uuid[])
            or idempotency_key = any(${pgArray(missing.flatMap((job) => job.idempotencyKey ?? []))}::text[])`
        const knownJobs = known.map(fromRow)
        const byId = new Map(knownJobs.map((job) => [job.id, job]))
        const byKey = new Map(knownJobs.map((job) => [job.idempotencyKey, job]))
        for (const job of missing) {
          const existing = byId.get(job.id) ?? byKey.get(job.idempotencyKey)
          if (existing === undefined || isSameRequest(existing, job, tagKey)) continue
          return yield* new IdempotencyConflict({
            idempotencyKey: job.idempotencyKey ?? "",
            existing: existing.id
          })
        }
        return { createdAt, known: knownJobs }
      })
      // A conflict has to take back the jobs that came with it; one job alone, or jobs without keys, cannot conflict so.
      const mayConflict = jobs.length > 1 && jobs.some((job) => job.idempotencyKey !== undefined)
      const { createdAt, known } = yield* database.write(
        "JobStore.submit",
        mayConflict ? Effect.flatMap(PgClient, (sql) => sql.withTransaction(work)) : work
      )
      return jobs.map((job): Job => {
        const created = createdAt.get(job.id)
        if (created === undefined) {
          const found = known.find((other) => other.id === job.id) ??
            known.find((other) => other.idempotencyKey === job.idempotencyKey)
          if (found !== undefined) return found
        }
        return pendingJob(job, created ?? 0)
      })
    })

    // To look for each job before it is stored costs a quarter more, and most submissions are new.
    const submit: JobStore["Service"]["submit"] = (jobs) =>
      jobs.some((job) => job.idempotencyKey !== undefined)
        ? submitOnce(jobs)
        : Effect.catchIf(
          submitNew(jobs),
          (error) => error._tag === "QueryFailed" && error.sqlState === uniqueViolation,
          () => submitOnce(jobs)
        )

    const get: JobStore["Service"]["get"] = (id) =>
      Effect.flatMap(
        database.read(
          "JobStore.get",
          Effect.flatMap(PgClient, (sql) => sql<JobRow>`select ${sql.literal(columns)} from lull.job where id = ${id}`)
        ),
        ([row]) => row === undefined ? Effect.fail(new JobNotFound({ id })) : Effect.succeed(fromRow(row))
      )

    const list: JobStore["Service"]["list"] = (options) =>
      Effect.map(
        database.read(
          "JobStore.list",
          Effect.flatMap(PgClient, (sql) =>
            sql<JobRow>`select ${sql.literal(columns)} from lull.job where ${
              sql.and([
                sql`true`,
                ...(options.status === undefined ? [] : [sql`status = ${options.status}`]),
                ...(options.type === undefined ? [] : [sql`type = ${options.type}`]),
                ...(options.before === undefined ? [] : [sql`id < ${options.before}::uuid`]),
                ...(options.tags === undefined
                  ? []
                  : [
                    sql`tag_key in (select key from lull.tag_set where tags @> ${JSON.stringify(options.tags)}::jsonb)`
                  ])
              ])
            } order by id desc limit ${String(options.limit)}::int`)
        ),
        (rows) => rows.map(fromRow)
      )

    const cancel: JobStore["Service"]["cancel"] = Effect.fnUntraced(function*(id) {
      const rows = yield* database.write(
        "JobStore.cancel",
        Effect.flatMap(PgClient, (sql) =>
          sql<JobRow & { readonly was: JobStatus }>`with target as (
              select id, status as was from lull.job where id = ${id} for update
            ), changed as (
              update lull.job j set
                status = case when was = 'pending' then 'canceled' else 'canceling' end,
                finished_at = case when was = 'pending' then now() end,
                error = case when was = 'pending' then 'canceled before it was started' end,
                waiting = false
              from target where j.id = target.id and was in ('pending', 'running')
              returning j.*
            ), notified as materialized (
              select pg_notify(${channel}, ${encode(topics.canceling, id)}) from changed where status = 'canceling'
            )
            select ${sql.literal(columns)}, (select was from target) as was from (
              select * from changed
              union all
              select j.* from lull.job j where j.id = ${id} and not exists (select from changed)
            ) as job where (select count(*) from notified) >= 0`)
      )
      const [row] = rows
      if (row === undefined) return yield* new JobNotFound({ id })
      // Canceled already is what was asked for: a repetition finds it so.
      if (row.was === "succeeded" || row.was === "failed") return yield* new JobEnded({ id, status: row.was })
      return fromRow(row)
    })

    const leased = `id, type, input, tag_key, timeout_ms, attempt, max_attempts, token`

    /** Jobs whose time has come become visible to all workers. */
    const promote = Effect.flatMap(PgClient, (sql) =>
      sql`with due as (
          select id from lull.job where status = 'pending' and waiting and not_before <= now()
          order by not_before limit 1000 for update skip locked
        ), promoted as (
          update lull.job j set waiting = false from due where j.id = due.id returning tag_key
        )
        select pg_notify(${channel}, ${`${topics.posted} `} || ${sql.literal(postingSql("tag_key"))})
        from (select distinct tag_key from promoted) as tag_sets`)

    const acquire: JobStore["Service"]["acquire"] = Effect.fnUntraced(function*(options) {
      const reclaimed = options.reclaim === undefined ? [] : yield* database.read(
        "JobStore.reclaim",
        Effect.flatMap(PgClient, (sql) =>
          sql<LeasedRow>`select ${sql.literal(leased)}, priority from lull.job
            where worker = ${options.worker} and status in ('running', 'canceling')
              and id <> all(${pgPlainArray(options.reclaim ?? [])}::uuid[])`)
      )
      const limit = Math.max(0, options.limit - reclaimed.length)
      // When the next waiting job is due is told beside: a row of its own, where nothing is taken.
      const take = Effect.flatMap(
        PgClient,
        (sql) =>
          sql<LeasedRow & { readonly due: number | null } | NoRow>`with candidate as materialized (
            select c.id from lull.tag_set s cross join lateral (
              select j.id, j.priority from lull.job j
              where j.status = 'pending' and not j.waiting and j.tag_key = s.key
              order by j.priority desc, j.id limit (select ${String(limit)}::int) for update of j skip locked
            ) c
            where s.tags <@ (select ${tagKey(options.tags)}::jsonb)
              and (s.key = '{}') = (select ${tagKey(options.tags)} = '{}')
            order by c.priority desc, c.id limit (select ${String(limit)}::int)
          ), taken as (
            update lull.job j set status = 'running', worker = ${options.worker}, token = token + 1,
              attempt = attempt + 1, started_at = now(), lease_until = now() + ${interval(options.lease)}::interval
            where j.id = any(array(select id from candidate))
            returning ${sql.literal(leased)}, priority
          )
          select taken.*, (extract(epoch from (
              select not_before from lull.job where status = 'pending' and waiting order by not_before limit 1
            ) - now()) * 1000)::float8 as due
          from (values (0)) as one left join taken on true`
      )
      const { due, rows } = yield* database.write(
        "JobStore.acquire",
        Effect.gen(function*() {
          const found = yield* take
          const rows = found.filter((row) => row.id !== null)
          const due = found[0]?.due ?? undefined
          // Who found enough comes back at once, and asks then.
          if (due === undefined || due > 0 || rows.length === limit) return { rows, due }
          yield* promote
          return { rows, due: 0 }
        })
      )
      const taken = rows.toSorted((a, b) => b.priority - a.priority || (a.id < b.id ? -1 : 1))
      return {
        jobs: [...reclaimed, ...taken].map(fromLeasedRow),
        nextDue: due === undefined ? undefined : Duration.millis(Math.max(0, due))
      }
    })

    const heartbeat: JobStore["Service"]["heartbeat"] = (leases, lease) =>
      Effect.map(
        database.vital(
          "JobStore.heartbeat",
          Effect.flatMap(PgClient, (sql) =>
            // A row that somebody else is changing is not waited for; what counts is read beside the update.
            sql<{ readonly verdict: LeaseStatus }>`with mine as materialized (
                select * from ${leaseList(sql, leases)}
              ), free as (
                select j.id from lull.job j join mine on mine.job = j.id
                where ${sql.literal(isHeldBy("mine"))}
                for update of j skip locked
              ), beaten as (
                update lull.job j set lease_until = now() + ${interval(lease)}::interval
                where j.id = any(array(select id from free))
              )
              select case when ${sql.literal(isHeldBy("mine"))} then
                case when j.status = 'canceling' then 'canceling' else 'held' end else 'lost' end as verdict
              from mine left join lull.job j on j.id = mine.job order by mine.position`)
        ),
        (rows) => rows.map((row) => row.verdict)
      )

    const finish: JobStore["Service"]["finish"] = (reports) =>
      database.write(
        "JobStore.finish",
        Effect.gen(function*() {
          const sql = yield* PgClient
          const stored = yield* sql<{ readonly position: number }>`update lull.job j set
              status = case when ${sql.literal(triesAgain)} then 'pending' else r.status end,
              result = r.result::json,
              error = r.error,
              waiting = ${sql.literal(triesAgain)},
              not_before = case when ${sql.literal(triesAgain)} then now() + ${sql.literal(retryDelaySql)}
                else not_before end,
              finished_at = case when ${sql.literal(triesAgain)} then null else now() end
            from ${reportList(sql, reports)}
            where j.id = r.job and ${sql.literal(isHeldBy("r"))}
            returning r.position::int`
          const accepted = reports.map(() => false)
          for (const { position } of stored) accepted[position - 1] = true
          if (stored.length === reports.length) return accepted
          // Refused; or it was stored before, and the answer was lost.
          const before = yield* sql<{ readonly position: number }>`select l.position::int
            from ${leaseList(sql, reports)} join lull.job j on j.id = l.job
            where j.token = l.token and j.status not in ('running', 'canceling')`
          for (const { position } of before) accepted[position - 1] = true
          return accepted
        })
      )

    const appendOutput: JobStore["Service"]["appendOutput"] = (batches) =>
      Effect.map(
        database.write(
          "JobStore.appendOutput",
          Effect.flatMap(PgClient, (sql) =>
            sql<{ readonly accepted: boolean }>`with batch as materialized (
                select * from json_to_recordset(${JSON.stringify(batches.map(toBatchRow))}::json)
                  as b (job uuid, token bigint, attempt smallint, last_line bigint, lines json, position int)
              ), accepted as materialized (
                select batch.position from batch join lull.job j on j.id = batch.job
                where ${sql.literal(isHeldBy("batch"))}
              ), added as (
                insert into lull.job_output (job_id, attempt, last_line, lines)
                select job, attempt, last_line, lines from batch join accepted using (position)
                on conflict do nothing
              )
              select accepted.position is not null as accepted from batch left join accepted using (position)
              order by batch.position`)
        ),
        (rows) => rows.map((row) => row.accepted)
      )

    const readOutput: JobStore["Service"]["readOutput"] = (id, { after, limit }) => {
      const { attempt, index } = after ?? { attempt: 0, index: -1 }
      return Effect.map(
        database.read(
          "JobStore.readOutput",
          Effect.flatMap(
            PgClient,
            (sql) =>
              sql<{ readonly attempt: number; readonly lines: ReadonlyArray<OutputLine> }>`select attempt, lines
              from lull.job_output
              where job_id = ${id} and (attempt, last_line) > (${String(attempt)}::smallint, ${String(index)}::bigint)
              order by attempt, last_line limit ${String(batchesAtOnce)}::int`
          )
        ),
        (rows) =>
          rows.flatMap((row) =>
            row.lines
              .filter((line) => row.attempt > attempt || line.index > index)
              .map((line) => ({ ...line, attempt: row.attempt }))
          ).slice(0, limit)
      )
    }

    // The update locks the table as a renewal would, and changes nothing.
    const leases: JobStore["Service"]["leases"] = Effect.map(
      database.write(
        "JobStore.leases",
        Effect.flatMap(
          PgClient,
          (sql) =>
            sql<{ id: JobId; token: bigint; worker: string; renewal: string }>`with as_renewals as (
              update lull.job set lease_until = null where false
            )
            select id, token, worker, lease_until::text as renewal from lull.job
            where status in ('running', 'canceling') limit ${mostLeases}`
        )
      ),
      (rows) => rows.map(({ id, renewal, token, worker }) => ({ job: id, token: Number(token), worker, renewal }))
    )

    const reap: JobStore["Service"]["reap"] = (leases) =>
      Effect.map(
        database.write(
          "JobStore.reap",
          Effect.flatMap(PgClient, (sql) =>
            sql<{ readonly id: JobId }>`with gone as (
                select j.id from lull.job j join ${leaseList(sql, leases)} on l.job = j.id
                where ${sql.literal(isHeldBy("l"))}
                  and j.lease_until::text = (${pgArray(leases.map(({ renewal }) => renewal))}::text[])[l.position]
                for update of j skip locked
              ), reaped as (
                update lull.job j set
                  status = case when status = 'canceling' then 'canceled' when attempt < max_attempts then 'pending'
                    else 'failed' end,
                  token = token + 1,
                  error = 'its worker is gone: nothing was heard of it for longer than its lease',
                  finished_at = case when status = 'running' and attempt < max_attempts then null else now() end
                where j.id = any(array(select id from gone))
                returning j.id, j.status, j.tag_key
              ), notified as materialized (
                select pg_notify(${channel}, ${`${topics.posted} `} || ${sql.literal(postingSql("tag_key"))})
                from (select distinct tag_key from reaped where status = 'pending') as tag_sets
              )
              select id from reaped where (select count(*) from notified) >= 0`)
        ),
        (rows) => rows.map((row) => row.id)
      )

    return JobStore.of({
      submit,
      get,
      list,
      cancel,
      acquire,
      heartbeat: (leases, lease) => leases.length === 0 ? Effect.succeed([]) : heartbeat(leases, lease),
      finish: (reports) => reports.length === 0 ? Effect.succeed([]) : finish(reports),
      appendOutput: (batches) => batches.length === 0 ? Effect.succeed([]) : appendOutput(batches),
      readOutput,
      leases,
      reap: (leases) => leases.length === 0 ? Effect.succeed([]) : reap(leases)
    })
  })
)
