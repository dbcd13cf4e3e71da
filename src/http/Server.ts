/**
 * The API of the service. Handlers only translate: what is asked goes to `Provisioner` and `JobStore`, what they answer
 * becomes a document, and every error a problem document.
 *
 * While the database is away, answers come at once, from the door; `/healthz` and `/readyz` never ask it at all.
 */
import * as NodeHttpServerRequest from "@effect/platform-node/NodeHttpServerRequest"
import { ByteSize, Cause, Duration, Effect, Layer, Option, Result, Schema, Stream } from "effect"
import { MaxBodySize } from "effect/http/HttpIncomingMessage"
import * as HttpRouter from "effect/http/HttpRouter"
import { HttpServerError } from "effect/http/HttpServerError"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as Response from "effect/http/HttpServerResponse"
import { Availability } from "../database/Availability.ts"
import { DatabaseUnavailable, QueryFailed } from "../database/Unavailable.ts"
import { errorText } from "../logging/ErrorText.ts"
import * as Backoff from "../loop/Backoff.ts"
import {
  isStorable,
  isTerminal,
  type Job,
  JobId,
  JobStatus,
  JobType,
  limits,
  tagKey,
  Tags
} from "../provisioner/Job.ts"
import { JobStore, type OutputPosition, type StoredLine } from "../provisioner/JobStore.ts"
import { Provisioner } from "../provisioner/Provisioner.ts"
import * as Api from "./Api.ts"
import { Draining } from "./Draining.ts"
import * as FailedTokens from "./FailedTokens.ts"
import * as Guard from "./Guard.ts"
import * as Health from "./Health.ts"
import { fromJob, type JobDocument } from "./JobDocuments.ts"
import * as Problem from "./Problem.ts"
import * as Query from "./Query.ts"
import { type Sockets, tooManyOfAddress } from "./Sockets.ts"
import * as Submissions from "./Submissions.ts"

type Answer = Response.HttpServerResponse

/** Sets of tags after which no further job of a submission gets a remark: each may be a question to the database. */
const mostAsked = 20

const defaultPage = 50
const largestPage = 500

/** Lines in one reading of a log. */
const linesAtOnce = 1_000

/** Between two looks at a job that is followed. */
const followEvery = Duration.millis(500)

/** When the database was away, or is called available and fails. */
const followAgain = Backoff.exponential({ floor: "100 millis", cap: "5 seconds", jitter: 0.5 })

export interface Options extends Guard.Options {
  /** Whether there are too many requests of the one that asks; see `Sockets`. */
  readonly isTooMany?: Sockets["isTooMany"]
}

export const layer = (options: Options) =>
  Layer.mergeAll(
    Routes,
    Health.layer(options),
    // Outside of the guard, whose refusals it sees.
    Layer.provideMerge(guarded(options), FailedTokens.layer(options.trustedProxies))
  )

const refused = ({ detail, headers, status }: Guard.Refusal) => Problem.respond(status, detail, {}, headers)

/** Before every handler: who may not ask is refused. After it: what is not there is said. */
const guarded = (options: Options) =>
  HttpRouter.middleware(
    (handler) =>
      Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => {
        const { headers, method } = request
        // As it came: what is made of it has lost a scheme, a host and segments of dots.
        const incoming = NodeHttpServerRequest.toIncomingMessage(request)
        if (options.isTooMany?.(incoming) === true) {
          return Effect.succeed(Problem.respond(429, tooManyOfAddress, {}, retrySoon))
        }
        const refusal = Guard.refuse({ method, target: incoming.url ?? "", headers }, options)
        if (refusal !== undefined) return Effect.succeed(refused(refusal))
        return handler.pipe(
          // For what is no path of this service, or too long for one.
          Effect.catchIf(isRouteNotFound, () => Effect.succeed(refused(Guard.nothingHere))),
          // A body without a declared length is counted while it is read.
          Effect.provideService(MaxBodySize, ByteSize.bytes(Guard.largestBody))
        )
      }),
    { global: true }
  )

const isRouteNotFound = (error: unknown) => error instanceof HttpServerError && error.reason._tag === "RouteNotFound"

