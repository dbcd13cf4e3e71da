/**
 * The runs of a worker: what it holds, from when it is taken until its end is answered. Each is one lease, so job *and* token:
 * after a worker stood still for longer than a lease, the same job may come to it again under a new token while the first run
 * still goes on. Then the first one is stopped, and the second begins when it has ended.
 */
import { Cause, Deferred, Duration, Effect, Exit, type Fiber, Latch } from "effect"
import { errorText } from "../logging/ErrorText.ts"
import type { ExecutorUnable } from "./Executor.ts"
import { type ExecutionFailed, type Executor } from "./Executor.ts"
import { type JobId, type Lease, type LeasedJob } from "./Job.ts"
import { LeaseMap } from "./LeaseMap.ts"
import { endingOf, type RunExit, type Stop, TimeLimitReached, unableOf } from "./Outcome.ts"
import type { Reporter } from "./Reporter.ts"
import { isTraced } from "./Traced.ts"

export interface Run {
  readonly job: LeasedJob
  fiber: Fiber.Fiber<unknown, unknown> | undefined
  /** Why it is being stopped. */
  stop: Stop | undefined
  isRunning: boolean
  /** Of the same job, under an older token. */
  readonly before: Run | undefined
  /** Completed at the end, if somebody waits for it. */
  ended: Deferred.Deferred<void> | undefined
}

export interface Runs {
  readonly size: () => number
  /** Those that run now, or wait for one before them to end. */
  readonly running: () => number
  readonly all: () => ReadonlyArray<Run>
  readonly runningJobs: () => ReadonlyArray<JobId>
  readonly holds: (lease: Lease) => boolean
  /** From now on it takes a slot, and its lease is kept. */
  readonly enlist: (job: LeasedJob) => Run
  /** Taken, and not to be run: only its end is to be reported. */
  readonly hold: (job: LeasedJob) => void
  readonly start: (run: Run) => Effect.Effect<void>
  readonly stop: (run: Run, why: Stop) => void
  /** Its end was answered. */
  readonly drop: (lease: Lease) => void
  readonly noneRunning: Effect.Effect<void>
}

const isRunning = (run: Run) => run.isRunning

export const make = Effect.fnUntraced(function*(options: {
  readonly executor: Executor["Service"]
  readonly reporter: Reporter
  /** A run has ended, and its slot is free. `unable`: the executor could not begin it. */
  readonly onEnd: (run: Run, unable: ExecutorUnable | undefined) => void
}): Effect.fn.Return<Runs> {
  const { executor, reporter } = options
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  const hasTracer = yield* isTraced
  const runs = new LeaseMap<Run>(({ job }) => job)
  let running = 0
  const noneRunning = Latch.makeUnsafe(true)

  const attempt = (
    { before, job }: Run
  ): Effect.Effect<unknown, ExecutionFailed | ExecutorUnable | TimeLimitReached> => {
    const run = Effect.suspend(() => executor.run(job, reporter.output(job)))
    const limited = job.timeout === undefined ? run : Effect.timeoutOrElse(run, {
      duration: Duration.millis(job.timeout),
      orElse: () => Effect.fail(new TimeLimitReached({ limit: Duration.millis(job.timeout ?? 0) }))
    })
    const traced = hasTracer
      ? Effect.withSpan(limited, "Executor.run", {
        root: true,
        attributes: { job: job.job, type: job.type, attempt: job.attempt }
      })
      : limited
    return before === undefined ? traced : Effect.andThen(awaitEnd(before), traced)
  }

  const awaitEnd = (run: Run) =>
    Effect.suspend(() => {
      if (!run.isRunning) return Effect.void
      run.ended ??= Deferred.makeUnsafe()
      return Deferred.await(run.ended)
    })

  const end = (run: Run, exit: RunExit) => {
    const { job } = run
    run.isRunning = false
    // What is kept until its end is answered is kept small.
    run.fiber = undefined
    if (run.stop === "lost") {
      runs.delete(job)
      reporter.forget(job)
    } else {
      if (Exit.isFailure(exit) && exit.cause.reasons.some(Cause.isDieReason)) {
        runFork(Effect.logError(`the executor died of job ${job.job}: ${errorText(exit.cause)}`, exit.cause))
      }
      reporter.report(job, endingOf(exit, job, run.stop))
    }
    if (run.ended !== undefined) Deferred.doneUnsafe(run.ended, Effect.void)
    // Only now: a shutdown that waits for the last job then also waits for its report.
    running--
    if (running === 0) noneRunning.openUnsafe()
    options.onEnd(run, unableOf(exit))
  }

  const stop = (run: Run, why: Stop) => {
    if (run.stop === "lost" || !run.isRunning) return
    run.stop = why
    run.fiber?.interruptUnsafe()
  }

  return {
    size: () => runs.size,
    running: () => running,
    all: () => runs.values(),
    runningJobs: () => [...new Set(runs.values().filter((run) => run.isRunning).map((run) => run.job.job))],
    holds: (lease) => runs.has(lease),
    enlist: (job) => {
      const before = runs.newest(job.job, isRunning)
      if (before !== undefined) stop(before, "lost")
      const run: Run = { job, fiber: undefined, stop: undefined, isRunning: true, before, ended: undefined }
      runs.set(run)
      running++
      noneRunning.closeUnsafe()
      return run
    },
    hold: (job) => {
      runs.set({
        job,
        fiber: undefined,
        stop: undefined,
        isRunning: false,
        before: undefined,
        ended: undefined
      })
    },
    // A job that ends at once, as most jobs of an application in the same process do, costs one fiber and no turn of the
    // scheduler. Jobs outlive the beginning of a shutdown, so they belong to no scope.
    start: (run) =>
      Effect.map(Effect.forkDetach(attempt(run), { startImmediately: true }), (fiber) => {
        run.fiber = fiber
        if (run.stop !== undefined) fiber.interruptUnsafe()
        fiber.addObserver((exit) => end(run, exit))
      }),
    stop,
    drop: (lease) => {
      runs.delete(lease)
    },
    noneRunning: noneRunning.await
  }
})
