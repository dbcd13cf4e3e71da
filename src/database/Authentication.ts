/**
 * What we answer when a server asks who we are, and what we refuse: the state machine of a login, from its first message to
 * AuthenticationOk. Pure: messages are in PostgreSQL's documentation, "Message Formats".
 *
 * Without a word of the URL a password goes out in clear only to a server whose certificate was verified. A program that binds the port
 * of a server that is gone can ask for it, and with a certificate of their own over TLS too.
 */
import { createHash } from "node:crypto"
import * as Scram from "./Scram.ts"

/** The names of libpq's `require_auth`, as far as Lull can do them. */
export const methods = ["none", "password", "md5", "scram-sha-256"] as const
export type Method = typeof methods[number]

export const bindings = ["disable", "prefer", "require"] as const
export type ChannelBinding = typeof bindings[number]

export interface Policy {
  /** What the server may ask for, as the URL has it. `undefined`: it says nothing. */
  readonly requireAuth: RequireAuth | undefined
  readonly channelBinding: ChannelBinding
}

export interface RequireAuth {
  readonly text: string
  readonly allowed: ReadonlySet<Method>
  /** The methods are named, and not only others excluded. */
  readonly isNamed: boolean
}

/** What the login travels over. */
export interface Channel {
  readonly isEncrypted: boolean
  /** The certificate is that of the server, as far as `sslmode` asks for it. */
  readonly isVerified: boolean
  /** What a login can be bound to. */
  readonly endPoint: Uint8Array | undefined
}

export interface Login {
  readonly policy: Policy
  readonly user: string
  readonly password: string | undefined
  readonly channel: Channel
  /** Unpredictable, and of printable characters without a comma. */
  readonly nonce: string
}

export type State =
  | { readonly _tag: "Begun" }
  | { readonly _tag: "Answered"; readonly method: "password" | "md5" }
  | { readonly _tag: "Greeted"; readonly first: Scram.First }
  | { readonly _tag: "Claimed"; readonly first: Scram.First; readonly proof: Scram.Proof }
  | { readonly _tag: "Proven"; readonly first: Scram.First }

export const begun: State = { _tag: "Begun" }

export type Step =
  | { readonly _tag: "Refuse"; readonly problem: string }
  | { readonly _tag: "Reply"; readonly bytes: Uint8Array; readonly next: State }
  /** Nothing is to be said. */
  | { readonly _tag: "Go"; readonly next: State }
  /** PBKDF2 of the password; `then` with the result. */
  | { readonly _tag: "Derive"; readonly challenge: Scram.Challenge; readonly then: (salted: Uint8Array) => Step }
  | { readonly _tag: "Done" }

/** What follows from the content of an authentication request: a number of four bytes, and what belongs to it. */
export const advance = (state: State, request: Uint8Array, login: Login): Step => {
  const view = new DataView(request.buffer, request.byteOffset, request.byteLength)
  const kind = request.length < 4 ? undefined : view.getUint32(0)
  const data = request.subarray(4)
  switch (kind) {
    case 0:
      return finish(state, login)
    case 3:
      return state._tag === "Begun" ? sendPassword(login) : outOfOrder
    case 5:
      return state._tag === "Begun" && data.length === 4 ? sendMd5(login, data) : outOfOrder
    case 10:
      return state._tag === "Begun" ? greet(login, data) : outOfOrder
    case 11:
      return state._tag === "Greeted" ? challenged(state.first, data) : outOfOrder
    case 12:
      return state._tag === "Claimed" ? checkServer(state, data) : outOfOrder
    default:
      return refuse(
        `the server asks for ${foreign[kind ?? -1] ?? "a login of another kind"}, which Lull cannot do: ${use}`
      )
  }
}

const foreign: Readonly<Record<number, string>> = {
  2: "Kerberos",
  6: "SCM credentials",
  7: "GSSAPI",
  8: "GSSAPI",
  9: "SSPI"
}

const use = "use scram-sha-256 or a client's certificate in pg_hba.conf"

const refuse = (problem: string): Step => ({ _tag: "Refuse", problem })

const outOfOrder = refuse("the server asks for a login in an order that PostgreSQL does not have")

const names: Readonly<Record<Method, string>> = {
  "none": "nothing",
  "password": "the password in clear",
  "md5": "the password as MD5",
  "scram-sha-256": "SCRAM-SHA-256"
}

/** Why this method is not for this connection, whatever comes of it; `undefined`: it may be used. */
const objection = (method: Method, { channel, policy }: Login): string | undefined => {
  const { channelBinding, requireAuth } = policy
  if (requireAuth !== undefined && !requireAuth.allowed.has(method)) {
    return `the server asks for ${names[method]}, and the URL has require_auth=${requireAuth.text}`
  }
  if (channelBinding === "require" && method !== "scram-sha-256") {
    return `the server asks for ${names[method]}, and the URL has channel_binding=require: ` +
      "use scram-sha-256 in pg_hba.conf"
  }
  const isAskedFor = requireAuth?.isNamed === true
  if (method === "password" && !channel.isVerified && !isAskedFor) {
    return "the server asks for the password in clear, and its certificate was not verified: use scram-sha-256 in " +
      "pg_hba.conf, or sslmode=verify-full, or allow it with require_auth=password"
  }
  return undefined
}

