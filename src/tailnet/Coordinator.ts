/**
 * Coordinates the peers of one replica with those of the others: `CoordinatorState` decides, this brings time, the database and the
 * sessions together.
 *
 * **An outage of the database disconnects nobody.** Peers of one replica go on exchanging updates in memory, new ones are admitted,
 * and what changed is written when the database is back: the newest of each peer, many in a statement. After every gap, of the
 * database or of its notifications, each session is brought up to date by one comparison, in which only differences are sent.
 *
 * Another replica is silent when its heartbeat did not change for 6 seconds in which this one could itself write. Its peers are lost
 * then, all at once, and back when it is.
 */
import {
  Cause,
  Clock,
  Context,
  Duration,
  Effect,
  Latch,
  Layer,
  Metric,
  Random,
  Semaphore,
  SubscriptionRef
} from "effect"
import { SecureRandom } from "effect/crypto/SecureRandom"
import { Availability, epochOf } from "../database/Availability.ts"
import type { InvalidDatabaseUrl } from "../database/ConnectionUrl.ts"
import * as Foundation from "../database/Foundation.ts"
import { Notifications } from "../database/Notifications.ts"
import { Replica } from "../database/Replica.ts"
import { DatabaseUnavailable } from "../database/Unavailable.ts"
import * as Backoff from "../loop/Backoff.ts"
import * as ControlLoop from "../loop/ControlLoop.ts"
import { Loops } from "../loop/Loops.ts"
import * as Audit from "./Audit.ts"
import { CoordinatorState, type Session } from "./CoordinatorState.ts"
import { limits, type Node, type PeerId, type PeerUpdate } from "./Peer.ts"
import { forgetAfterHours, PeerStore, topics } from "./PeerStore.ts"
import * as PeerStoreMemory from "./PeerStoreMemory.ts"
import * as PeerStorePostgres from "./PeerStorePostgres.ts"
import type { Hello, RelayRegion } from "./Protocol.ts"
import * as ReconnectSpread from "./ReconnectSpread.ts"
import * as ResumeToken from "./ResumeToken.ts"
import { rowsAtOnce } from "./Unwritten.ts"

export interface Options {
  /** A replica that is silent for longer is taken for gone. Default 6 seconds: three heartbeats. */
  readonly lease?: Duration.Input | undefined
  /** One that said that it ends: its peers are on their way. Default 20 seconds. */
  readonly leavingLease?: Duration.Input | undefined
  /** Peers are told to go elsewhere within so long, spread evenly, when this replica ends. Default 5 seconds, or more for thousands. */
  readonly spread?: Duration.Input | undefined
  /** Handed to each peer. Default none. */
  readonly relays?: ReadonlyArray<RelayRegion> | undefined
}

/** Why a session was ended from here. */
export type End =
  | { readonly _tag: "Replaced" }
  | { readonly _tag: "GoingAway"; readonly retryAfterMillis: number }

/** What a session has to do next. */
export type Next =
  | { readonly _tag: "Updates"; readonly updates: ReadonlyArray<PeerUpdate>; readonly isSynced: boolean }
  | End

/** A peer's session with this replica. */
export interface PeerSession {
  readonly id: string
  /** For the next hello; none while the key is not known. */
  readonly resume: string | undefined
  /** Waits until there is something, and takes it: at most `updatesAtOnce` updates, or that it is to end. */
  readonly next: Effect.Effect<Next>
  readonly setNode: (node: Node) => void
  /** `false`: it has as many as it may. */
  readonly addTunnel: (to: PeerId) => boolean
  readonly removeTunnel: (to: PeerId) => void
  readonly ready: (to: PeerId) => void
  /** It is over. `isGraceful`: the peer said that it goes. */
  readonly close: (isGraceful: boolean) => Effect.Effect<void>
}

/** Updates in one message. */
export const updatesAtOnce = 100

const checkEvery = Duration.seconds(2)
const forgetEvery = Duration.hours(1)
const forgetReplicaAfter = Duration.hours(2 * forgetAfterHours)

