/**
 * A socket to PostgreSQL on which TLS is agreed first, in PostgreSQL's own way: a request in clear, a byte for an answer, and
 * then TLS or not. Or at once, as `sslnegotiation=direct` has it. To the driver it is a stream like any other.
 *
 * The driver could do this too, but not TLS that is optional and verifies nothing (`sslmode=prefer`), and what it says over TLS
 * would pass by the watchdog of `Connector`, which sees a stream and not what is below it.
 */
import type { Socket } from "node:net"
import { Duplex } from "node:stream"
import { connect, TLSSocket } from "node:tls"
import { abortSocket } from "./abortSocket.ts"
import type { Channel } from "./Authentication.ts"
import { certificateHash } from "./certificateHash.ts"
import { applicationProtocol, type Tls } from "./Tls.ts"
import { refusedBeforeTlsCode } from "./Unavailable.ts"

/** Eight bytes: their number, and the code of SSLRequest (PostgreSQL's documentation, "Message Formats"). */
const request = Uint8Array.of(0, 0, 0, 8, 4, 210, 22, 47)

/** Of a login without TLS. */
export const clear: Channel = { isEncrypted: false, isVerified: false, endPoint: undefined }

const answers = { tls: "S".charCodeAt(0), plain: "N".charCodeAt(0), error: "E".charCodeAt(0) } as const

export class TlsStream extends Duplex {
  readonly #raw: Socket
  readonly #tls: Tls
  /** What bytes pass through, once it is agreed. */
  #inner: Socket | TLSSocket | undefined
  /** What waits for that. */
  #waiting: ((inner: Socket | TLSSocket) => void) | undefined

  constructor(raw: Socket, tls: Tls) {
    super({ allowHalfOpen: false })
    this.#raw = raw
    this.#tls = tls
    raw.on("error", (error) => this.destroy(error))
    raw.on("close", () => this.destroy())
    if (tls.isDirect) {
      this.#secure()
    } else {
      raw.once("data", (chunk: Buffer) => this.#answered(chunk))
      raw.write(request)
    }
  }

  /** What a login over it has: TLS only where it was agreed. */
  channel(): Channel {
    const inner = this.#inner
    if (!(inner instanceof TLSSocket)) return clear
    const certificate = inner.getPeerX509Certificate()?.raw
    return {
      isEncrypted: true,
      isVerified: this.#tls.options.rejectUnauthorized === true && inner.authorized,
      endPoint: certificate && certificateHash(certificate)
    }
  }

  #secure() {
    const secure = connect({ ...this.#tls.options, socket: this.#raw })
    secure.on("error", (error) => this.destroy(error))
    secure.once("secureConnect", () => {
      if (this.#tls.isDirect && secure.alpnProtocol !== applicationProtocol) {
        this.destroy(new Error("the server does not support TLS as sslnegotiation=direct asks for it: use postgres"))
      } else {
        this.#use(secure)
      }
    })
    secure.on("close", () => this.destroy())
  }

  #answered(chunk: Buffer) {
    const [answer] = chunk
    // Nobody has signed an error, and nothing more is said over what it came by: whoever is in between could go on from there.
    if (answer === answers.error) {
      return this.destroy(
        Object.assign(new Error(`before TLS, so that anybody may have said it: ${wordsOf(chunk)}`), {
          code: refusedBeforeTlsCode
        })
      )
    }
    // More than the answer cannot come from the server, which waits for us: somebody in between has put it there.
    if (chunk.length !== 1 || (answer !== answers.tls && answer !== answers.plain)) {
      return this.destroy(new Error("the server's answer to SSLRequest is not that of PostgreSQL"))
    }
    if (answer === answers.tls) {
      this.#secure()
    } else if (this.#tls.isOptional) {
      this.#use(this.#raw)
    } else {
      this.destroy(new Error("the server does not support TLS, which sslmode asks for"))
    }
  }

  #use(inner: Socket | TLSSocket, first?: Buffer) {
    if (this.destroyed) return
    this.#inner = inner
    if (first !== undefined) this.push(first)
    inner.on("data", (chunk: Buffer) => {
      if (!this.push(chunk)) inner.pause()
    })
    inner.on("end", () => this.push(null))
    inner.resume()
    this.#waiting?.(inner)
    this.#waiting = undefined
  }

  override _read() {
    this.#inner?.resume()
  }

  override _write(chunk: Buffer, _: BufferEncoding, callback: (error?: Error | null) => void) {
    if (this.#inner === undefined) {
      this.#waiting = (inner) => inner.write(chunk, callback)
    } else {
      this.#inner.write(chunk, callback)
    }
  }

  override _final(callback: () => void) {
    if (this.#inner === undefined) {
      this.#waiting = (inner) => inner.end(callback)
    } else {
      this.#inner.end(callback)
    }
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void) {
    if (error !== null) abortSocket(this.#raw, error)
    this.#inner?.destroy()
    this.#raw.destroy()
    callback(error)
  }
}

/** Of what was sent. */
const mostWords = 200

/** What can be read of an error, in either of its forms. */
const wordsOf = (chunk: Buffer): string => {
  const text = chunk.subarray(1, mostWords).toString("latin1")
  const words = /\0M([^\0]*)/.exec(text)?.[1] ?? text
  return words.replaceAll(/[^\x20-\x7e]+/g, " ").trim()
}
