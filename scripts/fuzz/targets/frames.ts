/** WebSocket: frames and messages of a peer that are nearly right, and bytes that are none, at a real service. */
import * as Json from "../Json.ts"
import type { Random } from "../Random.ts"
import * as RawSocket from "../RawSocket.ts"
import * as Service from "../Service.ts"
import { holds, type Target } from "../Target.ts"

const uuid = (number: number) => `00000000-0000-4000-8000-${String(number).padStart(12, "0")}`

/** So few that they meet. */
const peers = 20

const node = {
  key: "m3fyG0yOYZ4Wn0Vg7S8Y3dZb7mGvB8n2Q3m9s0c9dHk=",
  endpoints: ["198.51.100.7:41641"],
  relay: { preferred: 1, latencies: { "1": 12.5 } },
  addresses: ["fd7a:115c:a1e0::1/128"],
  allowedIps: ["fd7a:115c:a1e0::1/128"],
  asOf: 1_764_000_000_000
}

const message = (random: Random): unknown => {
  const peer = uuid(random.below(peers))
  return random.pick([
    { type: "hello", version: 1, peer, node, tunnels: [uuid(random.below(peers))] },
    { type: "hello", version: random.below(4), peer, resume: random.text(20) },
    { type: "node", node: { ...node, asOf: random.pick([0, -1, 1e300, 1_764_000_000_001]) } },
    { type: "addTunnel", peer },
    { type: "removeTunnel", peer },
    { type: "readyForHandshake", peer },
    { type: "pong" },
    { type: "disconnect" },
    { type: random.text(5) }
  ])
}

const text = 1
const opcodes = [0, text, 2, 3, 8, 9, 10, 15]

/** As a client sends it; here and there with a bit that is not allowed, or a length that is not its own. */
const frame = (random: Random, payload: Uint8Array, opcode: number): Uint8Array => {
  const first = (random.oneIn(15) ? 0 : 0x80) | (random.oneIn(30) ? 0x70 : 0) | opcode
  const isMasked = random.oneIn(30) ? 0 : 0x80
  const length = random.oneIn(30) ? random.below(70_000) : payload.length
  const head = length < 126
    ? [first, isMasked | length]
    : [first, isMasked | 126, (length >> 8) & 255, length & 255]
  // A mask of zeros leaves the payload as it is.
  return Buffer.concat([Buffer.from(head), Buffer.alloc(isMasked === 0 ? 0 : 4), payload])
}

const longest = 60_000

const frames = (random: Random): ReadonlyArray<Uint8Array> =>
  random.several(12, () => {
    if (random.oneIn(25)) return random.bytes(100)
    const payload = random.oneIn(10)
      ? random.bytes(120)
      : Buffer.from(Json.text(random, message(random)).slice(0, longest))
    return frame(random, payload.subarray(0, longest), random.oneIn(10) ? random.pick(opcodes) : text)
  })

export const target: Target = {
  meaning: "WebSocket frames of peers, at a real service",
  open: async () => {
    const service = await Service.open({ LULL_WORKER_SLOTS: "0" })
    const upgrade = [
      "GET /api/v1/tailnet HTTP/1.1",
      `host: 127.0.0.1:${service.port}`,
      "upgrade: websocket",
      "connection: upgrade",
      "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
      "sec-websocket-version: 13",
      "",
      ""
    ].join("\r\n")
    return {
      run: async (random) => {
        const hello = Buffer.from(JSON.stringify({ type: "hello", version: 1, peer: uuid(random.below(peers)), node }))
        const sent = [upgrade, ...random.oneIn(5) ? [] : [frame(random, hello, text)], ...frames(random)]
        const received = await RawSocket.exchange(service.port, sent)
        holds(
          received.startsWith("HTTP/1.1 101") || received === "",
          `no upgrade: ${received.slice(0, 300)}`
        )
      },
      check: service.check,
      close: service.close
    }
  }
}
