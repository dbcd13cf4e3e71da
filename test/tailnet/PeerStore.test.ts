import { describe } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { Database } from "../../src/database/Database.ts"
import { Notifications } from "../../src/database/Notifications.ts"
import { Replica } from "../../src/database/Replica.ts"
import { Loops } from "../../src/loop/Loops.ts"
import { PeerStore } from "../../src/tailnet/PeerStore.ts"
import * as PeerStoreMemory from "../../src/tailnet/PeerStoreMemory.ts"
import { none } from "../../src/testing/Outage.ts"
import { conformance, replicaA, replicaB } from "../support/peerStoreConformance.ts"

describe("PeerStoreMemory", () => {
  let replicas: Map<string, unknown> = new Map()

  const open = Effect.gen(function*() {
    const shared = yield* Layer.build(Layer.mergeAll(PeerStoreMemory.PeerTable.layer, Notifications.layerMemory))
    replicas = Context.get(shared, PeerStoreMemory.PeerTable).replicas
    const store = (id: string) =>
      Effect.map(
        Layer.build(Layer.fresh(PeerStoreMemory.layer.pipe(
          Layer.provide(Database.layerScripted(none)),
          Layer.provide([Loops.layer, Layer.succeedContext(shared), Layer.succeed(Replica, { id, name: id })])
        ))),
        (context) => Context.get(context, PeerStore)
      )
    const stores = yield* Effect.all([store(replicaA), store(replicaB)])
    // The door opens with the first heartbeat.
    yield* TestClock.adjust("1 second")
    return stores
  })

  conformance({ open, clock: "effect", later: TestClock.adjust(1), loseReplicas: Effect.sync(() => replicas.clear()) })
})
