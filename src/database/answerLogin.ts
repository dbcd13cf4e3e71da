/**
 * Answers a server's questions of who we are, in the place of the driver, which is given no password: it would answer a request
 * for the password in clear, from any server, has no channel binding, and blocks the event loop while it derives keys.
 *
 * The driver reads the stream from the first byte on, so until the login is over what arrives is taken before it is emitted:
 * requests are answered here (`Authentication`), and what is not one is passed on. From AuthenticationOk on, the stream is as
 * it was, and costs nothing.
 */
import { Data, Redacted } from "effect"
import { pbkdf2, randomBytes } from "node:crypto"
import type { Duplex } from "node:stream"
import * as Authentication from "./Authentication.ts"
import { saltedLength } from "./Scram.ts"
import { loginRefusedCode } from "./Unavailable.ts"

/** The server asked for what this connection does not give, or did not keep to the protocol of a login. */
export class LoginRefused extends Data.TaggedError("LoginRefused")<{ readonly problem: string }> {
  readonly code = loginRefusedCode
  override get message() {
    return this.problem
  }
}

export interface Options {
  readonly policy: Authentication.Policy
  readonly user: string
  readonly password: Redacted.Redacted<string> | undefined
  /** As it is when the server asks. */
  readonly channel: () => Authentication.Channel
}

/** libpq's bound for an error before the login; all else is shorter. */
const longestMessage = 30_000

/** Of an error in the form that PostgreSQL 7.3 had, which a server that cannot fork still sends. */
const longestOldError = 200

const headLength = 5

const types = { authentication: 0x52, error: 0x45, notice: 0x4e, version: 0x76 } as const

/** Before a login is over: authentication requests, errors, notices and NegotiateProtocolVersion. */
const expected: ReadonlySet<number> = new Set(Object.values(types))

export const answerLogin = (stream: Duplex, options: Options): Duplex => {
  const { emit } = stream
  // For a real server, on purpose: a nonce has to be unpredictable however the randomness of a program is seeded.
  const nonce = randomBytes(18).toString("base64")
  let state: Authentication.State | "deriving" | "refused" | "over" = Authentication.begun
  let unread: Uint8Array = Buffer.of()

  const end = (error: Error) => {
    state = "refused"
    unread = Buffer.of()
    stream.destroy(error)
  }
  const refuse = (problem: string) => end(new LoginRefused({ problem }))

  const login = (): Authentication.Login => ({
    ...options,
    password: options.password === undefined ? undefined : Redacted.value(options.password),
    channel: options.channel(),
    nonce
  })

  /** Whether the server is through with its questions. */
  const perform = (step: Authentication.Step): boolean => {
    switch (step._tag) {
      case "Refuse":
        refuse(step.problem)
        return false
      case "Reply":
        state = step.next
        stream.write(step.bytes)
        return false
      case "Go":
        state = step.next
        return false
      case "Derive":
        state = "deriving"
        derive(step)
        return false
      case "Done":
        state = "over"
        return true
    }
  }

  const derive = ({ challenge, then }: Extract<Authentication.Step, { readonly _tag: "Derive" }>) => {
    const { password = "" } = login()
    pbkdf2(password, challenge.salt, challenge.iterations, saltedLength, "sha256", (error, salted) => {
      if (stream.destroyed || state !== "deriving") return
      if (error !== null) refuse(`the key for SCRAM-SHA-256 cannot be derived: ${error.message}`)
      else perform(then(salted))
    })
  }

  /** What is the driver's to read of the messages that are whole. */
  const read = (): Uint8Array => {
    const passed: Array<Uint8Array> = []
    while (state !== "over" && state !== "refused" && unread.length >= headLength) {
      const type = unread[0] ?? 0
      const length = new DataView(unread.buffer, unread.byteOffset).getUint32(1) + 1
      if (!expected.has(type) || length < headLength || length > longestMessage) {
        const words = type === types.error ? oldError(unread) : ""
        if (words === "") refuse("what answers the login is not PostgreSQL")
        else end(new Error(`the server failed before the login: ${words}`))
        break
      }
      if (unread.length < length) break
      const message = unread.subarray(0, length)
      unread = unread.subarray(length)
      if (type !== types.authentication) passed.push(message)
      else if (state === "deriving") refuse("the server goes on before it has its answer: it is not PostgreSQL")
      else if (perform(Authentication.advance(state, message.subarray(headLength), login()))) {
        passed.push(message, unread)
      }
    }
    return Buffer.concat(passed)
  }

  stream.emit = new Proxy(emit, {
    apply(target, self, parameters: [event: string, ...rest: Array<unknown>]) {
      const [event, chunk] = parameters
      if (event !== "data" || !(chunk instanceof Uint8Array)) return Reflect.apply(target, self, parameters)
      if (stream.destroyed || state === "refused") return false
      unread = unread.length === 0 ? chunk : Buffer.concat([unread, chunk])
      const passed = read()
      if (state === "over") stream.emit = emit
      return passed.length === 0 || Reflect.apply(target, self, ["data", passed])
    }
  })
  return stream
}

/** Its words; none, if it is not of that form. */
const oldError = (bytes: Uint8Array): string => {
  const [words = ""] = Buffer.from(bytes.subarray(1, 1 + longestOldError)).toString("latin1").split("\0")
  return words.replaceAll(/[^\x20-\x7e]+/g, " ").trim()
}
