/** How a run ended, as it is reported. Pure. */
import { Cause, Data, Duration, Exit, Result } from "effect"
import { errorText } from "../logging/ErrorText.ts"
import { type ExecutionFailed, ExecutorUnable } from "./Executor.ts"
import { type JobOutcome, jsonText, type LeasedJob, limits } from "./Job.ts"
import type { Ending } from "./ResultSender.ts"

export class TimeLimitReached extends Data.TaggedError("TimeLimitReached")<{ readonly limit: Duration.Duration }> {}

/** Why a run is being stopped from here. Of one whose lease is lost nothing is reported. */
export type Stop = "canceled" | "lost" | "shutdown"

export type RunExit = Exit.Exit<unknown, ExecutionFailed | ExecutorUnable | TimeLimitReached>

/** What the executor said of itself, if it could not run the job. */
export const unableOf = (exit: RunExit): ExecutorUnable | undefined => {
  if (Exit.isSuccess(exit)) return undefined
  for (const reason of exit.cause.reasons) {
    if (Cause.isFailReason(reason) && reason.error instanceof ExecutorUnable) return reason.error
  }
  return undefined
}

export const endingOf = (exit: RunExit, job: LeasedJob, stop: Stop | undefined): Ending => {
  if (Exit.isSuccess(exit)) {
    const result = exit.value ?? null
    const json = jsonText(result, limits.resultBytes)
    return Result.isSuccess(json)
      ? { outcome: { status: "succeeded", result }, json: json.success }
      : { outcome: failed(`its result ${json.failure}`) }
  }
  return unableOf(exit) === undefined ? { outcome: outcomeOf(exit.cause, job, stop) } : "notStarted"
}

const outcomeOf = (
  { reasons }: Cause.Cause<ExecutionFailed | ExecutorUnable | TimeLimitReached>,
  job: LeasedJob,
  stop: Stop | undefined
): JobOutcome => {
  for (const reason of reasons) {
    if (Cause.isFailReason(reason)) return ofError(reason.error, stop)
    if (Cause.isDieReason(reason)) return failed(`its executor died: ${errorText(reason.defect)}`)
  }
  return stop === "canceled"
    ? { status: "canceled", result: null, error: "canceled while it was running" }
    : failed(
      job.attempt < job.maxAttempts
        ? "its worker was shut down while it was running"
        : "its worker was shut down while it was running, and it may not be started again"
    )
}

const ofError = (error: ExecutionFailed | ExecutorUnable | TimeLimitReached, stop: Stop | undefined): JobOutcome => {
  if (error instanceof TimeLimitReached) return failed(`stopped at its time limit of ${Duration.format(error.limit)}`)
  if (error instanceof ExecutorUnable) return failed(error.reason)
  const problem = error.result === undefined ? undefined : problemOf(error.result)
  return {
    status: stop === "canceled" ? "canceled" : "failed",
    result: problem === undefined ? error.result ?? null : null,
    error: sentence(problem === undefined ? error.error : `${error.error} (its result ${problem})`)
  }
}

const failed = (error: string): JobOutcome => ({ status: "failed", result: null, error: sentence(error) })

const problemOf = (result: unknown): string | undefined => {
  const text = jsonText(result, limits.resultBytes)
  return Result.isFailure(text) ? text.failure : undefined
}

/** As it can be stored: PostgreSQL's text knows neither NUL nor half a surrogate pair; and bounded. */
const sentence = (text: string) => {
  const fit = text.replaceAll("\0", "\uFFFD").toWellFormed()
  return fit.length <= limits.errorLength
    ? fit
    : `${fit.slice(0, limits.errorLength).toWellFormed()} … (${fit.length} characters)`
}
