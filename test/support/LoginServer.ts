/**
 * Something on a port that speaks just enough of PostgreSQL to ask who is there, and keeps every byte that it hears: what
 * somebody can do who binds the port of a server that is gone.
 */
import { Effect } from "effect"
import { createServer, type Socket } from "node:net"
import { createSecureContext, TLSSocket } from "node:tls"

const framed = (type: string, content: Uint8Array): Uint8Array => {
  const head = Buffer.alloc(5)
  head.write(type, "latin1")
  head.writeInt32BE(content.length + 4, 1)
  return Buffer.concat([head, content])
}

const number = (value: number) => {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}

const text = (value: string) => Buffer.from(value, "latin1")

/** What a server says during a login. */
export const says = {
  ok: framed("R", number(0)),
  cleartext: framed("R", number(3)),
  md5: framed("R", Buffer.concat([number(5), text("salt")])),
  gssapi: framed("R", number(7)),
  sasl: (...mechanisms: ReadonlyArray<string>) =>
    framed("R", Buffer.concat([number(10), text([...mechanisms, "", ""].join("\0").slice(0, -1))])),
  saslContinue: (data: string) => framed("R", Buffer.concat([number(11), text(data)])),
  saslFinal: (data: string) => framed("R", Buffer.concat([number(12), text(data)])),
  notice: (message: string) => framed("N", text(`SNOTICE\0VNOTICE\0C00000\0M${message}\0\0`)),
  error: (code: string, message: string) => framed("E", text(`SFATAL\0VFATAL\0C${code}\0M${message}\0\0`)),
  ready: framed("Z", text("I"))
}

export interface Options {
  /** What it answers to what it hears, the first being the startup; what is left of the list is for what follows. */
  readonly answers: (heard: Uint8Array, turn: number) => Uint8Array | undefined
  /** Offers TLS with this certificate. */
  readonly tls?: { readonly key: string; readonly cert: string } | undefined
  /** Default: a free one. */
  readonly port?: number
}

const sslRequest = 80_877_103

export const make = Effect.fnUntraced(function*({ answers, port = 0, tls }: Options) {
  const sockets = new Set<Socket>()
  const heard: Array<Uint8Array> = []
  const serve = (stream: Socket | TLSSocket) => {
    let turn = 0
    stream.on("error", () => {}).on("data", (bytes: Buffer) => {
      heard.push(bytes)
      const answer = answers(bytes, turn++)
      if (answer !== undefined) stream.write(answer)
    })
  }
  const listening = createServer((socket) => {
    sockets.add(socket.on("error", () => {}))
    socket.once("data", (bytes) => {
      if (bytes.length !== 8 || bytes.readInt32BE(4) !== sslRequest) {
        serve(socket)
        socket.emit("data", bytes)
      } else if (tls === undefined) {
        socket.write("N")
        serve(socket)
      } else {
        socket.write("S")
        serve(new TLSSocket(socket, { isServer: true, secureContext: createSecureContext(tls) }))
      }
    })
  })
  yield* Effect.acquireRelease(
    Effect.callback<void, Error>((resume) => {
      listening.once("error", (error) => resume(Effect.fail(error)))
      listening.listen(port, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.sync(() => {
        listening.close()
        for (const socket of sockets) socket.destroy()
      })
  )
  const bound = listening.address()
  return {
    port: typeof bound === "object" && bound !== null ? bound.port : 0,
    /** All of it, as text. */
    heard: () => Buffer.concat(heard).toString("latin1"),
    turns: () => heard.length
  }
})
