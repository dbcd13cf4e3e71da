/**
 * Jobs in memory: the model of `JobStorePostgres` for tests and simulations, and for applications that need no memory
 * beyond the process. Its work passes the same door, so that a scripted outage hits it as it would hit PostgreSQL.
 *
 * The rows live in a `JobTable`, which several stores, so several replicas of a test, may share.
 */
import { Clock, Context, Duration, Effect, Layer } from "effect"
import { Database } from "../database/Database.ts"
import { Notifications } from "../database/Notifications.ts"
import {
  afterLoss,
  canceledWhilePending,
  checkRequests,
  covers,
  isTerminal,
  type Job,
  type JobId,
  type Lease,
  pendingJob,
  tagKey,
  type Tags,
  workerIsGone
} from "./Job.ts"
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
  topics,
  type Verdict,
  type Worker
} from "./JobStore.ts"

export interface Row extends Job {
  readonly token: number
  /** Not before this time, whoever asked for it: the submitter, or the delay of a retry. */
  readonly dueAt: number
  /** Of its lease. */
  readonly renewals: number
}

/** What the database would hold. */
export class JobTable extends Context.Service<JobTable, {
  readonly rows: Map<JobId, Row>
  readonly output: Map<JobId, Array<StoredLine>>
  /** Those that live. */
  readonly workers: Map<string, Worker>
  /** By the clock of the database, as that of no replica counts. */
  readonly now: Effect.Effect<number>
}>()("lull/provisioner/JobTable") {
  static readonly layer = Layer.effect(
    JobTable,
    Effect.map(
      Clock.Clock,
      ({ currentTimeMillis: now }) => JobTable.of({ rows: new Map(), output: new Map(), workers: new Map(), now })
    )
  )
}

