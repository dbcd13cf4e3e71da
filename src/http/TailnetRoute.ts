/** `/api/v1/tailnet`: a session of a peer, over a WebSocket. What is said there is `tailnet/Protocol`'s. */
import * as NodeHttpServerRequest from "@effect/platform-node/NodeHttpServerRequest"
import { Deferred, Effect, FiberSet, Result } from "effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as Response from "effect/http/HttpServerResponse"
import type { Socket } from "node:net"
import { Refused } from "../tailnet/Connection.ts"
import * as Protocol from "../tailnet/Protocol.ts"
import * as Session from "../tailnet/Session.ts"
import { fromSocket } from "../tailnet/SocketConnection.ts"
import * as Problem from "./Problem.ts"

export const layer = HttpRouter.use(Effect.fnUntraced(function*(router) {
  const sessions = yield* Session.make()
  // A session lasts for days, and the request is answered when it begins: of the fiber that served it, and of its context,
  // nothing is kept.
  const fork = yield* FiberSet.makeRuntime()

  const begin = Effect.gen(function*() {
    const request = yield* HttpServerRequest.HttpServerRequest
    const { headers, upgrade } = request
    const isUpgrade = headers["upgrade"]?.toLowerCase() === "websocket" &&
      /\bupgrade\b/i.test(headers["connection"] ?? "")
    if (!isUpgrade) {
      return Problem.respond(426, "the tailnet is spoken over a WebSocket", {}, { upgrade: "websocket" })
    }
    const isUpgraded = yield* Deferred.make<void>()
    fork(session(upgrade, isUpgraded, takenBy(NodeHttpServerRequest.toIncomingMessage(request).socket), sessions))
    yield* Deferred.await(isUpgraded)
    return Response.empty()
  })

  yield* router.add("GET", Protocol.path, begin)
}))

const session = (
  upgrade: HttpServerRequest.HttpServerRequest["upgrade"],
  isUpgraded: Deferred.Deferred<void>,
  isTaken: Effect.Effect<void>,
  sessions: Effect.Success<ReturnType<typeof Session.make>>
) =>
  upgrade.pipe(
    Effect.flatMap((socket) => fromSocket(socket, decode, isTaken)),
    Effect.ensuring(Deferred.succeed(isUpgraded, undefined)),
    Effect.flatMap((connection) => sessions.serve(connection)),
    Effect.scoped,
    // The connection broke before there was a session: nobody is left who could be told.
    Effect.ignore
  )

/** Waits while more is to be sent than the kernel takes. Its end is noticed by who reads. */
const takenBy = (socket: Socket): Effect.Effect<void> =>
  Effect.suspend(() =>
    socket.writableNeedDrain
      ? Effect.callback<void>((resume) => {
        const done = () => {
          socket.off("drain", done)
          socket.off("close", done)
          resume(Effect.void)
        }
        socket.on("drain", done)
        socket.on("close", done)
        return Effect.sync(() => {
          socket.off("drain", done)
          socket.off("close", done)
        })
      })
      : Effect.void
  )

const decode = (text: string): ReadonlyArray<Protocol.Request | Protocol.UnknownRequest> => {
  const decoded = Protocol.decodeRequest(text)
  if (Result.isSuccess(decoded)) return [decoded.success]
  throw new Refused({ code: "badMessage", detail: decoded.failure })
}
