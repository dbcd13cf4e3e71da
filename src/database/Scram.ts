/**
 * SCRAM-SHA-256 of RFC 5802 and RFC 7677, as PostgreSQL speaks it, with and without channel binding. Pure: the nonce is given,
 * and the expensive step, PBKDF2, is the caller's.
 */
import { createHash, createHmac, timingSafeEqual } from "node:crypto"

/** What the client says of channel binding: not at all; that it could, and the server does not offer it; or what it is bound to. */
export type Binding =
  | { readonly _tag: "None" }
  | { readonly _tag: "NotOffered" }
  | { readonly _tag: "Bound"; readonly endPoint: Uint8Array }

/** After the client's first message. */
export interface First {
  readonly nonce: string
  readonly binding: Binding
}

/** What the server asks for: a proof with this salt and so many iterations of PBKDF2 with SHA-256, of 32 bytes. */
export interface Challenge {
  readonly first: First
  readonly serverFirst: string
  readonly nonce: string
  readonly salt: Uint8Array
  readonly iterations: number
}

export const saltedLength = 32

/** Above this a server would buy our processor with one message; PostgreSQL's own default is 4,096. */
export const mostIterations = 1_000_000

const header = ({ binding }: First): string =>
  binding._tag === "None" ? "n,," : binding._tag === "NotOffered" ? "y,," : "p=tls-server-end-point,,"

/** The user's name is left out: PostgreSQL takes that of the connection. */
const bare = ({ nonce }: First) => `n=,r=${nonce}`

export const mechanismOf = ({ binding }: First) => binding._tag === "Bound" ? "SCRAM-SHA-256-PLUS" : "SCRAM-SHA-256"

export const clientFirst = (first: First): string => header(first) + bare(first)

const base64 = (text: string): Uint8Array | undefined =>
  /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(text) && text !== ""
    ? Buffer.from(text, "base64")
    : undefined

/** `undefined`: it is not what a server may answer to this first message. */
export const readChallenge = (first: First, serverFirst: string): Challenge | undefined => {
  const [, nonce = "", salt = "", iterations = ""] =
    /^r=([!-+\--~]+),s=([^,]+),i=(\d{1,9})(?:,.*)?$/.exec(serverFirst) ?? []
  const saltBytes = base64(salt)
  const count = Number(iterations)
  const isOurs = nonce.startsWith(first.nonce) && nonce.length > first.nonce.length
  if (!isOurs || saltBytes === undefined || !(count >= 1 && count <= mostIterations)) return undefined
  return { first, serverFirst, nonce, salt: saltBytes, iterations: count }
}

const hmac = (key: Uint8Array, text: string | Uint8Array) => createHmac("sha256", key).update(text).digest()

export interface Proof {
  readonly clientFinal: string
  /** What a server sends that knows the password, too. */
  readonly serverSignature: Uint8Array
}

export const prove = (challenge: Challenge, salted: Uint8Array): Proof => {
  const { first, nonce, serverFirst } = challenge
  const { binding } = first
  const bound = Buffer.concat([Buffer.from(header(first)), binding._tag === "Bound" ? binding.endPoint : Buffer.of()])
  const withoutProof = `c=${bound.toString("base64")},r=${nonce}`
  const all = `${bare(first)},${serverFirst},${withoutProof}`
  const clientKey = hmac(salted, "Client Key")
  const signature = hmac(createHash("sha256").update(clientKey).digest(), all)
  const proof = clientKey.map((byte, at) => byte ^ (signature[at] ?? 0))
  return {
    clientFinal: `${withoutProof},p=${Buffer.from(proof).toString("base64")}`,
    serverSignature: hmac(hmac(salted, "Server Key"), all)
  }
}

/** Whether the server has proven that it knows the password. */
export const isProven = (serverFinal: string, { serverSignature }: Proof): boolean => {
  const given = base64(/^v=([^,]+)$/.exec(serverFinal)?.[1] ?? "")
  return given?.length === serverSignature.length && timingSafeEqual(given, serverSignature)
}
