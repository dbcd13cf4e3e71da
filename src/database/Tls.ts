/**
 * What a connection's TLS verifies, and with which files: `sslmode` and its companions as libpq reads them, as options of
 * Node's `tls`. The files are read when the service starts, so that one that is missing or broken is said then.
 */
import { Effect, Result } from "effect"
import { createPrivateKey, X509Certificate } from "node:crypto"
import { readFile } from "node:fs/promises"
import { isIP } from "node:net"
import { type ConnectionOptions, getCACertificates } from "node:tls"
import { type ConnectionUrl, InvalidDatabaseUrl } from "./ConnectionUrl.ts"
import { describe } from "./Unavailable.ts"

export interface Tls {
  /** Where the server offers no TLS, it goes on without. */
  readonly isOptional: boolean
  readonly options: ConnectionOptions
}

export interface Files {
  readonly ca: ReadonlyArray<string> | undefined
  readonly cert: string | undefined
  readonly key: string | undefined
}

/** The files that a URL names, or what is wrong with them. Nothing is read where there will be no TLS. */
export const readFiles = Effect.fnUntraced(function*(url: ConnectionUrl) {
  const { sslCert, sslKey, sslMode, sslRootCert } = url
  if (sslMode === "disable" || url.addresses.every(({ isSocket }) => isSocket)) return none
  const ca = sslRootCert === undefined || sslRootCert === "system"
    ? sslMode === "verify-full" ? systemCertificates() : undefined
    : yield* Effect.flatMap(readText("sslrootcert", sslRootCert), (text) => certificatesOf("sslrootcert", text))
  if (sslCert === undefined || sslKey === undefined) return { ca, cert: undefined, key: undefined }
  const cert = yield* readText("sslcert", sslCert)
  const [first] = yield* certificatesOf("sslcert", cert)
  const key = yield* readText("sslkey", sslKey)
  yield* checkKey(first, key)
  return { ca, cert, key }
})

const none: Files = { ca: undefined, cert: undefined, key: undefined }

/** Pure: for one host. */
export const make = (sslMode: ConnectionUrl["sslMode"], host: string, files: Files): Tls | undefined => {
  if (sslMode === "disable") return undefined
  const { ca, cert, key } = files
  return {
    isOptional: sslMode === "allow" || sslMode === "prefer",
    options: {
      host,
      // An address has no place in the greeting; it is still what the certificate is compared with.
      ...(isIP(host) === 0 ? { servername: host } : {}),
      // As in libpq: certificates that are trusted are there to be used, whatever the mode.
      rejectUnauthorized: ca !== undefined,
      ...(ca === undefined ? {} : { ca: [...ca] }),
      ...(cert === undefined || key === undefined ? {} : { cert, key }),
      ...(sslMode === "verify-full" ? {} : { checkServerIdentity: () => undefined })
    }
  }
}

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

const certificatesOf = (parameter: string, text: string) =>
  Effect.try({
    try: () => {
      const [first, ...others] = text.match(certificate) ?? []
      if (first === undefined) throw new Error("it has no BEGIN CERTIFICATE")
      for (const one of [first, ...others]) new X509Certificate(one)
      return [first, ...others] as const
    },
    catch: (error) => invalid(`the file of ${parameter} holds no certificates in PEM: ${describe(error).detail}`)
  })

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
