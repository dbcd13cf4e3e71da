/**
 * Reads a PostgreSQL URL as libpq does: several hosts, Unix sockets, percent-encoding, and the parameters that
 * `docs/connections.md` lists. The driver's own reading is not used: it takes one host, ignores what it does not know, and gives
 * `sslmode` another meaning. Pure: what needs files or the operating system is done in `ConnectionOptions`.
 *
 * No error repeats what may hold the password, also where a password that was not percent-encoded makes nonsense of the rest.
 */
import { Data, Result } from "effect"
import { isIPv6 } from "node:net"

export class InvalidDatabaseUrl extends Data.TaggedError("InvalidDatabaseUrl")<{ readonly problem: string }> {
  override get message() {
    return `not a usable PostgreSQL URL: ${this.problem}`
  }
}

/** A host is a name, an address, or, beginning with `/` or `@`, the directory of a Unix socket. */
export interface Address {
  readonly host: string
  readonly port: number
  readonly isSocket: boolean
}

export const sslModes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] as const
export type SslMode = typeof sslModes[number]

export interface ConnectionUrl {
  readonly addresses: readonly [Address, ...ReadonlyArray<Address>]
  readonly user: string | undefined
  readonly password: string | undefined
  readonly database: string | undefined
  readonly sslMode: SslMode
  /** A file, or `system`. */
  readonly sslRootCert: string | undefined
  readonly sslCert: string | undefined
  readonly sslKey: string | undefined
  readonly applicationName: string | undefined
  readonly options: string | undefined
  /** For one attempt to one host. */
  readonly connectTimeoutSeconds: number | undefined
}

/** For whoever has to mend one. */
export const form = "postgres://user:password@host:5432/database"

const defaultPort = 5432

/** What `sockaddr_un` holds; a longer path cannot be connected to. */
const longestSocketPath = 107

/** Above this the attempts to one host would hide for too long that the others are there. */
const longestConnectTimeout = 3_600

/** Parameters of libpq that would be wrong to ignore, and that are not supported. */
const unsupportedParameters = new Set([
  "channel_binding",
  "client_encoding",
  "fallback_application_name",
  "gssdelegation",
  "gssencmode",
  "gsslib",
  "hostaddr",
  "keepalives",
  "keepalives_count",
  "keepalives_idle",
  "keepalives_interval",
  "krbsrvname",
  "load_balance_hosts",
  "max_protocol_version",
  "min_protocol_version",
  "passfile",
  "replication",
  "require_auth",
  "requirepeer",
  "service",
  "ssl_max_protocol_version",
  "ssl_min_protocol_version",
  "sslcertmode",
  "sslcompression",
  "sslcrl",
  "sslcrldir",
  "sslnegotiation",
  "sslpassword",
  "sslsni",
  "tcp_user_timeout"
])

export const supportedParameters = [
  "host",
  "port",
  "user",
  "password",
  "dbname",
  "sslmode",
  "sslrootcert",
  "sslcert",
  "sslkey",
  "application_name",
  "options",
  "connect_timeout",
  "target_session_attrs"
] as const
type Parameter = typeof supportedParameters[number]
type Parameters = { readonly [Name in Parameter]?: string | undefined }

/** A reading that ends at the first fault; the fault is a part of a sentence. */
class Fault extends Data.TaggedError("Fault")<{ readonly problem: string }> {}

const fault = (problem: string): never => {
  throw new Fault({ problem })
}

export const parse = (text: string): Result.Result<ConnectionUrl, InvalidDatabaseUrl> => {
  try {
    return Result.succeed(read(text.trim()))
  } catch (error) {
    if (error instanceof Fault) return Result.fail(new InvalidDatabaseUrl({ problem: error.problem }))
    throw error
  }
}

