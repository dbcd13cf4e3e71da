/** A TCP connection for bytes that no client would send, and what comes back. */
import { connect } from "node:net"

/** In milliseconds. Longer than the service waits for whoever says nothing more. */
const patience = 20_000

/** An answer that has not begun by then, or has gone on for so long, in milliseconds, is not waited for. */
const begins = 200
const goesOn = 20

/**
 * Sends pieces one after another and reads until the service closes. `over`: what has come is all, and the rest is not waited for.
 * `isAsking`: an answer is waited for before this side closes, since Node's server gives up a request whose sender has closed.
 * Rejects where the service does not close.
 */
export const exchange = (
  port: number,
  pieces: ReadonlyArray<string | Uint8Array>,
  { isAsking = false, over = () => false }: {
    readonly isAsking?: boolean
    readonly over?: (received: string) => boolean
  } = {}
): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port, noDelay: true })
    let received = ""
    const timer = setTimeout(() => {
      socket.destroy()
      reject(new Error(`the service did not close after: ${received.slice(0, 500)}`))
    }, patience)
    let quiet = setTimeout(() => socket.end(), begins)
    const done = () => {
      clearTimeout(timer)
      clearTimeout(quiet)
      socket.destroy()
      resolve(received)
    }
    socket.on("error", () => undefined)
    socket.on("close", done)
    socket.on("data", (bytes) => {
      received += bytes.toString("latin1")
      if (over(received)) return done()
      clearTimeout(quiet)
      quiet = setTimeout(() => socket.end(), goesOn)
    })
    for (const piece of pieces) socket.write(piece)
    if (!isAsking) socket.end()
  })
