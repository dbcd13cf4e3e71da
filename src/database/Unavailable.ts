/**
 * What failures mean: tables. `classify` says it of a heartbeat, and `judge` of work at the door, where the same error may be
 * the fault of the caller: of the error of a statement only what Lull's own work met says anything of the database.
 *
 * SQLSTATEs: PostgreSQL's documentation, appendix A. Socket errors: `errno(3)`, Node's `dns` and `tls` modules.
 */
import type { Duration } from "effect"
import { Data } from "effect"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import { errorText, wordsOf } from "../logging/ErrorText.ts"

/**
 * - `Unreachable`: no connection, or it broke.
 * - `Refusing`: the server is there, but starts, stops, has no connection left or cannot do its work.
 * - `ReadOnly`: a standby, or a server that was switched to read-only.
 * - `Full`: out of disk or memory.
 * - `Locked`: somebody holds a lock on Lull's tables.
 * - `Slow`: Lull's own work takes longer than its deadline, again and again.
 * - `Failing`: Lull's own work fails again and again for another reason, which is in the detail.
 * - `Hung`: the server, or the way to it, does not answer.
 * - `Misconfigured`: password, user, database name, certificate: somebody has to act.
 * - `SchemaMissing`: Lull's tables are not there. They are made by the next probe.
 */
export type Reason = (typeof reasons)[number]

export const reasons = [
  "Unreachable",
  "Refusing",
  "ReadOnly",
  "Full",
  "Locked",
  "Slow",
  "Failing",
  "Hung",
  "Misconfigured",
  "SchemaMissing"
] as const

/**
 * Whether the work was done: `notDone`, or `unknown` when the answer was lost on the way. Everything in the stores may
 * be repeated after either.
 */
export type WorkOutcome = "notDone" | "unknown"

/** The database does not serve us. The work was refused at the door, or failed for a reason that is not its own. */
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

/**
 * The database answered, and the answer was an error; or the work took longer than it may. Nothing of it was done, unless
 * `outcome` says otherwise.
 */
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

/** The code of the error that a connection ends with when its server asked for what the URL does not give (`answerLogin`). */
export const loginRefusedCode = "ERR_LULL_LOGIN_REFUSED"

/** The code of the error that a connection ends with when its server answered with an error before TLS could begin. */
export const refusedBeforeTlsCode = "ERR_LULL_REFUSED_BEFORE_TLS"

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
  // Class 40: rolled back for the sake of somebody else, as the victim of a deadlock or of a conflict.
  "40001": "Locked",
  "40P01": "Locked",
  "55P03": "Locked", // lock_timeout, or no wait at all
  "57014": "Slow", // statement_timeout
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
  [loginRefusedCode]: "Misconfigured",
  [refusedBeforeTlsCode]: "Refusing",
  CERT_HAS_EXPIRED: "Misconfigured",
  CERT_NOT_YET_VALID: "Misconfigured",
  DEPTH_ZERO_SELF_SIGNED_CERT: "Misconfigured",
  SELF_SIGNED_CERT_IN_CHAIN: "Misconfigured",
  UNABLE_TO_GET_ISSUER_CERT: "Misconfigured",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "Misconfigured",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "Misconfigured",
  ERR_TLS_CERT_ALTNAME_INVALID: "Misconfigured",
  CRL_HAS_EXPIRED: "Misconfigured",
  CRL_NOT_YET_VALID: "Misconfigured",
  CRL_SIGNATURE_FAILURE: "Misconfigured",
  UNABLE_TO_GET_CRL: "Misconfigured",
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

/**
 * What an error says of itself, wherever in the chain of its causes it says it. Of a server that says too much, or a secret, no
 * more goes from here to a log, an answer or a job.
 */
export const describe = (error: unknown): { readonly code: string | undefined; readonly detail: string } => {
  let detail: string | undefined
  for (const link of chain(error)) {
    const code = field(link, "code")
    const message = field(link, "message")
    if (code !== undefined) return { code: code.slice(0, longestCode), detail: wordsOf(message ?? code) }
    detail = message ?? detail
  }
  return { code: undefined, detail: detail === undefined ? errorText(error) : wordsOf(detail) }
}

