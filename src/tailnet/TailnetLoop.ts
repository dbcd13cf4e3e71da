/**
 * The peer's side of the tailnet: keeps one session with a coordinator, for ever, and what the peer wants beside it.
 *
 * What it wants, a node and tunnels, is kept here and said with each hello, so that a new session begins with all of it. What it knows
 * of other peers it keeps through reconnects: a coordinator that is away is no news of anybody.
 *
 * It is a `ControlLoop` under `Backoff.session`: a dial that succeeds proves nothing, and only a session that stayed starts the
 * delays anew. A coordinator that goes away says when to come back, and that is when.
 */
import {
  Cause,
  Clock,
  Data,
  Duration,
  Effect,
  Exit,
  Latch,
  PubSub,
  Random,
  Schedule,
  type Scope,
  Stream,
  SubscriptionRef
} from "effect"
import * as Backoff from "../loop/Backoff.ts"
import * as ControlLoop from "../loop/ControlLoop.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { type ConnectionClosed, type PeerConnection, Refused } from "./Connection.ts"
import { DialFailed } from "./DialFailed.ts"
import type { Node, PeerId, PeerUpdate } from "./Peer.ts"
import * as Protocol from "./Protocol.ts"

export { DialFailed }

/** How to reach one coordinator. */
export interface Transport {
  /** For people: its address. */
  readonly name: string
  readonly dial: Effect.Effect<PeerConnection, DialFailed, Scope.Scope>
}

/** The coordinator ends, and said when to come back: to it, or to another. */
export class GoingAway extends Data.TaggedError("GoingAway")<{ readonly retryAfter: Duration.Duration }> {
  override get message() {
    return `the coordinator goes away; again after ${Duration.format(this.retryAfter)}`
  }
}

/** The coordinator was not heard of. */
export class CoordinatorSilent
  extends Data.TaggedError("CoordinatorSilent")<{ readonly silentFor: Duration.Duration }>
{
  override get message() {
    return `the coordinator was silent for ${Duration.format(this.silentFor)}`
  }
}

export type SessionError = DialFailed | ConnectionClosed | Refused | GoingAway | CoordinatorSilent

/** What is known of another peer. `isLost`: its node may still work. */
export interface KnownPeer {
  readonly node: Node
  readonly isLost: boolean
}

export interface Options {
  readonly peer: PeerId
  /** Coordinators, dialled in turn. */
  readonly transports: readonly [Transport, ...ReadonlyArray<Transport>]
  readonly node?: Node | undefined
  readonly tunnels?: ReadonlyArray<PeerId> | undefined
  /** How long a session has to stay before the delays start anew. Default 30 seconds. */
  readonly stableAfter?: Duration.Input | undefined
  /** Names the loop in logs. Default `tailnet`. */
  readonly name?: string | undefined
  /** Ends of which the loop says nothing, as somebody else does. Default none. */
  readonly quiet?: ((error: SessionError) => boolean) | undefined
}

export interface TailnetLoop {
  /** Runs until it is interrupted; then it says goodbye, within a second. */
  readonly run: Effect.Effect<never>
  readonly status: SubscriptionRef.SubscriptionRef<ControlLoop.Status<SessionError>>
  readonly counts: Effect.Effect<ControlLoop.Counts>
  /** The peers at the other ends of tunnels, as of the last that was heard. */
  readonly peers: SubscriptionRef.SubscriptionRef<ReadonlyMap<PeerId, KnownPeer>>
  /** What is heard, from now on. A slow reader misses the oldest. */
  readonly events: Stream.Stream<PeerUpdate>
  /** Where relays are, as the last coordinator had it. */
  readonly relays: SubscriptionRef.SubscriptionRef<ReadonlyArray<Protocol.RelayRegion>>
  /** The replica that it has a session with now. */
  readonly replica: () => string | undefined
  readonly setNode: (node: Node) => Effect.Effect<void>
  readonly addTunnel: (to: PeerId) => Effect.Effect<void>
  /** Whoever is at its other end is forgotten when the coordinator says so: it may have a tunnel of its own to here. */
  readonly removeTunnel: (to: PeerId) => Effect.Effect<void>
  /** Tells the other end of a tunnel that this one is set up. Of use now or never: it is not kept through a reconnect. */
  readonly readyForHandshake: (to: PeerId) => Effect.Effect<void>
}

const dialWithin = Duration.seconds(10)
const welcomeWithin = Duration.seconds(10)
const goodbyeWithin = Duration.seconds(1)
/** Events that a slow reader may fall behind. */
const keptEvents = 1_024
/** Handshakes that are not sent yet. */
const mostReady = 1_000

