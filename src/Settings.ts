/**
 * The settings of the service, by environment. One table holds the name, the default, the meaning and the reading of each,
 * so that help, checks and defaults cannot differ. All wrong values are found at once, a line for each; no line shows a
 * secret.
 */
import { Config, Data, Duration, Effect, Option, Redacted, Result, Schema } from "effect"
import { isIP } from "node:net"
import { isAbsolute, resolve } from "node:path"
import { form as databaseUrlForm, parse as parseDatabaseUrl } from "./database/ConnectionUrl.ts"
import * as ClientAddress from "./http/ClientAddress.ts"
import * as PublicUrl from "./http/PublicUrl.ts"
import { limits, type Tags } from "./provisioner/Job.ts"
import * as Secrets from "./Secrets.ts"
import { RelayRegion } from "./tailnet/Protocol.ts"

export interface Listen {
  readonly host: string
  readonly port: number
}

export const logFormats = ["pretty", "logfmt", "json"] as const
export type LogFormat = typeof logFormats[number]

const logLevels = ["all", "trace", "debug", "info", "warn", "error", "fatal", "none"] as const
export type LogLevelName = typeof logLevels[number]

export interface Settings {
  readonly databaseUrl: Redacted.Redacted<string> | undefined
  readonly databaseListenUrl: Redacted.Redacted<string> | undefined
  readonly databasePrepare: boolean
  readonly databaseConnections: number
  readonly listen: Listen
  readonly dataDirectory: string
  readonly workerSlots: number
  readonly workerTags: Tags
  /** A name, or `uid:gid`. `undefined`: the user of the service. */
  readonly jobUser: string | undefined
  readonly logLevel: LogLevelName
  /** `undefined`: whatever fits the terminal. */
  readonly logFormat: LogFormat | undefined
  /** `undefined`: the usual place in the data directory. */
  readonly logFile: string | "none" | undefined
  /** Bytes. */
  readonly logQuota: number
  readonly token: Secrets.Tokens | undefined
  readonly peerToken: Secrets.Tokens | undefined
  /** Files that these two were read from, and may be read from again. */
  readonly tokenFiles: TokenFiles
  /** `undefined`: no proxy stands before it. */
  readonly publicUrl: PublicUrl.PublicUrl | undefined
  /** As `ClientAddress.trusting` takes them. */
  readonly trustedProxies: ReadonlyArray<string>
  /** Of one address beyond the loopback; 0 for no limit. */
  readonly addressConnections: number
  readonly relayMap: ReadonlyArray<RelayRegion>
  readonly shutdownDeadline: Duration.Duration
}

export interface TokenFiles {
  readonly token: string | undefined
  readonly peerToken: string | undefined
}

/** What is wrong, a line for each setting. */
export class InvalidSettings extends Data.TaggedError("InvalidSettings")<{ readonly problems: ReadonlyArray<string> }> {
  override get message() {
    return this.problems.join("\n")
  }
}

interface Row<A> {
  readonly name: string
  /** As help shows it. */
  readonly fallback: string
  readonly meaning: string
  /** Its value is not shown, and may be in a file. `list`: a file has each of its values on a line. */
  readonly secret?: "one" | "list"
  /** The value, or what would be right. `undefined`: it is not set. */
  readonly read: (text: string | undefined) => Result.Result<A, string>
}

const row = <A>(definition: Row<A>): Row<A> => definition

const ok = Result.succeed
const wrong = (expected: string) => Result.fail(expected)

const whole =
  (from: number, to: number, fallback: number) => (text: string | undefined): Result.Result<number, string> => {
    if (text === undefined) return ok(fallback)
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN
    return value >= from && value <= to ? ok(value) : wrong(`a whole number from ${from} to ${to}`)
  }

const oneOf =
  <const A extends string, const B>(values: ReadonlyArray<A>, fallback: B) =>
  (text: string | undefined): Result.Result<A | B, string> => {
    if (text === undefined) return ok(fallback)
    const found = values.find((value) => value === text.toLowerCase())
    return found === undefined ? wrong(`one of ${values.join(", ")}`) : ok(found)
  }

