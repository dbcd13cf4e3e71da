/**
 * What one replica has to write of its peers: the newest of each, whatever came before. Pure but for itself.
 *
 * Tunnels are written one by one, or all of a peer as a list. A list says everything, so what was to be written one by one before it
 * is forgotten: written later, it would undo what the list says.
 */
import type { PeerRow } from "./CoordinatorState.ts"
import type { PeerId } from "./Peer.ts"
import type { Changes } from "./PeerStore.ts"

/** Rows in one statement. */
export const rowsAtOnce = 1_000

/** Tunnels in one statement, in lists of up to a thousand. */
const tunnelsAtOnce = 10_000

/** Tunnels that wait one by one. */
const mostTunnels = 10_000

export class Unwritten {
  readonly #peers = new Map<PeerId, PeerRow>()
  readonly #tunnels = new Map<string, Changes["tunnels"][number]>()
  readonly #lists = new Set<PeerId>()

  get isEmpty(): boolean {
    return this.#peers.size + this.#tunnels.size + this.#lists.size === 0
  }

  hasPeer(peer: PeerId): boolean {
    return this.#peers.has(peer)
  }

  /** `undefined`: nothing is to be written of it, or that it has gone. */
  row(peer: PeerId): PeerRow {
    return this.#peers.get(peer)
  }

  hasTunnel(from: PeerId, to: PeerId): boolean {
    return this.#tunnels.has(keyOf(from, to))
  }

  /** Peers of which something is to be written, or of tunnels that they opened. */
  concerned(): ReadonlySet<PeerId> {
    const concerned = new Set([...this.#peers.keys(), ...this.#lists])
    for (const { from } of this.#tunnels.values()) concerned.add(from)
    return concerned
  }

  setPeer(peer: PeerId, row: PeerRow): void {
    this.#peers.set(peer, row)
  }

  /** Whoever opens and closes ever new ones during an outage has his whole list written instead. */
  setTunnel(tunnel: Changes["tunnels"][number]): void {
    this.#tunnels.set(keyOf(tunnel.from, tunnel.to), tunnel)
    if (this.#tunnels.size <= mostTunnels) return
    for (const { from } of this.#tunnels.values()) this.#lists.add(from)
    this.#tunnels.clear()
  }

  /** All tunnels of a peer, as they are when they are taken. */
  setList(peer: PeerId): void {
    this.#lists.add(peer)
  }

  /** A session that broke says them again wherever it comes back, and what is written late would replace what it has said there by then. */
  dropTunnelsOf(peer: PeerId): void {
    this.#lists.delete(peer)
    for (const [key, { from }] of this.#tunnels) if (from === peer) this.#tunnels.delete(key)
  }

  /** As much as one statement may hold. */
  take(tunnelsOf: (peer: PeerId) => ReadonlyArray<PeerId>): Changes {
    const peers: Array<Changes["peers"][number]> = []
    for (const [peer, row] of this.#peers) {
      if (peers.length >= rowsAtOnce) break
      peers.push([peer, row])
      this.#peers.delete(peer)
    }
    const lists: Array<Changes["lists"][number]> = []
    let listed = 0
    for (const peer of this.#lists) {
      if (lists.length >= rowsAtOnce || listed >= tunnelsAtOnce) break
      const tunnels = tunnelsOf(peer)
      lists.push([peer, tunnels])
      listed += tunnels.length
      this.#lists.delete(peer)
    }
    const tunnels: Array<Changes["tunnels"][number]> = []
    for (const [key, tunnel] of this.#tunnels) {
      if (tunnels.length >= rowsAtOnce) break
      tunnels.push(tunnel)
      this.#tunnels.delete(key)
    }
    return { peers, lists, tunnels }
  }

  /**
   * It was not written, or nobody knows: again, but what is newer counts. Of tunnels the whole list of each peer that is still here, or
   * has said goodbye; one whose session broke meanwhile has dropped them.
   */
  putBack({ lists, peers, tunnels }: Changes, isHere: (peer: PeerId) => boolean): void {
    for (const [peer, row] of peers) if (!this.#peers.has(peer)) this.#peers.set(peer, row)
    const isGone = (peer: PeerId) => this.#peers.has(peer) && this.#peers.get(peer) === undefined
    for (const peer of new Set([...lists.map(([from]) => from), ...tunnels.map(({ from }) => from)])) {
      if (isHere(peer) || isGone(peer)) this.#lists.add(peer)
    }
    // Until they are written, what is read of them is old.
    for (const tunnel of tunnels) if (isGone(tunnel.from)) this.setTunnel({ ...tunnel, isOpen: false })
  }
}

const keyOf = (from: PeerId, to: PeerId) => from + to
