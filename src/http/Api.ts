/** The contract, for `/openapi.json`: what `Server` answers. */
import { Schema } from "effect"
// By module, as the index brings two web pages of some megabytes with it.
import * as HttpApi from "effect/http-api/HttpApi"
import * as HttpApiEndpoint from "effect/http-api/HttpApiEndpoint"
import * as HttpApiGroup from "effect/http-api/HttpApiGroup"
import * as HttpApiSchema from "effect/http-api/HttpApiSchema"
import * as OpenApi from "effect/http-api/OpenApi"
import { IdempotencyKey, JobStatus } from "../provisioner/Job.ts"
import { path as tailnetPath } from "../tailnet/Protocol.ts"
import { JobDocument, JobList, JobSubmission, JobSubmissions } from "./JobDocuments.ts"
import { contentType } from "./Problem.ts"

const Problem = Schema.Struct({
  type: Schema.String,
  title: Schema.String,
  status: Schema.Int,
  detail: Schema.String,
  errors: Schema.optionalKey(Schema.Array(Schema.Struct({ field: Schema.String, problem: Schema.String })))
}).annotate({ identifier: "Problem" })

const problem = (status: number, description: string) =>
  Problem.annotate({ description }).pipe(HttpApiSchema.status(status), HttpApiSchema.asJson({ contentType }))

const common = [
  problem(400, "Something is wrong with the request; `errors` names the fields"),
  problem(401, "A token is needed, where one is set"),
  problem(403, "The `Host` or the `Origin` is not the service's own"),
  problem(429, "There are too many connections of this address"),
  problem(500, "A fault of the service, which its log tells of"),
  problem(503, "The database is unavailable; `Retry-After` says when to ask again")
] as const

const id = { id: Schema.String }

const jobs = HttpApiGroup.make("jobs").add(
  HttpApiEndpoint.post("submit", "/jobs", {
    headers: {
      /** For a single job, instead of `idempotencyKey`. */
      "idempotency-key": Schema.optionalKey(IdempotencyKey)
    },
    payload: Schema.Union([JobSubmission, JobSubmissions]),
    success: Schema.Union([JobDocument, Schema.Array(JobDocument)]).pipe(HttpApiSchema.status(201)),
    error: [
      ...common,
      problem(409, "The idempotency key belongs to another job"),
      problem(413, "The body is too large"),
      problem(415, "The body is not declared as application/json")
    ]
  }),
  HttpApiEndpoint.get("list", "/jobs", {
    query: {
      status: Schema.optionalKey(JobStatus),
      type: Schema.optionalKey(Schema.String),
      tag: Schema.optionalKey(Schema.Array(Schema.String)),
      limit: Schema.optionalKey(Schema.String),
      cursor: Schema.optionalKey(Schema.String)
    },
    success: JobList,
    error: common
  }),
  HttpApiEndpoint.get("show", "/jobs/:id", {
    params: id,
    success: JobDocument,
    error: [...common, problem(404, "There is no such job")]
  }),
  HttpApiEndpoint.get("logs", "/jobs/:id/logs", {
    params: id,
    query: { follow: Schema.optionalKey(Schema.String), after: Schema.optionalKey(Schema.String) },
    success: Schema.String.pipe(HttpApiSchema.asText({ contentType: "application/x-ndjson" })),
    error: [...common, problem(404, "There is no such job")]
  }),
  HttpApiEndpoint.post("cancel", "/jobs/:id/cancel", {
    params: id,
    success: JobDocument,
    error: [...common, problem(404, "There is no such job"), problem(409, "It had ended before")]
  })
).prefix("/api/v1")

const service = HttpApiGroup.make("service").add(
  HttpApiEndpoint.get("health", "/healthz", { success: Schema.String.pipe(HttpApiSchema.asText()) }),
  HttpApiEndpoint.get("ready", "/readyz", {
    success: Schema.Unknown,
    error: problem(503, "The database takes no writes, or callers are not served; says why and since when")
  }),
  HttpApiEndpoint.get("metrics", "/metrics", { success: Schema.String.pipe(HttpApiSchema.asText()) })
)

export const document = OpenApi.fromApi(
  HttpApi.make("lull").add(jobs).add(service).annotate(OpenApi.Title, "Lull").annotate(OpenApi.Version, "1")
)

/** What is not in the document: itself, and what is no HTTP once it has begun. */
const others = { "/openapi.json": { get: true }, [tailnetPath]: { get: true } }

const methods = Object.entries({ ...document.paths, ...others }).map(([path, operations]) => ({
  pattern: new RegExp(`^${path.replaceAll(".", "\\.").replaceAll(/\{\w+\}/g, "[^/]+")}$`),
  methods: Object.keys(operations).flatMap((method) => method === "get" ? ["GET", "HEAD"] : [method.toUpperCase()])
}))

/** What can be asked of a path; nothing, where there is none. */
export const methodsOf = (path: string): ReadonlyArray<string> =>
  methods.find(({ pattern }) => pattern.test(path))?.methods ?? []
