/**
 * Brings what a worker has to tell to the store: the output of its jobs, and how they ended. In batches, in order,
 * retried for as long as it takes.
 *
 * A job's result is sent after the last line of its output is stored, so that who sees a job ended sees all of its
 * output. A batch is sent again unchanged until it is answered: by its token and its position it is stored once.
 *
 * What waits is bounded: the output by each job's `OutputBuffer`, the results by the worker, which takes no new jobs while
 * too many are unreported.
 */
import { Deferred, Duration, Effect, Latch, Random, type Scope } from "effect"
import { Availability } from "../database/Availability.ts"
import type { DatabaseUnavailable } from "../database/Unavailable.ts"
import { errorText } from "../logging/ErrorText.ts"
import { Loops } from "../loop/Loops.ts"
import type { JobOutput } from "./Executor.ts"
import type { JobId, JobOutcome, Lease, LeasedJob } from "./Job.ts"
import { JobStore, type OutputBatch, type Report, type StoreError } from "./JobStore.ts"
import * as OutputBuffer from "./OutputBuffer.ts"

export interface Reporter {
  /** Where a job writes its output. */
  readonly output: (job: LeasedJob) => JobOutput
  /** The job has ended: its remaining output is sent, and then this. Does not wait for it. */
  readonly report: (job: LeasedJob, outcome: JobOutcome) => void
  /** The lease is lost: nothing of the job is sent any more. */
  readonly forget: (job: JobId) => void
  /** Completes when everything reported so far has been answered. */
  readonly drained: Effect.Effect<void>
  /** What has been reported, and not answered. */
  readonly unanswered: () => ReadonlyArray<JobId>
}

export interface Options {
  /** Called when a result has been answered. */
  readonly onAnswered: (lease: Lease, accepted: boolean) => void
  readonly buffer?: OutputBuffer.Options | undefined
}

/** Results in one statement. */
const resultsAtOnce = 1_000

/** Statements with results in flight: while one waits for its commit, the next is being made. */
const resultSenders = 2

/** Output of one job in one batch: small enough that no job's output delays another's by much. */
const batchBytes = 64 * 1024

/** Jobs whose output goes into one statement. */
const batchesAtOnce = 16

/** Lines are collected for this long: ten statements a second, however many jobs talk. */
const collectFor = Duration.millis(100)

/** Who has waited for the database does not come back in the same instant as all others. */
const spread = Duration.millis(200)

interface Entry {
  readonly job: LeasedJob
  readonly buffer: OutputBuffer.OutputBuffer
  outcome: JobOutcome | undefined
}

