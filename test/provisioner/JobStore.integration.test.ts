import { PgClient } from "@effect/sql-pg/PgClient"
import { describe } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Redacted, Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { afterAll, beforeAll } from "vitest"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import { Replica } from "../../src/database/Replica.ts"
import { Loops } from "../../src/loop/Loops.ts"
import * as JobStorePostgres from "../../src/provisioner/JobStorePostgres.ts"
import { conformance } from "../support/jobStoreConformance.ts"
import * as PostgresServer from "../support/PostgresServer.ts"

describe("JobStorePostgres", () => {
  // One server for all tests of this file; each begins with empty tables.
  const scope = Effect.runSync(Scope.make())
  let url = ""
  beforeAll(async () => {
    const server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
    url = server.url
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const Services = Layer.unwrap(Effect.sync(() =>
    JobStorePostgres.layer.pipe(
      Layer.provideMerge(Database.layerPostgres({ url: Redacted.make(url) })),
      Layer.provide(Loops.layer),
      Layer.provide(Layer.succeed(Replica, { id: "0197a000-0000-7000-8000-00000000000a", name: "conformance" })),
      Layer.tap((services) =>
        Effect.gen(function*() {
          yield* Context.get(services, Availability).awaitAvailable
          yield* Context.get(services, Database).write(
            "test.empty",
            Effect.flatMap(PgClient, (sql) => sql`truncate lull.job, lull.job_output, lull.tag_set`)
          )
        })
      ),
      Layer.merge(SecureRandom.layerWebCrypto)
    )
  ))

  conformance({
    layer: Services,
    clock: "live",
    pass: Effect.sleep,
    expireLeases: Effect.flatMap(Database, (database) =>
      database.write(
        "test.expire",
        Effect.flatMap(PgClient, (sql) =>
          sql`update lull.job set lease_until = now() - interval '1 second' where lease_until is not null`)
      ))
  })
})
