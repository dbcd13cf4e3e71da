/**
 * Peers in memory: the model of `PeerStorePostgres` for tests and for applications of one process. Its work passes the same door,
 * so that a scripted outage hits it. Several coordinators, so several replicas of a test, may share a `PeerTable`.
 */
import { Clock, Context, Effect, Layer } from "effect"
import { Availability } from "../database/Availability.ts"
import { Database } from "../database/Database.ts"
import { Notifications } from "../database/Notifications.ts"
import { Replica } from "../database/Replica.ts"
import { Loops } from "../loop/Loops.ts"
import type { Mapping, Tunnel } from "./CoordinatorState.ts"
import type { PeerId } from "./Peer.ts"
import { forgetAfterHours, notificationsOf, payloads, PeerStore, topics } from "./PeerStore.ts"

export interface Stored extends Mapping {
  readonly updatedAt: number
}

/** By the peer's own clock; of two sessions with the same node by when they were written. */
const isNotNewer = (one: Stored, other: Stored) => {
  const difference = (one.node?.asOf ?? 0) - (other.node?.asOf ?? 0)
  return difference < 0 || (difference === 0 && (one.isLost || one.updatedAt <= other.updatedAt))
}

/** What the database would hold. */
export class PeerTable extends Context.Service<PeerTable, {
  readonly peers: Map<PeerId, Map<string, Stored>>
  readonly tunnels: Map<string, Tunnel>
  readonly replicas: Map<string, { beat: number; isLeaving: boolean }>
  /** By the clock of the database, as that of no replica counts. */
  readonly now: Effect.Effect<number>
}>()("lull/tailnet/PeerTable") {
  static readonly layer = Layer.effect(
    PeerTable,
    Effect.map(
      Clock.Clock,
      ({ currentTimeMillis: now }) => PeerTable.of({ peers: new Map(), tunnels: new Map(), replicas: new Map(), now })
    )
  )
}

/** As `Availability` beats for a real one. */
const beatEvery = "2 seconds"

export const layer: Layer.Layer<
  PeerStore,
  never,
  Availability | Database | Loops | Notifications | PeerTable | Replica
