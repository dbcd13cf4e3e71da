/**
 * What peer and coordinator say to each other: JSON objects, one in each text frame of a WebSocket. Described for clients in other
 * languages in `docs/tailnet.md`.
 *
 * It is a protocol of its own, and not Effect's RPC, as its envelope would be that of a module which may change in a minor release,
 * and as a frame has to be measured and refused before anything is made of it.
 */
import { Result, Schema } from "effect"
import { depthOf } from "../provisioner/Job.ts"
import { limits, Node, PeerId, type PeerUpdate } from "./Peer.ts"

/** Grows when a message changes its meaning. New fields and messages do not count: both sides ignore what they do not know. */
export const version = 1

export const path = "/api/v1/tailnet"

const Tunnels = Schema.Array(PeerId).check(Schema.isMaxLength(limits.tunnels))

/** The first message of a session, with all that the peer wants: what it had before, it has again at once. */
export const Hello = Schema.Struct({
  type: Schema.Literal("hello"),
  version: Schema.Int,
  peer: PeerId,
  /** Of the welcome before: proves that it is the same peer. */
  resume: Schema.optionalKey(Schema.String),
  node: Schema.optionalKey(Node),
  /** All tunnels: those that are not here are closed. */
  tunnels: Schema.optionalKey(Tunnels)
})
export type Hello = typeof Hello.Type

export const Request = Schema.Union([
  Hello,
  Schema.Struct({ type: Schema.Literal("node"), node: Node }),
  Schema.Struct({ type: Schema.Literal("addTunnel"), peer: PeerId }),
  Schema.Struct({ type: Schema.Literal("removeTunnel"), peer: PeerId }),
  Schema.Struct({ type: Schema.Literal("readyForHandshake"), peer: PeerId }),
  Schema.Struct({ type: Schema.Literal("disconnect") }),
  Schema.Struct({ type: Schema.Literal("pong") })
])
export type Request = typeof Request.Type

/** A region of relays, handed on as it was configured. A node says by `id` which it prefers. */
export const RelayRegion = Schema.Struct({
  id: Schema.Int,
  name: Schema.String,
  hosts: Schema.Array(Schema.String)
})
export type RelayRegion = typeof RelayRegion.Type

export type Event =
  | {
    readonly type: "welcome"
    readonly session: string
    /** To be sent with the next hello. Absent while the coordinator has no key to sign it with. */
    readonly resume?: string
    /** The coordinator sends something at least so often, and expects as much. */
    readonly keepAliveSeconds: number
    readonly replica: string
    readonly reconnectSpreadMillis?: number
  }
  | { readonly type: "updates"; readonly updates: ReadonlyArray<PeerUpdate> }
  /** All that is known was said in this session: whom the peer remembers beside that is gone. Said once, when the database was asked. */
  | { readonly type: "synced" }
  | { readonly type: "relayMap"; readonly regions: ReadonlyArray<RelayRegion> }
  /** This replica ends: connect to another, after so long. */
  | { readonly type: "goingAway"; readonly retryAfterMillis: number }
  /** Also says how long it would take the other replicas to admit all peers that are here; see `ReconnectSpread`. */
  | { readonly type: "ping"; readonly reconnectSpreadMillis?: number }
  | { readonly type: "error"; readonly code: RefusalCode; readonly detail: string }

/** Why a session is closed: the code of the WebSocket's close, and of the error before it. */
export const closeCodes = {
  goingAway: 1001,
  tooLarge: 1009,
  badMessage: 4400,
  badResume: 4401,
  silent: 4408,
  version: 4406,
  replaced: 4409,
  tooMany: 4429,
  unavailable: 4503
} as const
export type RefusalCode = keyof typeof closeCodes

const check = Schema.decodeUnknownResult(Request)

/** A message of a later version. It counts as one that was sent, and nothing else. */
export interface UnknownRequest {
  readonly type: "unknown"
}

const requests = new Set(["hello", "node", "addTunnel", "removeTunnel", "readyForHandshake", "disconnect", "pong"])

/** A frame of a peer. The failure says what is wrong with it. */
export const decodeRequest = (text: string): Result.Result<Request | UnknownRequest, string> => {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return Result.fail("it is no JSON")
  }
  if (hasType(value) && !requests.has(value.type)) return Result.succeed({ type: "unknown" })
  const problem = handingOn(text, value)
  if (problem !== undefined) return Result.fail(problem)
  // Nothing is made of it but what it is: what a node has beside what is known here is between peers, and handed on.
  return Result.mapBoth(check(value), {
    onSuccess: () => value as Request,
    onFailure: (error) => error.message.replaceAll(/\s+/g, " ").slice(0, 300)
  })
}

export const encode = (message: Request | Event): string => JSON.stringify(message)

const events = new Set(["welcome", "updates", "synced", "relayMap", "goingAway", "ping", "error"])

/** A frame of the coordinator; `undefined` for one of a later version, which is ignored. */
export const decodeEvent = (text: string): Event | undefined => {
  const value: unknown = JSON.parse(text)
  return isEvent(value) ? value : undefined
}

// The coordinator is trusted: what it sends is not checked field by field.
const isEvent = (value: unknown): value is Event => hasType(value) && events.has(value.type)

/** Of arrays and objects. Nothing that Lull knows is deeper than a node in a hello. */
const deepest = 256

/** What is handed on has to be written again: by every replica, and by PostgreSQL. */
const handingOn = (text: string, value: unknown): string | undefined => {
  if (depthOf(text) > deepest) return `it is nested more than ${deepest} deep`
  // A number may be shorter as it came.
  return JSON.stringify(value).length > limits.message ? `it has more than ${limits.message} characters` : undefined
}

const hasType = (value: unknown): value is { readonly type: string } =>
  typeof value === "object" && value !== null && "type" in value && typeof value.type === "string"