/** The reason for which this failure means "unavailable", or `undefined` if it is a failure of the statement. */
export const classify = (error: unknown): Classified | undefined => {
  const { code, detail } = describe(error)
  if (code !== undefined) {
    const reason = socketCodes[code] ?? schemaCodes[code] ?? lookUp(sqlStates, code)
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
 * What went wrong with work at the door.
 *
 * - `NoConnection`: the pool could not open a connection for it. That concerns everybody, whosever work it was.
 * - `Lost`: the connection ended under it.
 * - `Statement`: the server refused a statement, and the connection is well. `trouble`: what that means if the statement was
 *   Lull's own; `undefined` if it means nothing for the next one.
 */
export type Failure =
  & { readonly code: string | undefined; readonly detail: string }
  & (
    | { readonly _tag: "NoConnection" | "Lost"; readonly reason: Reason }
    | { readonly _tag: "Statement"; readonly kind: FailureKind; readonly trouble: Reason | undefined }
  )

/** `wasTimeout`: it had run for about as long as a statement may, which tells a timeout from a cancellation in any language. */
export const judge = (error: unknown, wasTimeout: boolean): Failure => {
  const { code, detail } = describe(error)
  const reason = classify(error)?.reason
  if (isSqlError(error) && error.reason.operation === "connect") {
    return { _tag: "NoConnection", reason: reason ?? "Failing", code, detail }
  }
  const isState = code !== undefined && isSqlState(code)
  if (isState ? endsConnection(error, code) : reason !== undefined) {
    return { _tag: "Lost", reason: reason ?? "Failing", code, detail }
  }
  const trouble = code === undefined || !isState ? undefined : lookUp(troubles, code)
  const isCanceled = code === "57014" && !wasTimeout && !/statement timeout/i.test(detail)
  const kind = isSqlError(error) && error.reason.operation === "commit" && !isState ? "passing" : kindOf(code)
  return { _tag: "Statement", kind, trouble: isCanceled ? undefined : trouble ?? undefined, code, detail }
}

/**
 * Whether the server closed the connection with this error, or refuses all statements on it. A foreign server's lost
 * connection is an ordinary error here, and so is a bound value too few (08P01).
 */
const endsConnection = (error: unknown, code: string): boolean => {
  if (/^(25P03|25P04|57P05)$/.test(code)) return false // a limit of this session, and its transaction is rolled back
  const severity = severityOf(error)
  return severity === undefined ? /^(08|57P)/.test(code) : severity === "FATAL" || severity === "PANIC"
}

const severityOf = (error: unknown): string | undefined => {
  for (const link of chain(error)) {
    const severity = field(link, "severityUnlocalized") ?? field(link, "severity")
    if (severity !== undefined) return severity
  }
  return undefined
}

/**
 * What an error of a statement of Lull's own says of the database, when the heartbeat is well: by class, or by state. All
 * classes of appendix A that are not here say "Failing": Lull's statements are right, so that something is wrong there.
 */
export const troubles: Readonly<Record<string, Reason | null>> = {
  "": "Failing",
  "08": "Unreachable", // a server behind this one
  // The values, or the state of the transaction: nothing of it is true of the next statement.
  "0B": null,
  "21": null,
  "22": null,
  "23": null,
  "25": null,
  "27": null,
  "2D": null,
  "3B": null,
  "40": null, // conflicts: the door repeats the work
  "44": null,
  "54": null,
  "25006": "ReadOnly",
  "25P03": "Slow",
  "25P04": "Slow",
  "28": "Misconfigured",
  "3D000": "Misconfigured",
  "3F000": "SchemaMissing",
  "42501": "Misconfigured", // a right that was revoked
  "42703": "SchemaMissing",
  "42704": "SchemaMissing",
  "42883": "SchemaMissing",
  "42P01": "SchemaMissing",
  "53": "Full",
  "53300": "Refusing",
  "53400": "Failing", // a limit of the configuration
  "55P03": "Locked",
  "57014": "Slow",
  "57P": "Refusing",
  "57P05": "Slow",
  "58": "Refusing"
}

/** Longest prefix first. */
const lookUp = <A>(table: Readonly<Record<string, A>>, code: string): A | undefined => {
  for (const prefix of [code, code.slice(0, 3), code.slice(0, 2), ""]) {
    if (Object.hasOwn(table, prefix)) return table[prefix]
  }
  return undefined
}

/** Failures of a statement that may be the database's, whosever it was: worth a heartbeat, which decides. */
export const isSuspicious = (failure: Failure): boolean =>
  failure._tag !== "Statement" || /^(25006|53|57P|58|XX)/.test(failure.code ?? "")

/**
 * Failures of Lull's own work which may be the fault of one row in it: locked, slow, or refused by somebody's trigger. Its caller
 * has to be able to tell them from those of the database, and to try again without that row.
 */
export const mayBeOneRow = (reason: Reason): boolean => reason === "Locked" || reason === "Slow" || reason === "Failing"

/** All of them have a digit, and no code of a socket has. */
const isSqlState = (code: string) => /^(?=.*[0-9])[0-9A-Z]{5}$/.test(code)

/**
 * What kind of failure this is. Classes of SQLSTATE whose failures repeat with the same values: 21 cardinality, 22 data,
 * 23 constraints, 27 changes by triggers, 44 check option, 54 limits of a program; and with the same statement: 0A, 26, 34, 3F, 42. What carries no
 * state at all is the driver's own: a value that it can not encode, or a row that it can not decode.
 */
export const kindOf = (sqlState: string | undefined): FailureKind => {
  if (sqlState === undefined || !isSqlState(sqlState) || /^(21|22|23|27|44|54)/.test(sqlState)) return "data"
  return /^(0A|26|34|3F|42)/.test(sqlState) ? "statement" : "passing"
}

/** Deadlocks and serialization failures: the transaction was rolled back, and doing it again may well succeed. */
export const isRolledBackByConflict = (error: SqlError): boolean =>
  error.reason._tag === "DeadlockError" || error.reason._tag === "SerializationError"

/**
 * States in which the server has certainly not done the work: it refused the connection or the statement. Of all other
 * failures of a write it is unknown.
 */
export const isCertainlyNotDone = (failure: { readonly code: string | undefined; readonly _tag?: string }): boolean => {
  const code = failure.code ?? ""
  // The server has answered, on a connection that is well.
  if (failure._tag === "Statement") return code !== "40003"
  return /^(25006|28|3D|3F|42|53|57P03)/.test(code) || ["ECONNREFUSED", "ENOTFOUND", loginRefusedCode].includes(code)
}

/** A SQLSTATE has five characters, and the longest code of Node some forty. */
const longestCode = 64

const chain = function*(error: unknown): Generator<object> {
  let current = error
  for (let depth = 0; depth < 8 && typeof current === "object" && current !== null; depth++) {
    yield current
    current = "cause" in current ? current.cause : undefined
  }
}

const field = (value: object, name: "code" | "message" | "severity" | "severityUnlocalized"): string | undefined => {
  const found = name in value ? Reflect.get(value, name) : undefined
  return typeof found === "string" && found !== "" ? found : undefined
}
