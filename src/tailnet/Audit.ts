/**
 * Compares what is stored of this replica's peers with the truth, which is here. Rows may go without a word: another process with a
 * peer's id said goodbye elsewhere, a table was truncated, a backup restored, the schema dropped. What is missing or old is
 * written again.
 *
 * - **Soon**, of peers of which another replica has just written something.
 * - **Slowly**, of all of them; then also what others have is read again, for what no notification has said.
 */
import { Duration, Effect, Random, type Semaphore } from "effect"
import type { Availability } from "../database/Availability.ts"
import type { CoordinatorState } from "./CoordinatorState.ts"
import type { PeerId } from "./Peer.ts"
import type { PeerStore } from "./PeerStore.ts"
import { rowsAtOnce } from "./Unwritten.ts"

/** Two reads of a thousand peers each; so rows that are gone are back within half a minute. */
const auditEvery = Duration.seconds(30)

/** Two processes with one id may go on for long, and each of their updates would be a reason to look. */
const suspectEvery = Duration.seconds(1)

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
    const peers = [...state.peers.keys()]
    for (let from = 0; from < peers.length; from += rowsAtOnce) {
      yield* compare(peers.slice(from, from + rowsAtOnce))
    }
    const isMore = Effect.map(store.present, (present) => state.unwritten.isEmpty && present > state.peers.size)
    if (yield* oneAtATime.withPermit(isMore)) options.onGhosts()
    state.readAll()
    options.announce()
  })

  const takeSuspects = Effect.suspend(() => {
    const peers = [...state.suspects].slice(0, rowsAtOnce)
    for (const peer of peers) state.suspects.delete(peer)
    return Effect.onError(compare(peers), () => Effect.sync(() => peers.forEach((peer) => state.suspects.add(peer))))
  })

  /** Forever: a session of a loop. */
  return Effect.gen(function*() {
    let waited = Duration.toMillis(auditEvery) * (yield* Random.next)
    while (true) {
      yield* Effect.sleep(suspectEvery)
      waited += Duration.toMillis(suspectEvery)
      if (state.suspects.size === 0 && waited < Duration.toMillis(auditEvery)) continue
      yield* availability.awaitAvailable
      if (state.suspects.size > 0) yield* takeSuspects
      if (waited < Duration.toMillis(auditEvery)) continue
      yield* compareAll
      waited = 0
    }
  })
}