const read = (text: string): ConnectionUrl => {
  const scheme = /^postgres(?:ql)?:\/\//.exec(text)
  if (scheme === null) return fault(`it does not start with postgres://: expected ${form}`)
  const { hosts, password, path, ports, query, user } = split(text.slice(scheme[0].length))
  const given: Parameters = {
    user: decode(user, "the user"),
    password: decode(password, "the password"),
    dbname: decode(path, "the database"),
    ...readParameters(query)
  }
  refuseSessionAttributes(given.target_session_attrs)
  const addresses = readAddresses(
    given.host?.split(",") ?? hosts.map((host) => decode(host, "a host") ?? ""),
    given.port?.split(",") ?? ports,
    given.host !== undefined
  )
  // Only at a Unix socket the server can ask the kernel who we are; over TCP a name that is missing is one that was forgotten.
  if (present(given.user) === undefined && !addresses.every(({ isSocket }) => isSocket)) {
    return fault(`it names no user: expected ${form}`)
  }
  return {
    addresses,
    user: present(given.user),
    password: present(given.password),
    database: present(given.dbname),
    ...readTls(given),
    applicationName: present(given.application_name),
    options: present(given.options),
    connectTimeoutSeconds: readConnectTimeout(given.connect_timeout)
  }
}

/**
 * Takes a URL apart as libpq does: the login ends at the first `@` before any `/`, so that its password may hold `?`, `#` and
 * `:`; hosts are separated by commas, each with a port of its own.
 */
const split = (text: string) => {
  const login = /^([^@/:]*)(?::([^@/]*))?@/.exec(text)
  const [all = "", user, password] = login ?? []
  const rest = text.slice(all.length)
  const pathAt = rest.search(/[/?]/)
  const authority = pathAt === -1 ? rest : rest.slice(0, pathAt)
  const queryAt = rest.indexOf("?")
  const hosts: Array<string> = []
  const ports: Array<string> = []
  for (const part of authority.split(",")) {
    const match = /^(?:\[([^\]]*)\]|([^:[\]@]*))(?::([^:]*))?$/.exec(part)
    if (match === null) {
      const place = `host ${hosts.length + 1} is not host:port`
      return fault(
        part.includes("@")
          ? `${place}: it has an @, which is written %40 in a user or password`
          : `${place}: an IPv6 address stands in [], and / is written %2F in a user, password or host`
      )
    }
    if (match[1] !== undefined && !isIPv6(match[1])) fault(`host ${hosts.length + 1} has no IPv6 address in its []`)
    hosts.push(match[1] ?? match[2] ?? "")
    ports.push(match[3] ?? "")
  }
  const path = pathAt === -1 ? undefined : rest.slice(pathAt + 1, queryAt === -1 ? undefined : queryAt)
  // libpq would take it; nearly always it is the end of a password.
  if (path?.includes("@")) return fault("the database has an @, written %40; in a user or password / is written %2F")
  return {
    user,
    password,
    hosts,
    ports,
    path,
    query: queryAt === -1 ? "" : rest.slice(queryAt + 1)
  }
}

const decode = (text: string | undefined, what: string): string | undefined => {
  if (text === undefined) return undefined
  try {
    const decoded = decodeURIComponent(text)
    return decoded.includes("\0") ? fault(`${what} has a %00`) : decoded
  } catch (error) {
    if (error instanceof URIError) {
      return fault(`${what} has a % that is not followed by two digits of UTF-8: % is written %25`)
    }
    throw error
  }
}

const readParameters = (query: string): Parameters => {
  const parameters: { [Name in Parameter]?: string } = {}
  for (const pair of query === "" ? [] : query.split("&")) {
    const [key = "", value, ...more] = pair.split("=")
    const name = decode(key, "the name of a parameter") ?? ""
    // The name is repeated only where it cannot be a part of a password that was not encoded.
    const shown = /^[a-zA-Z_]{1,40}$/.test(name) && !query.includes("@") ? `the parameter ${name}` : "a parameter"
    if (value === undefined) return fault(`${shown} has no value`)
    if (more.length > 0) return fault(`${shown} has an = too many: in a value it is written %3D`)
    const decoded = decode(value, shown)
    if (name === "ssl") {
      // As libpq takes it, for URLs that were written for JDBC.
      if (decoded !== "true") return fault("the parameter ssl has only the value true: use sslmode")
      parameters.sslmode ??= "require"
      continue
    }
    const known = supportedParameters.find((supported) => supported === name)
    if (known === undefined) {
      return fault(`${shown} is ${unsupportedParameters.has(name) ? "not supported" : "not known"}: ${wellKnown}`)
    }
    parameters[known] = decoded ?? ""
  }
  return parameters
}

const wellKnown = `there are ${supportedParameters.join(", ")}`

