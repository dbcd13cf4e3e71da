/** Peers and replicas whose clock is set, and that stand still. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import * as Outage from "../../src/testing/Outage.ts"
import { make as makeWorld, node, peer, uuid } from "../support/TailnetWorld.ts"

const settle = Effect.repeat(TestClock.adjust("1 millis"), { times: 9 })
const steps = [-120, 120, -3_600, 3_600, -86_400, 86_400]
const named = (seconds: number) => `${seconds > 0 ? "forwards" : "backwards"} by ${Math.abs(seconds)} s`

/** One peer at each of two replicas, with a tunnel between them. */
const pair = Effect.fnUntraced(function*(ofA: Outage.Outage, ofPeer: Outage.Outage = Outage.none) {
  const world = yield* makeWorld
  const a = yield* world.replica("a", { outage: ofA })
  const b = yield* world.replica("b")
  const one = yield* peer(1, [a.transport], { tunnels: [uuid(2)], outage: ofPeer })
  const two = yield* peer(2, [b.transport], { tunnels: [uuid(1)] })
  yield* TestClock.adjust("10 seconds")
  yield* one.heard
  yield* two.heard
  return { world, a, b, one, two }
})

describe("a replica", () => {
  for (const seconds of steps) {
    it.effect(`whose clock is set ${named(seconds)} keeps its peers, and nobody hears of it`, () =>
      Effect.gen(function*() {
        const { a, one, two, world } = yield* pair(
          Outage.make([{ kind: "clockStep", at: "20 seconds", for: "3 minutes", by: seconds * 1_000 }])
        )
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 300 })
        assert.deepStrictEqual(yield* one.heardKinds, [])
        assert.deepStrictEqual(yield* two.heardKinds, [])
        assert.strictEqual((yield* one.counts).started, 1)
        assert.strictEqual(a.coordinator.peers(), 1)
        yield* one.setNode(node(50))
        yield* settle
        assert.deepStrictEqual(yield* two.heardKinds, ["node 1"])
        assert.deepStrictEqual(world.lines(), [])
      }).pipe(Effect.scoped))

    it.effect(`whose clock is set ${named(seconds)} notices a peer that is silent, neither sooner nor later`, () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const a = yield* world.replica("a", {
          outage: Outage.make([{ kind: "clockStep", at: "10 seconds", by: seconds * 1_000 }])
        })
        const connection = yield* a.transport.dial
        yield* connection.send({ type: "hello", version: 1, peer: uuid(1), node: node(1) })
        yield* TestClock.adjust("37 seconds")
        assert.strictEqual(a.coordinator.peers(), 1)
        yield* TestClock.adjust("8 seconds")
        assert.strictEqual(a.coordinator.peers(), 0)
      }).pipe(Effect.scoped))
  }

  it.effect("that stood still for less than anybody waits loses nobody", () =>
    Effect.gen(function*() {
      const { one, two } = yield* pair(Outage.make([{ kind: "stall", at: "20 seconds", for: "3 seconds" }]))
      yield* Effect.repeat(TestClock.adjust("1 second"), { times: 120 })
      assert.deepStrictEqual(yield* one.heardKinds, [])
      assert.deepStrictEqual(yield* two.heardKinds, [])
    }).pipe(Effect.scoped))

  for (const days of [-8, 8]) {
    it.effect(`whose clock is wrong by ${days} days takes in a peer of another, at the cost of a second hello at most`, () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const a = yield* world.replica("a")
        const wrong = yield* world.replica("wrong", {
          outage: Outage.make([{ kind: "clockStep", by: days * 86_400_000 }])
        })
        const one = yield* peer(1, [a.transport, wrong.transport, a.transport], { tunnels: [uuid(2)] })
        const two = yield* peer(2, [a.transport], { tunnels: [uuid(1)] })
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(one.replica(), "a")
        // Its resume token is of the one, and is taken to the other; and the other way round.
        yield* a.unreachable(true)
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 10 })
        assert.strictEqual(one.replica(), "wrong")
        yield* a.unreachable(false)
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 40 })
        yield* wrong.unreachable(true)
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 20 })
        assert.strictEqual(one.replica(), "a")
        assert.isFalse(two.knows(1)?.isLost)
      }).pipe(Effect.scoped))
  }

  for (const kind of ["stall", "suspend"] as const) {
    it.effect(`that stood still for a minute (${kind}) pings who is still there, and then finds out who is not`, () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const a = yield* world.replica("a", { outage: Outage.make([{ kind, at: "20 seconds", for: "1 minute" }]) })
        // Both are more patient than they have to be.
        const pings: Array<number> = []
        const patient = yield* a.transport.dial
        const mute = yield* a.transport.dial
        let seconds = 0
        yield* patient.send({ type: "hello", version: 1, peer: uuid(1), node: node(1) })
        yield* mute.send({ type: "hello", version: 1, peer: uuid(2), node: node(2) })
        yield* patient.receive.pipe(
          Effect.flatMap((events) =>
            events.some(({ type }) => type === "ping")
              ? Effect.andThen(Effect.sync(() => pings.push(seconds)), patient.send({ type: "pong" }))
              : Effect.void
          ),
          Effect.forever,
          Effect.ignore,
          Effect.forkScoped
        )
        for (; seconds < 200; seconds++) {
          yield* TestClock.adjust("1 second")
          if (seconds === 90) assert.strictEqual(a.coordinator.peers(), 2)
        }
        assert.strictEqual(a.coordinator.peers(), 1)
        const [first] = pings.filter((at) => at > 79)
        // After a suspend nothing says that there was one: the next ping comes when it is due.
        assert.isAtMost(first ?? 200, kind === "stall" ? 86 : 96)
      }).pipe(Effect.scoped))

    it.effect(`that stood still for a minute (${kind}): its peers are lost elsewhere, and back when it is`, () =>
      Effect.gen(function*() {
        const { a, one, two } = yield* pair(Outage.make([{ kind, at: "20 seconds", for: "1 minute" }]))
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 60 })
        assert.deepStrictEqual(yield* two.heardKinds, ["lost 1"])
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 120 })
        assert.strictEqual((yield* two.heardKinds).at(-1), "node 1")
        // It has heard nothing of the other meanwhile, which was there all the time.
        assert.notInclude(yield* one.heardKinds, "disconnected 2")
        assert.isFalse(one.knows(2)?.isLost)
        assert.strictEqual(a.coordinator.peers(), 1)
      }).pipe(Effect.scoped))
  }
})

