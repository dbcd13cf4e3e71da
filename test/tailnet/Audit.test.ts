import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { make, node, peer, uuid } from "../support/TailnetWorld.ts"

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
  it.effect("writes them again soon, when another process with the id of a peer said goodbye elsewhere", () =>
    Effect.gen(function*() {
      const { b, bothKnow, world } = yield* twoReplicas
      const clone = yield* peer(1, [b.transport], { node: node(9), tunnels: [uuid(3)] })
      yield* TestClock.adjust("1 second")
      yield* clone.leave
      yield* TestClock.adjust("5 seconds")
      bothKnow()
      assert.strictEqual(world.table.peers.get(uuid(1))?.get("a")?.isLost, false)
      assert.deepStrictEqual([...world.table.tunnels.values()], [{ from: uuid(1), to: uuid(2) }])
    }).pipe(Effect.scoped))

  it.effect("leaves the tunnels of a peer to its newer session elsewhere", () =>
    Effect.gen(function*() {
      const { b, world } = yield* twoReplicas
      yield* peer(1, [b.transport], { node: node(9), tunnels: [uuid(3)] })
      yield* untilCompared
      assert.deepStrictEqual([...world.table.tunnels.values()], [{ from: uuid(1), to: uuid(3) }])
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