const url = (text: string | undefined): Result.Result<Redacted.Redacted<string> | undefined, string> => {
  if (text === undefined) return ok(undefined)
  const parsed = parseDatabaseUrl(text)
  return Result.isSuccess(parsed)
    ? ok(Redacted.make(text))
    : wrong(`a PostgreSQL URL (${parsed.failure.problem}); see docs/connections.md`)
}

const readListen = (text: string | undefined): Result.Result<Listen, string> => {
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:\s]+)):(\d{1,5})$/.exec(text ?? "127.0.0.1:7070")
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  return host !== undefined && port <= 65_535 ? ok({ host, port }) : wrong("host:port, as 127.0.0.1:7070 or [::1]:7070")
}

const readTags = (text: string | undefined): Result.Result<Tags, string> => {
  const tags: Record<string, string> = {}
  for (const part of (text ?? "").split(",").map((each) => each.trim()).filter(Boolean)) {
    const at = part.indexOf("=")
    const key = part.slice(0, at)
    const value = part.slice(at + 1)
    if (at < 1 || key.length > limits.tagKeyLength || value.length > limits.tagValueLength) {
      return wrong("key=value pairs separated by commas, as os=linux,size=large")
    }
    tags[key] = value
  }
  return Object.keys(tags).length <= limits.tags ? ok(tags) : wrong(`at most ${limits.tags} tags`)
}

const unitBytes: Readonly<Record<string, number>> = {
  "": 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30
}

const readBytes = (text: string | undefined): Result.Result<number, string> => {
  const match = /^(\d+(?:\.\d+)?)\s*(|[kmg]|[kmg]i)b?$/i.exec(text ?? "100 MB")
  const bytes = Math.floor(Number(match?.[1]) * (unitBytes[match?.[2]?.toLowerCase() ?? ""] ?? Number.NaN))
  return bytes >= smallestLogQuota ? ok(bytes) : wrong("at least 1 MB, as 500 MB or 2 GB")
}

const smallestLogQuota = 1_000_000

const unitMillis: Readonly<Record<string, number>> = { milli: 1, second: 1_000, minute: 60_000, hour: 3_600_000 }

const readTokens = (text: string | undefined): Result.Result<Secrets.Tokens | undefined, string> =>
  text === undefined ? ok(undefined) : Secrets.readTokens(text)

const readPublicUrl = (text: string | undefined): Result.Result<PublicUrl.PublicUrl | undefined, string> =>
  text === undefined ? ok(undefined) : PublicUrl.read(text)

const decodeRelays = Schema.decodeUnknownResult(Schema.fromJsonString(Schema.Array(RelayRegion)))

const readRelays = (text: string | undefined): Result.Result<ReadonlyArray<RelayRegion>, string> =>
  Result.mapError(
    decodeRelays(text ?? "[]"),
    () => `JSON, as [{"id":1,"name":"europe","hosts":["relay.example:443"]}]`
  )

