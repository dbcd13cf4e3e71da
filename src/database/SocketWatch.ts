/**
 * Watches whether a PostgreSQL server owes an answer. What it sends is followed message by message, by the five bytes that each
 * begins with: an answer is whole with `ReadyForQuery`, and until then each piece of it shows that the server lives. So a large
 * result that comes slowly is no silence, half of a result and then nothing is one, and neither what we go on writing nor a
 * notification in between changes what is owed.
 *
 * Under TLS it watches what comes out of `TlsStream`, as the bytes of the socket say nothing.
 */
import type { Duplex } from "node:stream"

/** What has been sent by the server, as far as it says whether it owes more. Pure but for itself. */
export interface Answers {
  /** True when the answer to all that was asked is whole. */
  readonly isWhole: () => boolean
  /** It has been, once: the login is over. */
  readonly hasBeenReady: () => boolean
  /** Of the FATAL error that the server has sent last: with it the server closes the connection. */
  readonly fatal: () => string | undefined
  /** How many statements the server has ended as canceled, or as taking too long. */
  readonly canceled: () => number
  readonly asked: () => void
  readonly read: (bytes: Uint8Array) => void
}

const headerLength = 5
const readyForQuery = 0x5a
const errorResponse = 0x45
const queryCanceled = "57014"

/** An error's severity and code are its first fields; in any language they are in so many bytes. */
const errorHead = 80

export const makeAnswers = (): Answers => {
  let isWhole = true
  let header = 0
  let type = 0
  let length = 0
  /** Of the current message, what is still to come. */
  let rest = 0
  let error = ""
  let fatal: string | undefined
  let canceled = 0
  let hasBeenReady = false
  /** `V` is the severity as no language changes it, `C` the code. */
  const readError = () => {
    const code = /\0C([0-9A-Z]{5})\0/.exec(error)?.[1] ?? ""
    if (/\0V(?:FATAL|PANIC)\0/.test(error)) fatal = code
    if (code === queryCanceled) canceled++
    error = ""
  }
  return {
    hasBeenReady: () => hasBeenReady,
    fatal: () => fatal,
    canceled: () => canceled,
    isWhole: () => isWhole,
    asked: () => {
      isWhole = false
    },
    read: (bytes) => {
      let at = 0
      while (at < bytes.length) {
        if (rest > 0) {
          const taken = Math.min(rest, bytes.length - at)
          if (type === errorResponse && error.length < errorHead) {
            error += Buffer.from(bytes.subarray(at, at + Math.min(taken, errorHead))).toString("latin1")
          }
          rest -= taken
          at += taken
        } else {
          const byte = bytes[at++] ?? 0
          if (header === 0) type = byte
          else length = length * 256 + byte
          header++
          if (header < headerLength) continue
          // The length counts itself, and not the type.
          rest = Math.max(0, length - 4)
          header = 0
          length = 0
        }
        if (rest > 0 || header > 0) continue
        if (type === readyForQuery) isWhole = hasBeenReady = true
        else if (type === errorResponse) readError()
      }
    }
  }
}

/** Calls `silent` when the server owes an answer and has sent nothing for so many milliseconds. */
export const watch = (
  socket: Duplex,
  answerWithin: () => number,
  silent: () => void,
  answers: Answers = makeAnswers()
): Duplex => {
  // A watchdog on the real clock, on purpose: it guards a real socket, and has to go off while every fiber hangs.
  let timer: NodeJS.Timeout | undefined
  const stop = () => {
    clearTimeout(timer)
    timer = undefined
  }
  const start = () => {
    timer = setTimeout(() => {
      timer = undefined
      // Who does not read what is sent cannot say that nothing is sent.
      if (socket.isPaused()) start()
      else silent()
    }, answerWithin())
  }
  socket.write = new Proxy(socket.write, {
    apply(write, self, parameters) {
      answers.asked()
      if (timer === undefined) start()
      return Reflect.apply(write, self, parameters)
    }
  })
  socket.on("data", (bytes: Uint8Array) => {
    answers.read(bytes)
    if (answers.isWhole()) stop()
    else if (timer !== undefined) timer.refresh()
  })
  return socket.on("close", stop)
}
