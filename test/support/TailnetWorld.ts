/**
 * Several replicas on one memory store, each behind an outage of its own, on `TestClock`; and peers that reach them within the process.
 */
import { Clock, Context, Effect, Exit, Layer, Logger, Ref, Scope, Stream, SubscriptionRef } from "effect"
import { layerWebCrypto } from "effect/crypto/SecureRandom"
import { TestClock } from "effect/testing"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import { Notifications } from "../../src/database/Notifications.ts"
import { Replica } from "../../src/database/Replica.ts"
import { Loops } from "../../src/loop/Loops.ts"
import type { PeerConnection } from "../../src/tailnet/Connection.ts"
import * as Coordinator from "../../src/tailnet/Coordinator.ts"
import type { Node, PeerUpdate } from "../../src/tailnet/Peer.ts"
import * as PeerStoreMemory from "../../src/tailnet/PeerStoreMemory.ts"
import type * as Session from "../../src/tailnet/Session.ts"
import * as TailnetLoop from "../../src/tailnet/TailnetLoop.ts"
import * as Transports from "../../src/tailnet/Transports.ts"
import { none, type Outage } from "../../src/testing/Outage.ts"
import * as OutageClock from "../../src/testing/OutageClock.ts"
import { ownNotifications } from "./replicas.ts"

export interface World {
  readonly replica: (name: string, options?: {
    readonly outage?: Outage
    readonly coordinator?: Coordinator.Options
    readonly session?: Session.Options
  }) => Effect.Effect<TestReplica>
  readonly table: Context.Service.Shape<typeof PeerStoreMemory.PeerTable>
  readonly lines: () => ReadonlyArray<string>
  /** Notifications are lost, without anybody being told. */
  readonly loseNotifications: (areLost: boolean) => Effect.Effect<void>
  /** The listeners are told that they may have missed some. */
  readonly missed: Effect.Effect<void>
}

export interface TestReplica {
  readonly name: string
  readonly transport: TailnetLoop.Transport
  readonly context: Context.Context<Coordinator.Coordinator | Replica>
  readonly coordinator: Context.Service.Shape<typeof Coordinator.Coordinator>
  readonly availability: Context.Service.Shape<typeof Availability>
  /** All connections to it break, and no new one is made: for the peers it is gone. */
  readonly unreachable: (isUnreachable: boolean) => Effect.Effect<void>
  /** It ends as on SIGTERM. */
  readonly stop: Effect.Effect<void>
}

export const uuid = (number: number) => `00000000-0000-4000-8000-${String(number).padStart(12, "0")}`

export const node = (asOf: number, key = `key ${asOf}`): Node => ({
  key,
  endpoints: ["192.0.2.1:41641"],
  relay: { preferred: 1, latencies: { "1": 3.5 } },
  addresses: ["fd7a::1"],
  allowedIps: [],
  asOf
})