const table = {
  databaseUrl: row({
    name: "LULL_DATABASE_URL",
    fallback: "none: an embedded PostgreSQL in LULL_DATA_DIR",
    meaning: `${databaseUrlForm}; several hosts separated by commas, parameters as in docs/connections.md`,
    secret: "one",
    read: url
  }),
  databaseListenUrl: row({
    name: "LULL_DATABASE_LISTEN_URL",
    fallback: "LULL_DATABASE_URL",
    meaning: "a direct address for LISTEN, when the other is that of a pooler",
    secret: "one",
    read: url
  }),
  databasePrepare: row({
    name: "LULL_DATABASE_PREPARE",
    fallback: "true",
    meaning: "prepared statements; false behind a pooler in transaction mode",
    read: (text) => Result.map(oneOf(["true", "false"], "true")(text), (value) => value === "true")
  }),
  databaseConnections: row({
    name: "LULL_DATABASE_CONNECTIONS",
    fallback: "10",
    meaning: "connections of the pool; the heartbeat and the listener have one each besides",
    read: whole(1, 1_000, 10)
  }),
  listen: row({
    name: "LULL_LISTEN",
    fallback: "127.0.0.1:7070",
    meaning: "where the API listens; anywhere but on the loopback only with LULL_TOKEN",
    read: readListen
  }),
  dataDirectory: row({
    name: "LULL_DATA_DIR",
    fallback: ".lull",
    meaning: "the embedded PostgreSQL, and the directories of running jobs",
    read: (text) => ok(isAbsolute(text ?? ".lull") ? text ?? ".lull" : resolve(text ?? ".lull"))
  }),
  workerSlots: row({
    name: "LULL_WORKER_SLOTS",
    fallback: "4",
    meaning: "jobs at a time; 0 for a replica that runs none",
    read: whole(0, 10_000, 4)
  }),
  workerTags: row({
    name: "LULL_WORKER_TAGS",
    fallback: "none",
    meaning: "as os=linux,size=large: only jobs whose tags these cover; without, only untagged jobs",
    read: readTags
  }),
  jobUser: row({
    name: "LULL_JOB_USER",
    fallback: "none: the user of the service",
    meaning:
      "the user that jobs run as, a name or uid:gid, so that they cannot read what the service may; for a service of root",
    read: (text): Result.Result<string | undefined, string> =>
      text === undefined || /^(\d+:\d+|[A-Za-z_][\w.-]*\$?)$/.test(text)
        ? ok(text)
        : wrong("the name of a user, or uid:gid, as 1000:1000")
  }),
  logLevel: row({
    name: "LULL_LOG_LEVEL",
    fallback: "info",
    meaning: logLevels.join(", "),
    read: oneOf(logLevels, "info")
  }),
  logFormat: row({
    name: "LULL_LOG_FORMAT",
    fallback: "pretty on a terminal, else logfmt",
    meaning: logFormats.join(", "),
    read: oneOf(logFormats, undefined)
  }),
  logFile: row({
    name: "LULL_LOG_FILE",
    fallback: "log/lull.log in LULL_DATA_DIR",
    meaning: "the log beside stderr, rotated and compressed, in a directory of its own; none for no file",
    read: (text): Result.Result<string | undefined, string> =>
      ok(text === undefined || text === "none" ? text : resolve(text))
  }),
  logQuota: row({
    name: "LULL_LOG_QUOTA",
    fallback: "100 MB",
    meaning:
      "what may be in the directory of LULL_LOG_FILE at most, earlier runs included; a tenth is an embedded PostgreSQL's",
    read: readBytes
  }),
  token: row({
    name: "LULL_TOKEN",
    fallback: "none",
    meaning:
      "asked for as Authorization: Bearer …; at least 16 characters; two while it is changed, separated by a comma",
    secret: "list",
    read: readTokens
  }),
  peerToken: row({
    name: "LULL_PEER_TOKEN",
    fallback: "none: peers need LULL_TOKEN, if that is set",
    meaning: "admits peers to the tailnet, and to nothing else; as LULL_TOKEN",
    secret: "list",
    read: readTokens
  }),
  publicUrl: row({
    name: "LULL_PUBLIC_URL",
    fallback: "none",
    meaning: "the address of a proxy before it, as https://lull.example or https://example.com/lull; see docs/proxy.md",
    read: readPublicUrl
  }),
  trustedProxies: row({
    name: "LULL_TRUSTED_PROXIES",
    fallback: "none",
    meaning: "addresses and networks whose X-Forwarded-For or Forwarded is believed, as 127.0.0.1, 10.0.0.0/8",
    read: (text) => ClientAddress.readTrusted(text ?? "")
  }),
  addressConnections: row({
    name: "LULL_ADDRESS_CONNECTIONS",
    fallback: "1000",
    meaning:
      "connections of one address at a time, peers among them; 0 for no limit; those of the loopback are not counted",
    read: whole(0, 1_000_000, 1_000)
  }),
  relayMap: row({
    name: "LULL_RELAY_MAP",
    fallback: "none",
    meaning: `relays that peers are told of: [{"id":1,"name":"europe","hosts":["relay.example:443"]}]`,
    read: readRelays
  }),
  shutdownDeadline: row({
    name: "LULL_SHUTDOWN_DEADLINE",
    fallback: "10 seconds",
    meaning: "how long running jobs may go on after SIGTERM",
    read: (text): Result.Result<Duration.Duration, string> => {
      const match = /^(\d+(?:\.\d+)?)\s*(milli|second|minute|hour)s?$/.exec(text ?? "10 seconds")
      const unit = unitMillis[match?.[2] ?? ""]
      return unit === undefined
        ? wrong("a duration, as \"10 seconds\" or \"2 minutes\"")
        : ok(Duration.millis(Number(match?.[1]) * unit))
    }
  })
} as const