> = Layer.effect(
  PeerStore,
  Effect.gen(function*() {
    const availability = yield* Availability
    const { own: database } = yield* Database
    const loops = yield* Loops
    const notifications = yield* Notifications
    const replica = yield* Replica
    const { now: databaseNow, peers, replicas, tunnels } = yield* PeerTable

    const beat = Effect.sync(() => {
      const row = replicas.get(replica.id)
      replicas.set(replica.id, { beat: (row?.beat ?? 0) + 1, isLeaving: row?.isLeaving ?? false })
    })
    yield* loops.fork(
      "heartbeat of a memory replica",
      Effect.forever(
        availability.awaitAvailable.pipe(
          Effect.andThen(Effect.ignore(database.write("PeerStore.beat", beat))),
          Effect.andThen(Effect.sleep(beatEvery))
        )
      )
    )

    const notify = (topic: string, payload: string) => notifications.publish({ _tag: "Notified", topic, payload })
    const keyOf = ({ from, to }: Tunnel) => from + to

    const tunnelsOf = (operation: string, ids: ReadonlyArray<PeerId>, end: (tunnel: Tunnel) => PeerId) =>
      database.read(
        operation,
        Effect.sync(() => {
          const wanted = new Set(ids)
          return { rows: [...tunnels.values()].filter((tunnel) => wanted.has(end(tunnel))), server: "memory" }
        })
      )

    return PeerStore.of({
      write: (changes) =>
        database.write(
          "PeerStore.write",
          Effect.gen(function*() {
            const now = yield* databaseNow
            if (!replicas.has(replica.id)) yield* beat
            const newerElsewhere = new Set<PeerId>()
            for (const [peer, row] of changes.peers) {
              const rows = peers.get(peer) ?? new Map<string, Stored>()
              if (row === undefined) {
                const own = rows.get(replica.id)
                for (const [other, stored] of rows) {
                  const isOlder = own !== undefined && isNotNewer(stored, own)
                  if (other === replica.id || isOlder) rows.delete(other)
                  else if (!stored.isLost) newerElsewhere.add(peer)
                }
              } else {
                rows.set(replica.id, {
                  ...row,
                  node: row.node ?? rows.get(replica.id)?.node,
                  replica: replica.id,
                  updatedAt: now
                })
              }
              if (rows.size === 0) peers.delete(peer)
              else peers.set(peer, rows)
            }
            const closed: Array<string> = []
            for (const [from, list] of changes.lists) {
              if (newerElsewhere.has(from)) continue
              for (const [key, tunnel] of tunnels) {
                if (tunnel.from !== from || list.includes(tunnel.to)) continue
                tunnels.delete(key)
                closed.push(`${from}/${tunnel.to}`)
              }
              for (const to of list) tunnels.set(keyOf({ from, to }), { from, to })
            }
            for (const { from, isOpen, to } of changes.tunnels) {
              if (isOpen) tunnels.set(keyOf({ from, to }), { from, to })
              else tunnels.delete(keyOf({ from, to }))
            }
            yield* Effect.forEach(
              [
                ...notificationsOf(replica.id, changes),
                ...payloads(replica.id, closed).map((payload) => [topics.tunnels, payload] as const)
              ],
              ([topic, payload]) => notify(topic, payload),
              { discard: true }
            )
          })
        ),
      tunnelsTo: (ids) => tunnelsOf("PeerStore.tunnelsTo", ids, ({ to }) => to),
      tunnelsFrom: (ids) => tunnelsOf("PeerStore.tunnelsFrom", ids, ({ from }) => from),
      present: database.read(
        "PeerStore.present",
        Effect.sync(() => [...peers.values()].filter((rows) => rows.get(replica.id)?.isLost === false).length)
      ),
      mappings: (ids) =>
        database.read(
          "PeerStore.mappings",
          Effect.sync(() => ({
            rows: ids.flatMap((id) =>
              [...peers.get(id)?.values() ?? []].map(({ updatedAt: _, ...mapping }) => [id, mapping] as const)
            ),
            server: "memory"
          }))
        ),
      replicas: database.read(
        "PeerStore.replicas",
        Effect.sync(() => [...replicas].map(([id, row]) => ({ id, beat: String(row.beat), isLeaving: row.isLeaving })))
      ),
      loseAllBut: (ids) =>
        database.write(
          "PeerStore.loseAllBut",
          Effect.sync(() => {
            const kept = new Set(ids)
            for (const [peer, rows] of peers) {
              const own = rows.get(replica.id)
              if (own !== undefined && !own.isLost && !kept.has(peer)) {
                rows.set(replica.id, { ...own, isLost: true })
              }
            }
          })
        ),
      leave: database.write(
        "PeerStore.leave",
        Effect.sync(() => void replicas.set(replica.id, { beat: replicas.get(replica.id)?.beat ?? 0, isLeaving: true }))
      ),
      tellReady: (from, to) =>
        database.write("PeerStore.tellReady", notify(topics.ready, `${replica.id} ${from}/${to}`)),
      forget: database.write(
        "PeerStore.forget",
        Effect.map(databaseNow, (now) => {
          const before = now - forgetAfterHours * 3_600_000
          for (const [peer, rows] of peers) {
            for (const [id, { updatedAt, ...row }] of rows) {
              if (updatedAt < before && (row.isLost || !replicas.has(id))) rows.delete(id)
            }
            if (rows.size === 0) peers.delete(peer)
          }
          for (const [key, { from }] of tunnels) if (!peers.has(from)) tunnels.delete(key)
        })
      ),
      signingKey: Effect.succeed("a key for tests")
    })
  })
)
