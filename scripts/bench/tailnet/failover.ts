/**
 * A replica is killed under all its peers, which go to the other: how long it takes until they are there with all their tunnels whole,
 * and how many of them dial in the busiest second. The peers are Lull's own loops.
 */
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import { Effect, Logger, SubscriptionRef } from "effect"
import { TailnetLoop, Transports } from "../../../src/tailnet/index.ts"
import { idOf, node, tunnelsOfEach } from "./clients.ts"
import { pause, serve } from "./processes.ts"

export const failover = (count: number) =>
  Effect.runPromise(
    Effect.gen(function*() {
      const one = yield* Effect.promise(() => serve())
      const two = yield* Effect.promise(() => serve())
      const dials: Array<number> = []
      const noted = (transport: TailnetLoop.Transport): TailnetLoop.Transport => ({
        ...transport,
        dial: Effect.suspend(() => {
          dials.push(performance.now())
          return transport.dial
        })
      })
      const transports = [
        noted(yield* Transports.webSocket({ address: one.url })),
        noted(yield* Transports.webSocket({ address: two.url }))
      ] as const
      const partners = (index: number) => Array.from({ length: tunnelsOfEach }, (_, step) => (index + step + 1) % count)
      const loops: Array<TailnetLoop.TailnetLoop> = []
      for (let index = 0; index < count; index++) {
        const loop = yield* TailnetLoop.make({
          peer: idOf(index),
          transports,
          node: node(index, 1),
          tunnels: partners(index).map(idOf)
        })
        yield* Effect.forkScoped(loop.run)
        loops.push(loop)
        if (index % 100 === 99) yield* Effect.promise(() => pause(200))
      }
      const areWhole = (asOf: number) =>
        loops.every((loop, index) =>
          loop.replica() !== undefined && partners(index).every((partner) => {
            const known = SubscriptionRef.getUnsafe(loop.peers).get(idOf(partner))
            return known !== undefined && !known.isLost && known.node.asOf === asOf
          })
        )
      const until = (condition: () => boolean) =>
        Effect.promise(async () => {
          while (!condition()) await pause(20)
        })
      yield* until(() => areWhole(1))
      // Longer than a session has to stay to be stable, and until the last ping has said how many they are.
      yield* Effect.promise(() => pause(32_000))
      dials.length = 0
      const killed = performance.now()
      one.child.kill("SIGKILL")
      yield* until(() => loops.every((loop) => loop.replica() === undefined))
      const isBack = until(() => loops.every((loop) => loop.replica() !== undefined))
      yield* Effect.forEach(loops, (loop, index) => loop.setNode(node(index, 2)))
      yield* isBack
      const backSeconds = (performance.now() - killed) / 1_000
      yield* until(() => areWhole(2))
      const wholeSeconds = (performance.now() - killed) / 1_000
      const seconds = new Map<number, number>()
      for (const at of dials) {
        const second = Math.floor((at - killed) / 1_000)
        seconds.set(second, (seconds.get(second) ?? 0) + 1)
      }
      return { backSeconds, wholeSeconds, dials: dials.length, busiestSecond: Math.max(...seconds.values()) }
    }).pipe(Effect.scoped, Effect.provide(Logger.layer([])), Effect.provide(NodeSocket.layerWebSocketConstructor))
  )
