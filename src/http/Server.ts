/**
 * The API of the service. Handlers only translate: what is asked goes to `Provisioner` and `JobStore`, what they answer
 * becomes a document, and every error a problem document.
 *
 * While the database is away, answers come at once, from the door; `/healthz` and `/readyz` never ask it at all.
 */
import {
  ByteSize,
  Cause,
  Duration,
  Effect,
  Layer,
  Metric,
  Option,
  Result,
  Schema,
  Stream,
  SubscriptionRef
} from "effect"
import { MaxBodySize } from "effect/http/HttpIncomingMessage"
import * as HttpRouter from "effect/http/HttpRouter"
import { HttpServerError } from "effect/http/HttpServerError"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as Response from "effect/http/HttpServerResponse"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import { Availability } from "../database/Availability.ts"
import { DatabaseUnavailable, QueryFailed, reasons } from "../database/Unavailable.ts"
import { errorText } from "../logging/ErrorText.ts"
import * as Backoff from "../loop/Backoff.ts"
import { AcquireLoop } from "../provisioner/AcquireLoop.ts"
import { IdempotencyKey, isStorable, isTerminal, type Job, JobId, JobStatus, limits, Tags } from "../provisioner/Job.ts"
import { JobStore, type OutputPosition, type StoredLine } from "../provisioner/JobStore.ts"
import { Provisioner } from "../provisioner/Provisioner.ts"
import * as Api from "./Api.ts"
import { Draining } from "./Draining.ts"
import * as Guard from "./Guard.ts"
import { fromJob, JobSubmission, JobSubmissions, toSubmission } from "./JobDocuments.ts"
import * as Problem from "./Problem.ts"

type Answer = Response.HttpServerResponse

const defaultPage = 50
const largestPage = 500

/** Lines in one reading of a log. */
const linesAtOnce = 1_000

/** Between two looks at a job that is followed. */
const followEvery = Duration.millis(500)

/** When the database was away, or is called available and fails. */
const followAgain = Backoff.exponential({ floor: "100 millis", cap: "5 seconds", jitter: 0.5 })

export const layer = (options: Guard.Options) => Layer.mergeAll(Routes, guarded(options))

/** Before every handler: who may not ask is refused. After it: what is not there is said. */
const guarded = (options: Guard.Options) =>
  HttpRouter.middleware(
    (handler) =>
      Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => {
        const { headers, method } = request
        const path = pathOf(request)
        const refusal = Guard.refuse({ method, path, headers }, options)
        if (refusal !== undefined) {
          const challenge = refusal.status === 401 ? { "www-authenticate": "Bearer" } : undefined
          return Effect.succeed(Problem.respond(refusal.status, refusal.detail, {}, challenge))
        }
        return handler.pipe(
          Effect.catchIf(isRouteNotFound, () => Effect.succeed(notHere(method, path))),
          // A body without a declared length is counted while it is read.
          Effect.provideService(MaxBodySize, ByteSize.bytes(Guard.largestBody))
        )
      }),
    { global: true }
  )

const pathOf = (request: HttpServerRequest.HttpServerRequest) => request.url.split("?")[0] ?? ""

const isRouteNotFound = (error: unknown) => error instanceof HttpServerError && error.reason._tag === "RouteNotFound"

/** The path is known and the method is not, or neither. (Both, for what cannot be decoded as a path.) */
const notHere = (method: string, path: string) => {
  const allowed = Api.methodsOf(path)
  return allowed.length === 0 || allowed.includes(method)
    ? Problem.respond(404, "there is nothing here; see /openapi.json")
    : Problem.respond(405, `${method} is not possible here`, {}, { allow: allowed.join(", ") })
}

