/**
 * Whatever happens to two replicas, their clocks, their database, their notifications and the connections of their peers: once all of it is well
 * again, each peer knows the newest node of each peer at the other end of a tunnel, and of nobody else.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema, SubscriptionRef } from "effect"
import { TestClock } from "effect/testing"
import { make as makeWorld, node, peer, uuid } from "../support/TailnetWorld.ts"

const peers = 5
const Who = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: peers - 1 }))
const Replica = Schema.Literals(["a", "b"])

const Step = Schema.Union([
  Schema.Struct({ does: Schema.Literal("says"), who: Who }),
  Schema.Struct({ does: Schema.Literals(["opens", "closes"]), who: Who, to: Who }),
  Schema.Struct({ does: Schema.Literals(["leaves", "comes"]), who: Who }),
  Schema.Struct({ does: Schema.Literals(["breaks", "mends"]), replica: Replica }),
  Schema.Struct({ does: Schema.Literals(["notifications are lost", "notifications arrive"]) }),
  Schema.Struct({
    does: Schema.Literal("time passes"),
    millis: Schema.Literals([1, 20, 300, 2_000, 7_000])
  })
])

const Faults = Schema.Array(Schema.Struct({
  kind: Schema.Literals(["refused", "hung", "readOnly", "ackLost", "connectionDropped", "flapping", "clockStep"]),
  at: Schema.Literals([1_000, 4_000, 9_000, 15_000]),
  for: Schema.Literals([100, 3_000, 8_000])
})).check(Schema.isMaxLength(3))

/** Until retries, leases, listeners and pings have all had their turn. */
const healing = Effect.repeat(TestClock.adjust("250 millis"), { times: 400 })

describe("the tailnet, whatever happens", () => {
  it.effect.prop(
    "all know the newest of all that they have tunnels with, once it is well again",
    { steps: Schema.Array(Step).check(Schema.isMinLength(15), Schema.isMaxLength(40)), ofA: Faults, ofB: Faults },
    ({ ofA, ofB, steps }) =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const begin = yield* Effect.clockWith(({ currentTimeMillis }) => currentTimeMillis)
        const replicas = {
          a: yield* world.replica("a", { outage: ofA }),
          b: yield* world.replica("b", { outage: ofB })
        }
        let asOf = begin
        const here: Array<(Effect.Success<ReturnType<typeof peer>>) | undefined> = []
        const nodes: Array<number> = []
        const tunnels = Array.from({ length: peers }, () => new Set<number>())
        const come = Effect.fnUntraced(function*(who: number) {
          const { a, b } = replicas
          nodes[who] = ++asOf
          here[who] = yield* peer(who, who % 2 === 0 ? [a.transport, b.transport] : [b.transport, a.transport], {
            node: node(asOf),
            tunnels: [...tunnels[who]!].map(uuid)
          })
        })
        for (let who = 0; who < peers; who++) yield* come(who)

        for (const step of steps) {
          switch (step.does) {
            case "says":
              nodes[step.who] = ++asOf
              yield* here[step.who]?.setNode(node(asOf)) ?? Effect.void
              break
            case "opens":
              if (step.who === step.to) break
              tunnels[step.who]!.add(step.to)
              yield* here[step.who]?.addTunnel(uuid(step.to)) ?? Effect.void
              break
            case "closes":
              tunnels[step.who]!.delete(step.to)
              yield* here[step.who]?.removeTunnel(uuid(step.to)) ?? Effect.void
              break
            case "leaves":
              yield* here[step.who]?.leave ?? Effect.void
              // A goodbye closes its tunnels; it says them anew when it comes back.
              here[step.who] = undefined
              break
            case "comes":
              if (here[step.who] === undefined) yield* come(step.who)
              break
            case "breaks":
            case "mends":
              yield* replicas[step.replica].unreachable(step.does === "breaks")
              break
            case "notifications are lost":
            case "notifications arrive":
              yield* world.loseNotifications(step.does === "notifications are lost")
              // A listener that is back says that it may have missed some.
              if (step.does === "notifications arrive") yield* world.missed
              break
            case "time passes":
              yield* TestClock.adjust(step.millis)
          }
        }

        yield* replicas.a.unreachable(false)
        yield* replicas.b.unreachable(false)
        yield* world.loseNotifications(false)
        yield* TestClock.adjust("30 seconds")
        yield* world.missed
        yield* healing

        for (let who = 0; who < peers; who++) {
          const one = here[who]
          if (one === undefined) continue
          const expected = new Map<string, number>()
          for (let other = 0; other < peers; other++) {
            const isOpen = tunnels[who]!.has(other) || (here[other] !== undefined && tunnels[other]!.has(who))
            if (isOpen && here[other] !== undefined) expected.set(uuid(other), nodes[other]!)
          }
          const known = [...SubscriptionRef.getUnsafe(one.peers)]
          assert.deepStrictEqual(
            known.filter(([, { isLost }]) => !isLost).map(([id, { node: of }]) => `${id} ${of.asOf}`).toSorted(),
            [...expected].map(([id, of]) => `${id} ${of}`).toSorted(),
            `what ${who} knows`
          )
        }
      }).pipe(Effect.scoped),
    { arbitrary: { runs: 300 }, timeout: 120_000 }
  )
})