/** Names of those whose values are secret. */
export const secretSettings: ReadonlyArray<string> = Object.values<Row<unknown>>(table)
  .filter(({ secret }) => secret !== undefined).map(({ name }) => name)

/** For `lull serve --help`. */
export const describeSettings = (): string => {
  const rows = Object.values(table)
  const width = Math.max(...rows.map(({ name }) => name.length))
  const secrets = rows.filter(({ secret }) => secret !== undefined).map(({ name }) => Secrets.fileVariable(name))
  return [
    ...rows.map(({ fallback, meaning, name }) => `  ${name.padEnd(width)}  ${meaning} (default: ${fallback})`),
    "",
    `  Instead of a secret, a file that holds it: ${secrets.join(", ")}`
  ].join("\n")
}

/**
 * What Kubernetes sets in every container beside a service named `lull`, or `lull-` and more, and Docker for a link of such a
 * name. `LULL_PORT` is one of them, as `tcp://10.0.0.1:7070`.
 */
const injected = [
  /^LULL(_\w+)?_SERVICE_(HOST|PORT(_\w+)?)$/,
  /^LULL(_\w+)?_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR|START|END|PORT_START|PORT_END))?$/,
  /^LULL_(PORT|NAME|ENV_\w+)$/
]

/** Names of services that are linked under a name of their own: `LULL_DB` for `LULL_DB_PORT_5432_TCP`. */
const linkedAs = (name: string) => /^(LULL_\w+?)_(?:SERVICE_HOST|PORT_\d+_(?:TCP|UDP|SCTP))$/.exec(name)?.[1]

const allNames = Object.values<Row<unknown>>(table).flatMap(({ name, secret }) =>
  secret === undefined ? [name] : [name, Secrets.fileVariable(name)]
)

/** Of the names in an environment those that look like settings, and are none: misspelt, or of another version. */
export const unknownSettings = (names: ReadonlyArray<string>): ReadonlyArray<string> => {
  const known = new Set<string>([...allNames, clientAddress])
  const links = names.flatMap((name) => linkedAs(name) ?? [])
  const isInjected = (name: string) =>
    injected.some((pattern) => pattern.test(name)) ||
    links.some((link) => name === `${link}_PORT` || name === `${link}_NAME` || name.startsWith(`${link}_ENV_`))
  return names.filter((name) => name.startsWith("LULL_") && !known.has(name) && !isInjected(name))
}

/** Where `lull job` finds the service. Set for both, as often as not. */
export const clientAddress = "LULL_URL"

