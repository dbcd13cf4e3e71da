import { PgClient } from "@effect/sql-pg/PgClient"
import { describe } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Redacted, Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { afterAll, beforeAll } from "vitest"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import { Replica } from "../../src/database/Replica.ts"
import { Loops } from "../../src/loop/Loops.ts"
import { PeerStore } from "../../src/tailnet/PeerStore.ts"
import * as PeerStorePostgres from "../../src/tailnet/PeerStorePostgres.ts"
import { conformance, replicaA, replicaB } from "../support/peerStoreConformance.ts"
import * as PostgresServer from "../support/PostgresServer.ts"

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

  conformance({
    open: Effect.all([store(replicaA), store(replicaB)]),
    clock: "live",
    loseReplicas: Effect.suspend(() => server.execute("delete from lull.replica"))
  })
})
