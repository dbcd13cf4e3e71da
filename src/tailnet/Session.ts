/**
 * The coordinator's side of a session: admits a peer, takes what it asks for, tells it what it has to know, and ends when either
 * side is done, or silent.
 *
 * What a peer sends is bounded in size, in number and in time, and it is told why when it is closed. What it does not take is not
 * kept: the newest of each partner waits in the coordinator, and a peer that takes nothing for a while is closed.
 */
import { Clock, type Context, Duration, Effect, Result } from "effect"
import { type ConnectionClosed, type CoordinatorConnection, Refused } from "./Connection.ts"
import { Coordinator, type Next, type PeerSession } from "./Coordinator.ts"
import { limits } from "./Peer.ts"
import * as Protocol from "./Protocol.ts"
import * as ReconnectSpread from "./ReconnectSpread.ts"

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
    const live = new Live(connection, options, yield* Clock.currentTimeMillis)
    const run = Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        restore(hello(live, coordinator)),
        ([first, others]) =>
          Effect.flatMap(coordinator.open(first), (session) =>
            Effect.ensuring(
              restore(converse(live, coordinator, session, replica, others)),
              Effect.suspend(() => session.close(live.isGraceful))
            ))
      )
    )
    return yield* run.pipe(
      Effect.result,
      Effect.tap((ended) => sayWhy(connection, ended)),
      Effect.map((ended): ConnectionClosed | Refused | undefined =>
        Result.isFailure(ended) ? ended.failure : undefined
      ),
      Effect.ensuring(connection.close(1000, ""))
    )
  }
)

/** A session while it lasts. There are thousands, so that what is the same for all of them is not kept by each. */
class Live {
  readonly connection: CoordinatorConnection
  readonly keepAliveMillis: number
  readonly patienceMillis: number
  heardAt: number
  sentAt: number
  /** What the peer was told last of how far the peers here have to spread. */
  spreadMillis = 0
  /** A message is under way that the peer has not taken. */
  sendingSince: number | undefined
  /** The peer said that it goes. */
  isGraceful = false

  constructor(connection: CoordinatorConnection, options: Options, now: number) {
    this.connection = connection
    this.keepAliveMillis = Duration.toMillis(options.keepAlive ?? Duration.seconds(15))
    this.patienceMillis = Duration.toMillis(options.patience ?? Duration.seconds(10))
    this.heardAt = now
    this.sentAt = now
  }

  send(event: Protocol.Event): Effect.Effect<void, ConnectionClosed> {
    return Effect.flatMap(Clock.currentTimeMillis, (now) => {
      this.sentAt = this.sendingSince = now
      return Effect.map(this.connection.send(event), () => {
        this.sendingSince = undefined
      })
    })
  }
}

/** Waits for it, and refuses what cannot be admitted. With it comes what was sent behind it. */
const hello = Effect.fnUntraced(function*(live: Live, coordinator: Context.Service.Shape<typeof Coordinator>) {
  const [first, ...others] = yield* Effect.timeoutOrElse(live.connection.receive, {
    duration: live.patienceMillis,
    orElse: () => Effect.fail(new Refused({ code: "silent", detail: "the first message, a hello, did not come" }))
  })
  live.heardAt = yield* Clock.currentTimeMillis
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
  return [first, others] as const
})

const converse = Effect.fnUntraced(function*(
  live: Live,
  coordinator: Context.Service.Shape<typeof Coordinator>,
  session: PeerSession,
  replica: string,
  others: ReadonlyArray<Protocol.Request>
) {
  live.spreadMillis = ReconnectSpread.millisFor(coordinator.peers())
  yield* live.send({
    type: "welcome",
    session: session.id,
    ...(session.resume === undefined ? {} : { resume: session.resume }),
    keepAliveSeconds: live.keepAliveMillis / 1_000,
    replica,
    ...(live.spreadMillis === 0 ? {} : { reconnectSpreadMillis: live.spreadMillis })
  })
  if (coordinator.relays.length > 0) yield* live.send({ type: "relayMap", regions: coordinator.relays })
  return yield* Effect.raceAllFirst([tell(live, session), watch(live, coordinator), listen(live, session, others)])
})