export class Coordinator extends Context.Service<Coordinator, {
  /** Admits a peer, also while the database is away. */
  readonly open: (hello: Hello) => Effect.Effect<PeerSession>
  /** What is wrong with a resume token; `undefined`: nothing that is known here. */
  readonly checkResume: (peer: PeerId, token: string) => Effect.Effect<string | undefined>
  /** How many peers are here. */
  readonly peers: () => number
  /** Whether everything that changed here is written. */
  readonly isSettled: () => boolean
  readonly relays: ReadonlyArray<RelayRegion>
  /** This replica ends: all peers are sent elsewhere, spread over time, and the others wait for them to arrive. Waits a second at most. */
  readonly leave: Effect.Effect<void>
}>()("lull/tailnet/Coordinator") {
  /** On PostgreSQL, with all that it needs. Beside a `Provisioner`, which has all of it already: `layer` and `PeerStorePostgres.layer`. */
  static readonly layerPostgres = (
    options: Options & Foundation.PostgresOptions
  ): Layer.Layer<Services, InvalidDatabaseUrl> =>
    Coordinator.layer(options).pipe(
      Layer.provideMerge(PeerStorePostgres.layer),
      Layer.provideMerge(Foundation.layerPostgres(options))
    )

  /** In memory, behind a scripted outage: for tests on `TestClock`. */
  static readonly layerMemory = (
    options: Options & Foundation.MemoryOptions = {}
  ): Layer.Layer<Services> =>
    Coordinator.layer(options).pipe(
      Layer.provideMerge(PeerStoreMemory.layer),
      Layer.provide(PeerStoreMemory.PeerTable.layer),
      Layer.provideMerge(Foundation.layerMemory(options))
    )

  /** On whatever store is given. */
  static readonly layer = (
    options: Options = {}
  ): Layer.Layer<
    Coordinator,
    never,
    Availability | Loops | Notifications | PeerStore | Replica | SecureRandom
  > => Layer.effect(Coordinator, make(options))
}

/** All that the layers give, for those who want a part. */
export type Services = Coordinator | PeerStore | Foundation.Services

