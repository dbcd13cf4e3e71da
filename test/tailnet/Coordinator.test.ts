import { assert, describe, it } from "@effect/vitest"
import { Effect, SubscriptionRef } from "effect"
import { TestClock } from "effect/testing"
import * as Outage from "../../src/testing/Outage.ts"
import { make, node, peer, uuid } from "../support/TailnetWorld.ts"

/** Several steps, as a message passes several fibers. */
const settle = Effect.repeat(TestClock.adjust("10 millis"), { times: 9 })

describe("Coordinator", () => {
  it.effect("tells both ends of a tunnel of each other, and of what changes", () =>
    Effect.gen(function*() {
      const world = yield* make
      const replica = yield* world.replica("a")
      const one = yield* peer(1, [replica.transport], { tunnels: [uuid(2)] })
      yield* settle
      const two = yield* peer(2, [replica.transport])
      yield* settle
      assert.deepStrictEqual(one.knows(2)?.node, node(2))
      assert.deepStrictEqual(two.knows(1)?.node, node(1))
      yield* one.setNode(node(10))
      yield* settle
      assert.deepStrictEqual(two.knows(1)?.node, node(10))
      yield* one.removeTunnel(two.id)
      yield* settle
      assert.isUndefined(two.knows(1))
    }).pipe(Effect.scoped))

  it.effect("does so across replicas", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      yield* TestClock.adjust("1 second")
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(2)] })
      const two = yield* peer(2, [b.transport])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(one.knows(2)?.node, node(2))
      assert.deepStrictEqual(two.knows(1)?.node, node(1))
      yield* two.setNode(node(20))
      yield* settle
      assert.deepStrictEqual(one.knows(2)?.node, node(20))
      yield* two.leave
      yield* settle
      assert.isUndefined(one.knows(2))
      assert.strictEqual((yield* one.heardKinds).at(-1), "disconnected 2")
    }).pipe(Effect.scoped))

  it.effect("three failed heartbeats of its own: nobody is disconnected, new peers are admitted, local updates flow", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a", {
        outage: Outage.make([{ kind: "refused", at: "10 seconds", for: "1 minute" }])
      })
      const b = yield* world.replica("b", {
        outage: Outage.make([{ kind: "refused", at: "10 seconds", for: "1 minute" }])
      })
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(2), uuid(3), uuid(4)] })
      const two = yield* peer(2, [a.transport])
      const three = yield* peer(3, [b.transport])
      yield* TestClock.adjust("5 seconds")
      assert.isDefined(one.knows(3))
      yield* one.heard
      yield* TestClock.adjust("25 seconds")
      assert.strictEqual(SubscriptionRef.getUnsafe(a.availability.state)._tag, "Unavailable")
      yield* two.setNode(node(20))
      yield* three.setNode(node(30))
      const four = yield* peer(4, [a.transport])
      yield* settle
      assert.deepStrictEqual(one.knows(2)?.node, node(20))
      assert.deepStrictEqual(four.knows(1)?.node, node(1))
      assert.deepStrictEqual((yield* one.heardKinds).toSorted(), ["node 2", "node 4"])
      assert.isFalse(one.knows(3)?.isLost)
      // It is written, and told elsewhere, when the database is back.
      yield* TestClock.adjust("50 seconds")
      assert.deepStrictEqual(one.knows(3)?.node, node(30))
      assert.isTrue(world.table.peers.has(four.id))
      assert.isTrue(a.coordinator.isSettled())
      assert.isEmpty((yield* one.heardKinds).filter((each) => !each.startsWith("node")))
    }).pipe(Effect.scoped))

  it.effect("another replica silent for six seconds while this one can write: its peers are lost, not disconnected, once", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b", {
        outage: Outage.make([{ kind: "refused", at: "10 seconds", for: "30 seconds" }])
      })
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(2)] })
      yield* peer(2, [b.transport])
      yield* TestClock.adjust("9 seconds")
      yield* one.heard
      yield* TestClock.adjust("5 seconds")
      assert.isEmpty(yield* one.heardKinds)
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(yield* one.heardKinds, ["lost 2"])
      assert.isTrue(one.knows(2)?.isLost)
      // And back when it is heard of again.
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(yield* one.heardKinds, ["node 2"])
    }).pipe(Effect.scoped))

  it.effect("two replicas hold a peer; the newer expires: back to the older; it returns: to the newer again", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      const c = yield* world.replica("c", {
        outage: Outage.make([{ kind: "refused", at: "10 seconds", for: "30 seconds" }])
      })
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(2)] })
      yield* peer(2, [b.transport], { node: node(20) })
      yield* peer(2, [c.transport], { node: node(21) })
      yield* TestClock.adjust("9 seconds")
      assert.deepStrictEqual(one.knows(2)?.node, node(21))
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(one.knows(2), { node: node(20), isLost: false })
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(one.knows(2)?.node, node(21))
    }).pipe(Effect.scoped))

  it.effect("two replicas expire together: both are dealt with in the same look", () =>
    Effect.gen(function*() {
      const world = yield* make
      const outage = Outage.make([{ kind: "refused", at: "10 seconds" }])
      const a = yield* world.replica("a")
      const b = yield* world.replica("b", { outage })
      const c = yield* world.replica("c", { outage })
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(2), uuid(3)] })
      yield* peer(2, [b.transport])
      yield* peer(3, [c.transport])
      yield* TestClock.adjust("9 seconds")
      yield* one.heard
      let heard: ReadonlyArray<string> = []
      for (let seconds = 0; seconds < 20 && heard.length === 0; seconds++) {
        yield* TestClock.adjust("1 second")
        heard = yield* one.heardKinds
      }
      assert.deepStrictEqual(heard.toSorted(), ["lost 2", "lost 3"])
    }).pipe(Effect.scoped))

  it.effect("heartbeats go on while notifications are lost: not expired, and found by the next comparison", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(2)] })
      const two = yield* peer(2, [b.transport])
      yield* TestClock.adjust("5 seconds")
      yield* one.heard
      yield* world.loseNotifications(true)
      yield* two.setNode(node(20))
      yield* TestClock.adjust("40 seconds")
      assert.deepStrictEqual(one.knows(2)?.node, node(20))
      assert.deepStrictEqual(yield* one.heardKinds, ["node 2"])
    }).pipe(Effect.scoped))

  it.effect("notifications are lost while a listener is away: nodes, tunnels, goodbyes; all is right when it is back", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(2), uuid(3)] })
      const two = yield* peer(2, [b.transport])
      const three = yield* peer(3, [b.transport])
      const four = yield* peer(4, [b.transport], { tunnels: [uuid(1)] })
      const five = yield* peer(5, [b.transport])
      yield* TestClock.adjust("5 seconds")
      yield* one.heard
      yield* world.loseNotifications(true)
      yield* two.setNode(node(20))
      yield* three.leave
      yield* four.removeTunnel(one.id)
      yield* five.addTunnel(one.id)
      yield* settle
      assert.isEmpty(yield* one.heardKinds)
      yield* world.loseNotifications(false)
      yield* world.missed
      yield* settle
      assert.deepStrictEqual((yield* one.heardKinds).toSorted(), [
        "disconnected 3",
        "disconnected 4",
        "node 2",
        "node 5"
      ])
      assert.deepStrictEqual(one.knows(2)?.node, node(20))
    }).pipe(Effect.scoped))

  it.effect("whom a peer remembers and who has gone meanwhile is forgotten when the database was asked, and not before", () =>
    Effect.gen(function*() {
      const world = yield* make
      const outage = Outage.make([{ kind: "refused", at: "20 seconds", for: "20 seconds" }])
      const a = yield* world.replica("a", { outage })
      const b = yield* world.replica("b")
      const one = yield* peer(1, [a.transport])
      const two = yield* peer(2, [b.transport], { tunnels: [uuid(1)] })
      const three = yield* peer(3, [b.transport], { tunnels: [uuid(1)] })
      yield* TestClock.adjust("5 seconds")
      assert.isDefined(one.knows(2))
      assert.isDefined(one.knows(3))
      yield* one.heard
      yield* a.unreachable(true)
      yield* settle
      yield* two.removeTunnel(one.id)
      yield* TestClock.adjust("18 seconds")
      yield* a.unreachable(false)
      yield* TestClock.adjust("10 seconds")
      assert.isDefined(one.replica())
      assert.isDefined(one.knows(2))
      assert.isEmpty(yield* one.heardKinds)
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(yield* one.heardKinds, ["node 3", "disconnected 2"])
      assert.isUndefined(one.knows(2))
      assert.isDefined(three.knows(1))
    }).pipe(Effect.scoped))

  it.effect("an old session that its replica has not missed yet writes its tunnels again: those of the new one are back when it has", () =>
    Effect.gen(function*() {
      const world = yield* make
      const away = (length: number) => Outage.make([{ kind: "refused", at: "10 seconds", for: length }])
      const a = yield* world.replica("a", { outage: away(5_000) })
      const b = yield* world.replica("b", { outage: away(3_000) })
      const c = yield* world.replica("c")
      const other = yield* peer(2, [c.transport])
      // Never answers again.
      const old = yield* a.transport.dial
      yield* old.send({ type: "hello", version: 1, peer: uuid(1), node: node(1), tunnels: [] })
      yield* TestClock.adjust("8 seconds")
      yield* peer(1, [b.transport], { tunnels: [other.id] })
      yield* TestClock.adjust("1 second")
      assert.isDefined(other.knows(1))
      yield* TestClock.adjust("1 minute")
      yield* world.missed
      yield* settle
      assert.isDefined(other.knows(1))
      assert.isFalse(other.knows(1)?.isLost)
    }).pipe(Effect.scoped))

  it.effect("its own row is missing: it is there again before peers are written", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const one = yield* peer(1, [a.transport])
      yield* settle
      world.table.replicas.clear()
      yield* one.setNode(node(10))
      yield* TestClock.adjust(1)
      assert.isTrue(world.table.replicas.has("a"))
      assert.isEmpty(world.lines().filter((line) => /foreign key|Error/.test(line)))
    }).pipe(Effect.scoped))

  it.effect("a graceful end: peers are told to go elsewhere, spread over time, and others see no flapping", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(2), uuid(3), uuid(4)] })
      const moving = yield* Effect.forEach([2, 3, 4], (number) => peer(number, [b.transport, a.transport]))
      yield* TestClock.adjust("5 seconds")
      yield* one.heard
      yield* Effect.forkScoped(b.stop)
      yield* TestClock.adjust("1 second")
      yield* b.unreachable(true)
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(moving.map(({ replica }) => replica()), ["a", "a", "a"])
      assert.isEmpty(yield* one.heardKinds)
      assert.deepStrictEqual([2, 3, 4].map((number) => one.knows(number)?.isLost), [false, false, false])
    }).pipe(Effect.scoped))

  it.effect("23 rapid updates: the receiver ends on the last", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(2)] })
      const two = yield* peer(2, [b.transport], { tunnels: [uuid(3)] })
      const three = yield* peer(3, [b.transport])
      yield* TestClock.adjust("5 seconds")
      yield* Effect.forEach(Array.from({ length: 23 }, (_, at) => node(100 + at)), (each) => two.setNode(each))
      yield* settle
      assert.deepStrictEqual(one.knows(2)?.node, node(122))
      assert.deepStrictEqual(three.knows(2)?.node, node(122))
    }).pipe(Effect.scoped))

  it.effect("two outages three seconds apart: nobody is disconnected, all is written", () =>
    Effect.gen(function*() {
      const world = yield* make
      const outage = Outage.make([
        { kind: "refused", at: "10 seconds", for: "10 seconds" },
        { kind: "refused", at: "23 seconds", for: "10 seconds" }
      ])
      const a = yield* world.replica("a", { outage })
      const b = yield* world.replica("b", { outage })
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(2)] })
      const two = yield* peer(2, [b.transport])
      yield* TestClock.adjust("9 seconds")
      yield* one.heard
      for (let at = 0; at < 30; at++) {
        yield* two.setNode(node(100 + at))
        yield* TestClock.adjust("1 second")
      }
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(one.knows(2), { node: node(129), isLost: false })
      assert.isEmpty((yield* one.heardKinds).filter((each) => each !== "node 2"))
      assert.isTrue(a.coordinator.isSettled() && b.coordinator.isSettled())
    }).pipe(Effect.scoped))

  it.effect("hands each peer the relays that it was given", () =>
    Effect.gen(function*() {
      const world = yield* make
      const relays = [{ id: 1, name: "europe", hosts: ["relay.example:443"] }]
      const a = yield* world.replica("a", { coordinator: { relays } })
      const one = yield* peer(1, [a.transport])
      yield* settle
      assert.deepStrictEqual(SubscriptionRef.getUnsafe(one.relays), relays)
    }).pipe(Effect.scoped))

  it.effect("ready for a handshake is told, here and across replicas, where there is a tunnel", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(2), uuid(3)] })
      const two = yield* peer(2, [b.transport])
      const three = yield* peer(3, [a.transport])
      const four = yield* peer(4, [a.transport])
      yield* TestClock.adjust("5 seconds")
      yield* Effect.forEach([two, three, four], ({ heard }) => heard)
      yield* one.readyForHandshake(two.id)
      yield* one.readyForHandshake(three.id)
      yield* one.readyForHandshake(four.id)
      yield* settle
      assert.deepStrictEqual(yield* two.heardKinds, ["readyForHandshake 1"])
      assert.deepStrictEqual(yield* three.heardKinds, ["readyForHandshake 1"])
      assert.isEmpty(yield* four.heardKinds)
    }).pipe(Effect.scoped))
})
