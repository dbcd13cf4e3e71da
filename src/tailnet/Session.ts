/**
 * The coordinator's side of a session: admits a peer, takes what it asks for, tells it what it has to know, and ends when either
 * side is done, or silent.
 *
 * What a peer sends is bounded in size, in number and in time, and it is told why when it is closed. What it does not take is not
 * kept: the newest of each partner waits in the coordinator, and a peer that takes nothing for a while is closed.
 */
import { type Context, Deferred, Duration, Effect, Exit, Fiber, Result } from "effect"
import { Replica } from "../database/Replica.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
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

/** Serves sessions, all of them under one timer, until the scope ends. */
export const make = Effect.fnUntraced(function*(options: Options = {}) {
  const replica = yield* Replica
  const coordinator = yield* Coordinator
  const host: Host = {
    coordinator,
    replica: replica.name,
    keepAliveMillis: Duration.toMillis(options.keepAlive ?? Duration.seconds(15)),
    patienceMillis: Duration.toMillis(options.patience ?? Duration.seconds(10)),
    rounds: Array.from({ length: roundsOfCheck }, () => new Set<Live>()),
    turn: 0,
    stoodStillMillis: 0,
    wokeAt: Number.NEGATIVE_INFINITY
  }
  yield* Effect.forkScoped(watch(host))
  return { serve: (connection: CoordinatorConnection) => serve(host, connection) }
})

/** What all sessions have in common. */
interface Host {
  readonly coordinator: Context.Service.Shape<typeof Coordinator>
  readonly replica: string
  readonly keepAliveMillis: number
  readonly patienceMillis: number
  /** Sessions, by when they are looked at. */
  readonly rounds: ReadonlyArray<Set<Live>>
  /** The round of the next session. */
  turn: number
  /** In which this process ran no timer: no peer is silent for that. */
  stoodStillMillis: number
  /** When it ran again, in its running time. */
  wokeAt: number
}

/** A timer that is late by so much was not kept waiting by work: the process was stopped, or its machine. */
const standstillMillis = 1_000

/** Monotonic, and without the time in which this process stood still: what silence is measured by. */
const runningMillis = (host: Host) => Effect.map(monotonicMillis, (now) => now - host.stoodStillMillis)

const sleepNoticing = Effect.fnUntraced(function*(host: Host, millis: number) {
  const due = (yield* monotonicMillis) + millis
  yield* Effect.sleep(millis)
  const late = (yield* monotonicMillis) - due
  if (late < standstillMillis) return
  host.stoodStillMillis += late
  host.wokeAt = yield* runningMillis(host)
})

/** So that ten thousand are not pinged in the same instant. */
const roundsOfCheck = 16

/** A session while it lasts. There are thousands, so that what is the same for all of them is not kept by each. */
class Live {
  readonly connection: CoordinatorConnection
  readonly ended = Deferred.makeUnsafe<void, ConnectionClosed | Refused>()
  heardAt: number
  sentAt: number
  /** What the peer was told last of how far the peers here have to spread. */
  spreadMillis = 0
  /** A message is under way that the peer has not taken. */
  sendingSince: number | undefined
  /** The peer said that it goes. */
  isGraceful = false

  constructor(connection: CoordinatorConnection, now: number) {
    this.connection = connection
    this.heardAt = now
    this.sentAt = now
  }

  send(host: Host, event: Protocol.Event): Effect.Effect<void, ConnectionClosed> {
    return Effect.flatMap(runningMillis(host), (now) => {
      this.sentAt = this.sendingSince = now
      return Effect.map(this.connection.send(event), () => {
        this.sendingSince = undefined
      })
    })
  }
}

/** Runs a session until it is over. Does not fail: why it ended is told to the peer, and returned. */
const serve = Effect.fnUntraced(function*(host: Host, connection: CoordinatorConnection) {
  const live = new Live(connection, yield* runningMillis(host))
  const run = Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      restore(hello(host, live)),
      ([first, others]) =>
        Effect.flatMap(host.coordinator.open(first), (session) =>
          Effect.ensuring(
            restore(converse(host, live, session, others)),
            Effect.suspend(() => session.close(live.isGraceful))
          ))
    )
  )
  return yield* run.pipe(
    Effect.result,
    Effect.tap((ended) => sayWhy(connection, ended)),
    Effect.map((ended): ConnectionClosed | Refused | undefined => Result.isFailure(ended) ? ended.failure : undefined),
    Effect.ensuring(connection.close(1000, ""))
  )
})

/** Waits for it, and refuses what cannot be admitted. With it comes what was sent behind it. */
const hello = Effect.fnUntraced(function*(host: Host, live: Live) {
  const [first, ...others] = yield* Effect.timeoutOrElse(live.connection.receive, {
    duration: host.patienceMillis,
    orElse: () => Effect.fail(new Refused({ code: "silent", detail: "the first message, a hello, did not come" }))
  })
  live.heardAt = yield* runningMillis(host)
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
    const problem = yield* host.coordinator.checkResume(first.peer, first.resume)
    if (problem !== undefined) return yield* new Refused({ code: "badResume", detail: problem })
  }
  return [first, others] as const
})

