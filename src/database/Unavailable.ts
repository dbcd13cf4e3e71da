/**
 * Which failures mean that the database is unavailable, and why: a table. Everything that is not in it is a failure of
 * the statement, not of the database.
 *
 * SQLSTATEs: PostgreSQL's documentation, appendix A. Socket errors: `errno(3)`, Node's `dns` and `tls` modules.
 */
import type { Duration } from "effect"
import { Data } from "effect"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import { errorText } from "../logging/ErrorText.ts"

/**
 * - `Unreachable`: no connection, or it broke.
 * - `Refusing`: the server is there, but starts, stops, has no connection left or cannot do its work.
 * - `ReadOnly`: a standby, or a server that was switched to read-only.
 * - `Full`: out of disk or memory.
 * - `Hung`: the server, or the way to it, does not answer.
 * - `Misconfigured`: password, user, database name, certificate: somebody has to act.
 * - `SchemaMissing`: Lull's tables are not there. They are made by the next probe.
 */
export type Reason = "Unreachable" | "Refusing" | "ReadOnly" | "Full" | "Hung" | "Misconfigured" | "SchemaMissing"

/**
 * Whether the work was done: `notDone`, or `unknown` when the answer was lost on the way. Everything in the stores may
 * be repeated after either.
 */
export type WorkOutcome = "notDone" | "unknown"

/** The database takes no writes of ours. The work was refused at the door, or failed in a way that the table below names. */
export class DatabaseUnavailable extends Data.TaggedError("DatabaseUnavailable")<{
  readonly reason: Reason
  /** Since when, in milliseconds of the Unix epoch. */
  readonly since: number
  /** Attempts to reach it since then. */
  readonly attempts: number
  /** When it is worth asking again: the time to the next probe. */
  readonly retryAfter: Duration.Duration
  readonly outcome: WorkOutcome
  /** What was to be done, as `Service.method`. */
  readonly operation: string
  /** What the server or the system said last. */
  readonly detail: string
  /** The failure itself, if this call met it. */
  readonly cause?: unknown
}> {
  override get message() {
    return `the database is unavailable (${this.reason}: ${this.detail}) for ${this.operation}` +
      (this.outcome === "unknown" ? ", and whether it was done is unknown" : "")
  }
}

/**
 * Why a statement failed on a database that is there.
 *
 * - `data`: a value is refused, and will be again: out of range, malformed, against a constraint, too large.
 * - `statement`: the statement is wrong: its syntax, a name in it, a right that is missing.
 * - `passing`: everything else: locked, canceled, out of time, in conflict. The same work may succeed later.
 */
export type FailureKind = "data" | "statement" | "passing"

/** The database answered, and the answer was an error. Nothing of the statement was done, unless `outcome` says otherwise. */
export class QueryFailed extends Data.TaggedError("QueryFailed")<{
  readonly operation: string
  readonly kind: FailureKind
  readonly outcome: WorkOutcome
  /** PostgreSQL's five characters, if it was PostgreSQL that failed. */
  readonly sqlState: string | undefined
  readonly detail: string
  readonly cause: unknown
}> {
  override get message() {
    return `${this.operation} failed${
      this.sqlState === undefined ? "" : ` with SQLSTATE ${this.sqlState}`
    }: ${this.detail}`
  }
}

/** The code of the error that a connection ends with when its server owed an answer for too long. */
export const noAnswerCode = "ERR_LULL_NO_ANSWER"

/** Longest prefix first: a state is looked up by its five characters, then by its class. */
export const sqlStates: Readonly<Record<string, Reason>> = {
  // Class 08: connection exceptions.
  "08": "Unreachable",
  "08P01": "Misconfigured", // protocol violation: whatever is there, it is not PostgreSQL as we know it
  // Class 25: read-only transactions; a standby answers the same.
  "25006": "ReadOnly",
  "25P03": "Unreachable", // idle-in-transaction timeout: the server has closed this connection
  // Class 28: invalid authorization.
  "28": "Misconfigured",
  "3D000": "Misconfigured", // no such database
  "3F000": "SchemaMissing",
  "42P01": "SchemaMissing", // no such table
  // Class 53: insufficient resources.
  "53": "Full",
  "53300": "Refusing", // too many connections
  // Class 57P: the operator intervenes.
  "57P": "Refusing",
  "57P04": "Misconfigured", // the database was dropped
  "57P05": "Unreachable", // idle-session timeout: the server has closed this connection
  // Class 58: system errors, as I/O errors and lost files.
  "58": "Refusing"
}