const make = Effect.fnUntraced(function*(options: Options) {
  const availability = yield* Availability
  const loops = yield* Loops
  const notifications = yield* Notifications
  const random = yield* SecureRandom
  const replica = yield* Replica
  const store = yield* PeerStore
  const lease = Duration.toMillis(options.lease ?? Duration.seconds(6))
  const leavingLease = Duration.toMillis(options.leavingLease ?? Duration.seconds(20))
  const state = new CoordinatorState(replica.id)
  const sessions = new Set<Opened>()
  let signingKey: string | undefined
  /** Open while there is something to write, or to read. */
  const toWrite = Latch.makeUnsafe(false)
  const toRead = Latch.makeUnsafe(true)
  const readySoon: Array<readonly [PeerId, PeerId]> = []
  let isWriting = false
  /** So that nothing is read that was there before what is being written. */
  const oneAtATime = Semaphore.makeUnsafe(1)

  const announce = () => {
    if (!state.unwritten.isEmpty) toWrite.openUnsafe()
    if (state.unread.size + state.unreadTunnels.size > 0) toRead.openUnsafe()
  }

  // --- writing: what is newest when the statement is sent

  const writeOnce = oneAtATime.withPermit(Effect.suspend(() => {
    const changes = state.takeChanges()
    isWriting = true
    return store.write(changes).pipe(
      Effect.onError(() => Effect.sync(() => state.putBack(changes))),
      Effect.ensuring(Effect.sync(() => {
        isWriting = false
      }))
    )
  }))

  /** What a failover has brought back of peers that had left, or were lost, is lost again. */
  const reconcile = oneAtATime.withPermit(Effect.suspend(() => {
    mayHaveRisen = false
    return Effect.onError(store.loseAllBut([...state.peers.keys()]), () =>
      Effect.sync(() => {
        mayHaveRisen = true
      }))
  }))

  const write = Effect.gen(function*() {
    yield* toWrite.await
    yield* availability.awaitAvailable
    toWrite.closeUnsafe()
    yield* Effect.ensuring(
      mayHaveRisen ? Effect.andThen(reconcile, writeOnce) : writeOnce,
      Effect.sync(announce)
    )
  })

  // --- gaps

  let epoch = 0
  let server: string | undefined
  let doubtfulSince = 0
  let mayHaveRisen = false
  const doubt = () => {
    state.isDoubtful = true
    doubtfulSince = availability.writableMillis()
    mayHaveRisen = true
    toWrite.openUnsafe()
    state.writeAll()
    state.readAll()
    announce()
  }
  /** The connections were made anew: the database may be another one, which has lost our last second, and that of others. */
  const noteEpoch = () => {
    const current = epochOf(SubscriptionRef.getUnsafe(availability.state))
    if (current === undefined || current === epoch) return
    if (epoch > 0) doubt()
    epoch = current
  }
  /** Noted before what was read is believed: an idle connection may be made anew without anybody having noticed. */
  const noteServer = (of: string) => {
    noteEpoch()
    if (server !== undefined && server !== of) doubt()
    server = of
  }

  // --- reading: in batches, only of what sessions here need

  const readOnce = Effect.gen(function*() {
    const local = takeKeys(state.unreadTunnels, rowsAtOnce)
    if (local.length > 0) {
      const tunnels = yield* Effect.onError(
        store.tunnelsTo(local),
        () => Effect.sync(() => local.forEach((peer) => state.unreadTunnels.add(peer)))
      )
      noteServer(tunnels.server)
      state.readTunnels(new Set(local), tunnels.rows)
    }
    const peers = takeKeys(state.unread, rowsAtOnce)
    if (peers.length > 0) {
      const mappings = yield* Effect.onError(
        store.mappings(peers),
        () => Effect.sync(() => peers.forEach((peer) => state.unread.add(peer)))
      )
      noteServer(mappings.server)
      noteReplicas(mappings.rows.map(([, mapping]) => mapping.replica))
      state.readMappings(new Set(peers), mappings.rows)
    }
    state.noteRead()
  })

  const read = Effect.gen(function*() {
    yield* toRead.await
    yield* availability.awaitAvailable
    toRead.closeUnsafe()
    if (signingKey === undefined) signingKey = yield* Effect.onError(store.signingKey, () => toRead.open)
    yield* oneAtATime.withPermit(readOnce).pipe(
      Effect.onError(() => Effect.sync(() => state.noteReadFailed())),
      Effect.ensuring(Effect.sync(announce))
    )
  })

  // --- the other replicas

  /** When the heartbeat of each was seen to change, in writable time of this replica's own. */
  const heard = new Map<string, { beat: string | undefined; at: number; isLeaving: boolean }>()

  const noteReplicas = (ids: Iterable<string>) => {
    for (const id of ids) {
      if (id !== replica.id && !heard.has(id)) {
        heard.set(id, { beat: undefined, at: availability.writableMillis(), isLeaving: false })
      }
    }
  }

  const check = Effect.gen(function*() {
    const rows = yield* store.replicas
    const now = availability.writableMillis()
    for (const { beat, id, isLeaving } of rows) {
      if (id === replica.id) continue
      const known = heard.get(id)
      if (known?.beat === beat) known.isLeaving = isLeaving
      else heard.set(id, { beat, at: now, isLeaving })
    }
    const silent = new Set<string>()
    const stored = new Set(rows.map(({ id }) => id))
    for (const [id, { at, isLeaving }] of heard) {
      // Its peers have been forgotten by then, too.
      if (!stored.has(id) && now - at > Duration.toMillis(forgetReplicaAfter)) heard.delete(id)
      else if (now - at >= (isLeaving ? leavingLease : lease)) silent.add(id)
    }
    // A peer of ours that was lost in a session before is of this replica, which is not silent.
    state.setSilent(silent)
    announce()
  })

  const watch = Effect.gen(function*() {
    yield* availability.awaitAvailable
    noteEpoch()
    if (state.knowsRemotePeers) yield* check
    // By now every replica that lives has written again what it has, or is known to be silent.
    if (state.isDoubtful && availability.writableMillis() - doubtfulSince >= lease) {
      state.isDoubtful = false
      state.readAll()
      announce()
    }
    yield* Effect.sleep(checkEvery)
  })

  yield* notifications.subscribe((event) => {
    if (event._tag === "Missed") state.readAll()
    else {
      const [from, ...items] = event.payload.split(" ")
      switch (event.topic) {
        case topics.peers:
          if (from !== replica.id) state.changed(items)
          break
        case topics.tunnels:
          if (from !== replica.id) { for (const item of items) state.changedTunnel(...pairOf(item)) }
          break
        case topics.ready:
          if (from !== replica.id) { for (const item of items) state.ready(...pairOf(item)) }
      }
    }
    announce()
  })

  const audit = Audit.make({
    state,
    store,
    availability,
    oneAtATime,
    noteServer,
    // The key may have gone with the rows.
    onMissing: () => {
      signingKey = undefined
      toRead.openUnsafe()
    },
    onGhosts: () => {
      mayHaveRisen = true
      toWrite.openUnsafe()
    },
    isLeaving: () => isLeaving,
    announce
  })

  const forget = Effect.andThen(Effect.sleep(forgetEvery), Effect.andThen(availability.awaitAvailable, store.forget))

  for (
    const [name, session] of [
      ["tailnet writer", write],
      ["tailnet reader", read],
      ["tailnet watch of replicas", watch],
      ["tailnet audit", audit],
      ["tailnet cleanup", forget]
    ] as const
  ) {
    const loop = yield* ControlLoop.make({
      name,
      session: Effect.forever(session),
      policy: Backoff.acquire,
      wake: availability.awaitAvailable,
      quiet: (cause) =>
        cause.reasons.every((reason) => Cause.isFailReason(reason) && reason.error instanceof DatabaseUnavailable)
    })
    yield* loops.fork(name, loop.run)
  }

  const tellReady = Effect.gen(function*() {
    const next = readySoon.shift()
    if (next === undefined) {
      readyLatch.closeUnsafe()
      return yield* readyLatch.await
    }
    // It is of use now or never: the peers ask again.
    yield* Effect.ignore(store.tellReady(...next))
  })
  const readyLatch = Latch.makeUnsafe(false)
  yield* loops.fork("tailnet handshakes", Effect.forever(tellReady))

  // --- the end

  let isLeaving = false
  const leavingSpread = () =>
    options.spread === undefined
      ? Math.max(5_000, ReconnectSpread.millisFor(sessions.size))
      : Duration.toMillis(options.spread)
  const leave = Effect.gen(function*() {
    if (isLeaving) return
    isLeaving = true
    const leaving = [...sessions]
    const spread = leavingSpread()
    for (const [at, session] of leaving.entries()) {
      const share = (at + (yield* Random.next)) / leaving.length
      session.end({ _tag: "GoingAway", retryAfterMillis: Math.round(share * spread) })
    }
    const tell = Effect.andThen(store.leave, writeOnce)
    const untilGone = Effect.gen(function*() {
      while (sessions.size > 0) yield* Effect.sleep("20 millis")
    })
    yield* Effect.ignore(Effect.timeout(Effect.all([tell, untilGone], { concurrency: 2 }), "1 second"))
  })
  yield* Effect.addFinalizer(() => leave)

  class Opened implements PeerSession, Session {
    readonly peer: PeerId
    readonly id: string
    readonly resume: string | undefined
    readonly next: Effect.Effect<Next>
    readonly #something = Latch.makeUnsafe(false)
    #end: End | undefined

    constructor(peer: PeerId, id: string, resume: string | undefined) {
      this.peer = peer
      this.id = id
      this.resume = resume
      this.next = Effect.flatMap(this.#something.await, () => this.#take())
    }

    #take(): Effect.Effect<Next> {
      if (this.#end !== undefined) return Effect.succeed(this.#end)
      const { isAll, isSynced, updates } = state.take(this, updatesAtOnce)
      if (isAll) this.#something.closeUnsafe()
      return updates.length > 0 || isSynced ? Effect.succeed({ _tag: "Updates", updates, isSynced }) : this.next
    }

    onUpdates() {
      this.#something.openUnsafe()
    }

    end(end: End) {
      this.#end ??= end
      this.#something.openUnsafe()
    }

    setNode(node: Node) {
      state.setNode(this, node)
      announce()
    }

    addTunnel(to: PeerId) {
      const isAdded = state.addTunnel(this, to, limits.tunnels)
      announce()
      return isAdded
    }

    removeTunnel(to: PeerId) {
      state.removeTunnel(this, to)
      announce()
    }

    ready(to: PeerId) {
      if (state.ready(this.peer, to) !== "elsewhere" || readySoon.length >= mostReady) return
      readySoon.push([this.peer, to])
      readyLatch.openUnsafe()
    }

    close(isGraceful: boolean) {
      return Effect.suspend(() => {
        sessions.delete(this)
        if (isLeaving && !isGraceful) state.moveAway(this)
        else state.close(this, isGraceful)
        announce()
        return countPeers
      })
    }
  }

  /** The control plane's own peer, which has the id of its replica, is not one that somebody connected. */
  const countPeers = Effect.suspend(() =>
    Metric.update(connected, state.peers.size - (state.peers.has(replica.id) ? 1 : 0))
  )

  return Coordinator.of({
    relays: options.relays ?? [],
    leave,
    peers: () => state.peers.size,
    isSettled: () => !isWriting && state.unwritten.isEmpty && state.unread.size + state.unreadTunnels.size === 0,
    checkResume: (peer, token) =>
      Effect.map(
        Clock.currentTimeMillis,
        (now) => signingKey === undefined ? undefined : ResumeToken.check(signingKey, peer, token, now)
      ),
    open: Effect.fnUntraced(function*(hello) {
      const resume = signingKey === undefined
        ? undefined
        : ResumeToken.make(signingKey, hello.peer, yield* Clock.currentTimeMillis)
      const session = new Opened(hello.peer, yield* random.uuidV4(), resume)
      const before = state.open(session, hello)
      if (before instanceof Opened) before.end({ _tag: "Replaced" })
      sessions.add(session)
      if (isLeaving) {
        session.end({ _tag: "GoingAway", retryAfterMillis: Math.round((yield* Random.next) * leavingSpread()) })
      }
      announce()
      yield* countPeers
      return session
    })
  })
})

/** Handshakes that wait to be told; further ones are dropped, as a peer asks again. */
const mostReady = 10_000

const takeKeys = <K>(set: Set<K>, most: number): ReadonlyArray<K> => {
  const taken: Array<K> = []
  for (const key of set) {
    if (taken.length >= most) break
    taken.push(key)
    set.delete(key)
  }
  return taken
}

const pairOf = (item: string): readonly [PeerId, PeerId] => {
  const [from = "", to = ""] = item.split("/")
  return [from, to]
}

const connected = Metric.gauge("lull_tailnet_peers", {
  description: "Peers that have a session with this replica, but for its own"
})
