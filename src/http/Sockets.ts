/**
 * What holds for every connection, whoever made it and before anything is asked: deadlines, how many there may be, in all and of one
 * address, and which of them may become something else than HTTP.
 *
 * Node watches a connection only as long as it speaks HTTP. A request for an upgrade takes it out of that, also one that is refused,
 * and a client that then neither reads nor closes would keep it for ever. So only a request for the tailnet is one, and what is refused
 * is destroyed.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { Socket } from "node:net"
import type { Duplex } from "node:stream"
import { path as tailnetPath } from "../tailnet/Protocol.ts"
import * as Addresses from "./Addresses.ts"
import type { Trusted } from "./ClientAddress.ts"

export interface Options {
  /** Connections at a time; further ones are closed. */
  readonly most: number
  /** Of one address, beyond the loopback. 0: no limit of its own. */
  readonly perAddress: number
  /** Which addresses are those of proxies that are believed when they say who has called them. Default: none. */
  readonly trusted?: Trusted | undefined
  /** Of the target of a request what the API knows it by, where it is called under another path. Default: as it is. */
  readonly ownTarget?: ((target: string) => string) | undefined
  /** Called for each that is closed, or whose request is refused, as there are too many. */
  readonly onRefused: (of: "all" | "address") => void
  readonly deadlines?: Partial<Deadlines> | undefined
}

/** In milliseconds. */
export interface Deadlines {
  /** Until a request has said what it asks for. A connection that says nothing is held to it, too. */
  readonly headers: number
  /** Until a request is there with its body: the largest one takes 70 kB/s. */
  readonly request: number
  /** Without a request, after one that was answered. */
  readonly keepAlive: number
  /** Without a byte in either direction, while there is something to send, or an upgrade is under way. */
  readonly idle: number
  /** Between two looks at the first two. */
  readonly check: number
}

export const deadlines: Deadlines = {
  headers: 10_000,
  request: 120_000,
  keepAlive: 5_000,
  idle: 60_000,
  check: 2_000
}

export interface Sockets {
  readonly server: Server
  /** Whether there are too many requests of the address for which a trusted proxy has brought this one. */
  readonly isTooMany: (request: object) => boolean
}

export const make = (options: Options): Sockets => {
  const times = { ...deadlines, ...options.deadlines }
  const server = createServer({
    headersTimeout: times.headers,
    requestTimeout: times.request,
    keepAliveTimeout: times.keepAlive,
    connectionsCheckingInterval: times.check,
    // A version of Node that does not know it asks for each: those are answered and destroyed.
    shouldUpgradeCallback: (request) => isForTailnet(request, options.ownTarget)
  })
  server.maxConnections = options.most
  server.on("drop", () => options.onRefused("all"))
  const isBusy = watchIdle(server, times.idle)
  endRefusedUpgrades(server, times.idle, isBusy)
  return { server, isTooMany: limitAddresses(server, options) }
}

const isForTailnet = ({ headers, method, url = "" }: IncomingMessage, ownTarget: Options["ownTarget"]) =>
  method === "GET" && headers.upgrade?.toLowerCase() === "websocket" &&
  (ownTarget?.(url) ?? url).split("?", 1)[0] === tailnetPath

/** Node has an event of its own for a request that asks whether to go on. */
const onRequest = (server: Server, listener: (request: IncomingMessage, response: ServerResponse) => void) => {
  for (const event of ["request", "checkContinue"]) server.prependListener(event, listener)
}

/** Ends what does not move. An answer that has nothing to say for long, as a log that is followed, is no such thing. */
const watchIdle = (server: Server, idle: number) => {
  const busy = new WeakSet<Duplex>()
  server.timeout = idle
  onRequest(server, ({ socket }, response) => {
    busy.add(socket)
    response.once("close", () => busy.delete(socket))
  })
  server.on("timeout", (socket) => {
    if (busy.has(socket) && socket.writableLength === 0) socket.setTimeout(idle)
    else socket.destroy()
  })
  return (socket: Duplex) => busy.has(socket)
}

const endRefusedUpgrades = (server: Server, idle: number, isBusy: (socket: Duplex) => boolean) => {
  onRequest(server, ({ headers }, response) => {
    // Whoever wants to speak something else has nothing more to say in HTTP.
    if (headers.upgrade !== undefined) response.shouldKeepAlive = false
  })
  server.prependListener("upgrade", (_: IncomingMessage, socket: Socket) => {
    // An answer to a request before it is still under way: there is no place for another.
    if (isBusy(socket)) return void socket.destroy()
    // A WebSocket has deadlines of its own, and ends what it sends only when its other side has said that it is over.
    socket.setTimeout(idle)
    socket.once("timeout", () => socket.destroy())
    socket.once("finish", () => socket.destroy())
  })
}

/** How many there are of each. What there is none of is forgotten. */
const counter = () => {
  const counts = new Map<string, number>()
  const add = (owner: string, by: number) => {
    const count = (counts.get(owner) ?? 0) + by
    if (count > 0) counts.set(owner, count)
    else counts.delete(owner)
    return count
  }
  /** Counts one more until its end, and says how many they are. */
  return (owner: string, whole: Duplex | ServerResponse): number => {
    whole.once("close", () => add(owner, -1))
    return add(owner, 1)
  }
}

/** Connections are counted by who made them; those of a proxy that is trusted by the requests that they bring. */
const limitAddresses = (
  server: Server,
  { onRefused, perAddress, trusted = () => false }: Options
): Sockets["isTooMany"] => {
  if (perAddress === 0) return () => false
  const countConnection = counter()
  const countRequest = counter()
  const tooMany = new WeakSet<object>()
  server.on("connection", (socket) => {
    const { owner } = Addresses.ofConnection(socket.remoteAddress, trusted)
    if (owner === undefined || countConnection(owner, socket) <= perAddress) return
    onRefused("address")
    socket.write(refusal)
    socket.destroySoon()
  })
  const weigh = (request: IncomingMessage, whole: Duplex | ServerResponse) => {
    const { headers, socket: { remoteAddress } } = request
    if (!Addresses.ofConnection(remoteAddress, trusted).isProxy) return
    const owner = Addresses.ofRequest(
      remoteAddress,
      { "x-forwarded-for": headers["x-forwarded-for"]?.toString(), forwarded: headers.forwarded },
      trusted
    )
    if (owner === undefined || countRequest(owner, whole) <= perAddress) return
    onRefused("address")
    tooMany.add(request)
  }
  onRequest(server, weigh)
  server.prependListener("upgrade", weigh)
  return (request) => tooMany.has(request)
}

export const tooManyOfAddress = "there are too many connections of this address; close some, or ask again later"

const refusal = (() => {
  const body = JSON.stringify({
    type: "about:blank",
    title: "Too many requests",
    status: 429,
    detail: tooManyOfAddress
  })
  return "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nContent-Type: application/problem+json\r\n" +
    `Content-Length: ${body.length}\r\n\r\n${body}`
})()
