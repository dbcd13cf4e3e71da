/**
 * How a peer reaches a coordinator: in its own process, for embedding and tests, or over a WebSocket.
 */
import { Effect, Scope } from "effect"
import * as Socket from "effect/socket/Socket"
import { makePair } from "./Connection.ts"
import { DialFailed, dialFailure } from "./DialFailed.ts"
import * as Protocol from "./Protocol.ts"
import * as Session from "./Session.ts"
import { fromSocket } from "./SocketConnection.ts"
import type { Transport } from "./TailnetLoop.ts"

/** To the coordinator of this process. Sessions end with the scope. */
export const inProcess = Effect.fnUntraced(function*(options: Session.Options = {}) {
  const sessions = yield* Session.make(options)
  const scope = yield* Scope.Scope
  const transport: Transport = {
    name: "the coordinator of this process",
    dial: Effect.gen(function*() {
      const [peer, coordinator] = yield* makePair
      yield* Effect.forkIn(sessions.serve(coordinator), scope)
      return peer
    })
  }
  return transport
})

export interface WebSocketOptions {
  /** `http://host:7070`, or `ws://…`; with a prefix of the path where a proxy has one, as `https://example.com/lull`. */
  readonly address: string
  /** Sent as `Authorization: Bearer …`. */
  readonly token?: string | undefined
}

/** The address of the tailnet of a service; `undefined`: it is no address. */
export const webSocketUrl = (address: string): string | undefined => {
  if (!URL.canParse(address)) return undefined
  const url = new URL(address)
  const protocol = { "http:": "ws:", "https:": "wss:", "ws:": "ws:", "wss:": "wss:" }[url.protocol]
  if (protocol === undefined) return undefined
  url.protocol = protocol
  const path = url.pathname.replace(/\/+$/, "")
  url.pathname = path.endsWith(Protocol.path) ? path : `${path}${Protocol.path}`
  return url.href
}

/** To a service, over the network. */
export const webSocket = Effect.fnUntraced(function*({ address, token }: WebSocketOptions) {
  const constructor = yield* Socket.WebSocketConstructor
  const transport: Transport = {
    name: address,
    dial: Effect.gen(function*() {
      const url = webSocketUrl(address)
      if (url === undefined) return yield* new DialFailed({ address, reason: "it is no address, as http://host:7070" })
      const socket = yield* Socket.makeWebSocket(
        url,
        token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } }
      ).pipe(Effect.provideService(Socket.WebSocketConstructor, constructor))
      return yield* fromSocket(socket, (text) => {
        const event = Protocol.decodeEvent(text)
        return event === undefined ? [] : [event]
      })
    }).pipe(
      Effect.catchTag("SocketError", (error) => Effect.fail(dialFailure(address, error, token !== undefined)))
    )
  }
  return transport
})
