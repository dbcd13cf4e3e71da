/** The API from the other side, for the `job` commands. Every error is one sentence that says what to do. */
import { Data, Duration, Effect, Option, Redacted, Runtime, Schedule, Schema, Stream } from "effect"
import * as HttpClient from "effect/http/HttpClient"
import type { HttpClientError } from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import type * as HttpClientResponse from "effect/http/HttpClientResponse"
import { JobDocument, JobList, OutputDocument } from "../http/JobDocuments.ts"
import { contentType as problemType } from "../http/Problem.ts"
import * as Unanswered from "./Unanswered.ts"

/** The exit statuses of all commands, as in `sysexits.h`; those of a job are the job's own. */
export const statuses = { failed: 1, usage: 64, unavailable: 69, notPermitted: 77 } as const

/** The command cannot go on; `message` is for the person at the terminal. */
export class CommandFailed extends Data.TaggedError("CommandFailed")<{
  readonly message: string
  readonly status: typeof statuses[keyof typeof statuses]
}> {
  override readonly [Runtime.errorExitCode] = this.status
}

/** The service cannot be reached, or its database cannot: it is worth asking again. */
export class NotNow extends Data.TaggedError("NotNow")<{ readonly message: string }> {
  override readonly [Runtime.errorExitCode] = statuses.unavailable
}

export interface Target {
  readonly url: string
  readonly token: Option.Option<Redacted.Redacted<string>>
}

