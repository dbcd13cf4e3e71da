/** Somebody between a client and a server, who ends the TLS of the one, begins TLS with the other, and reads all in between. */
import { Effect } from "effect"
import { connect as connectTcp, createServer, type Socket } from "node:net"
import { connect as connectTls, createSecureContext, TLSSocket } from "node:tls"

const request = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])

export const make = Effect.fnUntraced(
  function*(options: { readonly to: number; readonly key: string; readonly cert: string }) {
    const sockets = new Set<Socket>()
    const keep = (socket: Socket) => {
      sockets.add(socket.on("error", () => {}))
      return socket
    }
    const secureContext = createSecureContext({ key: options.key, cert: options.cert })
    let passed = 0
    const listening = createServer((client) => {
      keep(client).once("data", () => {
        const server = keep(connectTcp(options.to, "127.0.0.1"))
        server.write(request)
        server.once("data", () => {
          const inner = keep(connectTls({ socket: server, rejectUnauthorized: false }))
          client.write("S")
          const outer = keep(new TLSSocket(client, { isServer: true, secureContext }))
          outer.on("data", (bytes) => {
            passed += bytes.length
          })
          outer.pipe(inner).pipe(outer)
          outer.on("close", () => inner.destroy())
          inner.on("close", () => outer.destroy())
        })
      })
    })
    yield* Effect.acquireRelease(
      Effect.callback<void>((resume) => void listening.listen(0, "127.0.0.1", () => resume(Effect.void))),
      () =>
        Effect.sync(() => {
          listening.close()
          for (const socket of sockets) socket.destroy()
        })
    )
    const bound = listening.address()
    return { port: typeof bound === "object" && bound !== null ? bound.port : 0, passed: () => passed }
  }
)
