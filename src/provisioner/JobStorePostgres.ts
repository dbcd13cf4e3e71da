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
import { Availability } from "../database/Availability.ts"
import { Database } from "../database/Database.ts"
import { openTransaction } from "../database/Link.ts"
import { channel, encode } from "../database/Notifications.ts"
import { pgArray, pgJsonArray, pgPlainArray } from "../database/PgArray.ts"
import {
  canceledWhilePending,
  checkRequests,
  type Job,
  type JobId,
  type JobStatus,
  type Lease,
  type OutputLine,
  pendingJob,
  tagKey,
  workerIsGone
} from "./Job.ts"
import * as JobQueues from "./JobQueues.ts"
import { fromLeasedRows, fromRow, type JobRow, type LeasedRow, toBatchRow } from "./JobRows.ts"
import {
  bytesOf,
  interval,
  isHeldBy,
  jobColumns,
  jobList,
  leasedColumns,
  leaseList,
  postingSql,
  reportList,
  retryDelaySql,
  triesAgain
} from "./JobSql.ts"
import {
  IdempotencyConflict,
  isSameRequest,
  JobEnded,
  JobNotFound,
  JobStore,
  type LeaseStatus,
  type ListOptions,
  type NewJob,
  topics,
  type Verdict
} from "./JobStore.ts"

/** Which reports were stored, by position from 1; and which of them are not the end of their job. `null`: all, none. */
interface Stored {
  readonly positions: ReadonlyArray<number> | null
  readonly again: ReadonlyArray<number> | null
}

const verdictsOf = (count: number, stored: Stored | undefined): Array<Verdict> => {
  const verdicts = Array.from({ length: count }, (): Verdict => stored?.positions === null ? "stored" : "refused")
  for (const position of stored?.positions ?? []) verdicts[position - 1] = "stored"
  for (const position of stored?.again ?? []) verdicts[position - 1] = "again"
  return verdicts
}

/** What an acquire answers with: jobs, and in one row what it found beside them. */
type Answer = LeasedRow & { readonly found: null } | { readonly id: null; readonly found: Found }

interface Found {
  readonly due: number | null
  readonly candidates: number
  readonly fresh: ReadonlyArray<string>
  readonly snapshot: string
}

const isTaken = (row: Answer): row is LeasedRow & { readonly found: null } => row.id !== null

const uniqueViolation = "23505"

/** Leases that are watched: more than any fleet has. */
const mostLeases = 100_000

/** Bytes of inputs that one acquire takes, but at least one job: they arrive within its deadline, and fit into memory. */
const acquireBytes = 4 * 1_048_576

/** Below the 16 MiB of the driver, which ends a connection over a larger row. Versions before took inputs of that size. */
const readableBytes = 8 * 1_048_576

/** Of each input and result in a list. */
const listedBytes = 4_096

/** Bytes of output that one reading answers with, but at least one batch. */
const outputBytes = 4 * 1_048_576

/** Batches of output that one reading looks into. */
const batchesAtOnce = 64

/** Jobs that are handed out again at once; each may be large. */
const reclaimedAtOnce = 8

/** A worker whose replica has not been heard of for so long does not live. */
const aliveFor = "30 seconds"

