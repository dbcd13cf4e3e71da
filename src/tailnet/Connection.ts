/**
 * A connection between a peer and a coordinator, whatever carries it: messages both ways, in order, until it closes.
 */
import { Cause, Data, Effect, Queue } from "effect"
import type { Event, RefusalCode, Request, UnknownRequest } from "./Protocol.ts"

/** It is over. `code` is that of the WebSocket's close, where one was given. */
export class ConnectionClosed extends Data.TaggedError("ConnectionClosed")<{
  readonly code: number
  readonly reason: string
}> {
  override get message() {
    return `the connection was closed: ${this.reason === "" ? "without a reason" : this.reason} (${this.code})`
  }
}

/** The other side sent what it may not. */
export class Refused extends Data.TaggedError("Refused")<{
  readonly code: RefusalCode
  readonly detail: string
}> {
  override get message() {
    return this.detail
  }
}

export interface Connection<In, Out> {
  /** Waits for the next messages. */
  readonly receive: Effect.Effect<ReadonlyArray<In>, ConnectionClosed | Refused>
  /** Done when the message is on its way, and the other side takes it: it is not kept here. */
  readonly send: (message: Out) => Effect.Effect<void, ConnectionClosed>
  readonly close: (code: number, reason: string) => Effect.Effect<void>
}

export type PeerConnection = Connection<Event, Request>
export type CoordinatorConnection = Connection<Request | UnknownRequest, Event>

/** Messages on their way within the process. */
const onTheWay = 64

/** Both ends of a connection within the process. */
export const makePair: Effect.Effect<readonly [PeerConnection, CoordinatorConnection]> = Effect.gen(function*() {
  const requests = yield* Queue.bounded<Request | UnknownRequest, ConnectionClosed>(onTheWay)
  const events = yield* Queue.bounded<Event, ConnectionClosed>(onTheWay)
  let closed: ConnectionClosed | undefined
  const end = <In, Out>(
    incoming: Queue.Queue<In, ConnectionClosed>,
    outgoing: Queue.Queue<Out, ConnectionClosed>
  ): Connection<In, Out> => ({
    receive: Effect.catchCause(
      Queue.takeAll(incoming),
      (cause) => closed !== undefined && !Cause.hasInterruptsOnly(cause) ? Effect.fail(closed) : Effect.failCause(cause)
    ),
    send: (message) =>
      Effect.flatMap(
        Queue.offer(outgoing, message),
        (isTaken) => isTaken || closed === undefined ? Effect.void : Effect.fail(closed)
      ),
    // The other side reads what was sent before; this one reads no more.
    close: (code, reason) =>
      Effect.suspend(() => {
        closed ??= new ConnectionClosed({ code, reason })
        Queue.failCauseUnsafe(outgoing, Cause.fail(closed))
        return Queue.shutdown(incoming)
      })
  })
  return [end(events, requests), end(requests, events)] as const
})
