/** `lull peer join`: a peer of the tailnet, as a program. It stays until it is ended, through whatever happens to the service. */
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import { Clock, Config, Console, Effect, Fiber, Option, Redacted, Schema, Stream } from "effect"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import { createHash, generateKeyPairSync } from "node:crypto"
import { networkInterfaces } from "node:os"
import { clientAddress, emptySecret } from "../Settings.ts"
import { type Node, PeerId, type PeerUpdate } from "../tailnet/Peer.ts"
import * as TailnetLoop from "../tailnet/TailnetLoop.ts"
import * as Transports from "../tailnet/Transports.ts"
import { CommandFailed, statuses } from "./Client.ts"
import { Interruption } from "./Interruption.ts"

/** A name leads to the same id everywhere: as a UUID of version 8, whose bits are the application's. */
export const peerIdOf = (nameOrId: string): PeerId => {
  if (Schema.is(PeerId)(nameOrId)) return nameOrId
  const hash = createHash("sha256").update(`lull peer ${nameOrId}`).digest("hex")
  return [hash.slice(0, 8), hash.slice(8, 12), `8${hash.slice(13, 16)}`, `8${hash.slice(17, 20)}`, hash.slice(20, 32)]
    .join("-")
}

/** WireGuard's keys are those of X25519: the last 32 bytes of the DER are the key itself. */
const publicKey = () =>
  generateKeyPairSync("x25519").publicKey.export({ type: "spki", format: "der" }).subarray(-32).toString("base64")

const wireGuardPort = 41_641

const nodeOf = (id: PeerId, asOf: number): Node => {
  const hosts = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? [])
    .filter(({ internal }) => !internal)
    .map(({ address, family }) => family === "IPv6" ? `[${address}]:${wireGuardPort}` : `${address}:${wireGuardPort}`)
  const hash = id.replaceAll("-", "")
  const address = `fd7a:115c:a1e0:${hash.slice(16, 20)}:${hash.slice(20, 24)}:${hash.slice(24, 28)}:${
    hash.slice(28, 32)
  }::`
  return {
    key: publicKey(),
    endpoints: hosts.slice(0, 16),
    relay: { preferred: 0, latencies: {} },
    addresses: [`${address}/128`],
    allowedIps: [`${address}/128`],
    asOf
  }
}

const describe = (update: PeerUpdate, names: ReadonlyMap<PeerId, string>): string => {
  const who = names.get(update.peer) ?? update.peer
  switch (update.kind) {
    case "node":
      return `${who}  node  ${update.node.key}  ${update.node.endpoints.join(" ")}`
    case "readyForHandshake":
      return `${who}  ready for a handshake`
    default:
      return `${who}  ${update.kind}  ${update.reason}`
  }
}

const defaultAddress = "http://127.0.0.1:7070"

const url = Flag.String("url").pipe(
  Flag.withDescription("Addresses of the replicas, separated by commas (LULL_URL)"),
  Flag.withFallbackConfig(
    Config.String(clientAddress).pipe(
      Config.withDefault(defaultAddress),
      Config.map((text) => text.trim() === "" ? defaultAddress : text)
    )
  )
)

const usage = (message: string) => new CommandFailed({ message, status: statuses.usage })

/** The token of peers, or else that of the service. */
const readToken = Effect.gen(function*() {
  for (const name of ["LULL_PEER_TOKEN", "LULL_TOKEN"]) {
    const token = yield* Config.option(Config.Redacted(name))
    if (Option.isNone(token)) continue
    const text = Redacted.value(token.value)
    return text.trim() === "" ? yield* usage(emptySecret(name)) : text
  }
  return undefined
})

/** A goodbye takes a moment. */
const endsWithinMillis = 10_000

const join = Command.make(
  "join",
  {
    name: Flag.String("name").pipe(Flag.withDescription("A name, or the UUID of the peer")),
    tunnel: Flag.String("tunnel").pipe(
      Flag.withDescription("Name or UUID of a peer to open a tunnel to; may be given several times"),
      Flag.atLeast(0)
    ),
    watch: Flag.Boolean("watch").pipe(
      Flag.withDescription("Print what is heard of other peers until it is ended"),
      Flag.withDefault(false)
    ),
    json: Flag.Boolean("json").pipe(Flag.withDescription("Print JSON lines, for scripts"), Flag.withDefault(false)),
    url
  },
  ({ json, name, tunnel, url: addresses, watch }) =>
    Effect.gen(function*() {
      const id = peerIdOf(name)
      const names = new Map([[id, name], ...tunnel.map((other) => [peerIdOf(other), other] as const)])
      const token = yield* readToken
      if (addresses.includes("@")) {
        return yield* usage(
          "an address has no user and no password: the coordinator asks for a token, which is in LULL_PEER_TOKEN"
        )
      }
      const transports = yield* Effect.forEach(addresses.split(",").filter(Boolean), (address) =>
        Transports.webSocketUrl(address) === undefined
          ? Effect.fail(usage(`${JSON.stringify(address)} is no address, as http://host:7070`))
          : Transports.webSocket({ address, token }))
      const [first, ...rest] = transports
      if (first === undefined) {
        return yield* usage("--url names no address")
      }
      const interruption = yield* Interruption
      // It stays until it is ended, so that this is how it ends.
      interruption.isTheEnd(endsWithinMillis)
      interruption.includesHangup()
      const loop = yield* TailnetLoop.make({
        peer: id,
        transports: [first, ...rest],
        node: nodeOf(id, yield* Clock.currentTimeMillis),
        tunnels: tunnel.map(peerIdOf)
      })
      const print = Stream.runForEach(
        loop.events,
        (update) =>
          Console.log(json ? JSON.stringify(update) : describe(update, names))
      )
      yield* Console.error(`${name} is ${id}`)
      if (!watch) {
        return yield* loop.run
      }
      const printing = yield* Effect.forkChild(print)
      return yield* Effect.ensuring(loop.run, Fiber.interrupt(printing))
    }).pipe(Effect.provide(NodeSocket.layerWebSocketConstructor))
).pipe(Command.withDescription("Join the tailnet as a peer, and stay until this is ended"))

export const peer = Command.make("peer").pipe(
  Command.withSubcommands([join]),
  Command.withDescription("Peers of the tailnet")
)
