/**
 * Brings what a worker has to tell to the store: the output of its jobs (`OutputSender`), and how they ended
 * (`ResultSender`).
 *
 * A job's result is sent after the last line of its output is stored, so that a reader that sees a job ended sees all of its
 * output. Everything is kept under the lease of the run, job and token: a run that lost its lease reports nothing under that
 * of its successor.
 *
 * What waits is bounded: the output by each run's `OutputBuffer`, the results by the worker, which takes no new jobs while
 * too many are unreported.
 */
import { Deferred, Effect, type Scope } from "effect"
import type { Availability } from "../database/Availability.ts"
import type { Loops } from "../loop/Loops.ts"
import type { JobOutput } from "./Executor.ts"
import type { JobId, Lease, LeasedJob } from "./Job.ts"
import type { JobStore, Verdict } from "./JobStore.ts"
import type * as OutputBuffer from "./OutputBuffer.ts"
import * as OutputSender from "./OutputSender.ts"
import * as ResultSender from "./ResultSender.ts"

export interface Reporter {
  /** Where a run writes its output. */
  readonly output: (job: LeasedJob) => JobOutput
  /** The run has ended: its remaining output is sent, and then this. Does not wait for it. */
  readonly report: (job: LeasedJob, ending: ResultSender.Ending) => void
  /** The lease is lost: nothing of the run is sent any more. */
  readonly forget: (lease: Lease) => void
  /** Completes when everything reported so far has been answered. */
  readonly drained: Effect.Effect<void>
  /** What has been reported, and not answered. */
  readonly unanswered: () => ReadonlyArray<JobId>
  /** Bytes of results that have not been answered, about. */
  readonly unansweredBytes: () => number
}

export interface Options {
  /** Called when a result has been answered. */
  readonly onAnswered: (lease: Lease, verdict: Verdict) => void
  readonly buffer?: OutputBuffer.Options | undefined
}

export const make = Effect.fnUntraced(function*(options: Options): Effect.fn.Return<
  Reporter,
  never,
  Availability | JobStore | Loops | Scope.Scope
> {
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  let idle: Deferred.Deferred<void> | undefined

  const results = yield* ResultSender.make((lease, verdict) => {
    options.onAnswered(lease, verdict)
    becomeIdle()
  })
  const outputs = yield* OutputSender.make({
    buffer: options.buffer,
    onDrained: (lease, ending) => results.send(lease, ending)
  })

  const isIdle = () => outputs.isIdle() && results.size() === 0
  const becomeIdle = () => {
    if (idle === undefined || !isIdle()) return
    Deferred.doneUnsafe(idle, Effect.void)
    idle = undefined
  }

  return {
    output: (job) => {
      // Most jobs of an application in the same process say nothing: their buffer is made with their first line.
      let entry: OutputSender.Entry | undefined
      return {
        write: (stream, lines) =>
          Effect.gen(function*() {
            entry ??= yield* outputs.open(job)
            yield* entry.buffer.write(stream, lines)
            if (outputs.find(job) === entry) outputs.talk(entry)
          })
      }
    },
    report: (job, ending) => {
      const entry = outputs.find(job)
      if (entry === undefined) return results.send(job, ending)
      runFork(Effect.map(entry.buffer.finish, () => {
        entry.ending = ending
        outputs.talk(entry)
      }))
    },
    forget: (lease) => {
      outputs.forget(lease)
      results.forget(lease)
      becomeIdle()
    },
    drained: Effect.suspend(() => {
      if (isIdle()) return Effect.void
      idle ??= Deferred.makeUnsafe()
      return Deferred.await(idle)
    }),
    unanswered: () => [...new Set([...outputs.ended(), ...results.unanswered()])],
    unansweredBytes: results.bytes
  }
})
