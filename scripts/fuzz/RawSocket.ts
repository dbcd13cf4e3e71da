/** A TCP connection for bytes that no client would send, and what comes back. */
import { connect } from "node:net"

/** In milliseconds. Longer than the service waits for whoever says nothing more. */
const patience = 20_000

/**
 * Sends pieces one after another and reads until the service closes. `over`: what has come is all, and the rest is not waited for.
 * Rejects where the service does not close.
 */
export const exchange = (
  port: number,
  pieces: ReadonlyArray<string | Uint8Array>,
  over: (received: string) => boolean = () => false
): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port, noDelay: true })
    let received = ""
    const timer = setTimeout(() => {
      socket.destroy()
      reject(new Error(`the service did not close after: ${received.slice(0, 500)}`))
    }, patience)
    const done = () => {
      clearTimeout(timer)
      socket.destroy()
      resolve(received)
    }
    socket.on("error", () => undefined)
    socket.on("close", done)
    socket.on("data", (bytes) => {
      received += bytes.toString("latin1")
      if (over(received)) done()
    })
    for (const piece of pieces) socket.write(piece)
    socket.end()
  })
