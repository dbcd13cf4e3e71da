/** The exit status of a command that has waited for a job, as a shell would have it: pure. */
import { constants } from "node:os"
import type { JobDocument } from "../http/JobDocuments.ts"

export const isEnded = (job: JobDocument) =>
  job.status === "succeeded" || job.status === "failed" || job.status === "canceled"

/** As of a command that was interrupted; what has interrupted it is in the job's `error`. */
const canceled = 130

/** As of `timeout`. */
const timedOut = 124

const signalBase = 128

/** What `AcquireLoop` writes of a job that took too long. */
const timeLimit = /^stopped at its time limit/

const fieldOf = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null ? new Map<string, unknown>(Object.entries(value)).get(name) : undefined

const signalNumbers = new Map<string, number>(Object.entries(constants.signals))

export const exitStatus = ({ error, result, status }: JobDocument): number => {
  if (status === "succeeded") return 0
  if (status === "canceled") return canceled
  if (timeLimit.test(error ?? "")) return timedOut
  const code = fieldOf(result, "exitCode")
  if (typeof code === "number" && code > 0) return code
  const signal = fieldOf(result, "signal")
  const number = typeof signal === "string" ? signalNumbers.get(signal) : undefined
  return number === undefined ? 1 : signalBase + number
}

/** For `lull job submit --help`. */
export const statusHelp = `Exit status: without --wait, 0 once the job is stored. With --wait that of the command; and

    0  it succeeded
    1  it failed without a status of its own, or something else went wrong here
   64  this command was not called rightly
   69  no service answers, or its database is away
   77  the token is missing or wrong
  124  the job was stopped at its time limit (--timeout)
  126  the program of the job cannot be executed; 127: it was not found
  130  the job was canceled, or this command was interrupted by Ctrl-C
  143  this command was ended by SIGTERM; 129: by the end of its terminal
  128 + n  the job was killed by signal n, as 137 for SIGKILL

A job goes on when this command is interrupted, unless --cancel-on-interrupt is given.`
