/** The API from the other side, for the `job` commands. Every error is one sentence that says what to do. */
import type { Redacted } from "effect"
import { Data, Duration, Effect, Option, Schedule, Schema, Stream } from "effect"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import type * as HttpClientResponse from "effect/http/HttpClientResponse"
import { JobDocument, JobList, OutputDocument } from "../http/JobDocuments.ts"

/** The command cannot go on; `message` is for the person at the terminal. */
export class CommandFailed extends Data.TaggedError("CommandFailed")<{ readonly message: string }> {}

/** The service cannot be reached, or its database cannot: it is worth asking again. */
export class NotNow extends Data.TaggedError("NotNow")<{ readonly message: string }> {}

export interface Target {
  readonly url: string
  readonly token: Option.Option<Redacted.Redacted<string>>
}

const ProblemDocument = Schema.Struct({ detail: Schema.String })

export const make = Effect.fnUntraced(function*(target: Target) {
  const client = (yield* HttpClient.HttpClient).pipe(HttpClient.mapRequest((request) => {
    const addressed = HttpClientRequest.prependUrl(request, target.url)
    return Option.match(target.token, {
      onNone: () => addressed,
      onSome: (token) => HttpClientRequest.bearerToken(addressed, token)
    })
  }))

  const ask = Effect.fnUntraced(function*(request: HttpClientRequest.HttpClientRequest) {
    const response = yield* Effect.mapError(
      client.execute(request),
      () => new NotNow({ message: `no service answers at ${target.url}; start one with: npm start` })
    )
    if (response.status < 300) return response
    const problem = yield* Effect.option(Effect.flatMap(response.json, Schema.decodeUnknownEffect(ProblemDocument)))
    const message = Option.match(problem, {
      onNone: () => `the service at ${target.url} answered ${response.status}`,
      onSome: ({ detail }) => detail
    })
    return yield* response.status === 503 ? new NotNow({ message }) : new CommandFailed({ message })
  })

  const decoded = <A, I>(schema: Schema.Codec<A, I>) => (response: HttpClientResponse.HttpClientResponse) =>
    Effect.mapError(
      Effect.flatMap(response.json, Schema.decodeUnknownEffect(schema)),
      () => new CommandFailed({ message: `what answers at ${target.url} is not a Lull service of this version` })
    )

  const get = <A, I>(
    path: string,
    schema: Schema.Codec<A, I>,
    parameters: ReadonlyArray<readonly [string, string]> = []
  ) => Effect.flatMap(ask(HttpClientRequest.setUrlParams(HttpClientRequest.get(path), parameters)), decoded(schema))

  return {
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

/**
 * Asks again while the service or its database is away, and says so once. A person waits for it, so the delays are short.
 */
export const patiently = <A, E, R>(
  effect: Effect.Effect<A, E | NotNow, R>,
  say: (text: string) => Effect.Effect<void>
): Effect.Effect<A, Exclude<E, NotNow>, R> => {
  let said = false
  return Effect.retry(effect, {
    schedule: Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced(Duration.seconds(2))]),
    while: (error) => {
      if (!(error instanceof NotNow)) return Effect.succeed(false)
      if (said) return Effect.succeed(true)
      said = true
      return Effect.as(say(`waiting: ${error.message}`), true)
    }
  }) as Effect.Effect<A, Exclude<E, NotNow>, R>
}
