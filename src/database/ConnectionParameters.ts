/**
 * The parameters of a connection URL: which there are, which values each may have, and what would be right instead of those of
 * libpq that Lull does not obey. What is not obeyed is refused by its name; a value that says what Lull does anyway is taken, as
 * URLs are copied from other programs. Pure.
 *
 * A value is repeated only where it is one that the documentation has, as anything else may be a part of a password.
 */
import { Data } from "effect"
import * as Authentication from "./Authentication.ts"

/** A reading that ends at the first fault; the fault is a part of a sentence. */
export class Fault extends Data.TaggedError("Fault")<{ readonly problem: string }> {}

export const fault = (problem: string): never => {
  throw new Fault({ problem })
}

export const supportedParameters = [
  "host",
  "port",
  "user",
  "password",
  "dbname",
  "sslmode",
  "sslnegotiation",
  "sslrootcert",
  "sslcert",
  "sslkey",
  "sslcertmode",
  "sslcrl",
  "sslsni",
  "ssl_min_protocol_version",
  "ssl_max_protocol_version",
  "channel_binding",
  "require_auth",
  "application_name",
  "options",
  "connect_timeout",
  "target_session_attrs"
] as const
export type Parameter = typeof supportedParameters[number]
export type Parameters = { readonly [Name in Parameter]?: string | undefined }

const own = "Lull has its own, which docs/connections.md shows"
const noGssapi = "Lull does not speak GSSAPI: use scram-sha-256 or a client's certificate"
const noOAuth = "Lull does not speak OAuth: use scram-sha-256 or a client's certificate"
const noFiles = "Lull reads no such file: write into the URL what it says"

interface Refused {
  /** Values that say what Lull does anyway. */
  readonly idle?: ReadonlyArray<string>
  /** What would be right. */
  readonly instead: string
}

/** Of libpq, and not obeyed. */
export const refusedParameters: Readonly<Record<string, Refused>> = {
  client_encoding: { idle: ["UTF8", "utf8", "UTF-8", "utf-8"], instead: "Lull always speaks UTF8: leave it out" },
  fallback_application_name: { instead: "use application_name" },
  gssdelegation: { idle: ["0"], instead: noGssapi },
  gssencmode: { idle: ["disable", "prefer"], instead: "Lull does not speak GSSAPI: use disable, and sslmode for TLS" },
  gsslib: { instead: noGssapi },
  hostaddr: { instead: "write the address as the host; with sslmode=verify-full it has to be in the certificate" },
  keepalives: { idle: ["1"], instead: own },
  keepalives_count: { instead: own },
  keepalives_idle: { instead: own },
  keepalives_interval: { instead: own },
  krbsrvname: { instead: noGssapi },
  load_balance_hosts: {
    idle: ["disable"],
    instead: "all work is for the one server that takes writes: use disable, or leave it out"
  },
  max_protocol_version: { idle: ["3.0"], instead: "Lull speaks 3.0: leave it out" },
  min_protocol_version: { idle: ["3.0"], instead: "Lull speaks 3.0: leave it out" },
  oauth_client_id: { instead: noOAuth },
  oauth_client_secret: { instead: noOAuth },
  oauth_issuer: { instead: noOAuth },
  oauth_scope: { instead: noOAuth },
  passfile: { instead: noFiles },
  replication: { instead: "Lull makes ordinary connections: leave it out" },
  requirepeer: {
    instead:
      "the account at the other end of a socket cannot be asked: use a directory that only the server's account can write to"
  },
  requiressl: { instead: "use sslmode=require" },
  scram_client_key: { instead: "use password" },
  scram_server_key: { instead: "use password" },
  service: { instead: noFiles },
  servicefile: { instead: noFiles },
  sslcompression: { idle: ["0"], instead: "compression weakens TLS: leave it out" },
  sslcrldir: { instead: "use sslcrl, one file with all the lists" },
  sslkeylogfile: { instead: "Lull writes no secrets of TLS into files" },
  sslpassword: { instead: "sslkey has to be a key without a passphrase" },
  tcp_user_timeout: { instead: own }
}

export const wellKnown = `there are ${supportedParameters.join(", ")}`

