/**
 * From the body of a submission to the jobs that it asks for, or what is wrong with it. A body costs what its length says, and no more:
 * it is measured before anything is made of it, lists are measured before a schema looks at what is in them, no more is said than
 * anybody reads, and between some jobs and the next everything else of the service has its turn.
 */
import { Effect, Result, Schema, Semaphore } from "effect"
import { HttpServerError } from "effect/http/HttpServerError"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import type * as Response from "effect/http/HttpServerResponse"
import { isUtf8 } from "node:buffer"
import { IdempotencyKey, limits } from "../provisioner/Job.ts"
import type { Submission } from "../provisioner/Provisioner.ts"
import * as BodyShape from "./BodyShape.ts"
import * as Guard from "./Guard.ts"
import { JobSubmission, lengthProblem, toSubmission } from "./JobDocuments.ts"
import * as Problem from "./Problem.ts"

export interface Submissions {
  readonly submissions: ReadonlyArray<Submission>
  /** A list was sent, be it of one. */
  readonly isMany: boolean
}

/** Forty for each of ten thousand jobs. `JSON.parse` makes at most a hundred bytes of each, in half a microsecond. */
const mostParts = 400_000

/** One for each of ten thousand jobs, as of a variable with a name of its own. Most have the same names as the one before. */
const mostLayouts = 10_000

const bounds: BodyShape.Bounds = {
  items: limits.submission,
  entries: limits.commandWords,
  fields: limits.environmentVariables,
  parts: mostParts,
  depth: limits.depth,
  layouts: mostLayouts
}

/** Jobs that are looked at before others have their turn: a few milliseconds. */
const jobsAtOnce = 250

const wrong = (problem: string) => Problem.badFields([{ field: "", problem }])

const readJson = Effect.gen(function*() {
  const request = yield* HttpServerRequest.HttpServerRequest
  const read = yield* Effect.result(request.arrayBuffer)
  if (Result.isFailure(read)) {
    return Result.fail(
      read.failure instanceof HttpServerError && read.failure.reason._tag === "RequestParseError" &&
        read.failure.reason.reason === "BodyTooLarge"
        ? Problem.respond(413, `a body has at most ${Guard.largestBody} bytes`)
        : wrong("the body could not be read to its end")
    )
  }
  const body = Buffer.from(read.success)
  if (!isUtf8(body)) return Result.fail(wrong("the body is not UTF-8"))
  const beyond = BodyShape.beyond(body, bounds)
  if (beyond !== undefined) return Result.fail(Problem.badFields([beyond]))
  return Result.mapError(
    Result.try((): unknown => JSON.parse(body.toString())),
    () => wrong("the body is not JSON")
  )
})

/** Unknown fields are refused, and all that is wrong is named. */
const decodeJob = Schema.decodeUnknownResult(JobSubmission, { errors: "all", onExcessProperty: "error" })

const readJob = (job: unknown, within: ReadonlyArray<number>): Result.Result<
  Submission,
  ReadonlyArray<Problem.FieldProblem>
> => {
  const tooLong = lengthProblem(job, within)
  if (tooLong !== undefined) return Result.fail([tooLong])
  return Result.mapBoth(decodeJob(job), {
    onFailure: ({ issue }) => Problem.fieldsOf(issue, within),
    onSuccess: toSubmission
  })
}

const readJobs = Effect.fnUntraced(function*(jobs: ReadonlyArray<unknown>) {
  const submissions: Array<Submission> = []
  const problems: Array<Problem.FieldProblem> = []
  for (const [index, job] of jobs.entries()) {
    if (index % jobsAtOnce === jobsAtOnce - 1) yield* Effect.yieldNow
    const read = readJob(job, [index])
    if (Result.isSuccess(read)) submissions.push(read.success)
    else problems.push(...read.failure)
    if (problems.length >= Problem.mostErrors) break
  }
  const [first, ...others] = problems
  return first === undefined ? Result.succeed(submissions) : Result.fail(Problem.badFields([first, ...others]))
})

const readOne = (job: unknown): Result.Result<ReadonlyArray<Submission>, Response.HttpServerResponse> =>
  Result.mapBoth(readJob(job, []), {
    onFailure: ([first, ...others]) =>
      first === undefined ? wrong("is not valid") : Problem.badFields([first, ...others]),
    onSuccess: (submission) => [submission]
  })

/** Larger bodies are read in turns, so that their memory has a bound, too. */
const largeBytes = 1_048_576

/** As many large bodies are read and looked at at a time. */
const largeAtOnce = 4

/** The turns of large bodies, one for all requests of a service. */
export const makeTurns = Semaphore.make(largeAtOnce)

/** What a request asks for. One whose body is large, or of unknown length, has its turn. */
export const readIn = (turns: Semaphore.Semaphore) =>
  Effect.flatMap(
    HttpServerRequest.HttpServerRequest,
    ({ headers }) =>
      Number(headers["content-length"] ?? Number.POSITIVE_INFINITY) > largeBytes ? turns.withPermits(1)(read) : read
  )

/** What the request asks for, with the key that its header gives to a single job. */
const read = Effect.gen(function*() {
  const body = yield* readJson
  if (Result.isFailure(body)) return Result.fail(body.failure)
  const jobs: unknown = body.success
  const isMany = Array.isArray(jobs)
  if (isMany && jobs.length === 0) return Result.fail(wrong("at least 1 job in a submission"))
  const decoded = isMany ? yield* readJobs(jobs) : readOne(jobs)
  if (Result.isFailure(decoded)) return Result.fail(decoded.failure)
  const key = yield* idempotencyKeyHeader
  if (Result.isFailure(key)) return Result.fail(key.failure)
  return Result.map(withKey(decoded.success, isMany, key.success), (submissions) => ({ submissions, isMany }))
})

const idempotencyKeyName = "Idempotency-Key"

const idempotencyKeyHeader = Effect.map(HttpServerRequest.HttpServerRequest, ({ headers }) => {
  const given = headers["idempotency-key"]
  if (given === undefined) return Result.succeed(undefined)
  return Result.mapError(
    Schema.decodeUnknownResult(IdempotencyKey)(given),
    ({ issue }) => Problem.badInput(issue, idempotencyKeyName)
  )
})

/** Which one was meant is not guessed: a submission under the wrong key may be a second job. */
const withKey = (
  submissions: ReadonlyArray<Submission>,
  isMany: boolean,
  key: string | undefined
): Result.Result<ReadonlyArray<Submission>, Response.HttpServerResponse> => {
  const [first] = submissions
  if (key === undefined || first === undefined) return Result.succeed(submissions)
  const conflict = isMany
    ? "is for a single job; give each of several an idempotencyKey of its own"
    : first.idempotencyKey !== undefined && first.idempotencyKey !== key
    ? "differs from idempotencyKey in the body"
    : undefined
  return conflict === undefined
    ? Result.succeed([{ ...first, idempotencyKey: key }])
    : Result.fail(Problem.badFields([{ field: idempotencyKeyName, problem: conflict }]))
}