/** The address of a service, or what is wrong with it. */
export const readTarget = (
  address: string,
  token: Option.Option<Redacted.Redacted<string>>
): Effect.Effect<Target, CommandFailed> => {
  const wrong = (message: string) => Effect.fail(new CommandFailed({ message, status: statuses.usage }))
  const url = URL.canParse(address) ? new URL(address) : undefined
  if (url !== undefined && (url.username !== "" || url.password !== "")) {
    return wrong("an address has no user and no password: the service asks for a token, which is in LULL_TOKEN")
  }
  if (url === undefined || !/^https?:$/.test(url.protocol) || /[?#]/.test(address)) {
    // What looks like a password is not shown, also where it makes nonsense of the rest.
    const shown = JSON.stringify(address.replace(/\/\/.*@/s, "//…@").replace(/[?#].*$/s, "…"))
    return wrong(
      `${shown} is no address of a service: --url and LULL_URL are as http://127.0.0.1:7070 or https://example.com/lull`
    )
  }
  const text = Option.getOrUndefined(Option.map(token, Redacted.value))
  if (text !== undefined && !/^[\x21-\x7e]+$/.test(text)) {
    return wrong("LULL_TOKEN has a blank or a control character in it, perhaps a line's end: it cannot be right")
  }
  return Effect.succeed({ url: url.href.replace(/\/+$/, ""), token })
}

/** A request whose answer has not begun by then is given up; so is a command that has never had an answer. */
export const answerWithin = Duration.seconds(10)

const ProblemDocument = Schema.Struct({ status: Schema.Int, detail: Schema.String })

export const make = Effect.fnUntraced(function*(target: Target) {
  const client = (yield* HttpClient.HttpClient).pipe(HttpClient.mapRequest((request) => {
    const addressed = HttpClientRequest.prependUrl(request, target.url)
    return Option.match(target.token, {
      onNone: () => addressed,
      onSome: (token) => HttpClientRequest.bearerToken(addressed, token)
    })
  }))
  let hasAnswered = false

  const failed = (message: string, status: CommandFailed["status"]) => new CommandFailed({ message, status })
  const stranger = (what: string) =>
    failed(`what answers at ${target.url} is no Lull service of this version: ${what}`, statuses.unavailable)

  const unanswered = (error: HttpClientError) => {
    const { isPassing, message } = Unanswered.explain(target.url, error)
    return isPassing ? new NotNow({ message }) : failed(message, statuses.unavailable)
  }

  const ask = Effect.fnUntraced(function*(request: HttpClientRequest.HttpClientRequest) {
    const response = yield* Effect.mapError(client.execute(request), unanswered).pipe(Effect.timeoutOrElse({
      duration: answerWithin,
      orElse: () => Effect.fail(new NotNow({ message: Unanswered.silent(target.url, answerWithin) }))
    }))
    if (response.status < 300) return response
    const problem = yield* problemOf(response)
    return yield* problem === undefined ? notOurs(response) : refusal(problem, Option.isSome(target.token))
  })

  const problemOf = (response: HttpClientResponse.HttpClientResponse) =>
    response.headers["content-type"]?.startsWith(problemType) === true
      ? Effect.map(
        Effect.option(Effect.flatMap(response.json, Schema.decodeUnknownEffect(ProblemDocument))),
        Option.getOrUndefined
      )
      : Effect.undefined

  /** An answer that Lull does not give: somebody stands before it, or it is not there at all. */
  const notOurs = ({ headers, status }: HttpClientResponse.HttpClientResponse): CommandFailed | NotNow => {
    const location = headers["location"]
    if (status < 400) {
      return stranger(location === undefined ? `it answered ${status}` : `it points to ${location}; use that as --url`)
    }
    if (status === 413) {
      return failed(`what stands before the service at ${target.url} takes no body of this size (413)`, statuses.usage)
    }
    return status >= 502 && status <= 504
      ? new NotNow({ message: `no service answers at ${target.url}: what stands before it answered ${status}` })
      : stranger(`it answered ${status}${headers["content-type"] === undefined ? "" : `, ${headers["content-type"]}`}`)
  }

  const refusal = (
    { detail, status }: typeof ProblemDocument.Type,
    hasToken: boolean
  ): CommandFailed | NotNow => {
    // Others speak of problems in this way, too; but only Lull knows of jobs.
    if (status === 404 && !detail.startsWith("there is no job")) return stranger(`it answered 404, ${detail}`)
    hasAnswered = true
    if (status === 503 || status === 429) return new NotNow({ message: detail })
    if (status === 401) {
      const message = hasToken
        ? `the service at ${target.url} does not accept this LULL_TOKEN: it was started with another one`
        : `the service at ${target.url} asks for a token: set LULL_TOKEN to the one that it was started with`
      return failed(message, statuses.notPermitted)
    }
    if (status === 403) return failed(detail, statuses.notPermitted)
    return failed(detail, status === 400 || status === 413 || status === 415 ? statuses.usage : statuses.failed)
  }

  const decoded = <A, I>(schema: Schema.Codec<A, I>) => (response: HttpClientResponse.HttpClientResponse) =>
    response.json.pipe(
      Effect.flatMap(Schema.decodeUnknownEffect(schema)),
      Effect.mapBoth({
        onFailure: () => stranger("its answer is not one that was expected"),
        onSuccess: (value) => {
          hasAnswered = true
          return value
        }
      })
    )

  const get = <A, I>(
    path: string,
    schema: Schema.Codec<A, I>,
    parameters: ReadonlyArray<readonly [string, string]> = []
  ) => Effect.flatMap(ask(HttpClientRequest.setUrlParams(HttpClientRequest.get(path), parameters)), decoded(schema))

  return {
    hasAnswered: () => hasAnswered,
    submit: (job: unknown) =>
      Effect.flatMap(
        ask(HttpClientRequest.bodyJsonUnsafe(HttpClientRequest.post("/api/v1/jobs"), job)),
        decoded(JobDocument)
      ),
    show: (id: string) => get(`/api/v1/jobs/${encodeURIComponent(id)}`, JobDocument),
    list: (parameters: ReadonlyArray<readonly [string, string]>) => get("/api/v1/jobs", JobList, parameters),
    cancel: (id: string) =>
      Effect.flatMap(
        ask(HttpClientRequest.post(`/api/v1/jobs/${encodeURIComponent(id)}/cancel`)),
        decoded(JobDocument)
      ),
    /** The output after a position; with `follow` until the job has ended. */
    logs: (id: string, follow: boolean, after: string | undefined) =>
      Stream.unwrap(Effect.map(
        ask(HttpClientRequest.setUrlParams(HttpClientRequest.get(`/api/v1/jobs/${encodeURIComponent(id)}/logs`), [
          ["follow", String(follow)],
          ...(after === undefined ? [] : [["after", after] as const])
        ])),
        (response) =>
          response.stream.pipe(
            Stream.decodeText(),
            Stream.splitLines,
            Stream.filter((line) => line !== ""),
            Stream.mapEffect((line) => Schema.decodeUnknownEffect(Schema.fromJsonString(OutputDocument))(line)),
            Stream.mapError(() => new NotNow({ message: "the connection to the service was lost" }))
          )
      ))
  }
})

export type Client = Effect.Success<ReturnType<typeof make>>

export interface Patience {
  /** Also for a service that was never there. */
  readonly waitsForService: boolean
  /** For the person who waits: once for each wait. */
  readonly say: (text: string) => Effect.Effect<void>
}

/**
 * Asks again while the service or its database is away, and says so once. A person waits for it, so the delays are short. A
 * service that has never answered may not be there at all, so that is waited for only as long as for one answer.
 */
export const patiently = <A, E, R>(
  client: Client,
  effect: Effect.Effect<A, E | NotNow, R>,
  { say, waitsForService }: Patience
): Effect.Effect<A, Exclude<E, NotNow> | CommandFailed, R> => {
  let last: NotNow | undefined
  const again: Effect.Effect<A, Exclude<E, NotNow>, R> = Effect.retry(effect, {
    schedule: Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced(Duration.seconds(2))]),
    while: (error) => {
      if (!(error instanceof NotNow)) return Effect.succeed(false)
      const isFirst = last === undefined
      last = error
      return isFirst ? Effect.as(say(`waiting: ${error.message}`), true) : Effect.succeed(true)
    }
  }) as Effect.Effect<A, Exclude<E, NotNow>, R>
  if (waitsForService) return again
  const givenUp = Effect.suspend(() => {
    if (client.hasAnswered()) return Effect.never
    const message = last === undefined ? "no answer came" : last.message
    return Effect.fail(
      new CommandFailed({
        message: `${message} (given up after ${Duration.format(answerWithin)}; --wait-for-service waits for ever)`,
        status: statuses.unavailable
      })
    )
  })
  return Effect.raceFirst(again, Effect.andThen(Effect.sleep(answerWithin), givenUp))
}
