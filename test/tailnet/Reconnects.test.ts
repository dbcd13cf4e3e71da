/** Peers that go, come back and move between replicas, while these are cut off, end, fail over or write slowly. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { CoordinatorState } from "../../src/tailnet/CoordinatorState.ts"
import * as Outage from "../../src/testing/Outage.ts"
import { make, node, peer, uuid } from "../support/TailnetWorld.ts"

const settle = Effect.repeat(TestClock.adjust("10 millis"), { times: 30 })

describe("a peer", () => {
  it.effect("comes back during an outage and breaks again: lost, and not disconnected", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a", {
        outage: Outage.make([{ kind: "refused", at: "10 seconds", for: "20 seconds" }])
      })
      const b = yield* world.replica("b")
      const y = yield* peer(1, [b.transport])
      const x = yield* peer(2, [a.transport], { tunnels: [uuid(1)] })
      yield* TestClock.adjust("12 seconds")
      assert.isDefined(y.knows(2))
      yield* y.heard
      // its connection breaks, it comes back to a, and breaks again for good
      yield* a.unreachable(true)
      yield* settle
      yield* a.unreachable(false)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(x.replica(), "a")
      yield* a.unreachable(true)
      yield* TestClock.adjust("60 seconds")
      yield* world.missed
      yield* settle
      const heard = yield* y.heardKinds
      assert.isFalse(heard.some((each) => each.startsWith("disconnected")), heard.join())
    }).pipe(Effect.scoped))

  it.effect("moves from a replica that is cut off: what that writes late does not close its tunnels", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a", {
        outage: Outage.make([{ kind: "refused", at: "10 seconds", for: "20 seconds" }])
      })
      const b = yield* world.replica("b")
      const c = yield* world.replica("c")
      const y = yield* peer(1, [c.transport])
      yield* TestClock.adjust("12 seconds")
      const x = yield* peer(2, [a.transport, b.transport], { tunnels: [uuid(1)] })
      yield* settle
      assert.strictEqual(x.replica(), "a")
      yield* a.unreachable(true)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(x.replica(), "b")
      assert.isDefined(y.knows(2))
      assert.strictEqual(world.table.tunnels.size, 1)
      yield* y.heard
      yield* TestClock.adjust("60 seconds")
      yield* world.missed
      yield* TestClock.adjust("60 seconds")
      assert.strictEqual(world.table.tunnels.size, 1)
      assert.isDefined(y.knows(2))
    }).pipe(Effect.scoped))

  it.effect("closes a tunnel at another replica than the one that has not written it yet: it stays closed", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a", {
        outage: Outage.make([{ kind: "refused", at: "10 seconds", for: "20 seconds" }])
      })
      const b = yield* world.replica("b")
      const c = yield* world.replica("c")
      const y = yield* peer(1, [c.transport])
      const x = yield* peer(2, [a.transport, b.transport])
      yield* TestClock.adjust("12 seconds")
      yield* x.addTunnel(uuid(1))
      yield* settle
      yield* a.unreachable(true)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(x.replica(), "b")
      yield* x.removeTunnel(uuid(1))
      yield* TestClock.adjust("60 seconds")
      yield* world.missed
      yield* TestClock.adjust("60 seconds")
      assert.strictEqual(world.table.tunnels.size, 0)
      assert.isUndefined(y.knows(2))
    }).pipe(Effect.scoped))

  it.effect("says goodbye at a replica that is cut off and comes to another with the same node: it stays there", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a", {
        outage: Outage.make([{ kind: "refused", at: "10 seconds", for: "20 seconds" }])
      })
      const b = yield* world.replica("b")
      const c = yield* world.replica("c")
      const y = yield* peer(1, [c.transport], { tunnels: [uuid(2)] })
      const x = yield* peer(2, [a.transport])
      yield* TestClock.adjust("12 seconds")
      yield* x.leave
      yield* settle
      yield* peer(2, [b.transport], { tunnels: [uuid(1)] })
      yield* TestClock.adjust("5 seconds")
      assert.isDefined(y.knows(2))
      yield* TestClock.adjust("60 seconds")
      yield* world.missed
      yield* TestClock.adjust("60 seconds")
      assert.isTrue(world.table.peers.has(uuid(2)), "row")
      assert.strictEqual(world.table.tunnels.size, 2, "tunnels")
      assert.isDefined(y.knows(2))
    }).pipe(Effect.scoped))

  it.effect("says goodbye at another replica than the one that lost it: gone, and not lost", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      const y = yield* peer(1, [a.transport], { tunnels: [uuid(2)] })
      const x = yield* peer(2, [b.transport, a.transport])
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(x.replica(), "b")
      yield* b.unreachable(true)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(x.replica(), "a")
      yield* y.heard
      yield* x.leave
      yield* settle
      yield* TestClock.adjust("2 minutes")
      assert.isFalse(world.table.peers.has(uuid(2)))
      assert.deepStrictEqual(yield* y.heardKinds, ["disconnected 2"])
    }).pipe(Effect.scoped))

  it.effect("comes back with fewer tunnels: the other ends are told at once", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      const c = yield* world.replica("c")
      const y = yield* peer(1, [c.transport])
      const x = yield* peer(2, [a.transport, b.transport], { tunnels: [uuid(1)] })
      yield* TestClock.adjust("5 seconds")
      assert.isDefined(y.knows(2))
      yield* a.unreachable(true)
      yield* x.removeTunnel(uuid(1))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(x.replica(), "b")
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(world.table.tunnels.size, 0)
      assert.isUndefined(y.knows(2))
    }).pipe(Effect.scoped))

  it.effect("comes back and says its node later: what was known of it stays", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      const y = yield* peer(1, [b.transport], { tunnels: [uuid(2)] })
      yield* peer(2, [a.transport])
      yield* TestClock.adjust("5 seconds")
      yield* a.unreachable(true)
      yield* settle
      yield* a.unreachable(false)
      yield* y.heard
      // another session of the same peer, as of a client that says its node later
      yield* peer(2, [a.transport], { node: undefined })
      yield* settle
      yield* TestClock.adjust("5 seconds")
      const heard = yield* y.heardKinds
      assert.isFalse(heard.some((each) => each.startsWith("disconnected")), heard.join())
    }).pipe(Effect.scoped))

  it.effect("comes while the replica ends: it is told to go elsewhere", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      yield* peer(1, [a.transport])
      yield* TestClock.adjust("15 seconds")
      yield* a.coordinator.leave
      const x = yield* peer(2, [a.transport])
      yield* TestClock.adjust("20 millis")
      assert.isUndefined(x.replica())
    }).pipe(Effect.scoped))

  it.effect("a failover lost the rows of a replica that is cut off: its peers are lost, and not disconnected", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a", {
        outage: Outage.make([{ kind: "refused", at: "10 seconds", for: "3 seconds" }])
      })
      const b = yield* world.replica("b", {
        outage: Outage.make([{ kind: "refused", at: "10 seconds", for: "30 seconds" }])
      })
      const y = yield* peer(1, [a.transport], { tunnels: [uuid(2)] })
      yield* peer(2, [b.transport])
      yield* TestClock.adjust("9 seconds")
      assert.isDefined(y.knows(2))
      yield* y.heard
      yield* TestClock.adjust("2 seconds")
      world.table.peers.delete(uuid(2))
      yield* TestClock.adjust("25 seconds")
      const heard = yield* y.heardKinds
      assert.isFalse(heard.some((each) => each.startsWith("disconnected")), heard.join())
    }).pipe(Effect.scoped))

  it.effect("a failover brings back a peer that had gone: it is lost, at most", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a", {
        outage: Outage.make([{ kind: "refused", at: "20 seconds", for: "3 seconds" }])
      })
      const b = yield* world.replica("b", {
        outage: Outage.make([{ kind: "refused", at: "20 seconds", for: "3 seconds" }])
      })
      const y = yield* peer(1, [b.transport], { tunnels: [uuid(2)] })
      const x = yield* peer(2, [a.transport])
      yield* TestClock.adjust("15 seconds")
      const old = new Map(world.table.peers.get(uuid(2)))
      yield* x.leave
      yield* TestClock.adjust("6 seconds")
      assert.isUndefined(y.knows(2))
      world.table.peers.set(uuid(2), old)
      yield* TestClock.adjust("1 minute")
      yield* world.missed
      yield* TestClock.adjust("10 minutes")
      // Whether it was gone or lost nobody knows any more.
      assert.notStrictEqual(y.knows(2)?.isLost, false)
    }).pipe(Effect.scoped))

  it.effect("all that is known has been said, although others change all the time", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a", {
        outage: Outage.make([{
          kind: "slow",
          at: "5 seconds",
          for: "9 seconds",
          delay: 20,
          operation: "PeerStore.mappings"
        }])
      })
      const b = yield* world.replica("b")
      const busy = yield* peer(2, [b.transport])
      const other = yield* peer(3, [b.transport])
      yield* peer(4, [a.transport], { tunnels: [uuid(2)] })
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(3)] })
      yield* TestClock.adjust("6 seconds")
      assert.isDefined(one.knows(3))
      yield* a.unreachable(true)
      yield* other.leave
      yield* settle
      yield* a.unreachable(false)
      for (let n = 100; n < 800; n++) {
        yield* busy.setNode(node(n))
        yield* TestClock.adjust("10 millis")
      }
      assert.strictEqual(one.replica(), "a")
      assert.isUndefined(one.knows(3))
      yield* TestClock.adjust("5 seconds")
    }).pipe(Effect.scoped))

  it.effect("its clock is set back: its node still changes", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const y = yield* peer(1, [a.transport], { tunnels: [uuid(2)] })
      const x = yield* peer(2, [a.transport], { node: node(9e12) })
      yield* TestClock.adjust("5 seconds")
      yield* x.setNode(node(50))
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual(y.knows(2)?.node.key, "key 50")
    }).pipe(Effect.scoped))

  it.effect("is lost, and read again while that is being written: it stays lost", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a", {
        outage: Outage.make([{
          kind: "slow",
          at: "5 seconds",
          for: "20 seconds",
          delay: 20,
          operation: "PeerStore.write"
        }])
      })
      const y = yield* peer(1, [a.transport], { tunnels: [uuid(2)] })
      const c = yield* a.transport.dial
      yield* c.send({ type: "hello", version: 1, peer: uuid(2), node: node(2) })
      yield* TestClock.adjust("8 seconds")
      yield* y.heard
      yield* c.close(1006, "broken")
      yield* TestClock.adjust(1)
      yield* world.missed
      yield* settle
      yield* TestClock.adjust("4 minutes")
      const heard = yield* y.heardKinds
      assert.deepStrictEqual(heard, ["lost 2"])
    }).pipe(Effect.scoped))

  it("opens and closes ever new tunnels during an outage: what waits is bounded", () => {
    const state = new CoordinatorState("a")
    const session = { id: "s", peer: uuid(1), onUpdates: () => undefined }
    state.open(session, { tunnels: [] })
    for (let n = 10; n < 100_000; n++) {
      state.addTunnel(session, uuid(n), 1_000)
      state.removeTunnel(session, uuid(n))
    }
    const { lists, tunnels } = state.takeChanges()
    assert.deepStrictEqual(lists, [[uuid(1), []]])
    assert.isAtMost(tunnels.length, 10_000)
    state.takeChanges()
  })
})
