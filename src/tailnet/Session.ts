/**
 * The coordinator's side of a session: admits a peer, takes what it asks for, tells it what it has to know, and ends when either
 * side is done, or silent.
 *
 * What a peer sends is bounded in size, in number and in time, and it is told why when it is closed. What it does not take is not
 * kept: the newest of each partner waits in the coordinator, and a peer that takes nothing for a while is closed.
 */
import { Clock, Duration, Effect, Result } from "effect"
import { type ConnectionClosed, type CoordinatorConnection, Refused } from "./Connection.ts"
import { Coordinator, type PeerSession } from "./Coordinator.ts"
import { limits } from "./Peer.ts"
import * as Protocol from "./Protocol.ts"

export interface Options {
  /** Something is sent at least so often. Who sends nothing for two and a half times as long is gone. Default 15 seconds. */
  readonly keepAlive?: Duration.Input | undefined
  /** For the first message, and for each that is sent to be taken. Default 10 seconds. */
  readonly patience?: Duration.Input | undefined
}

/** Runs a session until it is over. Does not fail: why it ended is told to the peer, and returned. */
export const serve = Effect.fnUntraced(
  function*(connection: CoordinatorConnection, replica: string, options: Options = {}) {
    const coordinator = yield* Coordinator
    const keepAlive = Duration.fromInputUnsafe(options.keepAlive ?? Duration.seconds(15))
    const patience = Duration.fromInputUnsafe(options.patience ?? Duration.seconds(10))
    const checkEvery = Duration.min(Duration.times(keepAlive, 1 / 3), Duration.times(patience, 1 / 2))
    let heardAt = yield* Clock.currentTimeMillis
    let sentAt = heardAt
    /** A message is under way that the peer has not taken. */
    let sendingSince: number | undefined

    const isSent = Effect.sync(() => {
      sendingSince = undefined
    })
    const send = (event: Protocol.Event) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        sentAt = sendingSince = now
        return Effect.andThen(connection.send(event), isSent)
      })

    /** One timer for all that can take too long, and none for each message. */
    const watch = Effect.forever(Effect.gen(function*() {
      yield* Effect.sleep(checkEvery)
      const now = yield* Clock.currentTimeMillis
      if (sendingSince !== undefined) {
        if (now - sendingSince < Duration.toMillis(patience)) return
        return yield* new Refused({ code: "silent", detail: "it takes nothing that is sent to it" })
      }
      if (now - heardAt >= 2.5 * Duration.toMillis(keepAlive)) {
        return yield* new Refused({ code: "silent", detail: "nothing was heard of it" })
      }
      if (now - sentAt >= Duration.toMillis(keepAlive) - Duration.toMillis(checkEvery)) yield* send({ type: "ping" })
    }))

    const run = Effect.gen(function*() {
      const [first, ...others] = yield* Effect.timeoutOrElse(connection.receive, {
        duration: patience,
        orElse: () => Effect.fail(new Refused({ code: "silent", detail: "the first message, a hello, did not come" }))
      })
      heardAt = yield* Clock.currentTimeMillis
      const hello = yield* admit(first)
      let isGraceful = false
      return yield* Effect.acquireUseRelease(
        coordinator.open(hello),
        (session) =>
          Effect.gen(function*() {
            yield* send({
              type: "welcome",
              session: session.id,
              ...(session.resume === undefined ? {} : { resume: session.resume }),
              keepAliveSeconds: Duration.toSeconds(keepAlive),
              replica
            })
            if (coordinator.relays.length > 0) yield* send({ type: "relayMap", regions: coordinator.relays })
            return yield* Effect.raceAllFirst([
              tell(session),
              watch,
              Effect.andThen(
                listen(session, others),
                Effect.sync(() => {
                  isGraceful = true
                })
              )
            ])
          }),
        (session) => Effect.sync(() => session.close(isGraceful))
      )
    })

    const admit = Effect.fnUntraced(function*(first: Protocol.Request | undefined) {
      if (first?.type !== "hello") {
        return yield* new Refused({ code: "badMessage", detail: "the first message has to be a hello" })
      }
      if (first.version !== Protocol.version) {
        return yield* new Refused({
          code: "version",
          detail: `this coordinator speaks version ${Protocol.version} of the protocol, and not ${first.version}`
        })
      }
      if (first.resume !== undefined) {
        const problem = yield* coordinator.checkResume(first.peer, first.resume)
        if (problem !== undefined) return yield* new Refused({ code: "badResume", detail: problem })
      }
      return first
    })

    const tell = (session: PeerSession) =>
      Effect.forever(Effect.flatMap(session.next, (next): Effect.Effect<void, ConnectionClosed | Refused> => {
        switch (next._tag) {
          case "Updates":
            return send({ type: "updates", updates: next.updates })
          case "Replaced":
            return Effect.fail(
              new Refused({ code: "replaced", detail: "a newer session of the same peer replaced it" })
            )
          case "GoingAway":
            return Effect.andThen(
              send({ type: "goingAway", retryAfterMillis: next.retryAfterMillis }),
              Effect.fail(new Refused({ code: "goingAway", detail: "this replica ends" }))
            )
        }
      }))

    /** Until the peer says that it goes. It is alive by what it sends, and nothing else. */
    const listen = Effect.fnUntraced(function*(session: PeerSession, first: ReadonlyArray<Protocol.Request>) {
      let tokens: number = limits.messagesAtOnce
      let refilled = heardAt
      let messages = first
      while (true) {
        tokens = Math.min(limits.messagesAtOnce, tokens + (heardAt - refilled) * limits.messagesPerSecond / 1_000)
        refilled = heardAt
        for (const message of messages) {
          if (--tokens < 0) {
            return yield* new Refused({
              code: "tooMany",
              detail: `more than ${limits.messagesPerSecond} messages a second`
            })
          }
          if (message.type === "disconnect") return
          yield* handle(session, message)
        }
        messages = yield* connection.receive
        heardAt = yield* Clock.currentTimeMillis
      }
    })

    return yield* run.pipe(
      Effect.result,
      Effect.tap((ended) => {
        if (Result.isSuccess(ended)) return connection.close(1000, "goodbye")
        if (ended.failure._tag === "ConnectionClosed") return Effect.void
        const { code, detail } = ended.failure
        return Effect.ignore(Effect.timeout(
          Effect.andThen(
            code === "goingAway" ? Effect.void : connection.send({ type: "error", code, detail }),
            connection.close(Protocol.closeCodes[code], detail.slice(0, 120))
          ),
          "1 second"
        ))
      }),
      Effect.map((ended): ConnectionClosed | Refused | undefined =>
        Result.isFailure(ended) ? ended.failure : undefined
      ),
      Effect.ensuring(connection.close(1000, ""))
    )
  }
)

const handle = (session: PeerSession, message: Exclude<Protocol.Request, { type: "disconnect" }>) => {
  switch (message.type) {
    case "hello":
      return Effect.fail(new Refused({ code: "badMessage", detail: "there was a hello before" }))
    case "node":
      session.setNode(message.node)
      return Effect.void
    case "addTunnel":
      return session.addTunnel(message.peer)
        ? Effect.void
        : Effect.fail(new Refused({ code: "tooMany", detail: `a peer has at most ${limits.tunnels} tunnels` }))
    case "removeTunnel":
      session.removeTunnel(message.peer)
      return Effect.void
    case "readyForHandshake":
      session.ready(message.peer)
      return Effect.void
    case "pong":
      return Effect.void
  }
}