describe("a peer", () => {
  for (const seconds of steps) {
    it.effect(`whose clock is set ${named(seconds)} stays, and dials again when the coordinator is silent`, () =>
      Effect.gen(function*() {
        const { one, two } = yield* pair(
          Outage.make([{ kind: "stall", at: "2 minutes", for: "1 minute" }]),
          Outage.make([
            // Between what it has heard last and its look at how long ago that is; and after the last that it hears.
            { kind: "clockStep", at: "36 seconds", for: "1 minute", by: seconds * 1_000 },
            { kind: "clockStep", at: "125 seconds", by: seconds * 1_000 }
          ])
        )
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 100 })
        assert.deepStrictEqual(yield* one.heardKinds, [])
        assert.deepStrictEqual(yield* two.heardKinds, [])
        assert.strictEqual((yield* one.counts).started, 1)
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 50 })
        const { started } = yield* one.counts
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 60 })
        assert.isAtLeast(started, 2)
        assert.isFalse(two.knows(1)?.isLost)
        assert.isFalse(one.knows(2)?.isLost)
      }).pipe(Effect.scoped))
  }

  for (const kind of ["stall", "suspend"] as const) {
    it.effect(`that stood still for ten minutes (${kind}) is lost to others, and back with its next session`, () =>
      Effect.gen(function*() {
        const { a, one, two } = yield* pair(
          Outage.none,
          Outage.make([{ kind, at: "20 seconds", for: "10 minutes" }])
        )
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 600 })
        assert.deepStrictEqual(yield* two.heardKinds, ["lost 1"])
        assert.strictEqual(a.coordinator.peers(), 0)
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 90 })
        assert.deepStrictEqual(yield* two.heardKinds, ["node 1"])
        assert.isFalse(one.knows(2)?.isLost)
        assert.strictEqual((yield* one.counts).started, 2)
      }).pipe(Effect.scoped))
  }
})
