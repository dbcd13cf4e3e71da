/**
 * Jobs in memory: the model of `JobStorePostgres` for tests and simulations, and for applications that need no memory
 * beyond the process. Its work passes the same door, so that a scripted outage hits it as it would hit PostgreSQL.
 *
 * The rows live in a `JobTable`, which several stores, so several replicas of a test, may share.
 */
import { Clock, Context, Duration, Effect, Layer } from "effect"
import { Database } from "../database/Database.ts"
import { Notifications } from "../database/Notifications.ts"
import { afterLoss, covers, isTerminal, type Job, type JobId, type Lease, pendingJob, tagKey } from "./Job.ts"
import {
  IdempotencyConflict,
  isSameRequest,
  JobEnded,
  JobNotFound,
  JobStore,
  type NewJob,
  type OutputBatch,
  type Report,
  retryDelayMillis,
  type StoredLine,
  topics
} from "./JobStore.ts"

export interface Row extends Job {
  readonly token: number
  readonly leaseUntil: number
}

/** What the database would hold. */
export class JobTable extends Context.Service<JobTable, {
  readonly rows: Map<JobId, Row>
  readonly output: Map<JobId, Array<StoredLine>>
}>()("lull/provisioner/JobTable") {
  static readonly layer = Layer.sync(JobTable, () => JobTable.of({ rows: new Map(), output: new Map() }))
}

