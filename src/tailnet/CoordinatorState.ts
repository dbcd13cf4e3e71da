/**
 * What one replica knows of peers and tunnels, and what follows from it: whom to tell of what, what to write, what to read.
 * Pure but for itself; time, database and sockets are the `Coordinator`'s.
 *
 * - A peer may be with several replicas at once, after a reconnect that the old one has not noticed. Of all nodes that are known of
 *   it the latest counts; any node counts before one that is lost.
 * - A replica that is silent takes its peers with it: they are lost, not disconnected, until it is heard of again.
 * - Nobody is told what he was told already. What a session has not taken yet is replaced by what is newer, so that a slow
 *   receiver costs one update for each of its partners, at most.
 * - An error changes nothing: only a positive answer that somebody is gone removes him.
 */
import { limits, type Node, type PeerId, type PeerUpdate } from "./Peer.ts"
import type { Changes } from "./PeerStore.ts"
import { rowsAtOnce, Unwritten } from "./Unwritten.ts"

/** A peer as one replica has it. */
export interface Mapping {
  readonly replica: string
  /** `undefined`: it has said nothing of itself yet. */
  readonly node: Node | undefined
  /** Its session ended without a word. */
  readonly isLost: boolean
}

/** A session of a peer with this replica. */
export interface Session {
  readonly id: string
  readonly peer: PeerId
  /** There is something to take. */
  onUpdates(): void
}

interface LocalPeer {
  session: Session
  node: Node | undefined
  /** What is said of each partner. */
  readonly told: Map<PeerId, Told>
  /** Of whom it has not been taken yet. (Most have nothing here most of the time, and pay for nothing.) */
  outbox: Set<PeerId> | undefined
  /** Who is ready for a handshake. */
  ready: Set<PeerId> | undefined
  /** Whether it has been said that all that is known was said: it cannot be before the database was asked. */
  synced: "notYet" | "due" | "said"
}

type Told = Node | "lost" | "gone"

/** What a session has to send. */
export interface Taken {
  readonly updates: ReadonlyArray<PeerUpdate>
  /** With these, all that is known has been said: whom the peer remembers beside them is gone. */
  readonly isSynced: boolean
  /** There is no more now. */
  readonly isAll: boolean
}

/** A row to be written for a peer of this replica. `undefined`: it has disconnected, and has none. */
export type PeerRow = Omit<Mapping, "replica"> | undefined

export interface Tunnel {
  readonly from: PeerId
  readonly to: PeerId
}

/** Which end opened a tunnel. A pair may have two of them. */
const outgoing = 1
const incoming = 2

export class CoordinatorState {
  readonly replica: string
  readonly #local = new Map<PeerId, LocalPeer>()
  /** Of each peer that is here, or was told of: its partners, and who opened the tunnel. */
  readonly #partners = new Map<PeerId, Map<PeerId, number>>()
  readonly #remote = new Map<PeerId, ReadonlyArray<Mapping>>()
  readonly #silent = new Set<string>()
  /** Of peers here: replicas at which an older session of them has ended, as it was read last. */
  readonly #endedElsewhere = new Map<PeerId, ReadonlySet<string>>()
  /** Peers here whose tunnels have been read, and in which reading all that is at the other ends will have been. */
  readonly #syncing = new Map<PeerId, number>()
  #readings = 0

  /**
   * The database may just have lost what others wrote, as in a failover, and they have not written it again yet: that somebody is
   * missing there proves nothing.
   */
  isDoubtful = false

  readonly unwritten = new Unwritten()
  /** To be read: partners of peers here of whom the database may know more. */
  readonly unread = new Set<PeerId>()
  /** Peers here whose tunnels the database may know more of. */
  readonly unreadTunnels = new Set<PeerId>()

  /** Peers here of which another replica has written something, and since when `Audit` knows it: their own rows may be gone. */
  readonly suspects = new Map<PeerId, number | undefined>()

  constructor(replica: string) {
    this.replica = replica
  }

  get peers(): ReadonlyMap<PeerId, { readonly session: Session }> {
    return this.#local
  }

  /** Whether it matters here which other replicas are silent. */
  get knowsRemotePeers(): boolean {
    return this.#remote.size > 0
  }