/** Of libpq: these are no secrets, wherever in a URL they stand. */
export const isName = (name: string): boolean =>
  name === "ssl" || Object.hasOwn(refusedParameters, name) || supportedParameters.some((known) => known === name)

/** A parameter that is not supported, with this value. Returns where the value changes nothing. */
export const refuseParameter = (name: string, value: string, shown: string): void => {
  const refused = Object.hasOwn(refusedParameters, name) ? refusedParameters[name] : undefined
  if (refused === undefined) {
    const lower = name.toLowerCase()
    if (lower !== name && isName(lower)) fault(`the parameter ${name} is not known: write ${lower}, in lower case`)
    return fault(`${shown} is not known: ${wellKnown}`)
  }
  if (refused.idle?.includes(value) === true) return
  const almost = refused.idle?.find((idle) => idle.toLowerCase() === value.toLowerCase())
  if (almost !== undefined) return fault(`${name} is written in another case: use ${name}=${almost}`)
  fault(
    `the parameter ${name} is not supported${refused.idle === undefined ? "" : " with this value"}: ${refused.instead}`
  )
}

/** One of these values, in their own case. */
export const oneOf = <const A extends string>(name: Parameter, values: ReadonlyArray<A>, text: string): A => {
  const found = values.find((value) => value === text)
  if (found !== undefined) return found
  const almost = values.find((value) => value.toLowerCase() === text.trim().toLowerCase())
  return fault(
    almost === undefined
      ? `${name} is not one of ${values.join(", ")}`
      : `${name} is not one of ${values.join(", ")}: write ${name}=${almost}, as values are compared with their case`
  )
}

export const sslModes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] as const
export type SslMode = typeof sslModes[number]

/** Weaker ones are broken; OpenSSL as it comes refuses them, too. */
export const protocolVersions = ["TLSv1.2", "TLSv1.3"] as const
export type ProtocolVersion = typeof protocolVersions[number]

export interface Tls {
  readonly sslMode: SslMode
  /** A file, or `system`. */
  readonly sslRootCert: string | undefined
  readonly sslCert: string | undefined
  readonly sslKey: string | undefined
  /** A file of lists of revoked certificates. */
  readonly sslCrl?: string
  /** TLS from the first byte on. */
  readonly isDirect?: true
  /** The server does not hear the name that it is called by. */
  readonly isWithoutName?: true
  readonly minVersion?: ProtocolVersion
  readonly maxVersion?: ProtocolVersion
}

export const readTls = (given: Parameters): Tls => {
  const sslRootCert = present(given.sslrootcert)
  const sslMode = oneOf(
    "sslmode",
    sslModes,
    given.sslmode ?? (sslRootCert === "system" ? "verify-full" : "prefer")
  )
  if (sslRootCert === "system" && sslMode !== "verify-full") {
    return fault(
      `sslrootcert=system is for sslmode=verify-full: with ${sslMode} anybody's certificate of a public authority would do`
    )
  }
  if (sslMode === "verify-ca" && sslRootCert === undefined) {
    return fault("sslmode=verify-ca needs sslrootcert, the file with the certificates that are trusted")
  }
  const sslCrl = present(given.sslcrl)
  if (sslCrl !== undefined && sslRootCert === undefined && sslMode !== "verify-full") {
    return fault("sslcrl needs sslrootcert: without it no certificate is verified, and so none is looked up")
  }
  return {
    sslMode,
    sslRootCert,
    ...(sslCrl && { sslCrl }),
    ...readOwnCertificate(given),
    ...readNegotiation(given, sslMode),
    ...readVersions(given)
  }
}

const readOwnCertificate = (given: Parameters): Pick<Tls, "sslCert" | "sslKey"> => {
  const sslCert = present(given.sslcert)
  const sslKey = present(given.sslkey)
  const mode = given.sslcertmode ?? "allow"
  if (mode === "require") {
    return fault(
      "sslcertmode=require is not supported: let the server require a certificate, by clientcert in pg_hba.conf"
    )
  }
  if (oneOf("sslcertmode", ["allow", "disable"], mode) === "disable") return { sslCert: undefined, sslKey: undefined }
  if (sslCert !== undefined && sslKey === undefined) return fault("sslcert needs sslkey, the file with its private key")
  if (sslKey !== undefined && sslCert === undefined) return fault("sslkey needs sslcert, the file with its certificate")
  return { sslCert, sslKey }
}

