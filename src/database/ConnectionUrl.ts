/**
 * Reads a PostgreSQL URL as libpq does: several hosts, Unix sockets, percent-encoding, and the parameters that
 * `docs/connections.md` lists. The driver's own reading is not used: it takes one host, ignores what it does not know, and gives
 * `sslmode` another meaning. Pure: what needs files or the operating system is done in `ConnectionOptions`.
 *
 * No error repeats what may hold the password, also where a password that was not percent-encoded makes nonsense of the rest.
 */
import { Data, Result } from "effect"
import { isIPv6 } from "node:net"
import type { Policy } from "./Authentication.ts"
import {
  Fault,
  fault,
  isName,
  type Parameter,
  type Parameters,
  present,
  readConnectTimeout,
  readLogin,
  readTls,
  refuseParameter,
  refuseSessionAttributes,
  supportedParameters,
  type Tls
} from "./ConnectionParameters.ts"

export { type SslMode, sslModes, supportedParameters } from "./ConnectionParameters.ts"

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

export interface ConnectionUrl extends Tls {
  readonly addresses: readonly [Address, ...ReadonlyArray<Address>]
  readonly user: string | undefined
  readonly password: string | undefined
  readonly database: string | undefined
  /** What the server may ask of a login, where the URL says it. */
  readonly login?: Policy
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
  const { hosts, isAmbiguous, password, path, ports, query, user } = split(text.slice(scheme[0].length))
  const given: Parameters = {
    user: decode(user, "the user"),
    password: decode(password, "the password"),
    dbname: decode(path, "the database"),
    ...readParameters(query)
  }
  // libpq would take the beginning of a password for the host, and its rest for the value of a parameter.
  if (isAmbiguous) {
    return fault("the parameters have an @, which is written %40; in a user or password / is written %2F, and ? %3F")
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
  const tls = readTls(given)
  const login = readLogin(given)
  const isClear = tls.sslMode === "disable" || addresses.every(({ isSocket }) => isSocket)
  if (login.channelBinding === "require" && isClear) {
    return fault(
      "channel_binding=require binds the login to TLS, and there is none: use sslmode=require or more, over TCP"
    )
  }
  if (tls.isDirect === true && addresses.every(({ isSocket }) => isSocket)) {
    return fault("sslnegotiation=direct is for TLS, and there is none on a Unix socket")
  }
  const hasPolicy = given.channel_binding !== undefined || login.requireAuth !== undefined
  return {
    addresses,
    user: present(given.user),
    password: present(given.password),
    database: present(given.dbname),
    ...tls,
    ...(hasPolicy ? { login } : {}),
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
  // libpq would take it; as often it is a password among the parameters, and what follows its @ no host.
  if (/\?.*=/s.test(all)) {
    return fault("before the first @ is a ? with a =: in a user or password ? is written %3F, and @ %40")
  }
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
  // libpq would take it; nearly always it is a parameter, and it may be the password.
  for (const [what, part] of [["user", user], ["host", authority], ["database", path]] as const) {
    if (part?.includes("=") === true) return fault(`the ${what} has a =, written %3D there: parameters begin with a ?`)
  }
  // The same; nearly always it is the end of a password.
  if (path?.includes("@")) return fault("the database has an @, written %40; in a user or password / is written %2F")
  const query = queryAt === -1 ? "" : rest.slice(queryAt + 1)
  const isSocket = authority === "" && password === undefined && /^(?:[^@]*&)?host=[^&]*(?:&[^@]*)?$/.test(query)
  return { user, password, hosts, ports, path, query, isAmbiguous: query.includes("@") && !isSocket }
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
    const shown = isName(name) || mayBeShown(name, query) ? `the parameter ${name}` : "a parameter"
    if (value === undefined) return fault(`${shown} has no value`)
    if (more.length > 0) return fault(`${shown} has an = too many: in a value it is written %3D`)
    const decoded = decode(value, shown) ?? ""
    if (name === "ssl") {
      // As libpq takes it, for URLs that were written for JDBC.
      if (decoded !== "true") return fault("the parameter ssl has only the value true: use sslmode")
      parameters.sslmode ??= "require"
      continue
    }
    const known = supportedParameters.find((supported) => supported === name)
    if (known === undefined) refuseParameter(name, decoded, shown)
    else parameters[known] = decoded
  }
  return parameters
}

/** The name of no parameter is shown only where it cannot be a part of a password that was not percent-encoded. */
const mayBeShown = (name: string, query: string): boolean =>
  /^[a-zA-Z_]{1,40}$/.test(name) && !/@|password|secret|token|key/i.test(query)

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
  // A host is shown: in none of them is a character that a terminal would obey, nor what is in no name.
  const isWellFormed = !/\p{C}/u.test(host) && (isSocket || isIPv6(host) || /^[\p{L}\p{M}\p{N}._-]+$/u.test(host))
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