const Routes = HttpRouter.use(Effect.fnUntraced(function*(router) {
  const availability = yield* Availability
  const provisioner = yield* Provisioner
  const store = yield* JobStore
  const worker = yield* AcquireLoop

  const draining = yield* Draining

  const withRemarks = (jobs: ReadonlyArray<Job>) =>
    Effect.forEach(jobs, (job) => Effect.map(provisioner.remark(job), (remark) => fromJob(job, remark)))

  const submit = Effect.gen(function*() {
    if (draining.since() !== undefined) return stopping
    const body = yield* readJson
    if (Result.isFailure(body)) return body.failure
    const isMany = Array.isArray(body.success)
    const decoded = yield* Effect.result(
      isMany
        ? Schema.decodeUnknownEffect(JobSubmissions)(body.success, strictly)
        : Effect.map(Schema.decodeUnknownEffect(JobSubmission)(body.success, strictly), (one) => [one])
    )
    if (Result.isFailure(decoded)) return Problem.badInput(decoded.failure.issue)
    const submissions = decoded.success.map(toSubmission)
    const key = yield* idempotencyKeyHeader
    if (Result.isFailure(key)) return key.failure
    const [first] = submissions
    if (key.success !== undefined && first !== undefined) {
      // Which one was meant is not guessed: a submission under the wrong key may be a second job.
      const conflict = isMany
        ? "is for a single job; give each of several an idempotencyKey of its own"
        : first.idempotencyKey !== undefined && first.idempotencyKey !== key.success
        ? "differs from idempotencyKey in the body"
        : undefined
      if (conflict !== undefined) return Problem.badFields([{ field: idempotencyKeyName, problem: conflict }])
      submissions[0] = { ...first, idempotencyKey: key.success }
    }
    return yield* provisioner.submitAll(submissions).pipe(
      Effect.flatMap(withRemarks),
      Effect.map((documents) => Response.jsonUnsafe(isMany ? documents : documents[0], { status: 201 })),
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
    const errors: Array<Problem.FieldProblem> = []
    const status = query.get("status")
    if (status !== null && !Schema.is(JobStatus)(status)) {
      errors.push({ field: "status", problem: `must be one of ${JobStatus.literals.join(", ")}` })
    }
    const type = query.get("type")
    if (type !== null && (type.length > limits.typeLength || !isStorable(type))) {
      errors.push({ field: "type", problem: `must be a name of at most ${limits.typeLength} characters` })
    }
    const limit = Number(query.get("limit") ?? defaultPage)
    if (!Number.isInteger(limit) || limit < 1 || limit > largestPage) {
      errors.push({ field: "limit", problem: `must be a whole number from 1 to ${largestPage}` })
    }
    const cursor = query.get("cursor")
    if (cursor !== null && !Schema.is(JobId)(cursor)) {
      errors.push({ field: "cursor", problem: "must be the cursor of a page before" })
    }
    const pairs = query.getAll("tag").map((tag) => {
      const at = tag.indexOf("=")
      if (at < 1 || !isStorable(tag)) errors.push({ field: "tag", problem: `${JSON.stringify(tag)} must be key=value` })
      return [tag.slice(0, at), tag.slice(at + 1)] as const
    })
    const tags = Object.fromEntries(pairs)
    if (Object.keys(tags).length < pairs.length) errors.push({ field: "tag", problem: "a key may be given once" })
    const [firstError, ...otherErrors] = errors
    if (firstError !== undefined) return Problem.badFields([firstError, ...otherErrors])
    const decodedTags = Schema.decodeUnknownResult(Tags)(tags)
    if (Result.isFailure(decodedTags)) return Problem.badInput(decodedTags.failure.issue, "tag")
    const jobs = yield* store.list({
      status: Schema.is(JobStatus)(status) ? status : undefined,
      type: type ?? undefined,
      tags: Object.keys(tags).length > 0 ? tags : undefined,
      before: Schema.is(JobId)(cursor) ? cursor : undefined,
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
      const query = yield* searchParameters
      const after = readPosition(query.get("after"))
      if (Result.isFailure(after)) return Problem.badFields([{ field: "after", problem: after.failure }])
      const follows = query.get("follow")
      if (follows !== null && follows !== "true" && follows !== "false") {
        return Problem.badFields([{ field: "follow", problem: "must be true or false" }])
      }
      // Whether there is such a job, and whether the database answers, is said before the first line.
      yield* store.get(id)
      return Response.stream(Stream.encodeText(output(id, after.success, follows === "true")), {
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

  const health = Effect.succeed(Response.text("ok\n"))

  const ready = Effect.map(SubscriptionRef.get(availability.state), (state) => {
    const stoppingSince = draining.since()
    if (stoppingSince !== undefined) {
      const since = new Date(stoppingSince).toISOString()
      return Response.jsonUnsafe({ status: "stopping", since }, { status: 503, headers: retrySoon })
    }
    switch (state._tag) {
      case "Available": {
        const reason = worker.unable()
        if (reason !== undefined) {
          return Response.jsonUnsafe({ status: "unable to run jobs", reason }, { status: 503, headers: retrySoon })
        }
        return Response.jsonUnsafe({ status: "ready", since: new Date(state.since).toISOString() })
      }
      case "Starting":
        return Response.jsonUnsafe({ status: "starting", since: new Date(state.since).toISOString() }, { status: 503 })
      case "Degraded":
      case "Unavailable":
        return Response.jsonUnsafe({
          status: state._tag === "Degraded" ? "degraded" : "unavailable",
          reason: state.reason,
          since: new Date(state.since).toISOString(),
          attempts: state.attempts,
          lastError: state.lastError
        }, { status: 503, headers: { "retry-after": "1" } })
    }
  })

  const metrics = Effect.gen(function*() {
    const state = SubscriptionRef.getUnsafe(availability.state)
    yield* Metric.update(available, state._tag === "Available" ? 1 : 0)
    yield* Metric.update(unavailableSince, (yield* availability.unavailableMillis) / 1_000)
    for (const reason of reasons) {
      const isReason = state._tag === "Degraded" && state.reason === reason
      yield* Metric.update(Metric.withAttributes(degraded, { reason }), isReason ? 1 : 0)
    }
    yield* Metric.update(running, worker.running().length)
    yield* Metric.update(unanswered, worker.unanswered().length)
    yield* Metric.update(slots, worker.slots)
    return Response.text(yield* PrometheusMetrics.format(), { contentType: "text/plain; version=0.0.4; charset=utf-8" })
  })

  yield* router.add("POST", "/api/v1/jobs", answered(submit))
  yield* router.add("GET", "/api/v1/jobs", answered(list))
  yield* router.add("GET", "/api/v1/jobs/:id", answered(show))
  yield* router.add("GET", "/api/v1/jobs/:id/logs", answered(logs))
  yield* router.add("POST", "/api/v1/jobs/:id/cancel", answered(cancel))
  yield* router.add("GET", "/healthz", health)
  yield* router.add("GET", "/readyz", ready)
  yield* router.add("GET", "/metrics", metrics)
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

/** Unknown fields are refused, and all that is wrong is named. */
const strictly = { errors: "all", onExcessProperty: "error" } as const

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

const readJson = Effect.gen(function*() {
  const request = yield* HttpServerRequest.HttpServerRequest
  const text = yield* Effect.result(request.text)
  if (Result.isFailure(text)) {
    return Result.fail(Problem.respond(413, `the body could not be read; it has at most ${Guard.largestBody} bytes`))
  }
  return Result.mapError(
    Result.try((): unknown => JSON.parse(text.success)),
    () => Problem.badFields([{ field: "", problem: "the body is not JSON" }])
  )
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

const searchParameters = Effect.map(
  HttpServerRequest.HttpServerRequest,
  (request) => new URLSearchParams(request.url.split("?")[1] ?? "")
)

const readPosition = (text: string | null): Result.Result<OutputPosition | undefined, string> => {
  if (text === null) return Result.succeed(undefined)
  const match = /^(\d{1,5}):(\d{1,15})$/.exec(text)
  return match === null
    ? Result.fail("must be attempt:index, as of a line")
    : Result.succeed({ attempt: Number(match[1]), index: Number(match[2]) })
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

const available = Metric.gauge("lull_database_available", {
  description: "1 while the database takes our writes and callers are served"
})
const unavailableSince = Metric.gauge("lull_database_unavailable_seconds", {
  description: "How long the database has been away, 0 while it is there"
})
const degraded = Metric.gauge("lull_database_degraded", {
  description: "1 while the heartbeat is written and callers are not served, by reason"
})
const running = Metric.gauge("lull_worker_running", { description: "Jobs that run in this process" })
const unanswered = Metric.gauge("lull_worker_unanswered", { description: "Jobs whose end is not stored yet" })
const slots = Metric.gauge("lull_worker_slots", { description: "Jobs that may run in this process at a time" })