export const make = Effect.fnUntraced(function*(options: Options): Effect.fn.Return<
  Reporter,
  never,
  Availability | JobStore | Loops | Scope.Scope
> {
  const store = yield* JobStore
  const availability = yield* Availability
  const loops = yield* Loops
  const entries = new Map<JobId, Entry>()
  const talking = new Set<Entry>()
  const hasOutput = Latch.makeUnsafe(false)
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  /** What is to be sent, in order; `pending` also has what has been sent and not answered. */
  const results: Array<Report> = []
  const hasResults = Latch.makeUnsafe(false)
  const pending = new Map<JobId, Report>()
  let idle: Deferred.Deferred<void> | undefined

  /** Does it until it is answered. A failure of the statement itself is the caller's. */
  const persistently = <A>(
    work: Effect.Effect<A, StoreError>
  ): Effect.Effect<A, Exclude<StoreError, DatabaseUnavailable>> =>
    Effect.catchTag(work, "DatabaseUnavailable", () =>
      availability.awaitAvailable.pipe(
        Effect.andThen(Random.next),
        // Never at once: a database that is called available, and fails this work, must not be asked in a hot loop.
        Effect.flatMap((random) => Effect.sleep(Duration.sum(Duration.millis(10), Duration.times(spread, random)))),
        Effect.andThen(persistently(work))
      ))

  const settle = (report: Report, accepted: boolean) => {
    pending.delete(report.job)
    options.onAnswered(report, accepted)
    if (pending.size === 0 && entries.size === 0 && idle !== undefined) {
      Deferred.doneUnsafe(idle, Effect.void)
      idle = undefined
    }
  }

  // --- results

  const sendResults = (reports: ReadonlyArray<Report>): Effect.Effect<void> =>
    persistently(store.finish(reports)).pipe(
      Effect.map((answers) => reports.forEach((report, at) => settle(report, answers[at] ?? false))),
      Effect.catchTag("QueryFailed", (error) => {
        if (reports.length > 1) return Effect.forEach(reports, (report) => sendResults([report]), { discard: true })
        const [report] = reports
        if (report === undefined) return Effect.void
        const unstorable = `its result could not be stored: ${error.detail}`
        if (report.outcome.result === null) {
          return Effect.andThen(
            Effect.logError(`the end of job ${report.job} could not be stored: ${errorText(error)}`),
            Effect.sync(() => settle(report, false))
          )
        }
        // A result that the database refuses is a failure of the job, and the job still ends.
        return sendResults([{ ...report, outcome: { status: "failed", result: null, error: unstorable } }])
      })
    )

  const resultSender = Effect.forever(Effect.gen(function*() {
    if (results.length === 0) {
      hasResults.closeUnsafe()
      yield* hasResults.await
      // Jobs that were started together often end together.
      yield* Effect.yieldNow
    }
    const reports = results.splice(0, resultsAtOnce).filter((report) => pending.get(report.job) === report)
    if (reports.length > 0) yield* sendResults(reports)
  }))

  const enqueueResult = (report: Report) => {
    pending.set(report.job, report)
    results.push(report)
    hasResults.openUnsafe()
  }

  // --- output

  /** The next batch of each job that talks; the jobs take turns. */
  const collect = Effect.gen(function*() {
    const batches: Array<{ readonly entry: Entry; readonly batch: OutputBatch }> = []
    for (const entry of [...talking].slice(0, batchesAtOnce)) {
      talking.delete(entry)
      const lines = yield* entry.buffer.take(batchBytes)
      if (lines.length > 0) {
        const { attempt, job, token } = entry.job
        batches.push({ entry, batch: { job, token, attempt, lines } })
      } else if (entry.outcome !== undefined) {
        entries.delete(entry.job.job)
        enqueueResult({ job: entry.job.job, token: entry.job.token, outcome: entry.outcome })
      }
    }
    return batches
  })

  const outputSender = Effect.forever(Effect.gen(function*() {
    if (talking.size === 0) {
      hasOutput.closeUnsafe()
      yield* hasOutput.await
    }
    yield* Effect.sleep(collectFor)
    const batches = yield* collect
    if (batches.length === 0) return
    const answers = yield* persistently(store.appendOutput(batches.map(({ batch }) => batch))).pipe(
      // What the database cannot take for another reason than being away is cut, not tried for ever.
      Effect.catchTag(
        "QueryFailed",
        (error) =>
          Effect.as(Effect.logError(`output could not be stored: ${errorText(error)}`), batches.map(() => true))
      )
    )
    for (const [at, { batch, entry }] of batches.entries()) {
      if (answers[at] === false) {
        // The lease is lost; the heartbeat will say so to the job.
        if (entry.outcome !== undefined) {
          entries.delete(batch.job)
          enqueueResult({ job: batch.job, token: batch.token, outcome: entry.outcome })
        }
        continue
      }
      yield* entry.buffer.acknowledge((batch.lines.at(-1)?.index ?? -1) + 1)
      // Whether there is more is found in its next turn.
      if (entries.get(batch.job) === entry) talking.add(entry)
    }
  }))

  const talk = (entry: Entry) => {
    talking.add(entry)
    hasOutput.openUnsafe()
  }

  yield* loops.fork("output", outputSender)
  yield* Effect.forEach(Array.from({ length: resultSenders }), () => loops.fork("results", resultSender), {
    discard: true
  })

  return {
    output: (job) => {
      // Most jobs of an application in the same process say nothing: their buffer is made with their first line.
      let entry: Entry | undefined
      return {
        write: (stream, lines) =>
          Effect.gen(function*() {
            if (entry === undefined) {
              entry = { job, buffer: yield* OutputBuffer.make(options.buffer), outcome: undefined }
              entries.set(job.job, entry)
            }
            yield* entry.buffer.write(stream, lines)
            talk(entry)
          })
      }
    },
    report: (job, outcome) => {
      const entry = entries.get(job.job)
      if (entry === undefined) return enqueueResult({ job: job.job, token: job.token, outcome })
      runFork(Effect.map(entry.buffer.finish, () => {
        entry.outcome = outcome
        talk(entry)
      }))
    },
    forget: (job) => {
      const entry = entries.get(job)
      if (entry !== undefined) talking.delete(entry)
      entries.delete(job)
      pending.delete(job)
    },
    drained: Effect.suspend(() => {
      if (pending.size === 0 && entries.size === 0) return Effect.void
      idle ??= Deferred.makeUnsafe()
      return Deferred.await(idle)
    }),
    unanswered: () => [...new Set([...entries.keys(), ...pending.keys()])]
  }
})
