/**
 * What a store of peers has to do, whichever it is: run against the memory model and against a real PostgreSQL.
 */
import { assert, it } from "@effect/vitest"
import { type Context, Effect, type Scope } from "effect"
import type { Changes, PeerStore } from "../../src/tailnet/PeerStore.ts"
import { node, uuid } from "./TailnetWorld.ts"

type Store = Context.Service.Shape<typeof PeerStore>

export const replicaA = "0197a000-0000-7000-8000-00000000000a"
export const replicaB = "0197a000-0000-7000-8000-00000000000b"

export interface Setting {
  /** The stores of two replicas on one empty database. */
  readonly open: Effect.Effect<readonly [a: Store, b: Store], unknown, Scope.Scope>
  readonly clock: "effect" | "live"
  /** Until the next write has another time. */
  readonly later: Effect.Effect<unknown>
  /** The database loses the rows of all replicas. */
  readonly loseReplicas: Effect.Effect<unknown, unknown>
}

const changes = (given: Partial<Changes>): Changes => ({ peers: [], tunnels: [], lists: [], ...given })
const present = (number: number, asOf = number) => [uuid(number), { node: node(asOf), isLost: false }] as const

export const conformance = (setting: Setting) => {
  const test = (name: string, body: (a: Store, b: Store) => Effect.Effect<void, unknown>) =>
    it[setting.clock](name, () => Effect.scoped(Effect.flatMap(setting.open, ([a, b]) => body(a, b))))

  const mappingsOf = (store: Store, ...numbers: ReadonlyArray<number>) =>
    Effect.map(
      store.mappings(numbers.map(uuid)),
      ({ rows }) =>
        rows.map(([peer, { isLost, node: found, replica }]) =>
          `${Number(peer.slice(-12))} ${replica === replicaA ? "a" : "b"} ${found?.asOf ?? "-"}${isLost ? " lost" : ""}`
        ).toSorted()
    )

  const tunnelsTo = (store: Store, ...numbers: ReadonlyArray<number>) =>
    Effect.map(
      store.tunnelsTo(numbers.map(uuid)),
      ({ rows }) => rows.map(({ from, to }) => `${Number(from.slice(-12))} ${Number(to.slice(-12))}`).toSorted()
    )

  test(
    "says which tunnels peers opened, and how many of a replica's peers are present",
    (a, b) =>
      Effect.gen(function*() {
        yield* a.write(changes({
          peers: [present(1), present(2), [uuid(3), { node: node(3), isLost: true }]],
          lists: [[uuid(1), [uuid(2), uuid(3)]], [uuid(2), [uuid(4)]]]
        }))
        yield* b.write(changes({ peers: [present(1)] }))
        const from = (...numbers: ReadonlyArray<number>) =>
          Effect.map(
            b.tunnelsFrom(numbers.map(uuid)),
            ({ rows }) => rows.map((row) => `${Number(row.from.slice(-12))} ${Number(row.to.slice(-12))}`).toSorted()
          )
        assert.deepStrictEqual(yield* from(1), ["1 2", "1 3"])
        assert.deepStrictEqual(yield* from(2, 3), ["2 4"])
        assert.deepStrictEqual([yield* a.present, yield* b.present], [2, 1])
      })
  )

  test("has a mapping for each peer and replica, the newest of each", (a, b) =>
    Effect.gen(function*() {
      yield* a.write(changes({ peers: [present(1), [uuid(2), { node: undefined, isLost: false }]] }))
      yield* b.write(changes({ peers: [present(1, 5)] }))
      yield* a.write(changes({ peers: [present(1, 10), [uuid(2), { node: node(2), isLost: true }]] }))
      assert.deepStrictEqual(yield* mappingsOf(b, 1, 2, 3), ["1 a 10", "1 b 5", "2 a 2 lost"])
      assert.deepStrictEqual(yield* mappingsOf(a, 3), [])
    }))

  test("keeps a node as it came", (a) =>
    Effect.gen(function*() {
      const strange = {
        ...node(1),
        key: "\"\\ \u0000 {},ü€\n\ud83d\ude00",
        relay: { preferred: -1, latencies: { "a\"b": 1e-7 } }
      }
      yield* a.write(changes({ peers: [[uuid(1), { node: strange, isLost: false }]] }))
      const { rows: [row] } = yield* a.mappings([uuid(1)])
      assert.deepStrictEqual(row?.[1].node, strange)
    }))

  test("a peer that has gone is gone everywhere, but where it is newer", (a, b) =>
    Effect.gen(function*() {
      yield* a.write(changes({ peers: [present(1, 10), present(2, 10)] }))
      yield* b.write(changes({ peers: [present(1, 9), present(2, 11)] }))
      yield* a.write(changes({ peers: [[uuid(1), undefined], [uuid(2), undefined]] }))
      assert.deepStrictEqual(yield* mappingsOf(b, 1, 2), ["2 b 11"])
    }))

  test(
    "of one that has gone and came to another replica with the same node, the later session stays, with its tunnels",
    (a, b) =>
      Effect.gen(function*() {
        yield* a.write(changes({ peers: [present(1, 10)], lists: [[uuid(1), [uuid(3)]]] }))
        yield* setting.later
        yield* b.write(changes({ peers: [present(1, 10)], lists: [[uuid(1), [uuid(2)]]] }))
        yield* a.write(changes({ peers: [[uuid(1), undefined]], lists: [[uuid(1), []]] }))
        assert.deepStrictEqual(yield* mappingsOf(b, 1), ["1 b 10"])
        assert.deepStrictEqual(yield* tunnelsTo(b, 2, 3), ["1 2"])
        yield* b.write(changes({ peers: [[uuid(1), undefined]], lists: [[uuid(1), []]] }))
        assert.deepStrictEqual(yield* tunnelsTo(b, 2, 3), [])
      })
  )

  test("one that was lost elsewhere later is gone all the same", (a, b) =>
    Effect.gen(function*() {
      yield* b.write(changes({ peers: [present(1, 10)] }))
      yield* a.write(changes({ peers: [present(1, 10)], lists: [[uuid(1), [uuid(2)]]] }))
      yield* setting.later
      yield* b.write(changes({ peers: [[uuid(1), { node: node(10), isLost: true }]] }))
      yield* a.write(changes({ peers: [[uuid(1), undefined]], lists: [[uuid(1), []]] }))
      assert.deepStrictEqual(yield* mappingsOf(b, 1), [])
      assert.deepStrictEqual(yield* tunnelsTo(b, 2), [])
    }))

  test("a session without a node keeps that of the one before", (a, b) =>
    Effect.gen(function*() {
      yield* a.write(changes({ peers: [[uuid(1), { node: node(1), isLost: true }]] }))
      yield* a.write(changes({ peers: [[uuid(1), { node: undefined, isLost: false }]] }))
      assert.deepStrictEqual(yield* mappingsOf(b, 1), ["1 a 1"])
    }))

  test("loses all of a replica but those that are there", (a, b) =>
    Effect.gen(function*() {
      yield* a.write(changes({ peers: [present(1), present(2)] }))
      yield* b.write(changes({ peers: [present(2, 5)] }))
      yield* a.loseAllBut([uuid(1)])
      assert.deepStrictEqual(yield* mappingsOf(b, 1, 2), ["1 a 1", "2 a 2 lost", "2 b 5"])
      yield* a.loseAllBut([])
      assert.deepStrictEqual(yield* mappingsOf(b, 1, 2), ["1 a 1 lost", "2 a 2 lost", "2 b 5"])
    }))

  test("opens and closes tunnels, and replaces the list of a peer", (a, b) =>
    Effect.gen(function*() {
      const tunnel = (from: number, to: number, isOpen = true) => ({ from: uuid(from), to: uuid(to), isOpen })
      yield* a.write(changes({ tunnels: [tunnel(1, 2), tunnel(1, 3), tunnel(4, 2)] }))
      assert.deepStrictEqual(yield* tunnelsTo(b, 2, 3), ["1 2", "1 3", "4 2"])
      yield* a.write(changes({ tunnels: [tunnel(1, 2, false)], lists: [[uuid(4), [uuid(3), uuid(5)]]] }))
      assert.deepStrictEqual(yield* tunnelsTo(b, 2, 3, 5), ["1 3", "4 3", "4 5"])
      yield* a.write(changes({ lists: [[uuid(4), []], [uuid(1), [uuid(3)]]] }))
      assert.deepStrictEqual(yield* tunnelsTo(b, 2, 3, 5), ["1 3"])
      assert.deepStrictEqual(yield* tunnelsTo(b, 1), [])
    }))

  test("does nothing more when it is asked again", (a, b) =>
    Effect.gen(function*() {
      const all = changes({
        peers: [present(1), [uuid(2), undefined]],
        tunnels: [{ from: uuid(7), to: uuid(8), isOpen: true }, { from: uuid(7), to: uuid(9), isOpen: false }],
        lists: [[uuid(1), [uuid(2)]]]
      })
      yield* a.write(all)
      yield* a.write(all)
      yield* a.write(changes({}))
      assert.deepStrictEqual(yield* mappingsOf(b, 1, 2), ["1 a 1"])
      assert.deepStrictEqual(yield* tunnelsTo(b, 2, 8, 9), ["1 2", "7 8"])
    }))

  test("takes many rows at once", (a, b) =>
    Effect.gen(function*() {
      const numbers = Array.from({ length: 1_000 }, (_, at) => at + 1)
      yield* a.write(changes({
        peers: numbers.map((number) => present(number)),
        lists: numbers.map((number) => [uuid(number), [1, 2, 3, 4, 5].map((more) => uuid(number + more))] as const)
      }))
      assert.lengthOf((yield* b.mappings(numbers.map(uuid))).rows, 1_000)
      assert.lengthOf((yield* b.tunnelsTo([uuid(500)])).rows, 5)
    }))

  test(
    "knows the replicas, which of them ends, and has a lost row again with the next write",
    (a, b) =>
      Effect.gen(function*() {
        yield* a.write(changes({ peers: [present(1)] }))
        yield* b.write(changes({ peers: [present(2)] }))
        yield* b.leave
        const leaving = Effect.map(a.replicas, (rows) =>
          rows.filter(({ id }) =>
            id === replicaA || id === replicaB
          ).map(({ id, isLeaving }) => [id, isLeaving])
            .toSorted())
        assert.deepStrictEqual(yield* leaving, [[replicaA, false], [replicaB, true]])
        yield* setting.loseReplicas
        yield* a.write(changes({ peers: [present(1, 10)] }))
        assert.isTrue((yield* a.replicas).some(({ id }) => id === replicaA))
      })
  )

  test("has one key to sign with for all", (a, b) =>
    Effect.gen(function*() {
      const key = yield* a.signingKey
      assert.strictEqual(yield* b.signingKey, key)
      assert.isAtLeast(key.length, 10)
    }))

  test("forgets nothing that is not old", (a, b) =>
    Effect.gen(function*() {
      yield* a.write(
        changes({ peers: [present(1), [uuid(2), { node: node(2), isLost: true }]], lists: [[uuid(1), [uuid(2)]]] })
      )
      yield* b.forget
      assert.deepStrictEqual(yield* mappingsOf(b, 1, 2), ["1 a 1", "2 a 2 lost"])
      assert.deepStrictEqual(yield* tunnelsTo(b, 2), ["1 2"])
    }))
}