export const layer: Layer.Layer<JobStore, never, Database | JobTable | Notifications> = Layer.effect(
  JobStore,
  Effect.gen(function*() {
    const database = yield* Database
    const notifications = yield* Notifications
    const { output, rows } = yield* JobTable

    const isHeld = (row: Row | undefined, lease: Lease): row is Row =>
      row !== undefined && row.token === lease.token && (row.status === "running" || row.status === "canceling")

    const notify = (topic: string, payloads: Iterable<string>) =>
      Effect.forEach(new Set(payloads), (payload) => notifications.publish({ _tag: "Notified", topic, payload }), {
        discard: true
      })

    const toJob = ({ leaseUntil: _, token: __, ...job }: Row): Job => job

    const submit = (jobs: ReadonlyArray<NewJob>) =>
      Effect.gen(function*() {
        const now = yield* Clock.currentTimeMillis
        const byKey = new Map<string, Row>()
        for (const row of rows.values()) if (row.idempotencyKey !== undefined) byKey.set(row.idempotencyKey, row)
        const added: Array<Row> = []
        const answers: Array<Job> = []
        for (const job of jobs) {
          const existing = rows.get(job.id) ??
            (job.idempotencyKey === undefined ? undefined : byKey.get(job.idempotencyKey))
          if (existing !== undefined && !isSameRequest(existing, job, tagKey)) {
            return yield* new IdempotencyConflict({ idempotencyKey: job.idempotencyKey ?? "", existing: existing.id })
          }
          const row: Row = existing ?? {
            ...pendingJob(job, now),
            token: 0,
            leaseUntil: 0
          }
          if (existing === undefined) added.push(row)
          if (job.idempotencyKey !== undefined) byKey.set(job.idempotencyKey, row)
          answers.push(toJob(row))
        }
        for (const row of added) rows.set(row.id, row)
        yield* notify(topics.posted, jobs.map((job) => tagKey(job.tags)))
        return answers
      })

    const find = (id: JobId) =>
      Effect.suspend(() => {
        const row = rows.get(id)
        return row === undefined ? Effect.fail(new JobNotFound({ id })) : Effect.succeed(row)
      })

    const cancel = (id: JobId) =>
      Effect.gen(function*() {
        const row = yield* find(id)
        if (row.status === "succeeded" || row.status === "failed") {
          return yield* new JobEnded({ id, status: row.status })
        }
        if (row.status === "pending") {
          const finishedAt = yield* Clock.currentTimeMillis
          rows.set(id, { ...row, status: "canceled", finishedAt, error: "canceled before it was started" })
        } else if (row.status === "running") {
          rows.set(id, { ...row, status: "canceling" })
          yield* notify(topics.canceling, [id])
        }
        return toJob(yield* find(id))
      })

    const toLeased = (row: Row) => ({
      job: row.id,
      token: row.token,
      type: row.type,
      input: row.input,
      tags: row.tags,
      timeout: row.timeout,
      attempt: row.attempt,
      maxAttempts: row.maxAttempts
    })

    const oldestOfHighestPriority = (a: Row, b: Row) => b.priority - a.priority || (a.id < b.id ? -1 : 1)

    const finish = (reports: ReadonlyArray<Report>) =>
      Effect.map(Clock.currentTimeMillis, (now) =>
        reports.map((report) => {
          const row = rows.get(report.job)
          if (row === undefined || row.token !== report.token) return false
          // Ended under this token: the first report was stored, and its answer lost.
          if (!isHeld(row, report)) return true
          const { outcome } = report
          const again = outcome.status === "failed" && row.status === "running" && row.attempt < row.maxAttempts
          rows.set(row.id, {
            ...row,
            status: again ? "pending" : outcome.status,
            result: outcome.result ?? null,
            error: outcome.status === "succeeded" ? undefined : outcome.error,
            notBefore: again ? now + retryDelayMillis(row.attempt) : row.notBefore,
            finishedAt: again ? undefined : now
          })
          return true
        }))

    const append = (batches: ReadonlyArray<OutputBatch>) =>
      Effect.sync(() =>
        batches.map((batch) => {
          if (!isHeld(rows.get(batch.job), batch)) return false
          const stored = output.get(batch.job) ?? []
          const last = batch.lines.at(-1)
          const isKnown = stored.some((line) => line.attempt === batch.attempt && line.index === last?.index)
          if (!isKnown) {
            output.set(batch.job, [...stored, ...batch.lines.map((line) => ({ ...line, attempt: batch.attempt }))])
          }
          return true
        })
      )

    return JobStore.of({
      submit: (jobs) => database.write("JobStore.submit", submit(jobs)),
      get: (id) => database.read("JobStore.get", Effect.map(find(id), toJob)),
      list: (options) =>
        database.read(
          "JobStore.list",
          Effect.sync(() =>
            [...rows.values()].filter((row) =>
              (options.status === undefined || row.status === options.status) &&
              (options.type === undefined || row.type === options.type) &&
              (options.before === undefined || row.id < options.before) &&
              Object.entries(options.tags ?? {}).every(([key, value]) => row.tags[key] === value)
            ).sort((a, b) => (a.id < b.id ? 1 : -1)).slice(0, options.limit).map(toJob)
          )
        ),
      cancel: (id) => database.write("JobStore.cancel", cancel(id)),
      acquire: (options) =>
        database.write(
          "JobStore.acquire",
          Effect.map(Clock.currentTimeMillis, (now) => {
            const known = options.reclaim && new Set(options.reclaim)
            const reclaimed = known === undefined ?
              [] :
              [...rows.values()].filter((row) =>
                row.worker === options.worker && (row.status === "running" || row.status === "canceling") &&
                !known.has(row.id)
              )
            const pending = [...rows.values()].filter((row) => row.status === "pending")
            const taken = pending
              .filter((row) => (row.notBefore ?? 0) <= now && covers(options.tags, row.tags))
              .sort(oldestOfHighestPriority)
              .slice(0, Math.max(0, options.limit - reclaimed.length))
              .map((row): Row => ({
                ...row,
                status: "running",
                worker: options.worker,
                token: row.token + 1,
                attempt: row.attempt + 1,
                startedAt: now,
                leaseUntil: now + Duration.toMillis(options.lease)
              }))
            for (const row of taken) rows.set(row.id, row)
            const due = Math.min(...pending.map((row) => row.notBefore ?? 0).filter((at) => at > now))
            return {
              jobs: [...reclaimed, ...taken].map(toLeased),
              nextDue: Number.isFinite(due) ? Duration.millis(due - now) : undefined
            }
          })
        ),
      heartbeat: (leases, lease) =>
        database.write(
          "JobStore.heartbeat",
          Effect.map(Clock.currentTimeMillis, (now) =>
            leases.map((held) => {
              const row = rows.get(held.job)
              if (!isHeld(row, held)) return "lost"
              rows.set(row.id, { ...row, leaseUntil: now + Duration.toMillis(lease) })
              return row.status === "canceling" ? "canceling" : "held"
            }))
        ),
      finish: (reports) => database.write("JobStore.finish", finish(reports)),
      appendOutput: (batches) => database.write("JobStore.appendOutput", append(batches)),
      readOutput: (id, { after, limit }) =>
        database.read(
          "JobStore.readOutput",
          Effect.sync(() =>
            (output.get(id) ?? []).filter((line) =>
              after === undefined || line.attempt > after.attempt ||
              (line.attempt === after.attempt && line.index > after.index)
            ).slice(0, limit)
          )
        ),
      expired: (limit) =>
        database.read(
          "JobStore.expired",
          Effect.map(Clock.currentTimeMillis, (now) =>
            [...rows.values()]
              .filter((row) => (row.status === "running" || row.status === "canceling") && row.leaseUntil < now)
              .sort((a, b) => a.leaseUntil - b.leaseUntil)
              .slice(0, limit)
              .map((row) => ({
                job: row.id,
                token: row.token,
                worker: row.worker ?? "",
                overdue: Duration.millis(now - row.leaseUntil)
              })))
        ),
      reap: (leases) =>
        database.write(
          "JobStore.reap",
          Effect.gen(function*() {
            const now = yield* Clock.currentTimeMillis
            const reaped: Array<Row> = []
            for (const lease of leases) {
              const row = rows.get(lease.job)
              if (!isHeld(row, lease) || row.leaseUntil >= now) continue
              const status = afterLoss(row)
              const next: Row = {
                ...row,
                status,
                token: row.token + 1,
                error: "its worker is gone: nothing was heard of it for longer than its lease",
                finishedAt: isTerminal(status) ? now : undefined
              }
              rows.set(row.id, next)
              reaped.push(next)
            }
            yield* notify(
              topics.posted,
              reaped.filter((row) => row.status === "pending").map((row) => tagKey(row.tags))
            )
            return reaped.map((row) => row.id)
          })
        )
    })
  })
)
