/**
 * Keeps peers and tunnels, so that the replicas know of each other's. Two implementations, `PeerStorePostgres` and
 * `PeerStoreMemory`, pass one conformance suite.
 *
 * A row for each peer and replica, and one for each tunnel. **Every operation is safe to repeat.** What is written is told to the
 * other replicas by notifications, which carry ids only; nobody relies on them.
 */
import { Context, type Effect } from "effect"
import type { StoreError } from "../provisioner/JobStore.ts"
import type { Mapping, PeerRow, Tunnel } from "./CoordinatorState.ts"
import type { PeerId } from "./Peer.ts"

export interface Changes {
  /** Of peers of this replica. One that has gone takes its older rows of other replicas with it. */
  readonly peers: ReadonlyArray<readonly [PeerId, PeerRow]>
  /** Tunnels that peers of this replica opened or closed. */
  readonly tunnels: ReadonlyArray<Tunnel & { readonly isOpen: boolean }>
  /** All tunnels of these peers: others that are stored are closed; not those of a peer that has gone here and is newer elsewhere. */
  readonly lists: ReadonlyArray<readonly [PeerId, ReadonlyArray<PeerId>]>
}

export interface ReplicaRow {
  readonly id: string
  /** Differs after each heartbeat. */
  readonly beat: string
  /** It said that it ends: its peers have been sent elsewhere, and get time to arrive. */
  readonly isLeaving: boolean
}

/** What was read, and of which server: another may have lost what others wrote. */
export interface Read<A> {
  readonly rows: ReadonlyArray<A>
  /** Differs after each start of a server. */
  readonly server: string
}

export class PeerStore extends Context.Service<PeerStore, {
  /** All at once, with the replica's own row, if the database has lost that. */
  readonly write: (changes: Changes) => Effect.Effect<void, StoreError>
  /** The tunnels that were opened *to* these peers. */
  readonly tunnelsTo: (peers: ReadonlyArray<PeerId>) => Effect.Effect<Read<Tunnel>, StoreError>
  /** The tunnels that these peers opened. */
  readonly tunnelsFrom: (peers: ReadonlyArray<PeerId>) => Effect.Effect<Read<Tunnel>, StoreError>
  /** How many peers of this replica are stored as present. */
  readonly present: Effect.Effect<number, StoreError>
  readonly mappings: (peers: ReadonlyArray<PeerId>) => Effect.Effect<Read<readonly [PeerId, Mapping]>, StoreError>
  readonly replicas: Effect.Effect<ReadonlyArray<ReplicaRow>, StoreError>
  /** Peers of this replica but these are lost, whatever is stored of them. Nobody is told. */
  readonly loseAllBut: (peers: ReadonlyArray<PeerId>) => Effect.Effect<void, StoreError>
  /** This replica ends. */
  readonly leave: Effect.Effect<void, StoreError>
  /** Tells the replica of a peer that another is ready for a handshake. Nothing of it is kept. */
  readonly tellReady: (from: PeerId, to: PeerId) => Effect.Effect<void, StoreError>
  /** Deletes peers that were lost for a day, and tunnels of peers that nobody has. */
  readonly forget: Effect.Effect<void, StoreError>
  /** What resume tokens are signed with; the same for all replicas. */
  readonly signingKey: Effect.Effect<string, StoreError>
}>()("lull/tailnet/PeerStore") {}

/** Notifications: the replica that wrote, and what it wrote, separated by blanks. */
export const topics = { peers: "peers", tunnels: "tunnels", ready: "ready" } as const

/** Nothing longer can be sent as a notification; the limit of PostgreSQL is 8,000 bytes. */
const longestPayload = 7_600

/** As many payloads as the ids need. */
export const payloads = (replica: string, ids: ReadonlyArray<string>): ReadonlyArray<string> => {
  const found: Array<string> = []
  let payload = replica
  for (const id of ids) {
    if (payload.length + 1 + id.length > longestPayload) {
      found.push(payload)
      payload = replica
    }
    payload += ` ${id}`
  }
  return payload === replica ? found : [...found, payload]
}

/** What has to be told of changes: a topic and a payload each. */
export const notificationsOf = (replica: string, changes: Changes): ReadonlyArray<readonly [string, string]> => {
  const pairs = [
    ...changes.tunnels.map(({ from, to }) => `${from}/${to}`),
    // Which of them are new is not known here; who is not concerned sees that at once.
    ...changes.lists.flatMap(([from, list]) => list.map((to) => `${from}/${to}`))
  ]
  return [
    ...payloads(replica, pairs).map((payload) => [topics.tunnels, payload] as const),
    ...payloads(replica, changes.peers.map(([peer]) => peer)).map((payload) => [topics.peers, payload] as const)
  ]
}

/** For so long a lost peer may come back to what it had: by the clock of the database, which wrote the rows, and outlives the replicas. */
export const forgetAfterHours = 24
