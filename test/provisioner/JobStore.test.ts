import { describe } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { TestClock } from "effect/testing"
import { Database } from "../../src/database/Database.ts"
import { Notifications } from "../../src/database/Notifications.ts"
import { Loops } from "../../src/loop/Loops.ts"
import * as JobStoreMemory from "../../src/provisioner/JobStoreMemory.ts"
import { none } from "../../src/testing/Outage.ts"
import { conformance } from "../support/jobStoreConformance.ts"

const Store = JobStoreMemory.layer.pipe(
  Layer.provide([
    JobStoreMemory.JobTable.layer,
    Notifications.layerMemory,
    Database.layerScripted(none).pipe(Layer.provide(Loops.layer))
  ]),
  // The door opens with the first heartbeat.
  Layer.tap(() => TestClock.adjust("1 second")),
  Layer.merge(SecureRandom.layerWebCrypto)
)

describe("JobStoreMemory", () => {
  conformance({
    layer: Store,
    clock: "effect",
    pass: TestClock.adjust,
    live: () => Effect.void
  })
})