/** A server may let a trusted client in without asking, or by a client's certificate: as libpq does, unless the URL forbids it. */
const finish = (state: State, login: Login): Step => {
  switch (state._tag) {
    case "Begun": {
      const problem = objection("none", login)
      return problem === undefined ? { _tag: "Done" } : refuse(problem)
    }
    case "Answered":
    case "Proven":
      return { _tag: "Done" }
    case "Greeted":
    case "Claimed":
      return refuse("the server lets us in without a proof that it knows the password: it may be another one")
  }
}

const withPassword = (method: Method, login: Login, answer: (password: string) => Step): Step => {
  const problem = objection(method, login)
  if (problem !== undefined) return refuse(problem)
  return login.password === undefined
    ? refuse(`the server asks for a password (${names[method]}), and the URL has none`)
    : answer(login.password)
}

const sendPassword = (login: Login): Step =>
  withPassword("password", login, (password) => ({
    _tag: "Reply",
    bytes: message(text(password), zero),
    next: { _tag: "Answered", method: "password" }
  }))

const sendMd5 = (login: Login, salt: Uint8Array): Step =>
  withPassword("md5", login, (password) => {
    const inner = createHash("md5").update(password + login.user).digest("hex")
    const outer = createHash("md5").update(inner).update(salt).digest("hex")
    return { _tag: "Reply", bytes: message(text(`md5${outer}`), zero), next: { _tag: "Answered", method: "md5" } }
  })

const greet = (login: Login, data: Uint8Array): Step => {
  const offered = Buffer.from(data).toString("latin1").split("\0")
  const hasBinding = offered.includes("SCRAM-SHA-256-PLUS")
  if (!hasBinding && !offered.includes("SCRAM-SHA-256")) {
    return refuse(`the server asks for a login by SASL without SCRAM-SHA-256, which Lull cannot do: ${use}`)
  }
  const binding = bindingOf(login, hasBinding)
  if (typeof binding === "string") return refuse(`the URL has channel_binding=require, and ${binding}`)
  if (binding._tag !== "Bound" && !offered.includes("SCRAM-SHA-256")) {
    return refuse("the server takes only SCRAM-SHA-256-PLUS, and the URL has channel_binding=disable")
  }
  return withPassword("scram-sha-256", login, () => {
    const first: Scram.First = { nonce: login.nonce, binding }
    const said = text(Scram.clientFirst(first))
    const length = Buffer.alloc(4)
    length.writeInt32BE(said.length)
    return {
      _tag: "Reply",
      bytes: message(text(Scram.mechanismOf(first)), zero, length, said),
      next: { _tag: "Greeted", first }
    }
  })
}

/** To what the login is bound, or why it cannot be, although it has to. */
const bindingOf = ({ channel, policy }: Login, isOffered: boolean): Scram.Binding | string => {
  const { channelBinding } = policy
  if (channelBinding === "disable") return { _tag: "None" }
  const { endPoint, isEncrypted } = channel
  if (endPoint !== undefined && isOffered) return { _tag: "Bound", endPoint }
  if (channelBinding === "require") {
    if (!isEncrypted) return "the connection has no TLS: use sslmode=require or more"
    return isOffered
      ? "the certificate of the server names no hash to bind to: use one that is signed with ECDSA or RSA"
      : "the server does not offer it, as poolers do not"
  }
  // A server that offers it, and hears that it does not, knows that somebody in between has taken it from the list.
  return endPoint === undefined ? { _tag: "None" } : { _tag: "NotOffered" }
}

const challenged = (first: Scram.First, data: Uint8Array): Step => {
  const challenge = Scram.readChallenge(first, utf8(data))
  if (challenge === undefined) return refuse("the server's answer in SCRAM-SHA-256 is not one to what it was sent")
  return {
    _tag: "Derive",
    challenge,
    then: (salted) => {
      const proof = Scram.prove(challenge, salted)
      return { _tag: "Reply", bytes: message(text(proof.clientFinal)), next: { _tag: "Claimed", first, proof } }
    }
  }
}

const checkServer = ({ first, proof }: Extract<State, { readonly _tag: "Claimed" }>, data: Uint8Array): Step =>
  Scram.isProven(utf8(data), proof)
    ? { _tag: "Go", next: { _tag: "Proven", first } }
    : refuse("the server has not proven that it knows the password: it may be another one")

const zero = Uint8Array.of(0)
const text = (value: string): Uint8Array => Buffer.from(value, "utf8")
const utf8 = (value: Uint8Array): string => Buffer.from(value).toString("utf8")

/** PasswordMessage, SASLInitialResponse and SASLResponse have one type; their length counts itself. */
const message = (...content: ReadonlyArray<Uint8Array>): Uint8Array => {
  const head = Buffer.from("p\0\0\0\0", "latin1")
  head.writeInt32BE(4 + content.reduce((sum, { length }) => sum + length, 0), 1)
  return Buffer.concat([head, ...content])
}