  // --- sessions

  /** A session begins. The one that the peer had here before is returned, to be closed. */
  open(
    session: Session,
    wanted: { readonly node?: Node | undefined; readonly tunnels?: ReadonlyArray<PeerId> | undefined }
  ): Session | undefined {
    const before = this.#local.get(session.peer)
    const own = this.#remote.get(session.peer)?.find(({ replica }) => replica === this.replica)
    const peer: LocalPeer = {
      session,
      node: wanted.node ?? before?.node ?? own?.node,
      told: new Map(),
      outbox: undefined,
      ready: undefined,
      synced: "notYet"
    }
    this.#local.set(session.peer, peer)
    this.unwritten.setPeer(session.peer, { node: peer.node, isLost: false })
    this.unwritten.dropTunnelsOf(session.peer)
    this.#setTunnels(session.peer, wanted.tunnels ?? [])
    this.unreadTunnels.add(session.peer)
    this.#tellPartnersOf(session.peer)
    for (const partner of this.#partnersOf(session.peer)) this.#tell(peer, partner)
    return before?.session
  }

  /** Whether a session is still the one of its peer. */
  isCurrent(session: Session): boolean {
    return this.#local.get(session.peer)?.session === session
  }

  /** A session ends: with a word (`isGraceful`), and so the peer is gone; or without, and then it is lost. */
  close(session: Session, isGraceful: boolean): void {
    const { peer } = session
    const local = this.#local.get(peer)
    if (local?.session !== session) return
    this.#local.delete(peer)
    this.#endedElsewhere.delete(peer)
    if (isGraceful) {
      this.unwritten.setPeer(peer, undefined)
      this.#forgetRemote(peer, local.node?.asOf)
      this.#setTunnels(peer, [])
    } else {
      const mapping = { node: local.node, isLost: true }
      this.unwritten.setPeer(peer, mapping)
      this.#setRemote(peer, { ...mapping, replica: this.replica })
      this.unwritten.dropTunnelsOf(peer)
    }
    this.#tellPartnersOf(peer)
    this.#forgetUnneeded(peer)
  }

  /** A session ends since its replica does: the peer is on its way to another, and nobody is told anything. */
  moveAway(session: Session): void {
    if (!this.isCurrent(session)) return
    this.#local.delete(session.peer)
    this.#endedElsewhere.delete(session.peer)
    this.unwritten.dropTunnelsOf(session.peer)
    this.#forgetUnneeded(session.peer)
  }

  setNode(session: Session, node: Node): void {
    const local = this.#local.get(session.peer)
    if (local?.session !== session) return
    // Within a session what comes later is later, also of a clock that was set back.
    local.node = node
    this.unwritten.setPeer(session.peer, { node, isLost: false })
    this.#tellPartnersOf(session.peer)
  }

  /** `false`: it has as many as it may. */
  addTunnel(session: Session, to: PeerId, most: number): boolean {
    if (!this.isCurrent(session)) return true
    const partners = this.#partners.get(session.peer)
    if (((partners?.get(to) ?? 0) & outgoing) !== 0 || to === session.peer) return true
    if (this.#outgoing(session.peer).length >= most) return false
    this.#link(session.peer, to)
    this.unwritten.setTunnel({ from: session.peer, to, isOpen: true })
    this.#tellBoth(session.peer, to)
    return true
  }

  removeTunnel(session: Session, to: PeerId): void {
    if (!this.isCurrent(session)) return
    this.#closeTunnel(session.peer, to)
  }

  /** Whether it can be told here; else the other replicas have to be asked to. */
  ready(from: PeerId, to: PeerId): "told" | "elsewhere" | "noTunnel" {
    const local = this.#local.get(to)
    if (local === undefined) return this.#partners.get(from)?.has(to) === true ? "elsewhere" : "noTunnel"
    if (this.#partners.get(to)?.has(from) !== true) return "noTunnel"
    local.ready ??= new Set()
    local.ready.add(from)
    local.session.onUpdates()
    return "told"
  }

  /** What is to be sent to a session now; nothing if it is not its peer's any more. */
  take(session: Session, most: number): Taken {
    const local = this.#local.get(session.peer)
    if (local?.session !== session) return { updates: [], isSynced: false, isAll: true }
    const updates: Array<PeerUpdate> = []
    // One update is never too large, and most messages have one.
    const isMeasured = (local.outbox?.size ?? 0) > 1
    let bytes = 0
    for (const partner of local.outbox ?? []) {
      const told = local.told.get(partner)
      if (isMeasured) bytes += updateBytes + (isNode(told) ? nodeBytes(told) : 0)
      if (updates.length >= most || (bytes > limits.event && updates.length > 0)) {
        return { updates, isSynced: false, isAll: false }
      }
      updates.push(updateOf(partner, told))
      local.outbox?.delete(partner)
    }
    local.outbox = undefined
    for (const peer of local.ready ?? []) {
      if (updates.length >= most) return { updates, isSynced: false, isAll: false }
      updates.push({ peer, kind: "readyForHandshake" })
      local.ready?.delete(peer)
    }
    local.ready = undefined
    const isSynced = local.synced === "due"
    if (isSynced) local.synced = "said"
    return { updates, isSynced, isAll: true }
  }

  // --- what the database is told

  takeChanges(): Changes {
    return this.unwritten.take((peer) => this.#outgoing(peer))
  }

  /** They were not written, or nobody knows. */
  putBack(changes: Changes): void {
    this.unwritten.putBack(changes, (peer) => this.#local.has(peer))
  }

  /** All that is here is to be written again, as the database may have lost it. */
  writeAll(): void {
    for (const [peer, { node }] of this.#local) {
      this.unwritten.setPeer(peer, { node, isLost: false })
      this.unwritten.setList(peer)
    }
  }

  // --- what the database says

  /** Some may have been missed: everything that sessions here need is to be read again. */
  readAll(): void {
    for (const peer of this.#local.keys()) this.unreadTunnels.add(peer)
  }

  /** Others changed these. */
  changed(peers: Iterable<PeerId>): void {
    for (const peer of peers) {
      if (this.#local.has(peer)) this.#suspect(peer)
      if (this.#local.has(peer) || this.#isPartnerOfLocal(peer)) this.unread.add(peer)
    }
  }

  /** Others opened or closed a tunnel between these. */
  changedTunnel(from: PeerId, to: PeerId): void {
    if (this.#local.has(to)) this.unreadTunnels.add(to)
    if (this.#local.has(from)) {
      this.unreadTunnels.add(from)
      this.#suspect(from)
    }
  }

  #suspect(peer: PeerId): void {
    if (!this.suspects.has(peer)) this.suspects.set(peer, undefined)
  }

  /**
   * What is stored of these peers, and of the tunnels that they opened, against what is known here. Has written again what is missing
   * or old, and answers how many rows were missing. Tunnels are left alone where the peer has a session elsewhere, too: which of them is
   * the newer is not known here.
   */
  compare(
    peers: ReadonlySet<PeerId>,
    mappings: ReadonlyArray<readonly [PeerId, Mapping]>,
    tunnels: ReadonlyArray<Tunnel>
  ): number {
    const own = new Map<PeerId, Mapping>()
    const elsewhere = new Set<PeerId>()
    for (const [peer, mapping] of mappings) {
      if (mapping.replica === this.replica) own.set(peer, mapping)
      else if (!mapping.isLost && !this.#silent.has(mapping.replica)) elsewhere.add(peer)
    }
    const opened = Map.groupBy(tunnels, ({ from }) => from)
    const waiting = this.unwritten.concerned()
    let missing = 0
    for (const peer of peers) {
      const local = this.#local.get(peer)
      if (local === undefined || waiting.has(peer)) continue
      const stored = own.get(peer)
      if (stored === undefined) missing++
      const isOld = local.node !== undefined && stored?.node?.asOf !== local.node.asOf
      if (stored === undefined || stored.isLost || isOld) {
        this.unwritten.setPeer(peer, { node: local.node, isLost: false })
      }
      const wanted = new Set(this.#outgoing(peer))
      const found = opened.get(peer) ?? []
      const isSame = found.length === wanted.size && found.every(({ to }) => wanted.has(to))
      if (!isSame && !elsewhere.has(peer)) this.unwritten.setList(peer)
    }
    return missing
  }

  /** All tunnels to and from these peers of this replica, as they are stored. */
  readTunnels(peers: ReadonlySet<PeerId>, stored: ReadonlyArray<Tunnel>): void {
    const seen = new Map<PeerId, Set<PeerId>>()
    for (const { from, to } of stored) {
      if (!peers.has(to) || this.unwritten.hasTunnel(from, to)) continue
      let froms = seen.get(to)
      if (froms === undefined) seen.set(to, froms = new Set())
      froms.add(from)
    }
    for (const peer of peers) {
      const local = this.#local.get(peer)
      if (local === undefined) continue
      const found = seen.get(peer) ?? new Set<PeerId>()
      // What a peer here opened itself it knows best; the database is asked for what others opened to it.
      for (const partner of this.isDoubtful ? [] : this.#partnersOf(peer)) {
        const isOpen = ((this.#partners.get(peer)?.get(partner) ?? 0) & incoming) !== 0
        if (
          isOpen && !found.has(partner) && !this.#local.has(partner) && !this.unwritten.hasTunnel(partner, peer)
        ) {
          this.#unlink(partner, peer)
          this.#tellBoth(partner, peer)
        }
      }
      for (const from of found) {
        // A peer that is here has said for itself which tunnels it has.
        if (!this.#local.has(from)) this.#link(from, peer)
      }
      for (const partner of this.#partnersOf(peer)) this.unread.add(partner)
      if (local.synced === "notYet" && !this.isDoubtful) this.#syncing.set(peer, this.#untilAllRead())
    }
  }

  /** In which reading the last of those that are unread now will have been read, as the oldest come first. */
  #untilAllRead(): number {
    return this.#readings + Math.ceil(this.unread.size / rowsAtOnce)
  }

  /** All mappings of these peers at other replicas, as they are stored. */
  readMappings(peers: ReadonlySet<PeerId>, stored: ReadonlyArray<readonly [PeerId, Mapping]>): void {
    const found = new Map<PeerId, Array<Mapping>>()
    for (const [peer, mapping] of stored) {
      // Of those that are here nobody knows more; of those that were here, neither, until it is written.
      if (mapping.replica === this.replica && (this.#local.has(peer) || this.unwritten.hasPeer(peer))) continue
      const mappings = found.get(peer)
      if (mappings === undefined) found.set(peer, [mapping])
      else mappings.push(mapping)
    }
    for (const peer of peers) {
      // An older session of it ended elsewhere, which until then may have written again which tunnels it had.
      if (this.#local.has(peer) && this.#hasEndedElsewhere(peer, found.get(peer) ?? [])) this.unwritten.setList(peer)
      if (!this.#isPartnerOfLocal(peer)) {
        this.#remote.delete(peer)
        continue
      }
      const before = this.#remote.get(peer)
      const mappings = (found.get(peer) ?? []).map((mapping) => withKnownNode(mapping, before))
      // A replica that is silent could not write again what a failover has lost: its peers are lost, and not gone.
      const missing = (before ?? []).filter(({ replica }) =>
        (this.isDoubtful || this.#silent.has(replica)) && !mappings.some((one) => replica === one.replica)
      )
      mappings.push(...missing)
      const unwritten = this.unwritten.row(peer)
      if (!this.#local.has(peer) && unwritten !== undefined) mappings.push({ ...unwritten, replica: this.replica })
      if (mappings.length === 0) this.#remote.delete(peer)
      else this.#remote.set(peer, mappings)
      this.#tellPartnersOf(peer)
    }
  }

  /** Whether that is news: a lost row stays for a day. */
  #hasEndedElsewhere(peer: PeerId, mappings: ReadonlyArray<Mapping>): boolean {
    const lost = mappings.flatMap(({ isLost, replica }) => isLost ? [replica] : [])
    const known = this.#endedElsewhere.get(peer)
    if (lost.length === 0) this.#endedElsewhere.delete(peer)
    else this.#endedElsewhere.set(peer, new Set(lost))
    return lost.some((replica) => known?.has(replica) !== true)
  }

  /** One reading is done. Sessions of which all partners have been read by now are told that they know all. */
  noteRead(): void {
    this.#readings++
    if (this.isDoubtful) this.#syncing.clear()
    for (const [peer, due] of this.#syncing) {
      if (due > this.#readings) continue
      this.#syncing.delete(peer)
      const local = this.#local.get(peer)
      if (local?.synced !== "notYet") continue
      local.synced = "due"
      local.session.onUpdates()
    }
  }

  /** One has failed, and what it was to read comes last now. */
  noteReadFailed(): void {
    for (const peer of this.#syncing.keys()) this.#syncing.set(peer, this.#untilAllRead())
  }

  /** Which replicas were not heard of for so long that their peers are lost. */
  setSilent(replicas: ReadonlySet<string>): void {
    const changed = new Set(
      [...replicas, ...this.#silent].filter((each) => replicas.has(each) !== this.#silent.has(each))
    )
    if (changed.size === 0) return
    this.#silent.clear()
    for (const replica of replicas) this.#silent.add(replica)
    for (const [peer, mappings] of this.#remote) {
      if (mappings.some(({ replica }) => changed.has(replica))) this.#tellPartnersOf(peer)
    }
  }

  // --- who is told what

  #best(peer: PeerId): Told | undefined {
    const local = this.#local.get(peer)
    let best: { readonly node: Node; readonly isLost: boolean } | undefined
    if (local?.node !== undefined) best = { node: local.node, isLost: false }
    for (const { isLost, node, replica } of this.#remote.get(peer) ?? []) {
      if (node === undefined) continue
      const other = { node, isLost: isLost || this.#silent.has(replica) }
      if (best === undefined || isBetter(other, best)) best = other
    }
    return best?.isLost === true ? "lost" : best?.node
  }

  #tell(observer: LocalPeer, subject: PeerId): void {
    const isPartner = this.#ends(observer.session.peer, subject) !== 0
    const now = isPartner ? this.#best(subject) : undefined
    const before = observer.told.get(subject)
    if (now === undefined) {
      if (before === undefined || before === "gone") return
      if (isPartner) observer.told.set(subject, "gone")
      else observer.told.delete(subject)
    } else {
      if (before === now || (isNode(before) && isNode(now) && isSame(before, now))) return
      observer.told.set(subject, now)
    }
    observer.outbox ??= new Set()
    observer.outbox.add(subject)
    observer.session.onUpdates()
  }

  #tellPartnersOf(subject: PeerId): void {
    for (const partner of this.#partnersOf(subject)) {
      const local = this.#local.get(partner)
      if (local !== undefined) this.#tell(local, subject)
    }
  }

  #tellBoth(one: PeerId, other: PeerId): void {
    const here = this.#local.get(one)
    const there = this.#local.get(other)
    if (here !== undefined) {
      this.#tell(here, other)
      if (there === undefined) this.unread.add(other)
    }
    if (there !== undefined) {
      this.#tell(there, one)
      if (here === undefined) this.unread.add(one)
    }
  }

  // --- tunnels

  #partnersOf(peer: PeerId): ReadonlyArray<PeerId> {
    const partners = this.#partners.get(peer)
    return partners === undefined ? [] : [...partners.keys()]
  }

  #outgoing(peer: PeerId): ReadonlyArray<PeerId> {
    return [...this.#partners.get(peer) ?? []].filter(([, ends]) => (ends & outgoing) !== 0).map(([partner]) => partner)
  }

  #setTunnels(peer: PeerId, to: ReadonlyArray<PeerId>): void {
    const wanted = new Set(to.filter((partner) => partner !== peer))
    for (const partner of this.#outgoing(peer)) if (!wanted.has(partner)) this.#closeTunnel(peer, partner)
    for (const partner of wanted) {
      this.#link(peer, partner)
      this.#tellBoth(peer, partner)
    }
    this.unwritten.setList(peer)
  }

  #closeTunnel(from: PeerId, to: PeerId): void {
    if (((this.#partners.get(from)?.get(to) ?? 0) & outgoing) === 0) return
    this.#unlink(from, to)
    this.unwritten.setTunnel({ from, to, isOpen: false })
    this.#tellBoth(from, to)
  }

  #link(from: PeerId, to: PeerId): void {
    this.#setEnds(from, to, this.#ends(from, to) | outgoing)
    this.#setEnds(to, from, this.#ends(to, from) | incoming)
  }

  #unlink(from: PeerId, to: PeerId): void {
    this.#setEnds(from, to, this.#ends(from, to) & ~outgoing)
    this.#setEnds(to, from, this.#ends(to, from) & ~incoming)
    this.#forgetUnneeded(from)
    this.#forgetUnneeded(to)
  }

  #ends(peer: PeerId, partner: PeerId): number {
    return this.#partners.get(peer)?.get(partner) ?? 0
  }

  #setEnds(peer: PeerId, partner: PeerId, ends: number): void {
    let partners = this.#partners.get(peer)
    if (ends === 0) {
      partners?.delete(partner)
      if (partners?.size === 0) this.#partners.delete(peer)
      return
    }
    if (partners === undefined) this.#partners.set(peer, partners = new Map())
    partners.set(partner, ends)
  }

  // --- what is remembered of others

  #isPartnerOfLocal(peer: PeerId): boolean {
    for (const partner of this.#partners.get(peer)?.keys() ?? []) if (this.#local.has(partner)) return true
    return false
  }

  #setRemote(peer: PeerId, mapping: Mapping): void {
    const others = (this.#remote.get(peer) ?? []).filter(({ replica }) => replica !== mapping.replica)
    this.#remote.set(peer, [...others, mapping])
  }

  /** It said goodbye here: what is older elsewhere goes with it. */
  #forgetRemote(peer: PeerId, asOf: number | undefined): void {
    const others = (this.#remote.get(peer) ?? []).filter(({ node, replica }) =>
      replica !== this.replica && node !== undefined && asOf !== undefined && node.asOf > asOf
    )
    if (others.length === 0) this.#remote.delete(peer)
    else this.#remote.set(peer, others)
  }

  /** Tunnels between peers of whom neither is here are no business of this replica. */
  #forgetUnneeded(peer: PeerId): void {
    if (this.#local.has(peer)) return
    for (const partner of this.#partnersOf(peer)) {
      if (this.#local.has(partner)) continue
      this.#setEnds(peer, partner, 0)
      this.#setEnds(partner, peer, 0)
      if (!this.#partners.has(partner)) this.#remote.delete(partner)
    }
    if (!this.#partners.has(peer)) this.#remote.delete(peer)
  }
}

/** What an update has beside a node, at most. */
const updateBytes = 150

/** Each node goes to many, and is measured once. */
const measured = new WeakMap<Node, number>()

const nodeBytes = (node: Node): number => {
  const known = measured.get(node)
  if (known !== undefined) return known
  const bytes = Buffer.byteLength(JSON.stringify(node))
  measured.set(node, bytes)
  return bytes
}

const isNode = (told: Told | undefined): told is Node => typeof told === "object"

const updateOf = (peer: PeerId, told: Told | undefined): PeerUpdate => {
  switch (told) {
    case undefined:
      return { peer, kind: "disconnected", reason: "there is no tunnel" }
    case "gone":
      return { peer, kind: "disconnected", reason: "it is not there" }
    case "lost":
      return { peer, kind: "lost", reason: "it was not heard of" }
    default:
      return { peer, kind: "node", node: told }
  }
}

const isBetter = (
  one: { readonly node: Node; readonly isLost: boolean },
  other: { readonly node: Node; readonly isLost: boolean }
) => one.isLost === other.isLost ? one.node.asOf > other.node.asOf : other.isLost

/** The same object for the same node, so that those who were told of it need not compare it again. */
const withKnownNode = (mapping: Mapping, known: ReadonlyArray<Mapping> | undefined): Mapping => {
  const { node, replica } = mapping
  const before = known?.find((one) => one.replica === replica)?.node
  return node !== undefined && before !== undefined && isSame(node, before) ? { ...mapping, node: before } : mapping
}

/** A node that was read again is another object. */
const isSame = (one: Node, other: Node) => one.asOf === other.asOf && JSON.stringify(one) === JSON.stringify(other)
