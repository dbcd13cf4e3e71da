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
 * - **The turn of a further socket**, which the driver asks for to cancel a statement, and for a stream of rows: see `Dialer`.
 */
import { lookup } from "node:dns"
import { isIP, Socket } from "node:net"
import type { Duplex } from "node:stream"
import { abortSocket } from "./abortSocket.ts"
import { type Answers, makeAnswers, watch } from "./SocketWatch.ts"
import { noAnswerCode } from "./Unavailable.ts"

export interface Options {
  readonly host: string
  readonly port: number
  /** Of a Unix socket: then host and port are not used. */
  readonly path?: string | undefined
  /** Makes of a socket the stream that the driver speaks through. Default: the socket itself. */
  readonly secure?: ((socket: Socket) => Duplex) | undefined
  /** In milliseconds: for an answer. */
  readonly answerWithin: number
  /** In milliseconds: for the login. */
  readonly loginWithin: number
  /** In milliseconds: from the beginning of the TCP connection to its end. */
  readonly connectWithin: number
  /** The connection is there, after so many milliseconds. */
  readonly onConnected: (millis: number) => void
  /** The server owed an answer and stayed silent. */
  readonly onSilent: () => void
  /**
   * Calls back when it is the turn of a further socket, or with the reason why not; gives a way to say that it is over, or that
   * it failed.
   */
  readonly enterFurther: (kind: FurtherKind, begin: (refused: Error | undefined) => void) => (error?: Error) => void
}

export interface Connector {
  /** The driver's `stream` factory: first for the connection, then for what it needs beside that. */
  readonly stream: () => Duplex
  /** Ends the connection, with this error for who works with it. */
  readonly end: (error: Error) => void
  /** From here on its end is our own doing. */
  readonly letGo: () => void
  /** It is there, and each cancel request for it has hit: one that comes late would end the next statement. */
  readonly isSound: () => boolean
  /** Calls back once when it has ended; `error` if that was not our doing. */
  readonly onClosed: (closed: (error: Error | undefined) => void) => void
}

/** A cancel request; or a connection like the first one, for a stream. */
export type FurtherKind = "cancel" | "work"

/** The server's own limit for sessions that do nothing. */
const idleSessionTimeout = "57P05"

/** Not a name that is ever resolved: it makes Node ask our `lookup`, which it does not for an address. */
const placeholder = "lull-database"

/** Idle time before the first probe; Node's are a second apart, and ten of them unanswered are the end. */
const keepAliveAfter = 10_000

export const make = (options: Options): Connector => {
  const sockets = new Set<Socket>()
  let main: Socket | undefined
  let isOurs = false
  let cancels = 0
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
      for (const listener of closedListeners.splice(0)) listener(brokenBy())
    })
    const stream = secured(socket)
    stream.once("error", (error) => failure ??= error)
    return watched(socket, stream, answers)
  }

  /** By our own doing, or because nobody had used it for as long as the server bears. */
  const hasEnded = () => answers.fatal() === idleSessionTimeout || (isOurs && answers.fatal() === undefined)

  const brokenBy = () => hasEnded() ? undefined : failure ?? new Error("the connection was closed")

  const watched = (socket: Socket, stream: Duplex, answers: Answers, isExempt = () => false) => {
    const within = () => answers.hasBeenReady() ? options.answerWithin : options.loginWithin
    const silent = () => {
      if (isExempt()) return
      options.onSilent()
      abortSocket(socket, noAnswer(within()))
    }
    return watch(stream, within, silent, answers)
  }

  /**
   * The driver asks for a further socket to cancel a statement, or for a stream of rows, which has a connection of its own. Which
   * of them it is shows in what it writes first; and it writes at once, so that the socket has to be connecting.
   */
  const openFurther = () => {
    const socket = newSocket(sockets)
    const connect = connectLater(socket, options)
    const answers = makeAnswers()
    let isCancel = false
    let over: (error?: Error) => void = () => {}
    let error: Error | undefined
    const stream = watched(socket, secured(socket), answers, () => isCancel)
    const enter = (kind: FurtherKind) => {
      over = options.enterFurther(kind, (refused) => {
        if (refused !== undefined) return socket.destroy(refused)
        if (socket.destroyed) return
        bounded(socket, options)
        connect()
      })
    }
    onFirstWrite(stream, (written) => {
      isCancel = isCancelRequest(written)
      if (isCancel) cancels++
      enter(isCancel ? "cancel" : "work")
    })
    stream.on("data", () => {
      if (answers.hasBeenReady()) over()
    })
    socket.once("error", (failed) => error = failed)
    socket.once("connect", () => {
      if (isCancel) over()
    })
    socket.once(
      "close",
      () => over(isCancel || answers.hasBeenReady() ? undefined : error ?? refusedWith(answers.fatal()))
    )
    return stream
  }

  return {
    stream: () => main === undefined ? open() : openFurther(),
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
    isSound: () => main !== undefined && !main.destroyed && main.writable && cancels <= answers.canceled(),
    onClosed: (closed) => {
      if (isClosed) closed(brokenBy())
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

/** A socket that takes what is written to it, and connects when the result is called. */
const connectLater = (socket: Socket, { host, path, port }: Options): () => void => {
  if (path !== undefined) {
    socket.cork()
    socket.once("connect", () => socket.uncork())
    return () => socket.connect({ path })
  }
  let connect = () => {}
  socket.connect({
    host: placeholder,
    port,
    lookup: (_, lookupOptions, callback) => {
      connect = () => lookup(host, lookupOptions, callback)
    }
  })
  return () => connect()
}

const onFirstWrite = (stream: Duplex, written: (bytes: unknown) => void) => {
  const { write } = stream
  let isFirst = true
  stream.write = new Proxy(write, {
    apply(target, self, parameters) {
      if (isFirst) {
        isFirst = false
        written(parameters[0])
      }
      return Reflect.apply(target, self, parameters)
    }
  })
}

/** Sixteen bytes: their number, this code, and the session that it concerns. */
const isCancelRequest = (written: unknown) =>
  written instanceof Uint8Array && written.length >= 8 &&
  new DataView(written.buffer, written.byteOffset, 8).getInt32(4) === 80_877_102

const refusedWith = (code: string | undefined) =>
  Object.assign(new Error("the server refused a connection for a stream of rows"), code === undefined ? {} : { code })

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
