/**
 * What a connection's TLS verifies, and with which files: `sslmode` and its companions as libpq reads them, as options of
 * Node's `tls`. The files are read when the service starts, so that one that is missing or broken is said then.
 */
import { Effect, Result } from "effect"
import { createPrivateKey, X509Certificate } from "node:crypto"
import { readFile } from "node:fs/promises"
import { isIP } from "node:net"
import { type ConnectionOptions, createSecureContext, getCACertificates, type SecureContext } from "node:tls"
import { type ConnectionUrl, InvalidDatabaseUrl } from "./ConnectionUrl.ts"
import { describe } from "./Unavailable.ts"

export interface Tls {
  /** Where the server offers no TLS, it goes on without. */
  readonly isOptional: boolean
  /** TLS begins with the first byte, and is not agreed on before. */
  readonly isDirect: boolean
  readonly options: ConnectionOptions
}

/** What is made of the files once, for all connections. */
export interface Trust {
  readonly secureContext: SecureContext
  /** Whether there are certificates that the server's is compared with. */
  readonly isVerified: boolean
}

/** The files that a URL names, or what is wrong with them. Nothing is read where there will be no TLS. */
export const readFiles = Effect.fnUntraced(function*(url: ConnectionUrl) {
  const { maxVersion, minVersion, sslCert, sslCrl, sslKey, sslMode, sslRootCert } = url
  const versions = { ...(minVersion && { minVersion }), ...(maxVersion && { maxVersion }) }
  if (sslMode === "disable" || url.addresses.every(({ isSocket }) => isSocket)) return undefined
  const ca = sslRootCert === undefined || sslRootCert === "system"
    ? sslMode === "verify-full" ? systemCertificates() : undefined
    : yield* Effect.flatMap(readText("sslrootcert", sslRootCert), (text) => certificatesOf("sslrootcert", text))
  const own = sslCert === undefined || sslKey === undefined ? {} : yield* readOwn(sslCert, sslKey)
  const crl = sslCrl === undefined ? undefined : yield* Effect.flatMap(readText("sslcrl", sslCrl), listsOf)
  return yield* Effect.try({
    try: (): Trust => ({
      secureContext: createSecureContext({
        ...own,
        ...versions,
        ...(crl && { crl: [...crl] }),
        ...(ca === undefined ? {} : { ca: [...ca] })
      }),
      isVerified: ca !== undefined
    }),
    catch: (error) => invalid(`the certificates cannot be used: ${describe(error).detail}`)
  })
})

const readOwn = Effect.fnUntraced(function*(certPath: string, keyPath: string) {
  const cert = yield* readText("sslcert", certPath)
  const [first] = yield* certificatesOf("sslcert", cert)
  const key = yield* readText("sslkey", keyPath)
  yield* checkKey(first, key)
  return { cert, key }
})

/** By which a server knows, before it has read anything, that PostgreSQL's protocol follows. */
export const applicationProtocol = "postgresql"

type Parameters = Pick<ConnectionUrl, "sslMode" | "isDirect" | "isWithoutName">

/** Pure: for one host. */
export const make = ({ isDirect, isWithoutName, sslMode }: Parameters, host: string, trust: Trust): Tls => ({
  isOptional: sslMode === "allow" || sslMode === "prefer",
  isDirect: isDirect === true,
  options: {
    host,
    // An address has no place in the greeting; it is still what the certificate is compared with.
    ...(isIP(host) === 0 && isWithoutName !== true ? { servername: host } : {}),
    ...(isDirect === true ? { ALPNProtocols: [applicationProtocol] } : {}),
    secureContext: trust.secureContext,
    // As in libpq: certificates that are trusted are there to be used, whatever the mode.
    rejectUnauthorized: trust.isVerified,
    ...(sslMode === "verify-full" ? {} : { checkServerIdentity: () => undefined })
  }
})

/** The operating system's, and where it has none, as in small containers, Node's own; and those of `NODE_EXTRA_CA_CERTS`. */
const systemCertificates = (): ReadonlyArray<string> => {
  const system = getCACertificates("system")
  return [...(system.length > 0 ? system : getCACertificates("bundled")), ...getCACertificates("extra")]
}

const invalid = (problem: string) => new InvalidDatabaseUrl({ problem })

const readText = (parameter: string, path: string) =>
  Effect.tryPromise({
    try: () => readFile(path, "utf8"),
    catch: (error) => invalid(`the file of ${parameter} cannot be read: ${describe(error).detail}`)
  })

const certificate = /-----BEGIN (?:TRUSTED )?CERTIFICATE-----[^-]+-----END (?:TRUSTED )?CERTIFICATE-----/g

/** The certificate, if it can be read as one. */
const readable = (pem: string): string => new X509Certificate(pem).toString()

const certificatesOf = (parameter: string, text: string) =>
  Effect.try({
    try: () => {
      const [first, ...others] = text.match(certificate) ?? []
      if (first === undefined) throw new Error("it has no BEGIN CERTIFICATE")
      return [readable(first), ...others.map(readable)] as const
    },
    catch: (error) => invalid(`the file of ${parameter} holds no certificates in PEM: ${describe(error).detail}`)
  })

const revocationList = /-----BEGIN X509 CRL-----[^-]+-----END X509 CRL-----/g

const listsOf = (text: string) => {
  const lists = text.match(revocationList)
  return lists === null
    ? Effect.fail(invalid("the file of sslcrl holds no lists of revoked certificates in PEM: it has no BEGIN X509 CRL"))
    : Effect.succeed(lists)
}

const checkKey = (certificate: string, key: string) =>
  Effect.fromResult(Result.flatMap(
    Result.try({
      try: () => new X509Certificate(certificate).checkPrivateKey(createPrivateKey(key)),
      catch: (error) =>
        invalid(`the file of sslkey holds no private key in PEM without a passphrase: ${describe(error).detail}`)
    }),
    (belongs) =>
      belongs
        ? Result.succeed(undefined)
        : Result.fail(invalid("the key of sslkey is not that of the certificate of sslcert"))
  ))