export const layer: Layer.Layer<JobStore, never, Availability | Database> = Layer.effect(
  JobStore,
  Effect.gen(function*() {
    const { own: database } = yield* Database
    const { history } = yield* Availability
    const queues = JobQueues.make(history)

    /** New jobs, their queues, and their postings; `tail` is what follows the insertion. */
    const insert = (sql: PgClient, jobs: ReadonlyArray<NewJob>, inputs: ReadonlyArray<string>, tail: string) => {
      const tagKeys = jobs.map(({ tags }) => tagKey(tags))
      const { distinct, ids } = queues.ofJobs(jobs, tagKeys)
      const unknown = queues.unknown(distinct)
      const types = pgArray(distinct.map(({ type }) => type))
      const keys = pgJsonArray(distinct.map(({ key }) => key))
      // A queue is written once; of the version before, which knows sets of tags only, too.
      const queuesWritten = unknown.length === 0 ? sql`` : sql`, queued as (
          insert into lull.queue (id, type, tags) select id, type, key::jsonb
          from unnest(${pgPlainArray(unknown.map(({ id }) => id))}::uuid[], ${
        pgArray(unknown.map(({ type }) => type))
      }::text[], ${pgJsonArray(unknown.map(({ key }) => key))}::text[]) as q (id, type, key)
          on conflict do nothing
        ), tag_sets as (
          insert into lull.tag_set (key, tags) select distinct key, key::jsonb
          from unnest(${pgJsonArray(unknown.map(({ key }) => key))}::text[]) as key where octet_length(key) < 2000
          on conflict do nothing
        )`
      return {
        distinct,
        statement: sql`with inserted as (
          insert into lull.job (id, type, tag_key, queue, priority, input, idempotency_key, not_before, asked_not_before,
            waiting, timeout_ms, max_attempts)
          select id, type, tag_key, queue, priority, input::json, idempotency_key, to_timestamp(not_before / 1000),
            to_timestamp(not_before / 1000), coalesce(to_timestamp(not_before / 1000) > now(), false), timeout_ms,
            max_attempts
          from ${jobList(sql, jobs, inputs, tagKeys, ids)} ${sql.literal(tail)}
        )${queuesWritten}, notified as materialized (
          select pg_notify(${channel}, ${`${topics.posted} `} || ${sql.literal(postingSql("type", "key"))})
          from unnest(${types}::text[], ${keys}::text[]) as q (type, key)
        )`
      }
    }

    /** Jobs that nobody has stored before. If one was, all are refused as not unique. */
    const submitNew = (jobs: ReadonlyArray<NewJob>, inputs: ReadonlyArray<string>) =>
      Effect.map(
        database.write(
          "JobStore.submit",
          Effect.flatMap(PgClient, (sql) => {
            const { distinct, statement } = insert(sql, jobs, inputs, "")
            return Effect.tap(
              sql<{ created_at: number }>`${statement}
              select (extract(epoch from now()) * 1000)::float8 as created_at
              where (select count(*) from notified) >= 0`,
              queues.noteStored(sql, distinct)
            )
          })
        ),
        ([row]) => jobs.map((job) => pendingJob(job, row?.created_at ?? 0))
      )

    const submitOnce = Effect.fnUntraced(function*(jobs: ReadonlyArray<NewJob>, inputs: ReadonlyArray<string>) {
      const work = Effect.gen(function*() {
        const sql = yield* PgClient
        const { statement } = insert(sql, jobs, inputs, "order by id on conflict do nothing returning id, created_at")
        const rows = yield* sql<{ id: JobId; created_at: number }>`${statement}
          select id, (extract(epoch from created_at) * 1000)::float8 as created_at from inserted
          where (select count(*) from notified) >= 0`
        const createdAt = new Map(rows.map((row) => [row.id, row.created_at]))
        if (createdAt.size === jobs.length) return { createdAt, known: [] }
        const missing = jobs.filter((job) => !createdAt.has(job.id))
        const known = yield* sql<JobRow>`select ${sql.literal(jobColumns(readableBytes))} from lull.job j
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
      const byId = new Map(known.map((job) => [job.id, job]))
      const byKey = new Map(known.map((job) => [job.idempotencyKey, job]))
      return jobs.map((job): Job => {
        const created = createdAt.get(job.id)
        if (created === undefined) {
          const found = byId.get(job.id) ?? byKey.get(job.idempotencyKey)
          if (found !== undefined) return found
        }
        return pendingJob(job, created ?? 0)
      })
    })

    // To look for each job before it is stored costs a quarter more, and most submissions are new. In a transaction a statement
    // that fails would take the rest with it.
    const submit: JobStore["Service"]["submit"] = Effect.fnUntraced(function*(jobs) {
      const inputs = yield* Effect.fromResult(checkRequests(jobs))
      if (jobs.length === 0) return []
      const looks = jobs.some((job) => job.idempotencyKey !== undefined) || (yield* openTransaction) !== undefined
      if (looks) return yield* submitOnce(jobs, inputs)
      return yield* Effect.catchIf(
        submitNew(jobs, inputs),
        (error) => error._tag === "QueryFailed" && error.sqlState === uniqueViolation,
        () => submitOnce(jobs, inputs)
      )
    })

    const get: JobStore["Service"]["get"] = (id) =>
      Effect.flatMap(
        database.read(
          "JobStore.get",
          Effect.flatMap(PgClient, (sql) =>
            sql<JobRow>`select ${sql.literal(jobColumns(readableBytes))} from lull.job j where id = ${id}`)
        ),
        ([row]) =>
          row === undefined ? Effect.fail(new JobNotFound({ id })) : Effect.succeed(fromRow(row))
      )

    /**
     * Which jobs are listed. The status is a literal, so that the partial index of that status is found. That of most jobs has
     * none, and is opaque to the planner: it would sort the whole table where its statistics say that few have succeeded.
     */
    const listFilter = (sql: PgClient, { before, status, tags, type }: ListOptions) =>
      sql.and([
        sql`true`,
        ...(status === undefined ? [] : [sql.literal(
          status === "succeeded" ? `case when status = '${status}' then true else false end` : `status = '${status}'`
        )]),
        ...(type === undefined ? [] : [sql`type = ${type}`]),
        ...(before === undefined ? [] : [sql`id < ${before}::uuid`]),
        ...(tags === undefined ? [] : [sql`tag_key::jsonb @> ${JSON.stringify(tags)}::jsonb`])
      ])

    /**
     * The newest jobs of a filter, as `listed (id)`. Those that have not ended are few beside those that have: all of them
     * are found by their own index, where a walk from the newest on would read the whole table for the last of them. Those
     * that succeeded are most, and found by that walk; it passes over what is newer and has not (0.4 s for a million).
     */
    const listed = (sql: PgClient, options: ListOptions) => {
      const filter = listFilter(sql, options)
      const limit = sql`limit ${String(options.limit)}::int`
      switch (options.status) {
        case "pending":
          return sql`select id from (
              select id from (select id from lull.job where ${filter} and not waiting offset 0) as ready
              union all select id from (select id from lull.job where ${filter} and waiting offset 0) as waiting
            ) as listed order by id desc ${limit}`
        case "running":
        case "canceling":
          return sql`select id from (select id from lull.job where ${filter} offset 0) as listed order by id desc ${limit}`
        case "succeeded":
        case undefined:
          return sql`select id from lull.job where ${filter} order by id desc ${limit}`
        default:
          return sql`select id from lull.job where ${filter} order by status desc, id desc ${limit}`
      }
    }

    const list: JobStore["Service"]["list"] = (options) =>
      Effect.map(
        database.read(
          "JobStore.list",
          Effect.flatMap(PgClient, (sql) =>
            sql<JobRow>`with listed as materialized (${listed(sql, options)})
              select ${sql.literal(jobColumns(listedBytes))} from lull.job j
              where j.id = any(array(select id from listed)) order by j.id desc`)
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
                error = case when was <> 'pending' then null when attempt = 0 then ${canceledWhilePending(0)}
                  else replace(${canceledWhilePending(-1)}, '-1', attempt::text) end,
                waiting = false
              from target where j.id = target.id and was in ('pending', 'running')
              returning j.*
            ), notified as materialized (
              select pg_notify(${channel}, ${encode(topics.canceling, id)}) from changed where status = 'canceling'
            )
            select ${sql.literal(jobColumns(readableBytes))}, (select was from target) as was from (
              select * from changed
              union all
              select j.* from lull.job j where j.id = ${id} and not exists (select from changed)
            ) as j where (select count(*) from notified) >= 0`)
      )
      const [row] = rows
      if (row === undefined) return yield* new JobNotFound({ id })
      // Canceled already is what was asked for: a repetition finds it so.
      if (row.was === "succeeded" || row.was === "failed") return yield* new JobEnded({ id, status: row.was })
      return fromRow(row)
    })

    // By the clock of the database, as the processes that are meant do not live long enough: a day is given to who lives no more.
    const register: JobStore["Service"]["register"] = (worker) =>
      Effect.asVoid(database.write(
        "JobStore.register",
        Effect.flatMap(PgClient, (sql) =>
          sql`with forgotten as (
              delete from lull.worker w where started_at < now() - interval '1 day'
                and not exists (select from lull.replica r where r.id = w.replica)
            )
            insert into lull.worker (id, replica, name, tags, types, slots) values (
              ${worker.id}, ${worker.replica}, ${worker.name}, ${tagKey(worker.tags)}::jsonb,
              ${worker.types === undefined ? null : pgArray(worker.types)}::text[], ${String(worker.slots)}::int
            ) on conflict (id) do update set slots = excluded.slots`)
      ))

    // By the clock of the database, which wrote the heartbeats, too. After a step of it the answer, a remark, is wrong for some seconds.
    const served: JobStore["Service"]["served"] = (asked) =>
      Effect.map(
        database.read(
          "JobStore.served",
          Effect.flatMap(PgClient, (sql) =>
            sql<{ readonly served: boolean }>`select exists (
                select from lull.worker w join lull.replica r on r.id = w.replica
                where r.beat_at > now() - ${aliveFor}::interval and w.slots > 0
                  and q.tags::jsonb <@ w.tags and (q.tags = '{}') = (w.tags = '{}')
                  and (w.types is null or q.type = any(w.types))
              ) as served
              from unnest(${pgArray(asked.map(({ type }) => type))}::text[],
                ${
              pgJsonArray(asked.map(({ tags }) => tagKey(tags)))
            }::text[]) with ordinality as q (type, tags, position)
              order by position`)
        ),
        (rows) => rows.map((row) => row.served)
      )

    /** Jobs whose time has come become visible to all workers. */
    const promote = Effect.flatMap(PgClient, (sql) =>
      sql`with due as (
          select id from lull.job where status = 'pending' and waiting and not_before <= now()
          order by not_before limit 1000 for update skip locked
        ), promoted as (
          update lull.job j set waiting = false from due where j.id = due.id returning type, tag_key
        )
        select pg_notify(${channel}, ${`${topics.posted} `} || ${sql.literal(postingSql("type", "tag_key"))})
        from (select distinct type, tag_key from promoted) as queues`)

    /** What this worker holds, but for what it knows of. */
    const reclaim = (worker: string, known: ReadonlyArray<Lease>) =>
      Effect.map(
        database.read(
          "JobStore.reclaim",
          Effect.flatMap(PgClient, (sql) =>
            sql<LeasedRow>`select ${sql.literal(leasedColumns(readableBytes))} from lull.job j
              where worker = ${worker} and status in ('running', 'canceling')
                and (id, token) not in (select job, token from ${leaseList(sql, known)})
              limit ${String(reclaimedAtOnce)}::int`)
        ),
        (rows) =>
          rows
      )

    const acquire: JobStore["Service"]["acquire"] = Effect.fnUntraced(
      function*({ lease, limit: asked, worker, ...options }) {
        const reclaimed = options.reclaim === undefined ? [] : yield* reclaim(worker.id, options.reclaim)
        const limit = Math.max(0, asked - reclaimed.length)
        const mine = queues.of(worker)
        const types = worker.types === undefined ? null : pgArray(worker.types)
        // When the next waiting job is due, and which queues are new, is said beside: a row of its own, where nothing is taken.
        const take = Effect.flatMap(
          PgClient,
          (sql) =>
            sql<Answer>`with fresh as materialized (
            select id from lull.queue q
            where q.xact >= (select ${mine.snapshot}::xid8) and q.tags <@ (select ${tagKey(worker.tags)}::jsonb)
              and (q.tags = '{}') = (select ${tagKey(worker.tags)}::jsonb = '{}')
              and ((select ${types}::text[]) is null or q.type = any((select ${types}::text[])::text[]))
          ), queues as materialized (
            select id from unnest((select ${pgPlainArray(mine.ids)}::uuid[])) as id union select id from fresh
          ), candidate as materialized (
            select c.row, c.id, c.priority, c.bytes from queues q cross join lateral (
              select j.ctid as row, j.id, j.priority, ${sql.literal(bytesOf("j.input"))} as bytes from lull.job j
              where j.status = 'pending' and not j.waiting and j.queue = q.id
              order by j.priority desc, j.id limit (select ${String(limit)}::int) for update of j skip locked
            ) c
            order by c.priority desc, c.id limit (select ${String(limit)}::int)
          ), fitting as (
            select row from (
              select row, sum(bytes) over (order by priority desc, id rows unbounded preceding) - bytes as before from candidate
            ) as summed where before < ${String(acquireBytes)}::int
          ), taken as (
            update lull.job j set status = 'running', worker = ${worker.id}, token = token + 1,
              attempt = attempt + 1, started_at = now(), lease_until = now() + ${interval(lease)}::interval
            where j.ctid = any(array(select row from fitting))
            returning ${sql.literal(leasedColumns(readableBytes))}
          )
          select taken.*, null::json as found from taken
          union all select null, null, null, null, null, null, null, null, null, null, json_build_object(
            'due', (extract(epoch from (
                select not_before from lull.job where status = 'pending' and waiting order by not_before limit 1
              ) - now()) * 1000)::float8,
            'candidates', (select count(*) from candidate),
            'fresh', (select coalesce(json_agg(id), '[]') from fresh),
            'snapshot', pg_snapshot_xmin(pg_current_snapshot())::text
          )`
        )
        const { due, found, isMore, rows } = yield* database.write(
          "JobStore.acquire",
          Effect.gen(function*() {
            const answer = yield* take
            const rows = answer.filter(isTaken)
            const found = answer.find((row) => row.found !== null)?.found ?? undefined
            const due = found?.due ?? undefined
            const candidates = found?.candidates ?? 0
            const isMore = candidates >= limit || rows.length < candidates
            // Who found enough comes back at once, and asks then.
            if (due === undefined || due > 0 || isMore) return { rows, due, found, isMore }
            yield* promote
            return { rows, due: 0, found, isMore }
          })
        )
        queues.noteFresh(worker, mine, found)
        const taken = rows.toSorted((a, b) => b.priority - a.priority || (a.id < b.id ? -1 : 1))
        return {
          ...fromLeasedRows([...reclaimed, ...taken]),
          isMore: isMore || reclaimed.length >= reclaimedAtOnce,
          nextDue: due === undefined ? undefined : Duration.millis(Math.max(0, due))
        }
      }
    )

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

    /** Of reports that were not stored now: stored before, with an answer that was lost; locked; or refused. */
    const verdictsBefore = (sql: PgClient, reports: ReadonlyArray<Lease>) =>
      sql<{ readonly position: number; readonly verdict: Verdict }>`select l.position::int,
          case j.status when 'running' then 'locked' when 'canceling' then 'locked' when 'pending' then 'again'
            else 'stored' end as verdict
        from ${leaseList(sql, reports)} join lull.job j on j.id = l.job where j.token = l.token`

    /** So that workers learn when the next attempt is due. */
    const tellOfRetries = (sql: PgClient, jobs: ReadonlyArray<JobId>) =>
      sql`select pg_notify(${channel}, ${`${topics.posted} `} || ${sql.literal(postingSql("type", "tag_key"))})
        from (select distinct type, tag_key from lull.job where id = any(${pgPlainArray(jobs)}::uuid[])) as queues`

    const finish: JobStore["Service"]["finish"] = (reports, options) =>
      database.write(
        "JobStore.finish",
        Effect.gen(function*() {
          const sql = yield* PgClient
          const isFree = options?.skipLocked === true
            ? sql`and j.id = any(array(
                select f.id from lull.job f where f.id = any(${pgPlainArray(reports.map(({ job }) => job))}::uuid[])
                for update skip locked))`
            : sql``
          // Mostly all of them are stored, and have ended: only what is otherwise is answered one by one.
          const [answer] = yield* sql<Stored>`with stored as (update lull.job j set
              status = case when ${sql.literal(triesAgain)} then 'pending' else r.status end,
              result = r.result::json,
              error = r.error,
              waiting = ${sql.literal(triesAgain)},
              not_before = case when ${sql.literal(triesAgain)} then now() + ${sql.literal(retryDelaySql)}
                else not_before end,
              finished_at = case when ${sql.literal(triesAgain)} then null else now() end
            from ${reportList(sql, reports)}
            where j.id = r.job and ${sql.literal(isHeldBy("r"))} ${isFree}
            returning r.position, j.status = 'pending' as is_again
            )
            select case when (select count(*) from stored) < ${String(reports.length)}::int
                then (select coalesce(json_agg(position), '[]') from stored) end as positions,
              (select json_agg(position) from stored where is_again) as again`
          const verdicts = verdictsOf(reports.length, answer)
          const again = reports.filter((_, at) => verdicts[at] === "again").map(({ job }) => job)
          if (again.length > 0) yield* tellOfRetries(sql, again)
          if (answer?.positions === null) return verdicts
          for (const { position, verdict } of yield* verdictsBefore(sql, reports)) {
            if (verdicts[position - 1] === "refused") verdicts[position - 1] = verdict
          }
          return verdicts
        })
      )

    const release: JobStore["Service"]["release"] = (leases) =>
      Effect.map(
        database.write(
          "JobStore.release",
          Effect.flatMap(PgClient, (sql) =>
            sql<{ readonly position: number }>`with given as (
                update lull.job j set
                  status = case when status = 'canceling' then 'canceled' else 'pending' end,
                  finished_at = case when status = 'canceling' then now() end,
                  error = case when status = 'canceling' then ${canceledWhilePending(0)} else error end,
                  token = j.token + 1, attempt = attempt - 1, worker = null,
                  started_at = case when attempt > 1 then started_at end
                from ${leaseList(sql, leases)}
                where j.id = l.job and ${sql.literal(isHeldBy("l"))}
                returning l.position, j.status, j.type, j.tag_key
              ), notified as materialized (
                select pg_notify(${channel}, ${`${topics.posted} `} || ${sql.literal(postingSql("type", "tag_key"))})
                from (select distinct type, tag_key from given where status = 'pending') as queues
              )
              select position::int from given where (select count(*) from notified) >= 0`)
        ),
        (rows) => {
          const given = new Set(rows.map(({ position }) => position))
          return leases.map((_, at) => given.has(at + 1))
        }
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
              sql<{ readonly attempt: number; readonly lines: ReadonlyArray<OutputLine> }>`select attempt, lines from (
                select attempt, last_line, lines,
                  sum(octet_length(lines::text)) over (order by attempt, last_line) - octet_length(lines::text) as before
                from (
                  select attempt, last_line, lines from lull.job_output
                  where job_id = ${id} and (attempt, last_line) > (${String(attempt)}::smallint, ${
                String(index)
              }::bigint)
                  order by attempt, last_line limit ${String(batchesAtOnce)}::int
                ) as batch
              ) as summed where before < ${String(outputBytes)}::int order by attempt, last_line`
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
    const leases: JobStore["Service"]["leases"] = (suspected) =>
      Effect.map(
        database.write(
          "JobStore.leases",
          Effect.flatMap(PgClient, (sql) => {
            const suspects = pgPlainArray(suspected)
            return sql<{ id: JobId; token: bigint; worker: string; renewal: string; is_locked: boolean }>`
              with as_renewals as (
                update lull.job set lease_until = null where false
              ), free as materialized (
                select id from lull.job where id = any((select ${suspects}::uuid[])::uuid[]) for update skip locked
              )
              select j.id, j.token, j.worker, j.lease_until::text as renewal,
                j.id = any((select ${suspects}::uuid[])::uuid[]) and free.id is null as is_locked
              from lull.job j left join free using (id)
              where j.status in ('running', 'canceling') limit ${String(mostLeases)}::int`
          })
        ),
        (rows) =>
          rows.map(({ id, is_locked, renewal, token, worker }) => ({
            job: id,
            token: Number(token),
            worker,
            renewal,
            isLocked: is_locked
          }))
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
                  error = ${workerIsGone},
                  finished_at = case when status = 'running' and attempt < max_attempts then null else now() end
                where j.id = any(array(select id from gone))
                returning j.id, j.status, j.type, j.tag_key
              ), notified as materialized (
                select pg_notify(${channel}, ${`${topics.posted} `} || ${sql.literal(postingSql("type", "tag_key"))})
                from (select distinct type, tag_key from reaped where status = 'pending') as queues
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
      register,
      served: (asked) => asked.length === 0 ? Effect.succeed([]) : served(asked),
      acquire,
      heartbeat: (leases, lease) => leases.length === 0 ? Effect.succeed([]) : heartbeat(leases, lease),
      finish: (reports, options) => reports.length === 0 ? Effect.succeed([]) : finish(reports, options),
      release: (given) => given.length === 0 ? Effect.succeed([]) : release(given),
      appendOutput: (batches) => batches.length === 0 ? Effect.succeed([]) : appendOutput(batches),
      readOutput,
      leases,
      reap: (leases) => leases.length === 0 ? Effect.succeed([]) : reap(leases)
    })
  })
)
