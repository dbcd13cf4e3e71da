import { createHash } from "node:crypto"

/**
 * `tls-server-end-point` of RFC 5929, which channel binding ties a login to: the hash of the server's certificate, by the
 * algorithm of its signature. `undefined` where that names no hash, as with Ed25519: then there is nothing to bind to.
 *
 * Node has the algorithm's name only from version 24 on, so it is looked up in the certificate: of its three parts, the second.
 */
export const certificateHash = (certificate: Uint8Array): Uint8Array | undefined => {
  const [, algorithm] = parts(parts(certificate)[0]?.content ?? none)
  if (algorithm === undefined) return undefined
  const [identifier, parameters] = parts(algorithm.content)
  const name = identifier === undefined ? "" : hex(identifier.content)
  const hash = name === rsaPss ? pssHash(parameters?.content ?? none) : hashes[name]
  return hash === undefined ? undefined : createHash(hash).update(certificate).digest()
}

/** RFC 5929: MD5 and SHA-1 are replaced. Keys: object identifiers in DER. */
const hashes: Readonly<Record<string, "sha256" | "sha384" | "sha512" | "sha224">> = {
  "2a864886f70d010104": "sha256", // md5WithRSAEncryption
  "2a864886f70d010105": "sha256", // sha1WithRSAEncryption
  "2a864886f70d01010b": "sha256", // sha256WithRSAEncryption
  "2a864886f70d01010c": "sha384",
  "2a864886f70d01010d": "sha512",
  "2a864886f70d01010e": "sha224",
  "2a8648ce3d0401": "sha256", // ecdsa-with-SHA1
  "2a8648ce3d040301": "sha224",
  "2a8648ce3d040302": "sha256",
  "2a8648ce3d040303": "sha384",
  "2a8648ce3d040304": "sha512",
  "608648016503040201": "sha256", // the hashes themselves, as RSASSA-PSS names them
  "608648016503040202": "sha384",
  "608648016503040203": "sha512",
  "608648016503040204": "sha224"
}

const rsaPss = "2a864886f70d01010a"

/** The first of its parameters, where it is not the default, SHA-1. */
const pssHash = (parameters: Uint8Array) => {
  const first = parts(parameters)[0]
  if (first?.tag !== 0xa0) return "sha256"
  const [identifier] = parts(parts(first.content)[0]?.content ?? none)
  return identifier === undefined ? undefined : hashes[hex(identifier.content)]
}

interface Part {
  readonly tag: number
  readonly content: Uint8Array
}

const none = Uint8Array.of()

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex")

/** The values that stand one after another in DER: a tag, a length, as many bytes. */
const parts = (der: Uint8Array): ReadonlyArray<Part> => {
  const found: Array<Part> = []
  let at = 0
  while (at + 2 <= der.length) {
    const tag = der[at++] ?? 0
    let length = der[at++] ?? 0
    if (length >= 0x80) {
      const digits = length - 0x80
      length = 0
      for (const digit of der.subarray(at, at + digits)) length = length * 256 + digit
      at += digits
    }
    found.push({ tag, content: der.subarray(at, at + length) })
    at += length
  }
  return found
}