/** One timer for all that can take too long, and none for each message. */
const watch = Effect.fnUntraced(function*(live: Live, coordinator: Context.Service.Shape<typeof Coordinator>) {
  const checkMillis = Math.min(live.keepAliveMillis / 3, live.patienceMillis / 2)
  while (true) {
    yield* Effect.sleep(checkMillis)
    const now = yield* Clock.currentTimeMillis
    if (live.sendingSince !== undefined) {
      if (now - live.sendingSince < live.patienceMillis) continue
      return yield* new Refused({ code: "silent", detail: "it takes nothing that is sent to it" })
    }
    if (now - live.heardAt >= 2.5 * live.keepAliveMillis) {
      return yield* new Refused({ code: "silent", detail: "nothing was heard of it" })
    }
    const spreadMillis = ReconnectSpread.millisFor(coordinator.peers())
    if (now - live.sentAt >= live.keepAliveMillis - checkMillis || spreadMillis > 2 * live.spreadMillis) {
      live.spreadMillis = spreadMillis
      yield* live.send({ type: "ping", ...(spreadMillis === 0 ? {} : { reconnectSpreadMillis: spreadMillis }) })
    }
  }
})

const tell = (live: Live, session: PeerSession) =>
  Effect.forever(Effect.flatMap(session.next, (next) => tellNext(live, next)))

const tellNext = (live: Live, next: Next): Effect.Effect<void, ConnectionClosed | Refused> => {
  switch (next._tag) {
    case "Updates":
      return tellUpdates(live, next)
    case "Replaced":
      return Effect.fail(new Refused({ code: "replaced", detail: "a newer session of the same peer replaced it" }))
    case "GoingAway":
      return Effect.andThen(
        live.send({ type: "goingAway", retryAfterMillis: next.retryAfterMillis }),
        Effect.fail(new Refused({ code: "goingAway", detail: "this replica ends" }))
      )
  }
}

const tellUpdates = (live: Live, { isSynced, updates }: Extract<Next, { _tag: "Updates" }>) => {
  if (!isSynced) return live.send({ type: "updates", updates })
  return updates.length === 0
    ? live.send({ type: "synced" })
    : Effect.andThen(live.send({ type: "updates", updates }), live.send({ type: "synced" }))
}

/** Until the peer says that it goes. It is alive by what it sends, and nothing else. */
const listen = Effect.fnUntraced(
  function*(live: Live, session: PeerSession, first: ReadonlyArray<Protocol.Request>) {
    let tokens: number = limits.messagesAtOnce
    let refilled = live.heardAt
    let messages = first
    while (true) {
      tokens = Math.min(limits.messagesAtOnce, tokens + (live.heardAt - refilled) * limits.messagesPerSecond / 1_000)
      refilled = live.heardAt
      for (const message of messages) {
        if (--tokens < 0) {
          return yield* new Refused({
            code: "tooMany",
            detail: `more than ${limits.messagesPerSecond} messages a second`
          })
        }
        if (message.type === "disconnect") {
          live.isGraceful = true
          return
        }
        const refusal = handle(session, message)
        if (refusal !== undefined) return yield* refusal
      }
      messages = []
      messages = yield* live.connection.receive
      live.heardAt = yield* Clock.currentTimeMillis
    }
  }
)

const handle = (
  session: PeerSession,
  message: Exclude<Protocol.Request, { type: "disconnect" }>
): Refused | undefined => {
  switch (message.type) {
    case "hello":
      return new Refused({ code: "badMessage", detail: "there was a hello before" })
    case "node":
      session.setNode(message.node)
      return undefined
    case "addTunnel":
      return session.addTunnel(message.peer)
        ? undefined
        : new Refused({ code: "tooMany", detail: `a peer has at most ${limits.tunnels} tunnels` })
    case "removeTunnel":
      session.removeTunnel(message.peer)
      return undefined
    case "readyForHandshake":
      session.ready(message.peer)
      return undefined
    case "pong":
      return undefined
  }
}

const sayWhy = (connection: CoordinatorConnection, ended: Result.Result<void, ConnectionClosed | Refused>) => {
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
}