export const layer: Layer.Layer<JobStore, never, Database | JobTable | Notifications> = Layer.effect(
  JobStore,
  Effect.gen(function*() {
    const { own: database } = yield* Database
    const notifications = yield* Notifications
    const { now: databaseNow, output, rows, workers } = yield* JobTable

    const isHeld = (row: Row | undefined, lease: Lease): row is Row =>
      row !== undefined && row.token === lease.token && (row.status === "running" || row.status === "canceling")

    const notify = (topic: string, payloads: Iterable<string>) =>
      Effect.forEach(new Set(payloads), (payload) => notifications.publish({ _tag: "Notified", topic, payload }), {
        discard: true
      })

    const toJob = ({ dueAt: _, renewals: __, token: ___, ...job }: Row): Job => ({
      ...job,
      workerName: job.worker === undefined ? undefined : workers.get(job.worker)?.name
    })

    const notifyPosted = (queues: ReadonlyArray<{ readonly type: string; readonly tags: Tags }>) =>
      notify(topics.posted, queues.map(({ tags, type }) => `[${JSON.stringify(type)},${tagKey(tags)}]`))

    /** What PostgreSQL would keep: the input is what its JSON says, and nothing of the caller's own values. */
    const submit = (given: ReadonlyArray<NewJob>, inputs: ReadonlyArray<string>) =>
      Effect.gen(function*() {
        const jobs = given.map((job, at): NewJob => ({ ...job, input: JSON.parse(inputs[at] ?? "null") }))
        const now = yield* databaseNow
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
            dueAt: job.notBefore ?? 0,
            renewals: 0
          }
          if (existing === undefined) added.push(row)
          if (job.idempotencyKey !== undefined) byKey.set(job.idempotencyKey, row)
          answers.push(toJob(row))
        }
        for (const row of added) rows.set(row.id, row)
        yield* notifyPosted(jobs)
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
          const finishedAt = yield* databaseNow
          rows.set(id, { ...row, status: "canceled", finishedAt, error: canceledWhilePending(row.attempt) })
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
      Effect.gen(function*() {
        const now = yield* databaseNow
        const verdicts = reports.map((report): Verdict => {
          const row = rows.get(report.job)
          if (row === undefined || row.token !== report.token) return "refused"
          // Ended under this token: the first report was stored, and its answer lost.
          if (row.status !== "running" && row.status !== "canceling") {
            return row.status === "pending"
              ? "again"
              : "stored"
          }
          const { outcome } = report
          const again = outcome.status === "failed" && row.status === "running" && row.attempt < row.maxAttempts
          rows.set(row.id, {
            ...row,
            status: again ? "pending" : outcome.status,
            result: JSON.parse(JSON.stringify(outcome.result ?? null)),
            error: outcome.status === "succeeded" ? undefined : outcome.error,
            dueAt: again ? now + retryDelayMillis(row.attempt) : row.dueAt,
            finishedAt: again ? undefined : now
          })
          return again ? "again" : "stored"
        })
        yield* notifyPosted(
          reports.flatMap(({ job }, at) => verdicts[at] === "again" ? [rows.get(job) ?? []].flat() : [])
        )
        return verdicts
      })

    const release = (leases: ReadonlyArray<Lease>) =>
      Effect.gen(function*() {
        const now = yield* databaseNow
        const given: Array<Row> = []
        const accepted = leases.map((lease) => {
          const row = rows.get(lease.job)
          if (!isHeld(row, lease)) return false
          const isCanceled = row.status === "canceling"
          const next: Row = {
            ...row,
            status: isCanceled ? "canceled" : "pending",
            finishedAt: isCanceled ? now : undefined,
            error: isCanceled ? canceledWhilePending(0) : row.error,
            token: row.token + 1,
            attempt: row.attempt - 1,
            worker: undefined,
            startedAt: row.attempt > 1 ? row.startedAt : undefined
          }
          rows.set(row.id, next)
          if (!isCanceled) given.push(next)
          return true
        })
        yield* notifyPosted(given)
        return accepted
      })

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
      submit: (jobs) =>
        Effect.flatMap(
          Effect.fromResult(checkRequests(jobs)),
          (inputs) => database.write("JobStore.submit", submit(jobs, inputs))
        ),
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
      register: (worker) => database.write("JobStore.register", Effect.sync(() => workers.set(worker.id, worker))),
      served: (queues) =>
        database.read(
          "JobStore.served",
          Effect.sync(() =>
            queues.map(({ tags, type }) =>
              [...workers.values()].some((worker) =>
                worker.slots > 0 && covers(worker.tags, tags) && (worker.types?.includes(type) ?? true)
              )
            )
          )
        ),
      acquire: ({ limit, reclaim, worker }) =>
        database.write(
          "JobStore.acquire",
          Effect.map(databaseNow, (now) => {
            const known = reclaim && new Set(reclaim.map(({ job, token }) => `${job}/${token}`))
            const reclaimed = known === undefined ?
              [] :
              [...rows.values()].filter((row) =>
                row.worker === worker.id && (row.status === "running" || row.status === "canceling") &&
                !known.has(`${row.id}/${row.token}`)
              )
            const pending = [...rows.values()].filter((row) => row.status === "pending")
            const most = Math.max(0, limit - reclaimed.length)
            const taken = pending
              .filter((row) =>
                row.dueAt <= now && covers(worker.tags, row.tags) && (worker.types?.includes(row.type) ?? true)
              )
              .sort(oldestOfHighestPriority)
              .slice(0, most)
              .map((row): Row => ({
                ...row,
                status: "running",
                worker: worker.id,
                token: row.token + 1,
                attempt: row.attempt + 1,
                startedAt: now,
                renewals: row.renewals + 1
              }))
            for (const row of taken) rows.set(row.id, row)
            const due = Math.min(...pending.map((row) => row.dueAt).filter((at) => at > now))
            return {
              jobs: [...reclaimed, ...taken].map(toLeased),
              unreadable: [],
              isMore: taken.length >= most,
              nextDue: Number.isFinite(due) ? Duration.millis(due - now) : undefined
            }
          })
        ),
      heartbeat: (leases) =>
        database.vital(
          "JobStore.heartbeat",
          Effect.sync(() =>
            leases.map((held) => {
              const row = rows.get(held.job)
              if (!isHeld(row, held)) return "lost"
              rows.set(row.id, { ...row, renewals: row.renewals + 1 })
              return row.status === "canceling" ? "canceling" : "held"
            })
          )
        ),
      finish: (reports) => database.write("JobStore.finish", finish(reports)),
      release: (leases) => database.write("JobStore.release", release(leases)),
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
      leases: () =>
        database.write(
          "JobStore.leases",
          Effect.sync(() =>
            [...rows.values()]
              .filter((row) => row.status === "running" || row.status === "canceling")
              .map((row) => ({
                job: row.id,
                token: row.token,
                worker: row.worker ?? "",
                renewal: String(row.renewals),
                isLocked: false
              }))
          )
        ),
      reap: (leases) =>
        database.write(
          "JobStore.reap",
          Effect.gen(function*() {
            const now = yield* databaseNow
            const reaped: Array<Row> = []
            for (const lease of leases) {
              const row = rows.get(lease.job)
              if (!isHeld(row, lease) || String(row.renewals) !== lease.renewal) continue
              const status = afterLoss(row)
              const next: Row = {
                ...row,
                status,
                token: row.token + 1,
                error: workerIsGone,
                finishedAt: isTerminal(status) ? now : undefined
              }
              rows.set(row.id, next)
              reaped.push(next)
            }
            yield* notifyPosted(reaped.filter((row) => row.status === "pending"))
            return reaped.map((row) => row.id)
          })
        )
    })
  })
)
