/**
 * Opens the socket of one connection, and watches it.
 *
 * What the driver does not do is done here, in its `stream` factory:
 *
 * - **A deadline that holds.** A socket that owes an answer and stays silent for longer than `answerWithin` destroys itself.
 *   Nothing else bounds a hung server or a link that swallows packets: interruption of a statement first asks the server, and a
 *   `ROLLBACK` cannot be interrupted at all.
 * - **A bound for the TCP connection alone.** Where packets vanish, the system sends its first again after 1 and 3 seconds. A new
 *   attempt within a second finds the end of such a hole sooner.
 * - **Keepalive**, so that a connection that nobody uses does not live on when its other end is gone.
 * - **The turn of a cancel request**, for which the driver asks for a second socket: see `Dialer`.
 */
import { lookup } from "node:dns"
import { isIP, Socket } from "node:net"
import type { Duplex } from "node:stream"
import { abortSocket } from "./abortSocket.ts"
import { makeAnswers, watch } from "./SocketWatch.ts"
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
  /** In milliseconds: from the beginning of the TCP connection to its end. */
  readonly connectWithin: number
  /** The connection is there, after so many milliseconds. */
  readonly onConnected: (millis: number) => void
  /** The server owed an answer and stayed silent. */
  readonly onSilent: () => void
  /** Calls back when it is the turn of a cancel request, or with the reason why not; gives a way to say that it is over. */
  readonly enterCancel: (begin: (refused: Error | undefined) => void) => () => void
}

export interface Connector {
  /** The driver's `stream` factory: first for the connection, then for cancel requests. */
  readonly stream: () => Duplex
  /** Ends the connection, with this error for who works with it. */
  readonly end: (error: Error) => void
  /** From here on its end is our own doing. */
  readonly letGo: () => void
  /** It is there, and no cancel request has been sent for it. */
  readonly isSound: () => boolean
  /** Calls back once when it has ended; `error` if that was not our doing. */
  readonly onClosed: (closed: (error: Error | undefined) => void) => void
}

/** Not a name that is ever resolved: it makes Node ask our `lookup`, which it does not for an address. */
const placeholder = "lull-database"

/** Idle time before the first probe; Node's are a second apart, and ten of them unanswered are the end. */
const keepAliveAfter = 10_000

export const make = (options: Options): Connector => {
  const sockets = new Set<Socket>()
  let main: Socket | undefined
  let isOurs = false
  let isCanceled = false
  let isClosed = false
  let failure: Error | undefined
  const answers = makeAnswers()
  const closedListeners: Array<(error: Error | undefined) => void> = []

  const secured = (socket: Socket): Duplex => options.secure === undefined ? socket : options.secure(socket)

  const open = () => {
    const socket = newSocket(sockets)
    main = socket
    bounded(socket, options)
    socket.once("error", (error) => failure ??= error)
    if (options.path === undefined) socket.connect({ host: options.host, port: options.port })
    else socket.connect({ path: options.path })
    socket.once("close", () => {
      isClosed = true
      const error = isOurs ? undefined : failure ?? new Error("the connection was closed")
      for (const listener of closedListeners.splice(0)) listener(error)
    })
    const stream = secured(socket)
    stream.once("error", (error) => failure ??= error)
    const silent = () => {
      options.onSilent()
      abortSocket(socket, noAnswer(options.answerWithin))
    }
    return watch(stream, options.answerWithin, silent, answers)
  }

  /** Its own `lookup` waits for its turn: the driver writes at once, so that it has to be connecting. */
  const openForCancel = () => {
    isCanceled = true
    const socket = newSocket(sockets)
    if (options.path !== undefined) return socket.connect({ path: options.path })
    let over = () => {}
    socket.connect({
      host: placeholder,
      port: options.port,
      lookup: (_, lookupOptions, callback) => {
        over = options.enterCancel((refused) => {
          if (refused !== undefined) callback(refused, "", 0)
          else if (!socket.destroyed) lookup(options.host, lookupOptions, callback)
        })
      }
    })
    socket.once("connect", () => over())
    socket.once("close", () => over())
    return secured(socket)
  }

  return {
    stream: () => main === undefined ? open() : openForCancel(),
    end: (error) => {
      isOurs = true
      for (const socket of sockets) {
        if (socket === main && !answers.isWhole()) abortSocket(socket, error)
        else socket.destroy(error)
      }
    },
    letGo: () => {
      isOurs = true
    },
    isSound: () => main !== undefined && !main.destroyed && main.writable && !isCanceled,
    onClosed: (closed) => {
      if (isClosed) closed(isOurs ? undefined : failure)
      else closedListeners.push(closed)
    }
  }
}

const newSocket = (sockets: Set<Socket>) => {
  // Made before it connects: Node may call `lookup` before `connect` returns.
  const socket = new Socket().setNoDelay(true).setKeepAlive(true, keepAliveAfter)
  sockets.add(socket)
  return socket.once("close", () => sockets.delete(socket))
}

/** The time for the resolver is not counted: a name that resolves slowly is no server that does not answer. */
const bounded = (socket: Socket, options: Options) => {
  // On the real clock, on purpose, as the watch of its answers.
  let timer: NodeJS.Timeout | undefined
  let from = 0
  const begin = () => {
    if (timer !== undefined) return
    from = performance.now()
    timer = setTimeout(() => socket.destroy(notConnected(options)), options.connectWithin)
  }
  if (isIP(options.host) !== 0 || options.path !== undefined) begin()
  else socket.once("lookup", (error) => error ?? begin())
  socket.once("connect", () => options.onConnected(performance.now() - from))
  for (const event of ["connect", "close"]) socket.once(event, () => clearTimeout(timer))
}

const noAnswer = (within: number) =>
  Object.assign(new Error(`the server did not answer within ${Math.round(within)} ms`), { code: noAnswerCode })

const notConnected = ({ connectWithin, host, port }: Options) =>
  Object.assign(new Error(`connect ETIMEDOUT ${host}:${port}: no connection within ${Math.round(connectWithin)} ms`), {
    code: "ETIMEDOUT"
  })
