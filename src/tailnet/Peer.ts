/**
 * The model of the tailnet: peers, what they say of themselves, and what they are told of each other. Pure.
 *
 * A peer publishes a node, which says how it can be reached, and opens tunnels to other peers. Both ends of a tunnel are told of
 * each other's node. Every size and count has a limit, so that no peer can make another, or the coordinator, pay for it.
 */
import { Schema } from "effect"

/** Of one peer. */
export const limits = {
  /** Characters of a key, an endpoint, an address. */
  text: 128,
  endpoints: 64,
  addresses: 16,
  allowedIps: 128,
  relays: 256,
  /** Other peers that it opens tunnels to. */
  tunnels: 1_000,
  /** Bytes of a message. */
  message: 131_072,
  /** Bytes of a message of the coordinator: two of the largest nodes, or hundreds of ordinary ones. */
  event: 262_144,
  /** Messages a second, and at once. */
  messagesPerSecond: 200,
  messagesAtOnce: 2_000
} as const

export const PeerId = Schema.String.check(Schema.isPattern(/^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, {
  expected: "a UUID in small letters"
}))
export type PeerId = typeof PeerId.Type

const Text = Schema.String.check(Schema.isMaxLength(limits.text))
const texts = (most: number) => Schema.Array(Text).check(Schema.isMaxLength(most))

/** How a peer can be reached, in its own words. The coordinator hands it on, and looks only at `asOf`. */
export const Node = Schema.Struct({
  /** The WireGuard public key, in base64. */
  key: Text,
  /** `host:port`, the best first. */
  endpoints: texts(limits.endpoints),
  /** The relay region that it listens on, and the latency to each in milliseconds. */
  relay: Schema.Struct({
    preferred: Schema.Int,
    latencies: Schema.Record(Text, Schema.Finite).check(Schema.isMaxProperties(limits.relays))
  }),
  addresses: texts(limits.addresses),
  allowedIps: texts(limits.allowedIps),
  /** When it was so, in milliseconds of the Unix epoch by the peer's clock. Of two nodes of a peer the later one counts. */
  asOf: Schema.Finite
})
export type Node = typeof Node.Type

/**
 * What a peer is told of another.
 *
 * - `node`: its node, new or changed.
 * - `lost`: it was not heard of, or its replica was not; its node may still work, and it may come back.
 * - `disconnected`: it has gone, and said so; or there is no tunnel to it any more.
 * - `readyForHandshake`: it has set up its end of the tunnel.
 */
export type PeerUpdate =
  | { readonly peer: PeerId; readonly kind: "node"; readonly node: Node }
  | { readonly peer: PeerId; readonly kind: "lost"; readonly reason: string }
  | { readonly peer: PeerId; readonly kind: "disconnected"; readonly reason: string }
  | { readonly peer: PeerId; readonly kind: "readyForHandshake" }
