/**
 * Opens the connections of a connection pool, over TCP or a Unix socket, one at a time, and can close them all.
 *
 * Two things the driver does not do are done here, in its `stream` factory:
 *
 * - **A deadline that holds.** A socket that owes an answer for longer than `answerWithin` destroys itself. Nothing else
 *   bounds a hung server or a link that swallows packets: interruption of a statement first asks the server, and a
 *   `ROLLBACK` cannot be interrupted at all.
 * - **One attempt in flight.** When a server goes away, every fiber that waits for a connection would open one. Here they
 *   queue, and the first refusal is the answer for all of them, until `admit` is called again.
 */
import { lookup } from "node:dns"
import { Socket } from "node:net"
import type { Duplex } from "node:stream"
import { noAnswerCode } from "./Unavailable.ts"

export interface Options {
  readonly host: string
  readonly port: number
  /** Of a Unix socket: then host and port are not used. */
  readonly path?: string | undefined
  /** Makes of a socket the stream that the driver speaks through. Default: the socket itself. */
  readonly secure?: ((socket: Socket) => Duplex) | undefined
  /** In milliseconds. */
  readonly answerWithin: number
}

export interface Connector {
  /** The driver's `stream` factory. */
  readonly stream: () => Duplex
  /** Destroys all connections and refuses new ones, with this error. */
  readonly refuse: (error: Error) => void
  /** The connections that are open or being opened. */
  readonly size: () => number
}

/** Not a name that is ever resolved: it makes Node ask our `lookup`, which it does not for an address. */
const placeholder = "lull-database"

export const make = (options: Options): Connector => {
  const sockets = new Set<Socket>()
  const waiting: Array<(refusal: Error | undefined) => void> = []
  let attempting = false
  let refusal: Error | undefined

  const next = () => {
    if (refusal !== undefined) {
      attempting = false
      for (const enter of waiting.splice(0)) enter(refusal)
      return
    }
    const enter = waiting.shift()
    attempting = enter !== undefined
    enter?.(undefined)
  }

  const stream = () => {
    let holdsTurn = false
    const leave = () => {
      if (!holdsTurn) return
      holdsTurn = false
      next()
    }
    // Made before it connects: Node may call `lookup` before `connect` returns.
    const socket = new Socket().setNoDelay(true)
    /** Calls `connect` when it is its turn, or `refused`. */
    const takeTurn = (connect: () => void, refused: (refusal: Error) => void) => {
      waiting.push((refusal) => {
        if (refusal !== undefined) return refused(refusal)
        if (socket.destroyed) return next()
        holdsTurn = true
        connect()
      })
      if (!attempting) {
        attempting = true
        next()
      }
    }
    const { path } = options
    if (path === undefined) {
      socket.connect({
        host: placeholder,
        port: options.port,
        lookup: (_, lookupOptions, callback) =>
          takeTurn(
            () => lookup(options.host, lookupOptions, callback),
            (refusal) => callback(refusal, "", 0)
          )
      })
    } else {
      // There is nothing to look up: what is written before its turn waits in the socket.
      socket.cork()
      socket.once("connect", () => socket.uncork())
      takeTurn(() => socket.connect({ path }), (refusal) => socket.destroy(refusal))
    }
    sockets.add(socket)
    let connected = false
    socket.once("connect", () => {
      connected = true
      leave()
    })
    socket.once("close", () => {
      sockets.delete(socket)
      leave()
    })
    // Before the driver's own listener, so that who waits behind this attempt is refused before anybody tries again.
    socket.on("error", (error) => {
      if (!connected) refusal ??= error
    })
    return watched(options.secure === undefined ? socket : options.secure(socket), options.answerWithin)
  }

  return {
    stream,
    refuse: (error) => {
      refusal = error
      for (const socket of sockets) socket.destroy(error)
      next()
    },
    size: () => sockets.size
  }
}

/** A stream that destroys itself when the server owes it an answer for longer than `answerWithin` milliseconds. */
export const watched = (socket: Duplex, answerWithin: number): Duplex => {
  // A watchdog on the real clock, on purpose: it guards a real socket, and has to go off while every fiber hangs.
  let timer: NodeJS.Timeout | undefined
  const settle = () => {
    clearTimeout(timer)
    timer = undefined
  }
  const noAnswer = () =>
    socket.destroy(
      Object.assign(new Error(`the server did not answer within ${answerWithin} ms`), { code: noAnswerCode })
    )
  socket.write = new Proxy(socket.write, {
    apply(write, self, parameters) {
      timer ??= setTimeout(noAnswer, answerWithin)
      return Reflect.apply(write, self, parameters)
    }
  })
  return socket.on("data", settle).on("close", settle)
}