const readAddresses = (
  hosts: ReadonlyArray<string>,
  ports: ReadonlyArray<string>,
  isParameter: boolean
): ConnectionUrl["addresses"] => {
  if (hosts.length === 1 && hosts[0] === "") {
    return fault("it names no host: use localhost, or host=/run/postgresql for a Unix socket in that directory")
  }
  if (ports.length !== 1 && ports.length !== hosts.length) {
    return fault(
      `it has ${hosts.length} hosts and ${ports.length} ports: one port is for all, or each host has its own`
    )
  }
  const [first, ...others] = hosts.map((host, index) =>
    readAddress(host, ports[ports.length === 1 ? 0 : index] ?? "", isParameter ? "in host, " : "", index + 1)
  )
  return first === undefined ? fault("it names no host") : [first, ...others]
}

const readAddress = (host: string, portText: string, where: string, number: number): Address => {
  const place = `${where}host ${number}`
  if (host === "") return fault(`${place} is empty`)
  const port = portText === "" ? defaultPort : /^\d+$/.test(portText) ? Number(portText) : Number.NaN
  if (!(port >= 1 && port <= 65_535)) return fault(`the port of ${place} is not a number from 1 to 65535`)
  const isSocket = host.startsWith("/") || host.startsWith("@")
  const isWellFormed = isSocket || isIPv6(host) || /^[^\s/?#@:[\]\\]+$/.test(host)
  if (!isWellFormed) return fault(`${place} is neither a name, nor an address, nor the directory of a Unix socket`)
  if (isSocket && Buffer.byteLength(socketPath(host, port)) > longestSocketPath) {
    return fault(`the Unix socket of ${place} has a path of more than ${longestSocketPath} bytes`)
  }
  return { host, port, isSocket }
}

/** Of a server, for messages. */
export const nameOf = ({ host, isSocket, port }: Address): string =>
  `${!isSocket && host.includes(":") ? `[${host}]` : host}:${port}`

/** The file of a server's Unix socket. What begins with `@` is in Linux's abstract namespace, and no file. */
export const socketPath = (directory: string, port: number): string =>
  `${directory.startsWith("@") ? `\0${directory.slice(1)}` : directory}/.s.PGSQL.${port}`

const readTls = (given: Parameters): Pick<ConnectionUrl, "sslMode" | "sslRootCert" | "sslCert" | "sslKey"> => {
  const sslRootCert = present(given.sslrootcert)
  const sslCert = present(given.sslcert)
  const sslKey = present(given.sslkey)
  const text = given.sslmode ?? (sslRootCert === "system" ? "verify-full" : "prefer")
  const sslMode = sslModes.find((mode) => mode === text)
  if (sslMode === undefined) return fault(`sslmode is not one of ${sslModes.join(", ")}`)
  if (sslRootCert === "system" && sslMode !== "verify-full") {
    return fault(
      `sslrootcert=system is for sslmode=verify-full: with ${sslMode} anybody's certificate of a public authority would do`
    )
  }
  if (sslMode === "verify-ca" && sslRootCert === undefined) {
    return fault("sslmode=verify-ca needs sslrootcert, the file with the certificates that are trusted")
  }
  if (sslCert !== undefined && sslKey === undefined) return fault("sslcert needs sslkey, the file with its private key")
  if (sslKey !== undefined && sslCert === undefined) return fault("sslkey needs sslcert, the file with its certificate")
  return { sslMode, sslRootCert, sslCert, sslKey }
}

const readConnectTimeout = (text: string | undefined): number | undefined => {
  if (text === undefined) return undefined
  const seconds = /^-?\d+$/.test(text) ? Number(text) : Number.NaN
  if (!(seconds <= longestConnectTimeout)) {
    return fault(`connect_timeout is not a whole number of seconds up to ${longestConnectTimeout}`)
  }
  // libpq waits for ever then; who watches a database must not, and waits for as long as without the parameter.
  return seconds <= 0 ? undefined : seconds
}

/** Lull works only with a server that takes its writes, and looks for that one anyway. */
const refuseSessionAttributes = (value: string | undefined) => {
  if (value === undefined || value === "any" || value === "read-write" || value === "primary") return
  if (value === "read-only" || value === "standby" || value === "prefer-standby") {
    fault(`target_session_attrs=${value} asks for a server that takes no writes, and Lull writes: use read-write`)
  }
  fault("target_session_attrs is not one of any, read-write, primary")
}

const present = (text: string | undefined) => text === "" ? undefined : text