const Routes = HttpRouter.use(Effect.fnUntraced(function*(router) {
  const availability = yield* Availability
  const provisioner = yield* Provisioner
  const store = yield* JobStore
  const draining = yield* Draining
  const turns = yield* Submissions.makeTurns

  const withRemarks = (jobs: ReadonlyArray<Job>) =>
    Effect.suspend(() => {
      const asked = new Set<string>()
      return Effect.forEach(jobs, (job) => {
        if (asked.size === mostAsked) return Effect.succeed(fromJob(job))
        asked.add(`${job.type} ${tagKey(job.tags)}`)
        return Effect.map(provisioner.remark(job), (remark) => fromJob(job, remark))
      })
    })

  const submit = Effect.gen(function*() {
    if (draining.since() !== undefined) return stopping
    const read = yield* Submissions.readIn(turns)
    if (Result.isFailure(read)) return read.failure
    const { isMany, submissions } = read.success
    return yield* provisioner.submitAll(submissions).pipe(
      Effect.flatMap(withRemarks),
      Effect.map((documents) =>
        isMany
          ? Response.stream(inParts(documents), { status: 201, contentType: "application/json" })
          : Response.jsonUnsafe(documents[0], { status: 201 })
      ),
      Effect.catchTags({
        InvalidJob: ({ problems }) => Effect.succeed(Problem.badJobs(problems, isMany)),
        IdempotencyConflict: (error) =>
          Effect.succeed(Problem.respond(409, error.message, { existing: error.existing })),
        DatabaseUnavailable: (error) =>
          Effect.succeed(Problem.unavailable(
            error,
            error.outcome === "unknown"
              ? "the database was lost before it answered: the submission may have been accepted; " +
                "repeating it is safe under an idempotencyKey"
              : undefined
          ))
      })
    )
  })

  const list = Effect.gen(function*() {
    const query = yield* searchParameters
    const { one, problems } = Query.reader(query)
    const status = one("status", JobStatus, `must be one of ${JobStatus.literals.join(", ")}`)
    const type = one("type", JobType, `must be a name of at most ${limits.typeLength} characters`)
    const limit = Number(one("limit", Query.whole(1, largestPage)) ?? defaultPage)
    const before = one("cursor", JobId, "must be the cursor of a page before")
    const tags = readTags(query.getAll("tag"))
    if (Result.isFailure(tags)) problems.push(...tags.failure)
    const [first, ...others] = problems
    if (first !== undefined) return Problem.badFields([first, ...others])
    const jobs = yield* store.list({
      status,
      type,
      tags: Result.getOrUndefined(tags),
      before,
      limit
    })
    return Response.jsonUnsafe({
      jobs: jobs.map((job) => fromJob(job)),
      cursor: jobs.length === limit ? jobs.at(-1)?.id ?? null : null
    })
  })

  const show = withId((id) =>
    Effect.map(
      Effect.flatMap(store.get(id), (job) => withRemarks([job])),
      ([document]) => Response.jsonUnsafe(document)
    )
  )

  const cancel = withId((id) =>
    store.cancel(id).pipe(
      Effect.map((job) => Response.jsonUnsafe(fromJob(job))),
      Effect.catchTag("JobEnded", (error) =>
        Effect.succeed(Problem.respond(409, error.message, { jobStatus: error.status })))
    )
  )

  const logs = withId((id) =>
    Effect.gen(function*() {
      const { one, problems } = Query.reader(yield* searchParameters)
      const after = one("after", Query.Position)
      const follows = one("follow", Query.Switch, "must be true or false")
      const [first, ...others] = problems
      if (first !== undefined) return Problem.badFields([first, ...others])
      const from = after === undefined ? undefined : Query.toPosition(after)
      // Whether there is such a job, and whether the database answers, is said before the first line.
      yield* store.get(id)
      return Response.stream(Stream.encodeText(output(id, from, follows === "true")), {
        contentType: "application/x-ndjson"
      })
    })
  )

  /** The output from a position on; followed, until the job has ended and its last line is out. */
  const output = (id: JobId, from: OutputPosition | undefined, follows: boolean) =>
    Stream.paginate(from, (after) =>
      Effect.gen(function*() {
        // In this order: what was written before the end is in the lines that are read after it was seen.
        const job = yield* store.get(id)
        const lines = yield* store.readOutput(id, { after, limit: linesAtOnce })
        const last = lines.at(-1)
        const isOver = lines.length === 0 && (!follows || isTerminal(job.status))
        if (lines.length === 0 && !isOver) yield* Effect.sleep(followEvery)
        const next: OutputPosition | undefined = last === undefined
          ? after
          : { attempt: last.attempt, index: last.index }
        return [lines.map(toLine), isOver ? Option.none() : Option.some(next)] as const
      }).pipe(
        // An outage interrupts nobody who follows: it goes on when the database is back. With delays, as what is called available
        // may still fail, and spread, as many may follow.
        Effect.retry({
          schedule: followAgain,
          while: (error) =>
            error instanceof DatabaseUnavailable && follows
              ? Effect.as(availability.awaitAvailable, true)
              : Effect.succeed(false)
        }),
        // The answer has begun, so all that is left for its reader is that it breaks off.
        Effect.tapCause((cause) =>
          Cause.findErrorOption(cause).pipe(Option.getOrUndefined) instanceof DatabaseUnavailable ||
            Cause.hasInterruptsOnly(cause)
            ? Effect.void
            : Effect.logError(`a log could not be read to its end: ${errorText(cause)}`, cause)
        )
      ))

  yield* router.add("POST", "/api/v1/jobs", answered(submit))
  yield* router.add("GET", "/api/v1/jobs", answered(list))
  yield* router.add("GET", "/api/v1/jobs/:id", answered(show))
  yield* router.add("GET", "/api/v1/jobs/:id/logs", answered(logs))
  yield* router.add("POST", "/api/v1/jobs/:id/cancel", answered(cancel))
  yield* router.add("GET", "/openapi.json", Response.jsonUnsafe(Api.document))
}))

