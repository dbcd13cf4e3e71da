/** `lull peer join`: a peer of the tailnet, as a program. It stays until it is ended, through whatever happens to the service. */
import * as NodeWS from "@effect/platform-node/NodeWS"
import { Cause, Clock, Config, Console, Effect, Fiber, Option, Schema, Stream, SubscriptionRef } from "effect"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Socket from "effect/socket/Socket"
import { createHash, generateKeyPairSync } from "node:crypto"
import { networkInterfaces } from "node:os"
import { visible, visibleJson } from "../logging/VisibleText.ts"
import { clientAddress } from "../Settings.ts"
import { type Node, PeerId, type PeerUpdate } from "../tailnet/Peer.ts"
import * as TailnetLoop from "../tailnet/TailnetLoop.ts"
import * as Transports from "../tailnet/Transports.ts"
import { CommandFailed, readTarget, statuses } from "./Client.ts"
import * as ClientToken from "./clientToken.ts"
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

/** What others say of themselves is shown, and not obeyed. */
export const lineOf = (update: PeerUpdate, names: ReadonlyMap<PeerId, string>, json: boolean): string =>
  json ? visibleJson(JSON.stringify(update)) : visible(describe(update, names))

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

/** To one of the replicas, with the token that is in its file when it is dialed. */
const transportTo = Effect.fnUntraced(function*(
  address: string,
  token: ClientToken.ClientToken | undefined,
  onConnected: () => void
) {
  // By the rules of the other commands: a user, a query or a fragment is none of an address.
  const { url } = yield* readTarget(address.replace(/^ws(s?):/i, "http$1:"), Option.none())
  const constructor = yield* Socket.WebSocketConstructor
  const transport: TailnetLoop.Transport = {
    name: address,
    dial: Effect.gen(function*() {
      const { dial } = yield* Transports.webSocket({ address: url, token: yield* token?.again ?? Effect.undefined })
      const connection = yield* dial
      onConnected()
      return connection
    }).pipe(Effect.provideService(Socket.WebSocketConstructor, constructor))
  }
  return transport
})

/** Somebody has to change something before it is worth to dial again. */
const isPermanent = (error: TailnetLoop.SessionError, tokenMayChange: boolean): boolean =>
  error._tag === "DialFailed"
    ? error.isPermanent && !(error.status === 401 && tokenMayChange)
    : error._tag === "Refused" && error.code === "version"

/**
 * Fails when all replicas, one after another, have refused it for good: the loop would go on for ever. Addresses are dialed in turn, so
 * as many refusals in a row as there are addresses are one of each.
 */
const untilRefused = Effect.fnUntraced(function*(
  loop: TailnetLoop.TailnetLoop,
  addresses: number,
  isForGood: (error: TailnetLoop.SessionError) => boolean
) {
  let inARow = 0
  return yield* SubscriptionRef.changes(loop.status).pipe(
    Stream.mapEffect((status) => {
      if (status._tag !== "Waiting") return Effect.void
      const failure = status.cause.reasons.find(Cause.isFailReason)
      inARow = failure !== undefined && isForGood(failure.error) ? inARow + 1 : 0
      if (failure === undefined || inARow < addresses) return Effect.void
      const isOfToken = failure.error._tag === "DialFailed" &&
        (failure.error.status === 401 || failure.error.status === 403)
      return Effect.fail(
        new CommandFailed({
          message: failure.error.message,
          status: isOfToken ? statuses.notPermitted : statuses.unavailable
        })
      )
    }),
    Stream.runDrain,
    Effect.andThen(Effect.never)
  )
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
      // That of peers, or else that of the service.
      const token = yield* ClientToken.read(["LULL_PEER_TOKEN", "LULL_TOKEN"])
      let wasWell = false
      const transports = yield* Effect.forEach(
        addresses.split(",").map((address) => address.trim()).filter(Boolean),
        (address) => transportTo(address, token, () => wasWell = true)
      )
      // What has worked is not wrong: a proxy answers so for a while, too, when the service behind it is made anew.
      const isForGood = (error: TailnetLoop.SessionError) => !wasWell && isPermanent(error, token?.mayChange === true)
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
        tunnels: tunnel.map(peerIdOf),
        // Of the only one it is said at the end.
        quiet: (error) => transports.length === 1 && isForGood(error)
      })
      const stay = Effect.raceFirst(loop.run, untilRefused(loop, transports.length, isForGood))
      const print = Stream.runForEach(loop.events, (update) => Console.log(lineOf(update, names, json)))
      yield* Console.error(visible(`${name} is ${id}`))
      if (!watch) {
        return yield* stay
      }
      const printing = yield* Effect.forkChild(print)
      return yield* Effect.ensuring(stay, Fiber.interrupt(printing))
    }).pipe(Effect.provide(NodeWS.layerWebSocketConstructor))
).pipe(Command.withDescription("Join the tailnet as a peer, and stay until this is ended"))

export const peer = Command.make("peer").pipe(
  Command.withSubcommands([join]),
  Command.withDescription("Peers of the tailnet")
)