/** As `Host` has it. */
const isLoopbackHost = (host: string) => isLoopback(host.replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1"))

/** By address, or the one name that never leads elsewhere: `127.example` is a name like others. */
export const isLoopback = (host: string) =>
  host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."))

type Values = { readonly [Key in keyof typeof table]: (typeof table)[Key] extends Row<infer A> ? A : never }

/**
 * All settings from a look-up of names, or all that is wrong with them. Pure, but for the files that the names of secrets lead
 * to.
 */
export const read = (
  lookUp: (name: string) => string | undefined,
  readFile?: Secrets.ReadFile
): Result.Result<Settings, InvalidSettings> => {
  const problems: Array<string> = []
  const one = <A>({ name, read: readOne, secret }: Row<A>): A | undefined => {
    if (secret !== undefined) return oneSecret(name, secret === "list", readOne)
    const text = lookUp(name)
    // An empty variable is one that is not set: there is no other way to unset one in many places.
    const result = readOne(text?.trim() === "" ? undefined : text)
    if (Result.isSuccess(result)) return result.success
    // What looks like a password is not shown, also where nobody should have written one.
    const shown = JSON.stringify(text?.replace(/\/\/.*@/gs, "//…@"))
    problems.push(`${name}=${shown} is wrong: it should be ${result.failure}`)
    return undefined
  }
  const oneSecret = <A>(name: string, isList: boolean, readOne: Row<A>["read"]): A | undefined => {
    const result = Result.flatMap(
      Secrets.find(name, isList, lookUp, readFile),
      (found) => Result.mapError(readOne(found?.text), (right) => Secrets.wrongSecret(found?.from ?? name, right))
    )
    if (Result.isSuccess(result)) return result.success
    problems.push(result.failure)
    return undefined
  }
  const values = {
    databaseUrl: one(table.databaseUrl),
    databaseListenUrl: one(table.databaseListenUrl),
    databasePrepare: one(table.databasePrepare),
    databaseConnections: one(table.databaseConnections),
    listen: one(table.listen),
    dataDirectory: one(table.dataDirectory),
    workerSlots: one(table.workerSlots),
    workerTags: one(table.workerTags),
    jobUser: one(table.jobUser),
    logLevel: one(table.logLevel),
    logFormat: one(table.logFormat),
    logFile: one(table.logFile),
    logQuota: one(table.logQuota),
    token: one(table.token),
    peerToken: one(table.peerToken),
    publicUrl: one(table.publicUrl),
    trustedProxies: one(table.trustedProxies),
    addressConnections: one(table.addressConnections),
    relayMap: one(table.relayMap),
    shutdownDeadline: one(table.shutdownDeadline)
  }
  if (values.listen !== undefined && !isLoopback(values.listen.host) && values.token === undefined) {
    problems.push(
      `LULL_LISTEN=${
        JSON.stringify(lookUp("LULL_LISTEN"))
      } is not on the loopback: set LULL_TOKEN, as the API runs commands`
    )
  }
  if (values.token === undefined && values.publicUrl?.hosts.every(isLoopbackHost) === false) {
    problems.push(
      `LULL_PUBLIC_URL=${
        JSON.stringify(lookUp("LULL_PUBLIC_URL"))
      } is not on the loopback: set LULL_TOKEN, as the API runs commands`
    )
  }
  if (problems.length > 0 || !isComplete(values)) return Result.fail(new InvalidSettings({ problems }))
  const tokenFiles = {
    token: lookUp(Secrets.fileVariable(table.token.name)),
    peerToken: lookUp(Secrets.fileVariable(table.peerToken.name))
  }
  return Result.succeed({ ...values, tokenFiles })
}

const isComplete = (values: { readonly [Key in keyof Values]: Values[Key] | undefined }): values is Values =>
  values.listen !== undefined && values.dataDirectory !== undefined && values.workerTags !== undefined &&
  values.workerSlots !== undefined && values.databaseConnections !== undefined &&
  values.databasePrepare !== undefined && values.logLevel !== undefined && values.logQuota !== undefined &&
  values.addressConnections !== undefined && values.relayMap !== undefined && values.trustedProxies !== undefined &&
  values.shutdownDeadline !== undefined

/** From the environment, or whatever `ConfigProvider` is installed. */
export const fromConfig: Effect.Effect<Settings, InvalidSettings> = Effect.gen(function*() {
  const texts = new Map<string, string | undefined>()
  for (const name of allNames) {
    const value = yield* Effect.orElseSucceed(Config.option(Config.String(name)), () => Option.none<string>())
    texts.set(name, Option.getOrUndefined(value))
  }
  return yield* Effect.fromResult(read((name) => texts.get(name)))
})
