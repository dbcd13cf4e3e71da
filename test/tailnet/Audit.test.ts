import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { make, node, peer, type TestReplica, uuid } from "../support/TailnetWorld.ts"

/** Longer than between two slow comparisons. */
const untilCompared = TestClock.adjust("40 seconds")

/** Peer 1 at replica `a`, with a tunnel to peer 2 at replica `b`; both know each other. */
const twoReplicas = Effect.gen(function*() {
  const world = yield* make
  const a = yield* world.replica("a")
  const b = yield* world.replica("b")
  yield* TestClock.adjust("1 second")
  const one = yield* peer(1, [a.transport], { tunnels: [uuid(2)] })
  const two = yield* peer(2, [b.transport])
  yield* TestClock.adjust("1 second")
  assert.isDefined(one.knows(2))
  assert.isDefined(two.knows(1))
  const bothKnow = () => {
    assert.deepStrictEqual(one.knows(2), { node: node(2), isLost: false })
    assert.deepStrictEqual(two.knows(1), { node: node(1), isLost: false })
  }
  return { world, a, b, one, two, bothKnow }
})

describe("A replica whose rows have gone", () => {
  it.effect("writes them again when another process with the id of a peer said goodbye elsewhere", () =>
    Effect.gen(function*() {
      const { b, bothKnow, world } = yield* twoReplicas
      const clone = yield* peer(1, [b.transport], { node: node(9), tunnels: [uuid(3)] })
      yield* TestClock.adjust("1 second")
      yield* clone.leave
      yield* TestClock.adjust("50 seconds")
      bothKnow()
      assert.strictEqual(world.table.peers.get(uuid(1))?.get("a")?.isLost, false)
      assert.deepStrictEqual([...world.table.tunnels.values()], [{ from: uuid(1), to: uuid(2) }])
    }).pipe(Effect.scoped))

  it.effect("leaves the tunnels of a peer to its newer session elsewhere", () =>
    Effect.gen(function*() {
      const { b, world } = yield* twoReplicas
      yield* peer(1, [b.transport], { node: node(9), tunnels: [uuid(3)] })
      yield* TestClock.adjust("1 second")
      // Long enough for a suspicion to be looked into.
      for (let seconds = 0; seconds < 120; seconds++) {
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual([...world.table.tunnels.values()], [{ from: uuid(1), to: uuid(3) }])
      }
    }).pipe(Effect.scoped))

  it.effect("writes them again when somebody has emptied the tables", () =>
    Effect.gen(function*() {
      const { b, bothKnow, two, world } = yield* twoReplicas
      yield* two.heard
      world.table.peers.clear()
      world.table.tunnels.clear()
      const three = yield* peer(3, [b.transport], { tunnels: [uuid(1)] })
      yield* untilCompared
      bothKnow()
      assert.deepStrictEqual(three.knows(1), { node: node(1), isLost: false })
      yield* untilCompared
      yield* two.heard
      yield* untilCompared
      assert.isEmpty(yield* two.heard)
    }).pipe(Effect.scoped))

  it.effect("writes again what a backup has made old, and takes back whom it has brought back", () =>
    Effect.gen(function*() {
      const { one, two, world } = yield* twoReplicas
      const backup = [...world.table.peers].map(([id, rows]) => [id, new Map(rows)] as const)
      const ghost = { replica: "a", node: node(7), isLost: false, updatedAt: 0 }
      yield* one.setNode(node(10))
      yield* TestClock.adjust("1 second")
      world.table.peers.clear()
      for (const [id, rows] of backup) world.table.peers.set(id, rows)
      world.table.peers.set(uuid(7), new Map([["a", ghost]]))
      yield* untilCompared
      yield* TestClock.adjust("1 second")
      assert.strictEqual(world.table.peers.get(uuid(1))?.get("a")?.node?.asOf, 10)
      assert.isTrue(world.table.peers.get(uuid(7))?.get("a")?.isLost)
      assert.deepStrictEqual(two.knows(1)?.node, node(10))
    }).pipe(Effect.scoped))

  it.effect("finds what no notification has said", () =>
    Effect.gen(function*() {
      const { one, two, world } = yield* twoReplicas
      yield* world.loseNotifications(true)
      yield* two.setNode(node(20))
      yield* two.addTunnel(uuid(5))
      yield* untilCompared
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(one.knows(2)?.node, node(20))
      yield* two.leave
      yield* untilCompared
      yield* TestClock.adjust("1 second")
      assert.isUndefined(one.knows(2))
    }).pipe(Effect.scoped))
})

describe("A replica that compares its rows with the truth", () => {
  /** A peer by hand, which answers no ping: its session is not missed for a while when it has gone. */
  const halfOpen = Effect.fnUntraced(function*(replica: TestReplica, number: number, to: number, asOf = number) {
    const connection = yield* replica.transport.dial
    yield* connection.send({ type: "hello", version: 1, peer: uuid(number), node: node(asOf), tunnels: [uuid(to)] })
    yield* TestClock.adjust("1 second")
    return connection
  })

  it.effect("leaves tunnels alone where the peer has another session, also one that it thinks is older", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      yield* TestClock.adjust("1 second")
      yield* halfOpen(a, 1, 2)
      yield* peer(1, [b.transport], { node: node(0), tunnels: [uuid(3)] })
      for (let seconds = 0; seconds < 50; seconds++) {
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual([...world.table.tunnels.values()], [{ from: uuid(1), to: uuid(3) }])
      }
    }).pipe(Effect.scoped))

  it.effect("does not bring back a peer that has left elsewhere while its session here was not missed yet", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      yield* TestClock.adjust("1 second")
      const two = yield* peer(2, [b.transport])
      yield* halfOpen(a, 1, 2)
      const fresh = yield* halfOpen(b, 1, 2)
      yield* two.heard
      yield* fresh.send({ type: "disconnect" })
      for (let seconds = 0; seconds < 30; seconds++) yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* two.heardKinds, ["disconnected 1"])
    }).pipe(Effect.scoped))

  it.effect("writes nothing while nothing happens, whatever is left of earlier sessions", () =>
    Effect.gen(function*() {
      const world = yield* make
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      yield* TestClock.adjust("1 second")
      yield* peer(1, [b.transport, a.transport], { tunnels: [uuid(2)] })
      yield* peer(2, [a.transport])
      yield* TestClock.adjust("1 second")
      yield* b.unreachable(true)
      for (let seconds = 0; seconds < 60; seconds++) yield* TestClock.adjust("1 second")
      assert.isTrue(world.table.peers.get(uuid(1))?.get("b")?.isLost)
      let written = 0
      const set = world.table.tunnels.set.bind(world.table.tunnels)
      world.table.tunnels.set = (key, value) => {
        written++
        return set(key, value)
      }
      for (let seconds = 0; seconds < 300; seconds++) yield* TestClock.adjust("1 second")
      assert.strictEqual(written, 0)
    }).pipe(Effect.scoped))
})