export const make: Effect.Effect<World, never, Scope.Scope> = Effect.gen(function*() {
  const lines: Array<string> = []
  const logger = Logger.make(({ logLevel, message }) => {
    if (logLevel !== "Debug") lines.push(`${logLevel} ${String(message)}`)
  })
  const scope = yield* Scope.Scope
  const built = yield* Layer.buildWithScope(
    Layer.mergeAll(PeerStoreMemory.PeerTable.layer, Notifications.layerMemory),
    scope
  )
  const hub = Context.get(built, Notifications)
  let areLost = false
  const shared = Context.add(built, Notifications, {
    ...hub,
    publish: (event) => areLost && event._tag === "Notified" ? Effect.void : hub.publish(event)
  })

  return {
    table: Context.get(shared, PeerStoreMemory.PeerTable),
    lines: () => lines,
    loseNotifications: (given) =>
      Effect.sync(() => {
        areLost = given
      }),
    missed: hub.publish({ _tag: "Missed" }),
    replica: Effect.fnUntraced(function*(name, options = {}) {
      const own = yield* Scope.fork(scope)
      const layer = Coordinator.Coordinator.layer(options.coordinator).pipe(
        Layer.provideMerge(PeerStoreMemory.layer),
        Layer.provideMerge(Database.layerScripted(options.outage ?? none)),
        Layer.provideMerge(Layer.mergeAll(Loops.layer, layerWebCrypto)),
        Layer.provideMerge(Layer.succeed(Replica, { id: name, name })),
        Layer.provide(ownNotifications()),
        Layer.provide(Layer.succeedContext(shared)),
        Layer.provideMerge(OutageClock.layer(options.outage ?? none)),
        Layer.provideMerge(Logger.layer([logger]))
      )
      const context = yield* Layer.buildWithScope(layer, own)
      const inProcess = yield* Transports.inProcess(options.session).pipe(
        Effect.provideContext(context),
        Scope.provide(own)
      )
      const clock = Context.make(Clock.Clock, Context.get(context, Clock.Clock))
      const running = Effect.provideContext(OutageClock.running, clock)
      let isUnreachable = false
      const open = new Set<PeerConnection>()
      const transport: TailnetLoop.Transport = {
        name,
        dial: Effect.suspend(() =>
          isUnreachable
            ? Effect.fail(new TailnetLoop.DialFailed({ address: name, reason: "refused" }))
            // Its side of the session is served by its own clock.
            : Effect.provideContext(Effect.andThen(OutageClock.running, inProcess.dial), clock).pipe(
              // A process that stands still reads nothing either, and a peer's own neither reads nor sends.
              Effect.map((connection): PeerConnection => ({
                ...connection,
                receive: Effect.flatMap(Effect.exit(connection.receive), (exit) =>
                  Effect.andThen(OutageClock.running, exit)),
                send: (message) =>
                  Effect.andThen(Effect.andThen(OutageClock.running, running), connection.send(message))
              })),
              Effect.tap((connection) => Effect.sync(() => open.add(connection)))
            )
        )
      }
      return {
        name,
        transport,
        context,
        coordinator: Context.get(context, Coordinator.Coordinator),
        availability: Context.get(context, Availability),
        unreachable: (given) =>
          Effect.suspend(() => {
            isUnreachable = given
            const closing = given ? [...open] : []
            open.clear()
            return Effect.forEach(closing, (connection) => connection.close(1006, "broken"), { discard: true })
          }),
        stop: Effect.andThen(Context.get(context, Coordinator.Coordinator).leave, Scope.close(own, Exit.void))
      }
    })
  }
})

/** A peer with a loop of its own, and all that it was told. `outage`: of its clock. */
export const peer = Effect.fnUntraced(function*(
  number: number,
  transports: readonly [TailnetLoop.Transport, ...ReadonlyArray<TailnetLoop.Transport>],
  { outage = none, ...options }: Partial<TailnetLoop.Options> & { readonly outage?: Outage } = {}
) {
  const ownClock = yield* Layer.build(OutageClock.layer(outage))
  const loop = yield* Effect.provideContext(
    TailnetLoop.make({ peer: uuid(number), transports, node: node(number), ...options }),
    ownClock
  )
  const heard = yield* Ref.make<ReadonlyArray<PeerUpdate>>([])
  yield* Effect.forkScoped(Stream.runForEach(loop.events, (update) => Ref.update(heard, (all) => [...all, update])))
  yield* TestClock.adjust(1)
  const scope = yield* Scope.fork(yield* Scope.Scope)
  yield* Effect.forkIn(Effect.provideContext(loop.run, ownClock), scope)
  yield* TestClock.adjust(1)
  return {
    ...loop,
    id: uuid(number),
    heard: Ref.getAndSet(heard, []),
    /** As `kind` and the number of the peer. */
    heardKinds: Effect.map(
      Ref.getAndSet(heard, []),
      (all) => all.map(({ kind, peer: from }) => `${kind} ${Number(from.slice(-12))}`)
    ),
    knows: (other: number) => SubscriptionRef.getUnsafe(loop.peers).get(uuid(other)),
    leave: Scope.close(scope, Exit.void)
  }
})
