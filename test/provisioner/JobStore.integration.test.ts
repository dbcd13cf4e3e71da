import { PgClient } from "@effect/sql-pg/PgClient"
import { describe } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import { Replica } from "../../src/database/Replica.ts"
import { Loops } from "../../src/loop/Loops.ts"
import { JobStore } from "../../src/provisioner/JobStore.ts"
import * as JobStorePostgres from "../../src/provisioner/JobStorePostgres.ts"
import { conformance } from "../support/jobStoreConformance.ts"

const url = Redacted.make("postgres://postgres@127.0.0.1:55999/postgres")

const Services = JobStorePostgres.layer.pipe(
  Layer.provideMerge(Database.layerPostgres({ url })),
  Layer.provide(Loops.layer),
  Layer.provide(Layer.succeed(Replica, { id: "0197a000-0000-7000-8000-00000000000a", name: "conformance" })),
  Layer.tap((services) =>
    Effect.gen(function*() {
      yield* Effect.flatMap(Availability, (availability) => availability.awaitAvailable)
      const database = yield* Database
      yield* database.write("test.empty", Effect.flatMap(PgClient, (sql) => sql`truncate lull.job, lull.job_output, lull.tag_set`))
    }).pipe(Effect.provide(services))
  ),
  Layer.merge(SecureRandom.layerWebCrypto)
)

describe("JobStorePostgres", () => {
  conformance({
    layer: Services,
    clock: "live",
    pass: Effect.sleep,
    expireLeases: Effect.flatMap(Database, (database) =>
      database.write(
        "test.expire",
        Effect.flatMap(PgClient, (sql) => sql`update lull.job set lease_until = now() - interval '1 second' where lease_until is not null`)
      ))
  })
})
void JobStore
