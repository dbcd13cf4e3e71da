import { make as makePool, PgClient } from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Queue, Redacted, Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { layer as reactivityLayer } from "effect/reactivity/Reactivity"
import { afterAll, beforeAll } from "vitest"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import { channel } from "../../src/database/Notifications.ts"
import { Replica } from "../../src/database/Replica.ts"
import { Loops } from "../../src/loop/Loops.ts"
import { PeerStore, topics } from "../../src/tailnet/PeerStore.ts"
import * as PeerStorePostgres from "../../src/tailnet/PeerStorePostgres.ts"
import { conformance, replicaA, replicaB } from "../support/peerStoreConformance.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { until } from "../support/realDatabase.ts"
import { uuid } from "../support/TailnetWorld.ts"

describe("PeerStorePostgres", () => {
  const scope = Effect.runSync(Scope.make())
  let server: PostgresServer.PostgresServer
  beforeAll(async () => {
    server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const store = (id: string) =>
    Effect.gen(function*() {
      const services = yield* Layer.build(Layer.fresh(PeerStorePostgres.layer.pipe(
        Layer.provideMerge(Database.layerPostgres({ url: Redacted.make(server.url) })),
        Layer.provide([Loops.layer, SecureRandom.layerWebCrypto, Layer.succeed(Replica, { id, name: "conformance" })])
      )))
      yield* Context.get(services, Availability).awaitAvailable
      yield* Context.get(services, Database).write(
        "test.empty",
        Effect.flatMap(PgClient, (sql) => sql`truncate lull.peer, lull.tunnel`)
      )
      return Context.get(services, PeerStore)
    })

  it.live("tells of each tunnel that a list or a goodbye closes, in notifications of a bearable length", () =>
    Effect.scoped(
      Effect.gen(function*() {
        const a = yield* store(replicaA)
        const tunnels = Array.from({ length: 250 }, (_, at) => uuid(at + 10))
        yield* a.write({
          peers: [],
          tunnels: [],
          lists: [[uuid(1), tunnels], [uuid(2), [uuid(3)]], [uuid(4), [uuid(5)]]]
        })
        const client = yield* makePool({ url: Redacted.make(server.url) })
        const queue = yield* client.listen(channel)
        const heard: Array<string> = []
        yield* Effect.forkScoped(
          Effect.forever(Effect.map(Queue.take(queue), ({ payload }) => heard.push(payload)))
        )
        yield* a.write({
          peers: [[uuid(4), undefined]],
          tunnels: [],
          lists: [[uuid(1), []], [uuid(2), [uuid(3)]], [uuid(4), []]]
        })
        const pairs = () =>
          heard.flatMap((note) => {
            const [topic, from, ...items] = note.split(" ")
            assert.strictEqual(from, replicaA)
            return topic === topics.tunnels ? items : []
          })
        const closed = [...tunnels.map((to) => `${uuid(1)}/${to}`), `${uuid(4)}/${uuid(5)}`]
        yield* until(() => pairs().length >= closed.length + 1)
        // A list that stays as it is says its tunnels, too: which of them are new is not known before the write.
        assert.deepStrictEqual(pairs().toSorted(), [...closed, `${uuid(2)}/${uuid(3)}`].toSorted())
      }).pipe(Effect.provide(reactivityLayer))
    ))

  conformance({
    open: Effect.all([store(replicaA), store(replicaB)]),
    clock: "live",
    later: Effect.void,
    loseReplicas: Effect.suspend(() => server.execute("delete from lull.replica"))
  })
})
