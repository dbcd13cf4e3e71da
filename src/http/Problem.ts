/** Errors as RFC 9457 problem documents. What is wrong with a request is named field by field. */
import { Duration, SchemaIssue } from "effect"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import type { DatabaseUnavailable, QueryFailed } from "../database/Unavailable.ts"
import { type FieldProblem as JobProblem, pathText } from "../provisioner/Job.ts"

export interface FieldProblem {
  /** As in the request: `input.command[0]`, or the name of a parameter. Empty for the whole of it. */
  readonly field: string
  readonly problem: string
}

export const contentType = "application/problem+json"

const titles: Readonly<Record<number, string>> = {
  400: "Bad request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not found",
  405: "Method not allowed",
  409: "Conflict",
  413: "Content too large",
  415: "Unsupported media type",
  426: "Upgrade required",
  429: "Too many requests",
  500: "Internal server error",
  503: "Service unavailable"
}

export const respond = (
  status: number,
  detail: string,
  extension: Readonly<Record<string, unknown>> = {},
  headers: Readonly<Record<string, string>> = {}
): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.jsonUnsafe(
    { type: "about:blank", title: titles[status] ?? "Error", status, detail, ...extension },
    { status, contentType, headers }
  )

/** How many fields are named at most. */
export const mostErrors = 20

/** Characters of the name of a field, and of what is wrong with it: both may be as long as what was sent. */
const mostCharacters = 300

const clipped = (text: string) => text.length <= mostCharacters ? text : `${text.slice(0, mostCharacters)}…`

export const badFields = (found: readonly [FieldProblem, ...ReadonlyArray<FieldProblem>]) => {
  const errors = found.slice(0, mostErrors).map(({ field, problem }) => ({
    field: clipped(field),
    problem: clipped(problem)
  }))
  const detail = errors.map(({ field, problem }) => field === "" ? problem : `${field}: ${problem}`).join("; ")
  return respond(400, detail, { errors })
}

const format = SchemaIssue.makeFormatterStandardSchemaV1()

/** What a schema found. `within` names the place of the whole. */
export const fieldsOf = (
  issue: SchemaIssue.Issue,
  within: ReadonlyArray<string | number> = []
): readonly [FieldProblem, ...ReadonlyArray<FieldProblem>] => {
  const [first, ...others] = format(issue).issues.slice(0, mostErrors).map(({ message, path }) => ({
    field: pathText([...within, ...path ?? []]),
    problem: message
  }))
  return [first ?? { field: pathText(within), problem: "is not valid" }, ...others]
}

export const badInput = (issue: SchemaIssue.Issue, within: string) => badFields(fieldsOf(issue, [within]))

/** What is wrong with jobs that were read: of one alone, its place among others is not named. */
export const badJobs = (problems: ReadonlyArray<JobProblem>, isMany: boolean) => {
  const [first, ...others] = problems.map(({ field, job, problem }) => {
    const within = field === "" || field.startsWith("[") ? `[${job}]${field}` : `[${job}].${field}`
    return { field: isMany ? within : field, problem }
  })
  return badFields([first ?? { field: "", problem: "is not valid" }, ...others])
}

/** The statement was canceled, or waited for a lock for too long: nothing was done, and it is worth asking again. */
export const busy = (error: QueryFailed) =>
  respond(503, `the database could not do this now (${error.detail})`, { outcome: error.outcome }, {
    "retry-after": "1"
  })

/** At once, with the time after which it is worth asking again: whole seconds, as HTTP has it. */
export const unavailable = (error: DatabaseUnavailable, detail?: string) => {
  const seconds = Math.max(1, Math.ceil(Duration.toSeconds(error.retryAfter)))
  return respond(
    503,
    detail ?? `the database is unavailable (${error.reason})`,
    { reason: error.reason, since: new Date(error.since).toISOString(), outcome: error.outcome },
    { "retry-after": String(seconds) }
  )
}