const converse = Effect.fnUntraced(function*(
  host: Host,
  live: Live,
  session: PeerSession,
  others: ReadonlyArray<Protocol.Request | Protocol.UnknownRequest>
) {
  const { coordinator } = host
  live.spreadMillis = ReconnectSpread.millisFor(coordinator.peers())
  yield* live.send(host, {
    type: "welcome",
    session: session.id,
    ...(session.resume === undefined ? {} : { resume: session.resume }),
    keepAliveSeconds: host.keepAliveMillis / 1_000,
    replica: host.replica,
    ...(live.spreadMillis === 0 ? {} : { reconnectSpreadMillis: live.spreadMillis })
  })
  if (coordinator.relays.length > 0) yield* live.send(host, { type: "relayMap", regions: coordinator.relays })
  const round = host.rounds[host.turn++ % roundsOfCheck]!
  round.add(live)
  const end = (exit: Exit.Exit<void, ConnectionClosed | Refused>) => Deferred.done(live.ended, exit)
  const telling = yield* Effect.forkChild(Effect.onExit(tell(host, live, session), end))
  const listening = yield* Effect.forkChild(Effect.onExit(listen(host, live, session, others), end))
  return yield* Effect.ensuring(
    Deferred.await(live.ended),
    Effect.suspend(() => {
      round.delete(live)
      return Fiber.interruptAll([telling, listening])
    })
  )
})

/** One timer for all that can take too long in any session, and none for each, or for each message. */
const watch = Effect.fnUntraced(function*(host: Host) {
  const checkMillis = Math.min(host.keepAliveMillis / 3, host.patienceMillis / 2)
  while (true) {
    for (const round of host.rounds) {
      yield* sleepNoticing(host, checkMillis / roundsOfCheck)
      const now = yield* runningMillis(host)
      const spreadMillis = ReconnectSpread.millisFor(host.coordinator.peers())
      for (const live of round) {
        const problem = problemOf(host, live, now)
        if (problem !== undefined) {
          Deferred.doneUnsafe(live.ended, Exit.fail(new Refused({ code: "silent", detail: problem })))
        } else if (
          live.sendingSince === undefined &&
          (now - live.sentAt >= host.keepAliveMillis - checkMillis || spreadMillis > 2 * live.spreadMillis ||
            // The peer has counted the standstill as silence.
            live.sentAt < host.wokeAt)
        ) {
          live.spreadMillis = spreadMillis
          yield* Effect.forkChild(Effect.ignore(
            live.send(host, { type: "ping", ...(spreadMillis === 0 ? {} : { reconnectSpreadMillis: spreadMillis }) })
          ))
        }
      }
    }
  }
})

const problemOf = (host: Host, live: Live, now: number) => {
  // What was read and sent before the standstill was noticed is later than it should be.
  live.heardAt = Math.min(live.heardAt, now)
  live.sentAt = Math.min(live.sentAt, now)
  if (live.sendingSince !== undefined) live.sendingSince = Math.min(live.sendingSince, now)
  if (live.sendingSince !== undefined && now - live.sendingSince >= host.patienceMillis) {
    return "it takes nothing that is sent to it"
  }
  return now - live.heardAt >= 2.5 * host.keepAliveMillis ? "nothing was heard of it" : undefined
}

const tell = (host: Host, live: Live, session: PeerSession) =>
  Effect.forever(Effect.flatMap(session.next, (next) => tellNext(host, live, next))).pipe(
    // Who reads notices it as well, and after what the peer has said last: it may be a goodbye.
    Effect.catchTag("ConnectionClosed", () => Effect.never)
  )

const tellNext = (host: Host, live: Live, next: Next): Effect.Effect<void, ConnectionClosed | Refused> => {
  switch (next._tag) {
    case "Updates":
      return tellUpdates(host, live, next)
    case "Replaced":
      return Effect.fail(new Refused({ code: "replaced", detail: "a newer session of the same peer replaced it" }))
    case "GoingAway":
      return Effect.andThen(
        live.send(host, { type: "goingAway", retryAfterMillis: next.retryAfterMillis }),
        Effect.fail(new Refused({ code: "goingAway", detail: "this replica ends" }))
      )
  }
}

const tellUpdates = (host: Host, live: Live, { isSynced, updates }: Extract<Next, { _tag: "Updates" }>) => {
  if (!isSynced) return live.send(host, { type: "updates", updates })
  return updates.length === 0
    ? live.send(host, { type: "synced" })
    : Effect.andThen(live.send(host, { type: "updates", updates }), live.send(host, { type: "synced" }))
}

/** Until the peer says that it goes. It is alive by what it sends, and nothing else. */
const listen = Effect.fnUntraced(
  function*(
    host: Host,
    live: Live,
    session: PeerSession,
    first: ReadonlyArray<Protocol.Request | Protocol.UnknownRequest>
  ) {
    let tokens: number = limits.messagesAtOnce
    let now = yield* monotonicMillis
    let refilled = now
    let messages = first
    while (true) {
      // Not by running time: a peer sends on while this process stands still.
      tokens = Math.min(limits.messagesAtOnce, tokens + (now - refilled) * limits.messagesPerSecond / 1_000)
      refilled = now
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
      now = yield* monotonicMillis
      live.heardAt = now - host.stoodStillMillis
    }
  }
)

const handle = (
  session: PeerSession,
  message: Exclude<Protocol.Request, { type: "disconnect" }> | Protocol.UnknownRequest
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
    case "unknown":
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