/** Codes of Node's sockets, resolver and TLS. */
export const socketCodes: Readonly<Record<string, Reason>> = {
  ECONNREFUSED: "Unreachable",
  ECONNRESET: "Unreachable",
  ECONNABORTED: "Unreachable",
  EPIPE: "Unreachable",
  ETIMEDOUT: "Unreachable",
  EHOSTUNREACH: "Unreachable",
  EHOSTDOWN: "Unreachable",
  ENETUNREACH: "Unreachable",
  ENETDOWN: "Unreachable",
  EADDRNOTAVAIL: "Unreachable",
  ENOENT: "Unreachable", // no such Unix socket
  ENOTFOUND: "Unreachable",
  EAI_AGAIN: "Unreachable",
  EAI_FAIL: "Unreachable",
  EMFILE: "Unreachable",
  ENFILE: "Unreachable",
  EACCES: "Misconfigured",
  ERR_SOCKET_CLOSED: "Unreachable",
  ERR_STREAM_DESTROYED: "Unreachable",
  ERR_STREAM_WRITE_AFTER_END: "Unreachable",
  [noAnswerCode]: "Hung",
  CERT_HAS_EXPIRED: "Misconfigured",
  CERT_NOT_YET_VALID: "Misconfigured",
  DEPTH_ZERO_SELF_SIGNED_CERT: "Misconfigured",
  SELF_SIGNED_CERT_IN_CHAIN: "Misconfigured",
  UNABLE_TO_GET_ISSUER_CERT: "Misconfigured",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "Misconfigured",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "Misconfigured",
  ERR_TLS_CERT_ALTNAME_INVALID: "Misconfigured",
  ERR_SSL_WRONG_VERSION_NUMBER: "Misconfigured",
  EPROTO: "Misconfigured"
}

/** Codes of what is wrong with Lull's own tables (`Migrations`). All but the last wait for somebody to act. */
export const schemaCodes: Readonly<Record<string, Reason>> = {
  ERR_LULL_SCHEMA_TOO_NEW: "Misconfigured",
  ERR_LULL_SCHEMA_DAMAGED: "Misconfigured",
  ERR_LULL_SCHEMA_FORBIDDEN: "Misconfigured",
  ERR_LULL_MIGRATION_FAILED: "Misconfigured",
  ERR_LULL_SCHEMA_BLOCKED: "Refusing"
}

/** Failures of the driver that carry no code, by their text. */
const driverTexts: ReadonlyArray<readonly [text: RegExp, reason: Reason]> = [
  [/does not support TLS|refused TLS|SSLRequest/i, "Misconfigured"],
  [/timed out|timeout/i, "Hung"]
]

export interface Classified {
  readonly reason: Reason
  /** The SQLSTATE or the code of the socket error, if there was one. */
  readonly code: string | undefined
  /** The server's or the system's own words. */
  readonly detail: string
}

/** What an error says of itself, wherever in the chain of its causes it says it. */
export const describe = (error: unknown): { readonly code: string | undefined; readonly detail: string } => {
  let detail: string | undefined
  for (const link of chain(error)) {
    const code = field(link, "code")
    const message = field(link, "message")
    if (code !== undefined) return { code, detail: message ?? code }
    detail = message ?? detail
  }
  return { code: undefined, detail: detail ?? errorText(error) }
}

/** The reason for which this failure means "unavailable", or `undefined` if it is a failure of the statement. */
export const classify = (error: unknown): Classified | undefined => {
  const { code, detail } = describe(error)
  if (code !== undefined) {
    const reason = socketCodes[code] ?? schemaCodes[code] ?? sqlStates[code] ?? sqlStates[code.slice(0, 3)] ??
      sqlStates[code.slice(0, 2)]
    if (reason !== undefined) return { reason, code, detail }
    if (/^ERR_(TLS|SSL)_|^CERT_/.test(code)) return { reason: "Misconfigured", code, detail }
  }
  if (!isSqlError(error)) return undefined
  switch (error.reason._tag) {
    case "AuthenticationError":
      return { reason: "Misconfigured", code, detail }
    case "ConnectionError": {
      const text = `${error.reason.message} ${detail}`
      return { reason: driverTexts.find(([pattern]) => pattern.test(text))?.[1] ?? "Unreachable", code, detail }
    }
    default:
      return undefined
  }
}

/**
 * What kind of failure this is. Classes of SQLSTATE whose failures repeat with the same values: 21 cardinality, 22 data,
 * 23 constraints, 44 check option, 54 limits of a program; and with the same statement: 0A, 26, 34, 42. What carries no
 * state at all is the driver's own: a value that it can not encode, or a row that it can not decode.
 */
export const kindOf = (sqlState: string | undefined): FailureKind => {
  if (sqlState === undefined || !/^[0-9A-Z]{5}$/.test(sqlState) || /^(21|22|23|44|54)/.test(sqlState)) return "data"
  return /^(0A|26|34|42)/.test(sqlState) ? "statement" : "passing"
}

/** Deadlocks and serialization failures: the transaction was rolled back, and doing it again may well succeed. */
export const isRolledBackByConflict = (error: SqlError): boolean =>
  error.reason._tag === "DeadlockError" || error.reason._tag === "SerializationError"

/**
 * States in which the server has certainly not done the work: it refused the connection or the statement. Of all other
 * failures of a write it is unknown.
 */
export const isCertainlyNotDone = (classified: Classified): boolean => {
  const code = classified.code ?? ""
  return /^(25006|28|3D|3F|42|53|57P03)/.test(code) || code === "ECONNREFUSED" || code === "ENOTFOUND"
}

const chain = function*(error: unknown): Generator<object> {
  let current = error
  for (let depth = 0; depth < 8 && typeof current === "object" && current !== null; depth++) {
    yield current
    current = "cause" in current ? current.cause : undefined
  }
}

const field = (value: object, name: "code" | "message"): string | undefined => {
  const found = name in value ? Reflect.get(value, name) : undefined
  return typeof found === "string" && found !== "" ? found : undefined
}
