/**
 * The settings that each session of ours begins with, and what is done where a pooler does not take them. Pure.
 *
 * PgBouncer refuses a connection that brings settings which it does not know (08P01), and it can be told to drop them silently.
 * So a connection that was refused for them is made without, and what the sessions have in the end is asked.
 */
import { Duration } from "effect"
import { describe } from "./Unavailable.ts"

export type Settings = Readonly<Record<string, string>>

/**
 * A prepared statement keeps a plan that was made when the tables were empty, and then reads all of them, each time, until
 * they are analyzed: sixty thousand jobs later an acquire took 300 milliseconds. All that Lull looks for has an index.
 * Without `jit`, as servers before 18 take the price of a scan that cannot be avoided for a reason to compile it.
 */
const planning = { enable_seqscan: "off", jit: "off" }

/**
 * Of a deadline. The server answers first, then the socket ends, and then the door: a lock that is waited for, a statement that takes
 * too long and a server that does not answer are three things, and no two of these race.
 */
export const shares = { lock: 0.4, statement: 0.8, socket: 0.9 } as const

/**
 * The server finds out in less than a minute that we are gone without a word, and ends what we had open. Behind a pooler it is the
 * pooler's affair, so that nothing is said where these do not hold.
 */
const keepalive = {
  tcp_keepalives_idle: "10",
  tcp_keepalives_interval: "5",
  tcp_keepalives_count: "3",
  tcp_user_timeout: "30s"
}

/** Those that the URL's own `options` set are left to them: of the two the server would take ours. */
export const make = (
  deadline: Duration.Duration,
  options: string | undefined,
  lockWithin: Duration.Duration = Duration.times(deadline, shares.lock)
): Settings => {
  const millis = Duration.toMillis(deadline)
  const all: Record<typeof names[number], string> = {
    lock_timeout: `${Math.ceil(Duration.toMillis(lockWithin))}ms`,
    statement_timeout: `${Math.ceil(shares.statement * millis)}ms`,
    idle_in_transaction_session_timeout: `${2 * millis}ms`,
    ...planning,
    ...keepalive
  }
  return Object.fromEntries(Object.entries(all).filter(([name]) => !isSetBy(options ?? "", name)))
}

const names = [
  "lock_timeout",
  "statement_timeout",
  "idle_in_transaction_session_timeout",
  "enable_seqscan",
  "jit",
  "tcp_keepalives_idle",
  "tcp_keepalives_interval",
  "tcp_keepalives_count",
  "tcp_user_timeout"
] as const

const isSetBy = (options: string, name: string) =>
  new RegExp(`(?:^|\\s)(?:-c\\s*|--)${name.replaceAll("_", "[-_]")}\\s*=`, "i").test(options)

/** What of the beginning of a session a server takes. */
export interface Taken {
  readonly settings: boolean
  readonly options: boolean
  readonly tls: boolean
}

export const everything: Taken = { settings: true, options: true, tls: true }

/** Protocol violation, feature not supported, no such parameter, no such value: what poolers and relatives of PostgreSQL say. */
const refusals = new Set(["08P01", "0A000", "42704", "22023"])

/**
 * What is worth another attempt after this failure to connect: less than before, or `undefined` if how we began was not the
 * reason. A name in `options` that does not exist is the user's to mend, and no reason to leave them out.
 *
 * `isTlsOptional`: as libpq does, a connection whose TLS fails, or that `pg_hba.conf` does not admit, is then tried without. A
 * certificate that is not trusted is not among the failures: who names one wants it verified.
 */
export const withLess = (error: unknown, before: Taken, isTlsOptional: boolean): Taken | undefined => {
  const { code = "", detail } = describe(error)
  if (before.tls && isTlsOptional) {
    const isRefused = code === "28000" && detail.includes("pg_hba.conf")
    if (isRefused || code === "EPROTO" || code.startsWith("ERR_SSL_")) return { ...before, tls: false }
  }
  if (!refusals.has(code)) return undefined
  if (before.settings && names.some((name) => new RegExp(`\\b${name}\\b`).test(detail))) {
    return { ...before, settings: false }
  }
  if (before.options && optionsRefused.test(detail)) return { ...before, options: false }
  return undefined
}

/** In the words of PgBouncer, and of proxies of cloud providers. */
const optionsRefused = /startup parameter(?: in)?:? "?options|command-line options/i

/** What is said of settings that should hold for a session and do not. */
export const explainMissing = (host: string, missing: ReadonlyArray<string>): string =>
  `${host} does not take these settings from Lull, as poolers do not: ${
    missing.join(", ")
  }. The server will not end what takes ` +
  "too long, and may choose slower plans; set them for the role, as docs/connections.md shows"

export const explainOptions = (host: string): string =>
  `${host} does not take the options of the URL, as poolers do not: they have no effect. Set them for the role instead`

/** Those that do not hold, though Lull would have them. Another limit than ours is somebody's decision; none at all is none. */
export const missing = (wanted: Settings, actual: ReadonlyMap<string, string | undefined>): ReadonlyArray<string> =>
  Object.entries(wanted).flatMap(([name, value]) => {
    if (name in keepalive) return []
    const now = actual.get(name)
    const holds = name in planning ? now === value : now !== undefined && now !== "0"
    return holds ? [] : [name]
  })