/** Another replica, or this one when it has been started again, is there within seconds. */
const retrySoon = { "retry-after": "5" } as const

const stopping = Problem.respond(
  503,
  "this service is stopping and takes no new jobs: ask another one, or this one again when it has been started",
  {},
  retrySoon
)

/** Jobs that are written at a time, and sent before the next are: all of them may be a third more than what was sent, twice. */
const documentsAtOnce = 250

/** A list as JSON, made while it is sent. */
const inParts = (documents: ReadonlyArray<JobDocument>): Stream.Stream<Uint8Array> =>
  Stream.paginate(0, (from) =>
    Effect.sync(() => {
      const to = from + documentsAtOnce
      const isLast = to >= documents.length
      const part = documents.slice(from, to).map((document) => JSON.stringify(document)).join()
      const text = `${from === 0 ? "[" : ","}${part}${isLast ? "]" : ""}`
      return [[text], isLast ? Option.none() : Option.some(to)] as const
    })).pipe(Stream.encodeText)

/** What any operation of a store may end with; and what is our fault is logged, and not shown. */
const answered = <E, R>(handler: Effect.Effect<Answer, E, R>): Effect.Effect<Answer, never, R> =>
  Effect.catchCause(handler, (cause) => {
    if (Cause.hasInterrupts(cause)) return Effect.interrupt
    const error = Option.getOrUndefined(Cause.findErrorOption(cause))
    if (error instanceof DatabaseUnavailable) return Effect.succeed(Problem.unavailable(error))
    // Locked, canceled, out of time: the same request may succeed at once.
    if (error instanceof QueryFailed && error.kind === "passing") return Effect.succeed(Problem.busy(error))
    return Effect.as(
      Effect.logError(`a request failed: ${errorText(cause)}`, cause),
      Problem.respond(500, "something went wrong here; the log of the service says what")
    )
  })

const withId = <E, R>(use: (id: JobId) => Effect.Effect<Answer, E, R>) =>
  Effect.gen(function*() {
    const { id } = yield* HttpRouter.params
    if (id === undefined || !Schema.is(JobId)(id)) return Problem.respond(404, `there is no job ${JSON.stringify(id)}`)
    return yield* Effect.catchIf(
      use(id),
      (error) => typeof error === "object" && error !== null && "_tag" in error && error._tag === "JobNotFound",
      () => Effect.succeed(Problem.respond(404, `there is no job ${id}`))
    )
  })

const searchParameters = Effect.map(
  HttpServerRequest.HttpServerRequest,
  (request) => new URLSearchParams(request.url.split("?")[1] ?? "")
)

/** Tags as `key=value`, each key once, or what is wrong with them. */
const readTags = (
  texts: ReadonlyArray<string>
): Result.Result<Tags | undefined, ReadonlyArray<Problem.FieldProblem>> => {
  if (texts.length === 0) return Result.succeed(undefined)
  const wrong = texts.filter((text) => text.indexOf("=") < 1 || !isStorable(text))
  if (wrong.length > 0) {
    return Result.fail(wrong.map((text) => ({ field: "tag", problem: `${JSON.stringify(text)} must be key=value` })))
  }
  const tags = Object.fromEntries(texts.map((text) => {
    const at = text.indexOf("=")
    return [text.slice(0, at), text.slice(at + 1)] as const
  }))
  const count = Object.keys(tags).length
  if (count < texts.length) return Result.fail([{ field: "tag", problem: "a key may be given once" }])
  if (count > limits.tags) return Result.fail([{ field: "tag", problem: `at most ${limits.tags} tags` }])
  return Result.mapError(Schema.decodeUnknownResult(Tags)(tags), ({ issue }) => Problem.fieldsOf(issue, ["tag"]))
}

const toLine = (line: StoredLine): string =>
  `${
    JSON.stringify({
      attempt: line.attempt,
      index: line.index,
      stream: line.stream,
      at: new Date(line.at).toISOString(),
      text: line.text
    })
  }\n`