export const make = Effect.fnUntraced(function*(options: Options) {
  const peers = yield* SubscriptionRef.make<ReadonlyMap<PeerId, KnownPeer>>(new Map())
  const events = yield* PubSub.sliding<PeerUpdate>(keptEvents)
  const relays = yield* SubscriptionRef.make<ReadonlyArray<Protocol.RelayRegion>>([])
  let node = options.node
  const tunnels = new Set(options.tunnels)
  let resume: string | undefined
  let turn = 0
  let replica: string | undefined
  /** Of whom this session has said something, until it has said all. */
  let mentioned: Set<PeerId> | undefined
  /** Of the last welcome or ping of a session, until the delay after it. */
  let spreadMillis = 0
  /** What this session has said; what differs from what is wanted is to be said. */
  let said: { node: Node | undefined; readonly tunnels: Set<PeerId> } = { node: undefined, tunnels: new Set() }
  const ready: Array<PeerId> = []
  /** Open while something is to be said. */
  const something = Latch.makeUnsafe(false)

  const apply = Effect.fnUntraced(function*(updates: ReadonlyArray<PeerUpdate>) {
    for (const { kind, peer } of updates) if (kind === "node" || kind === "lost") mentioned?.add(peer)
    yield* SubscriptionRef.update(peers, (known) => {
      const next = new Map(known)
      for (const update of updates) {
        const before = next.get(update.peer)
        if (update.kind === "node") next.set(update.peer, { node: update.node, isLost: false })
        else if (update.kind === "disconnected") next.delete(update.peer)
        else if (update.kind === "lost" && before !== undefined) next.set(update.peer, { ...before, isLost: true })
      }
      return next
    })
    yield* PubSub.publishAll(events, updates)
  })

  /** The session has said all: who was known from one before, and is not any more, has gone meanwhile. */
  const forgetOthers = Effect.suspend(() => {
    const still = mentioned
    mentioned = undefined
    const gone = still === undefined
      ? []
      : [...SubscriptionRef.getUnsafe(peers).keys()].filter((peer) => !still.has(peer))
    return gone.length === 0
      ? Effect.void
      : apply(gone.map((peer) => ({ peer, kind: "disconnected", reason: "it is not there, or there is no tunnel" })))
  })

  const say = (connection: PeerConnection) =>
    Effect.gen(function*() {
      yield* something.await
      something.closeUnsafe()
      if (node !== undefined && node !== said.node) {
        said.node = node
        yield* connection.send({ type: "node", node })
      }
      for (const peer of [...said.tunnels]) {
        if (tunnels.has(peer)) continue
        said.tunnels.delete(peer)
        yield* connection.send({ type: "removeTunnel", peer })
      }
      for (const peer of [...tunnels]) {
        if (said.tunnels.has(peer)) continue
        said.tunnels.add(peer)
        yield* connection.send({ type: "addTunnel", peer })
      }
      for (const peer of ready.splice(0)) yield* connection.send({ type: "readyForHandshake", peer })
    })

  const hear = (connection: PeerConnection) =>
    Effect.flatMap(
      connection.receive,
      (messages) =>
        Effect.forEach(messages, (message): Effect.Effect<void, SessionError> => {
          switch (message.type) {
            case "updates":
              return apply(message.updates)
            case "relayMap":
              return SubscriptionRef.set(relays, message.regions)
            case "synced":
              return forgetOthers
            case "ping":
              spreadMillis = message.reconnectSpreadMillis ?? 0
              return connection.send({ type: "pong" })
            case "goingAway":
              return Effect.fail(new GoingAway({ retryAfter: Duration.millis(message.retryAfterMillis) }))
            case "error":
              if (message.code === "badResume") resume = undefined
              return Effect.fail(new Refused(message))
            default:
              return Effect.void
          }
        }, { discard: true })
    )

  /** One timer for the session, and none for each message. */
  const untilSilent = Effect.fnUntraced(function*(heardAt: () => number, silence: Duration.Duration) {
    while (true) {
      const left = heardAt() + Duration.toMillis(silence) - (yield* monotonicMillis)
      if (left <= 0) return yield* new CoordinatorSilent({ silentFor: silence })
      yield* Effect.sleep(Duration.millis(left))
    }
  })

  const session = Effect.gen(function*() {
    const transport = options.transports[turn++ % options.transports.length]!
    const connection = yield* Effect.acquireRelease(
      Effect.timeoutOrElse(transport.dial, {
        duration: dialWithin,
        orElse: () => Effect.fail(new DialFailed({ address: transport.name, reason: "no answer" }))
      }),
      (opened, exit) =>
        // Goodbye is said on purpose only: a session that broke is to be resumed.
        Effect.ignore(Effect.timeout(
          Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause)
            ? Effect.andThen(opened.send({ type: "disconnect" }), opened.close(1000, "goodbye"))
            : opened.close(1000, ""),
          goodbyeWithin
        )),
      { interruptible: true }
    )
    said = { node, tunnels: new Set(tunnels) }
    ready.length = 0
    yield* connection.send({
      type: "hello",
      version: Protocol.version,
      peer: options.peer,
      ...(resume === undefined ? {} : { resume }),
      ...(node === undefined ? {} : { node }),
      tunnels: [...tunnels]
    })
    const [welcome, ...others] = yield* Effect.timeoutOrElse(connection.receive, {
      duration: welcomeWithin,
      orElse: () => Effect.fail(new CoordinatorSilent({ silentFor: welcomeWithin }))
    })
    if (welcome?.type === "error") {
      if (welcome.code === "badResume") resume = undefined
      return yield* new Refused(welcome)
    }
    if (welcome?.type === "goingAway") {
      return yield* new GoingAway({ retryAfter: Duration.millis(welcome.retryAfterMillis) })
    }
    if (welcome?.type !== "welcome") {
      return yield* new Refused({ code: "badMessage", detail: "the coordinator did not say welcome" })
    }
    resume = welcome.resume ?? resume
    replica = welcome.replica
    mentioned = new Set()
    spreadMillis = welcome.reconnectSpreadMillis ?? 0
    const silence = Duration.seconds(welcome.keepAliveSeconds * 2.5)
    let heardAt = yield* monotonicMillis
    // What came beside the welcome comes first.
    const rest: PeerConnection = {
      ...connection,
      receive: Effect.suspend(() => {
        if (others.length > 0) return Effect.succeed(others.splice(0))
        return Effect.tap(
          connection.receive,
          Effect.map(monotonicMillis, (now) => {
            heardAt = now
          })
        )
      })
    }
    something.openUnsafe()
    return yield* Effect.raceFirst(
      Effect.raceFirst(Effect.forever(hear(rest)), Effect.forever(say(connection))),
      untilSilent(() => heardAt, silence)
    )
  }).pipe(
    Effect.scoped,
    Effect.ensuring(Effect.sync(() => {
      replica = undefined
    }))
  )

  /**
   * Exponential; but who goes away says when to come back, and of the many whose session broke at once each first waits for a part
   * of the time that the replica had said they need.
   */
  const policy = Schedule.modifyDelay(backoff, ({ duration, input }) => {
    const spread = spreadMillis
    spreadMillis = 0
    const after = retryAfter(input)
    if (after !== undefined || spread === 0) return Effect.succeed(after ?? duration)
    return Effect.map(Random.next, (random) => Duration.sum(duration, Duration.millis(random * spread)))
  })

  const loop = yield* ControlLoop.make({
    name: options.name ?? "tailnet",
    session,
    policy,
    stableAfter: options.stableAfter,
    // It is what was agreed upon.
    quiet: (cause) =>
      retryAfter(cause) !== undefined ||
      cause.reasons.every((reason) => Cause.isFailReason(reason) && options.quiet?.(reason.error) === true)
  })

  const change = (run: () => void) =>
    Effect.sync(() => {
      run()
      something.openUnsafe()
    })

  const made: TailnetLoop = {
    run: loop.run,
    status: loop.status,
    counts: loop.counts,
    peers,
    events: Stream.fromPubSub(events),
    relays,
    replica: () => replica,
    setNode: (next) =>
      change(() => {
        node = next
      }),
    addTunnel: (to) => change(() => void tunnels.add(to)),
    removeTunnel: (to) => change(() => void tunnels.delete(to)),
    readyForHandshake: (to) =>
      change(() => {
        if (ready.length < mostReady) ready.push(to)
      })
  }
  return made
})

const backoff: Schedule.Schedule<Duration.Duration, Cause.Cause<SessionError>> = Backoff.session

const retryAfter = (cause: Cause.Cause<SessionError>): Duration.Duration | undefined => {
  for (const reason of cause.reasons) {
    if (Cause.isFailReason(reason) && reason.error instanceof GoingAway) return reason.error.retryAfter
  }
  return undefined
}

/** A node as of now. */
export const nodeNow = (node: Omit<Node, "asOf">): Effect.Effect<Node> =>
  Effect.map(Clock.currentTimeMillis, (asOf) => ({ ...node, asOf }))