const readNegotiation = (given: Parameters, sslMode: SslMode): Pick<Tls, "isDirect" | "isWithoutName"> => {
  const isDirect = oneOf("sslnegotiation", ["postgres", "direct"], given.sslnegotiation ?? "postgres") === "direct"
  if (isDirect && (sslMode === "disable" || sslMode === "allow" || sslMode === "prefer")) {
    return fault(
      "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full: there is no going on without TLS"
    )
  }
  const hasName = oneOf("sslsni", ["1", "0"], given.sslsni ?? "1") === "1"
  return { ...(isDirect ? { isDirect } : {}), ...(hasName ? {} : { isWithoutName: true }) }
}

const readVersions = (given: Parameters): Pick<Tls, "minVersion" | "maxVersion"> => {
  const read = (name: "ssl_min_protocol_version" | "ssl_max_protocol_version") => {
    const text = present(given[name])
    return text === undefined ? undefined : oneOf(name, protocolVersions, text)
  }
  const minVersion = read("ssl_min_protocol_version")
  const maxVersion = read("ssl_max_protocol_version")
  if (minVersion === "TLSv1.3" && maxVersion === "TLSv1.2") {
    return fault("ssl_min_protocol_version is above ssl_max_protocol_version: no version is left")
  }
  return { ...(minVersion && { minVersion }), ...(maxVersion && { maxVersion }) }
}

/** What the server may ask for. */
export const readLogin = (given: Parameters): Authentication.Policy => ({
  channelBinding: oneOf("channel_binding", Authentication.bindings, given.channel_binding ?? "prefer"),
  requireAuth: readRequireAuth(present(given.require_auth))
})

const foreignMethods = ["gss", "sspi", "oauth"] as const

/** A list as libpq has it: of methods that may be used, or, each with an exclamation mark, of those that may not. */
const readRequireAuth = (text: string | undefined): Authentication.RequireAuth | undefined => {
  if (text === undefined) return undefined
  const items = text.split(",").map((item) => item.trim())
  const isNamed = !items.some((item) => item.startsWith("!"))
  if (!isNamed && !items.every((item) => item.startsWith("!"))) {
    return fault("require_auth has methods with and without !: either those that may be used are named, or all others")
  }
  const known = isNamed ? Authentication.methods : [...Authentication.methods, ...foreignMethods]
  const named = items.map((item) => {
    const method = isNamed ? item : item.slice(1)
    const foreign = foreignMethods.find((other) => other === method)
    if (isNamed && foreign !== undefined) {
      return fault(`require_auth=${foreign} is not supported: there are ${Authentication.methods.join(", ")}`)
    }
    return oneOf("require_auth", known, method)
  })
  if (new Set(named).size < named.length) return fault("require_auth names a method twice")
  const allowed = Authentication.methods.filter((method) => named.includes(method) === isNamed)
  if (allowed.length === 0) return fault("require_auth excludes every method: there has to be one")
  return { text: items.join(","), allowed: new Set(allowed), isNamed }
}

/** Above this the attempts to one host would hide for too long that the others are there. */
const longestConnectTimeout = 3_600

export const readConnectTimeout = (text: string | undefined): number | undefined => {
  if (text === undefined) return undefined
  const seconds = /^-?\d+$/.test(text) ? Number(text) : Number.NaN
  if (!(seconds <= longestConnectTimeout)) {
    return fault(`connect_timeout is not a whole number of seconds up to ${longestConnectTimeout}`)
  }
  // libpq waits for ever then; who watches a database must not, and waits for as long as without the parameter.
  return seconds <= 0 ? undefined : seconds
}

/** Lull works only with a server that takes its writes, and looks for that one anyway. */
export const refuseSessionAttributes = (value: string | undefined) => {
  if (value === undefined) return
  if (value === "read-only" || value === "standby" || value === "prefer-standby") {
    fault(`target_session_attrs=${value} asks for a server that takes no writes, and Lull writes: use read-write`)
  }
  oneOf("target_session_attrs", ["any", "read-write", "primary"], value)
}

export const present = (text: string | undefined) => text === "" ? undefined : text
