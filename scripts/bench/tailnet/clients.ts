/** Peers that cost little, as there are thousands of them in one process: the protocol of `docs/tailnet.md` over bare WebSockets. */
import { createRequire } from "node:module"

const require = createRequire(new URL("../peers/package.json", import.meta.url))
const { WebSocket } = require("ws") as {
  readonly WebSocket: new(url: string) => {
    readonly on: (event: string, listener: (data: Buffer) => void) => void
    readonly send: (text: string) => void
    readonly close: () => void
  }
}

export const idOf = (index: number) => `00000000-0000-4000-8000-${String(index).padStart(12, "0")}`
export const node = (index: number, asOf: number) => ({
  key: `m3fyG0yOYZ4Wn0Vg7S8Y3dZb7mGvB8n2Q3m9s0c9dHk=${index}`,
  endpoints: ["198.51.100.7:41641", "203.0.113.9:41641", "[2001:db8::7]:41641"],
  relay: { preferred: 1, latencies: { "1": 12.5, "2": 31.25, "3": 88 } },
  addresses: ["fd7a:115c:a1e0::1/128"],
  allowedIps: ["fd7a:115c:a1e0::1/128"],
  asOf
})

export interface Client {
  readonly send: (message: unknown) => void
  onNode: (peer: string, asOf: number) => void
}

/** A session, from its welcome on. */
export const connect = (url: string, index: number, tunnels: ReadonlyArray<number>) =>
  new Promise<Client>((resolve) => {
    const socket = new WebSocket(url)
    const client: Client = { send: (message) => socket.send(JSON.stringify(message)), onNode: () => undefined }
    socket.on(
      "open",
      () =>
        client.send({ type: "hello", version: 1, peer: idOf(index), node: node(index, 1), tunnels: tunnels.map(idOf) })
    )
    socket.on("message", (data) => {
      const message = JSON.parse(String(data))
      if (message.type === "welcome") {
        resolve(client)
      }
      if (message.type === "ping") {
        client.send({ type: "pong" })
      }
      if (message.type === "updates") {
        for (const update of message.updates) {
          if (update.kind === "node") {
            client.onNode(update.peer, update.node.asOf)
          }
        }
      }
    })
  })

/** Tunnels of each peer, to the next ones. Each is told of as many others again, which have theirs to it. */
export const tunnelsOfEach = 5

/** Peers numbered from 0 on, at the address that `urlOf` says. */
export const connectMany = async (count: number, urlOf: (index: number) => string) => {
  const clients: Array<Client> = []
  for (let from = 0; from < count; from += 200) {
    clients.push(
      ...await Promise.all(
        Array.from({ length: Math.min(200, count - from) }, (_, at) =>
          connect(
            urlOf(from + at),
            from + at,
            Array.from({ length: tunnelsOfEach }, (__, step) => (from + at + step + 1) % count)
          ))
      )
    )
  }
  return clients
}

/** When everybody was told the node `asOf` of everybody at the other end of a tunnel. */
export const allTold = (clients: ReadonlyArray<Client>, asOf: number) =>
  new Promise<void>((resolve) => {
    let outstanding = clients.length * tunnelsOfEach * 2
    for (const client of clients) {
      const told = new Set<string>()
      client.onNode = (peer, found) => {
        if (found !== asOf || told.has(peer)) return
        told.add(peer)
        if (--outstanding === 0) resolve()
      }
    }
  })

/** A WebSocket and nothing else. */
export const bare = (url: string) =>
  new Promise<{ send: (text: string) => void; onMessage: (text: string) => void }>((resolve) => {
    const socket = new WebSocket(url)
    const client = { send: (text: string) => socket.send(text), onMessage: (_: string): void => undefined }
    socket.on("open", () => resolve(client))
    socket.on("message", (data) => client.onMessage(String(data)))
  })
