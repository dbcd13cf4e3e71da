/**
 * A relay on the loopback between a client and a server, on which a test plays the faults of a network: connections that
 * are reset or refused, and packets that vanish.
 */
import { Effect, type Scope } from "effect"
import { connect, createServer, type Server, type Socket } from "node:net"

export interface TcpRelay {
  readonly port: number
  /** Where new connections go. */
  readonly setTarget: (port: number) => Effect.Effect<void>
  /** Ends all connections with a reset. */
  readonly dropAll: Effect.Effect<void>
  /**
   * Bytes and ends of all connections vanish, in both directions. A connection that lived through this stays silent for
   * good, like one that a router has forgotten: it would go on with a hole otherwise. New ones are accepted, and silent too.
   */
  readonly swallow: (on: boolean) => Effect.Effect<void>
  /** New connections are refused; old ones go on. */
  readonly refuse: (on: boolean) => Effect.Effect<void>
  /** How many connections of clients are open. */
  readonly connections: Effect.Effect<number>
  /** How many connections have been accepted so far. */
  readonly accepted: Effect.Effect<number>
}

interface Pair {
  readonly client: Socket
  readonly server: Socket | undefined
  isSilent: boolean
}

export const make = Effect.fnUntraced(function*(options: { readonly target: number; readonly port?: number }) {
  let target = options.target
  let isSwallowing = false
  let accepted = 0
  const pairs = new Set<Pair>()

  const accept = (client: Socket) => {
    accepted++
    const pair: Pair = {
      client,
      server: isSwallowing
        ? undefined
        : connect({ host: "127.0.0.1", port: target, noDelay: true, allowHalfOpen: true }),
      isSilent: isSwallowing
    }
    pairs.add(pair)
    pass(pair, client, pair.server)
    if (pair.server !== undefined) pass(pair, pair.server, client)
  }

  const pass = (pair: Pair, from: Socket, to: Socket | undefined) => {
    from.on("data", (bytes) => {
      if (pair.isSilent || to === undefined) return
      if (to.write(bytes)) return
      from.pause()
      to.once("drain", () => from.resume())
    })
    from.on("end", () => {
      if (!pair.isSilent) to?.end()
    })
    from.on("error", () => {})
    from.on("close", (hadError) => {
      // What vanishes includes the news that the other side is gone.
      if (!pair.isSilent && hadError) to?.resetAndDestroy()
      else if (!pair.isSilent) to?.destroySoon()
      if (pair.client.destroyed && (pair.server?.destroyed ?? true)) pairs.delete(pair)
    })
  }

  const listen = (port: number) =>
    Effect.callback<Server, Error>((resume) => {
      const server = createServer({ noDelay: true, allowHalfOpen: true }, accept)
      server.once("error", (error) => resume(Effect.fail(error)))
      server.listen(port, "127.0.0.1", () => resume(Effect.succeed(server)))
    }).pipe(Effect.orDie)

  const drop = (pair: Pair) => {
    pair.isSilent = true
    pair.client.resetAndDestroy()
    pair.server?.resetAndDestroy()
  }
  const dropAll = Effect.sync(() => pairs.forEach(drop))

  let server: Server | undefined = yield* listen(options.port ?? 0)
  const address = server.address()
  const port = typeof address === "object" && address !== null ? address.port : 0
  const close = Effect.sync(() => {
    server?.close()
    server = undefined
  })
  yield* Effect.addFinalizer(() => Effect.andThen(close, dropAll))

  const open = Effect.suspend(() =>
    server === undefined ? Effect.map(listen(port), (opened) => void (server = opened)) : Effect.void
  )
  return {
    port,
    setTarget: (port) => Effect.sync(() => void (target = port)),
    dropAll,
    swallow: (on) =>
      Effect.sync(() => {
        isSwallowing = on
        if (on) pairs.forEach((pair) => pair.isSilent = true)
      }),
    refuse: (on) => on ? close : open,
    connections: Effect.sync(() => [...pairs].filter(({ client }) => !client.destroyed).length),
    accepted: Effect.sync(() => accepted)
  } satisfies TcpRelay as TcpRelay
}) satisfies (
  options: { readonly target: number; readonly port?: number }
) => Effect.Effect<TcpRelay, never, Scope.Scope>
