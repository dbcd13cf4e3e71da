/** A connection over a WebSocket: a message is a text frame. */
import { Effect, type Scope } from "effect"
import * as Socket from "effect/socket/Socket"
import { errorText } from "../logging/ErrorText.ts"
import { type Connection, ConnectionClosed, Refused } from "./Connection.ts"
import { encode, type Event, type Request } from "./Protocol.ts"

const decoder = new TextDecoder()

/**
 * `decode` may throw: what it cannot read is refused. `isTaken` completes when the other side has taken enough of what was sent: a
 * WebSocket buffers without bound, and says nothing of it.
 */
export const fromSocket = Effect.fnUntraced(function*<In, Out extends Request | Event>(
  socket: Socket.Socket,
  decode: (text: string) => ReadonlyArray<In>,
  isTaken: Effect.Effect<void> = Effect.void
): Effect.fn.Return<Connection<In, Out>, Socket.SocketError, Scope.Scope> {
  const { pull } = yield* socket.reader
  const { write } = yield* socket.writer
  let refused: Refused | undefined
  const receiveFrames: Connection<In, Out>["receive"] = Effect.flatMap(pull, (frames) => {
    const messages: Array<In> = []
    try {
      for (const frame of frames) messages.push(...decode(typeof frame === "string" ? frame : decoder.decode(frame)))
    } catch (error) {
      refused = error instanceof Refused
        ? error
        : new Refused({ code: "badMessage", detail: errorText(error) })
      // Those before it count.
      return messages.length > 0 ? Effect.succeed(messages) : Effect.fail(refused)
    }
    // Frames of a later version are read over.
    return messages.length > 0 ? Effect.succeed(messages) : receiveFrames
  }).pipe(Effect.catchTag("SocketError", (error) => Effect.fail(closed(error))))
  const receive = Effect.suspend(() => refused === undefined ? receiveFrames : Effect.fail(refused))
  const connection: Connection<In, Out> = {
    receive,
    send: (message) => Effect.andThen(Effect.mapError(write(encode(message)), closed), isTaken),
    close: (code, reason) => Effect.ignore(write(new Socket.CloseEvent(code, reason)))
  }
  return connection
})

const closed = (error: Socket.SocketError) =>
  error.reason._tag === "SocketCloseError"
    ? new ConnectionClosed({ code: error.reason.code, reason: error.reason.closeReason ?? "" })
    : new ConnectionClosed({ code: 1006, reason: errorText(error) })
