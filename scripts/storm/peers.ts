// Peers of a tailnet under observation: a ring, in which each has a tunnel to the next, on another replica, and to the one after that, on
// its own. Each says something new every second. Prints once a second what they know of each other, as a JSON line.
//
//     node scripts/storm/peers.ts COUNT ADDRESS…
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import { Effect, Logger, Stream, SubscriptionRef } from "effect"
import * as TailnetLoop from "../../src/tailnet/TailnetLoop.ts"
import * as Transports from "../../src/tailnet/Transports.ts"

const [countText = "0", ...addresses] = process.argv.slice(2)
const count = Number(countText)
const idOf = (index: number) => `00000000-0000-4000-8000-${String(index % count).padStart(12, "0")}`

export interface Report {
  readonly at: number
  readonly connected: number
  readonly sessions: number
  /** The oldest that a peer knows of another on the same replica, and of one on another, in milliseconds. */
  readonly lagSame: number
  readonly lagOther: number
  /** Of others, since the start: told that they were lost, or had disconnected, after they were known. */
  readonly left: number
}

const program = Effect.gen(function*() {
  const transports = yield* Effect.forEach(addresses, (address) => Transports.webSocket({ address }))
  let left = 0
  const said = new Array<number>(count).fill(0)
  const node = (index: number): Effect.Effect<TailnetLoop.KnownPeer["node"]> =>
    Effect.sync(() => {
      said[index] = Date.now()
      return {
        key: `key of ${index}`,
        endpoints: ["192.0.2.1:41641", "[2001:db8::1]:41641"],
        relay: { preferred: 1, latencies: { "1": 12.5, "2": 30 } },
        addresses: [],
        allowedIps: [],
        asOf: said[index]!
      }
    })
  const loops = yield* Effect.forEach(
    Array.from({ length: count }, (_, index) => index),
    (index) =>
      Effect.gen(function*() {
        const own = index % transports.length
        const inTurn = [...transports.slice(own), ...transports.slice(0, own)]
        const loop = yield* TailnetLoop.make({
          peer: idOf(index),
          transports: [inTurn[0]!, ...inTurn.slice(1)],
          node: yield* node(index),
          tunnels: [idOf(index + 1), idOf(index + transports.length)]
        })
        const known = new Set<string>()
        yield* Effect.forkChild(Stream.runForEach(loop.events, (update) =>
          Effect.sync(() => {
            if (update.kind === "node") known.add(update.peer)
            else if (update.kind !== "readyForHandshake" && known.delete(update.peer)) left++
          })))
        yield* Effect.forkChild(loop.run)
        return loop
      })
  )

  const lag = (step: number) => {
    const now = Date.now()
    return Math.max(...loops.map((loop, index) => {
      const other = (index + step) % count
      const asOf = SubscriptionRef.getUnsafe(loop.peers).get(idOf(other))?.node.asOf ?? 0
      // What was said in this instant is on its way.
      return asOf >= said[other]! ? 0 : now - asOf
    }))
  }

  yield* Effect.sleep("3 seconds")
  while (true) {
    for (const [index, loop] of loops.entries()) yield* loop.setNode(yield* node(index))
    yield* Effect.sleep("900 millis")
    const counts = yield* Effect.forEach(loops, (loop) => loop.counts)
    const report: Report = {
      at: Date.now(),
      connected: loops.filter((loop) => loop.replica() !== undefined).length,
      sessions: counts.reduce((sum, { started }) => sum + started, 0),
      lagSame: lag(transports.length),
      lagOther: transports.length === 1 ? 0 : lag(1),
      left
    }
    process.stdout.write(`${JSON.stringify(report)}\n`)
    yield* Effect.sleep("100 millis")
  }
})

program.pipe(
  Effect.provide([NodeSocket.layerWebSocketConstructor, Logger.layer([Logger.consoleLogFmt])]),
  Effect.scoped,
  NodeRuntime.runMain
)
