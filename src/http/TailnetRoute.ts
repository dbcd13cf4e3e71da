/** `/api/v1/tailnet`: a session of a peer, over a WebSocket. What is said there is `tailnet/Protocol`'s. */
import { Effect, Result } from "effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as Response from "effect/http/HttpServerResponse"
import { Replica } from "../database/Replica.ts"
import { Refused } from "../tailnet/Connection.ts"
import type { Coordinator } from "../tailnet/Coordinator.ts"
import * as Protocol from "../tailnet/Protocol.ts"
import * as Session from "../tailnet/Session.ts"
import { fromSocket } from "../tailnet/SocketConnection.ts"
import * as Problem from "./Problem.ts"

export const layer = HttpRouter.use(Effect.fnUntraced(function*(router) {
  const context = yield* Effect.context<Coordinator>()
  const replica = yield* Replica

  const session = Effect.gen(function*() {
    const request = yield* HttpServerRequest.HttpServerRequest
    if (request.headers["upgrade"]?.toLowerCase() !== "websocket") {
      return Problem.respond(426, "the tailnet is spoken over a WebSocket", {}, { upgrade: "websocket" })
    }
    const connection = yield* fromSocket(yield* request.upgrade, decode)
    yield* Session.serve(connection, replica.name)
    return Response.empty()
  }).pipe(
    Effect.scoped,
    // The connection broke before there was a session: nobody is left who could be told.
    Effect.catchTags({
      SocketError: () => Effect.succeed(Response.empty()),
      HttpServerError: () => Effect.succeed(Response.empty())
    }),
    Effect.provideContext(context)
  )

  yield* router.add("GET", Protocol.path, session)
}))

const decode = (text: string): ReadonlyArray<Protocol.Request> => {
  const decoded = Protocol.decodeRequest(text)
  if (Result.isSuccess(decoded)) return [decoded.success]
  throw new Refused({ code: "badMessage", detail: decoded.failure })
}
