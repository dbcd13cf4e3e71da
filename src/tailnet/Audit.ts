/**
 * Compares what is stored of this replica's peers with the truth, which is here. Rows may go without a word: another process with a
 * peer's id said goodbye elsewhere, a table was truncated, a backup restored, the schema dropped. What is missing or old is
 * written again.
 *
 * - **All of them, slowly**; then also what others have is read again, for what no notification has said.
 * - **Not soon where another replica has just written something of a peer.** It may have come there and said goodbye, and its session
 *   here is only not missed yet: what is written then would bring back who has left.
 */
import { Duration, Effect, Random, type Semaphore } from "effect"
import type { Availability } from "../database/Availability.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
import type { CoordinatorState } from "./CoordinatorState.ts"
import type { PeerId } from "./Peer.ts"
import type { PeerStore } from "./PeerStore.ts"
import { rowsAtOnce } from "./Unwritten.ts"

/** Two reads of a thousand peers each; so rows that are gone are back within half a minute. */
const auditEvery = Duration.seconds(30)

/** A session that nobody is at any more is closed within 38 seconds. */
const suspectFor = 40_000

const lookEvery = Duration.seconds(1)

export const make = (options: {
  readonly state: CoordinatorState
  readonly store: PeerStore["Service"]
  readonly availability: Availability["Service"]
  /** Held while it compares, so that nothing is being written meanwhile. */
  readonly oneAtATime: Semaphore.Semaphore
  readonly noteServer: (server: string) => void
  /** Rows of this replica are missing. */
  readonly onMissing: () => void
  /** More of its peers are stored as present than there are. */
  readonly onGhosts: () => void
  /** Its peers are on their way to others, and stay as they are stored. */
  readonly isLeaving: () => boolean
  readonly announce: () => void
}) => {
  const { availability, oneAtATime, state, store } = options

  const compare = (peers: ReadonlyArray<PeerId>) =>
    oneAtATime.withPermit(Effect.gen(function*() {
      const mappings = yield* store.mappings(peers)
      const tunnels = yield* store.tunnelsFrom(peers)
      options.noteServer(mappings.server)
      if (state.compare(new Set(peers), mappings.rows, tunnels.rows) > 0) options.onMissing()
      options.announce()
    }))

  const compareAll = Effect.gen(function*() {
    const peers = [...state.peers.keys()].filter((peer) => !state.suspects.has(peer))
    for (let from = 0; from < peers.length; from += rowsAtOnce) {
      yield* compare(peers.slice(from, from + rowsAtOnce))
    }
    const isMore = Effect.map(
      store.present,
      (present) => !options.isLeaving() && state.unwritten.isEmpty && present > state.peers.size
    )
    if (yield* oneAtATime.withPermit(isMore)) options.onGhosts()
    state.readAll()
    options.announce()
  })

  /** Those of which nothing more was written for long enough to be sure that their sessions here are alive. */
  const dueSuspects = Effect.map(monotonicMillis, (now) => {
    const due: Array<PeerId> = []
    for (const [peer, since] of state.suspects) {
      if (!state.peers.has(peer)) state.suspects.delete(peer)
      else if (since === undefined) state.suspects.set(peer, now)
      else if (now - since >= suspectFor && due.length < rowsAtOnce) due.push(peer)
    }
    return due
  })

  const compareSuspects = Effect.flatMap(dueSuspects, (due) =>
    due.length === 0
      ? Effect.void
      : Effect.map(compare(due), () => due.forEach((peer) => state.suspects.delete(peer))))

  /** Forever: a session of a loop. */
  return Effect.gen(function*() {
    let waited = Duration.toMillis(auditEvery) * (yield* Random.next)
    while (true) {
      yield* Effect.sleep(lookEvery)
      waited += Duration.toMillis(lookEvery)
      const isDue = waited >= Duration.toMillis(auditEvery)
      if (state.suspects.size === 0 && !isDue) continue
      yield* availability.awaitAvailable
      yield* compareSuspects
      if (!isDue) continue
      yield* compareAll
      waited = 0
    }
  })
}
