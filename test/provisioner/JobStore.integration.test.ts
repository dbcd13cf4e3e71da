import { PgClient } from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Context, Duration, Effect, Exit, Layer, Redacted, Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { afterAll, beforeAll } from "vitest"
import { Availability } from "../../src/database/Availability.ts"
import { Database } from "../../src/database/Database.ts"
import { Replica } from "../../src/database/Replica.ts"
import { Loops } from "../../src/loop/Loops.ts"
import { JobId, request } from "../../src/provisioner/Job.ts"
import * as JobStorePostgres from "../../src/provisioner/JobStorePostgres.ts"
import { conformance } from "../support/jobStoreConformance.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { open, untilAvailable } from "../support/realDatabase.ts"

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

  it.live(
    "reads no more jobs than it is asked for, also by plans that were made when there were none",
    () =>
      Effect.gen(function*() {
        // One connection, so that its statistics can be asked for.
        const { id: worker, query, store, ...opened } = yield* open({ url, maxConnections: 1 })
        yield* untilAvailable(opened)
        const random = yield* SecureRandom.SecureRandom
        yield* query("truncate lull.job, lull.job_output, lull.tag_set")
        yield* query("alter table lull.job set (autovacuum_enabled = false)")
        const lease = Duration.minutes(1)
        const live = Effect.fnUntraced(function*(count: number, limit: number) {
          yield* store.submit(
            yield* Effect.forEach(
              Array.from({ length: count }),
              () => Effect.map(random.uuidV7(), (id) => ({ ...request({ type: "test" }), id: JobId.make(id) }))
            )
          )
          const { jobs } = yield* store.acquire({ worker, tags: {}, limit, lease })
          assert.lengthOf(jobs, Math.min(count, limit))
          yield* store.heartbeat(jobs, lease)
          yield* store.appendOutput(
            jobs.map(({ attempt, job, token }) => ({
              job,
              token,
              attempt,
              lines: [{ index: 0, stream: "stdout", at: 0, text: "line" }]
            }))
          )
          yield* store.leases
          yield* store.reap(jobs.map((job) => ({ ...job, worker, renewal: "never" })))
          yield* store.cancel(jobs[0]!.job)
          yield* store.finish(jobs.map((job) => ({ ...job, outcome: { status: "succeeded", result: 1 } })))
          yield* store.list({ limit: 10 })
        })
        const readInScans = Effect.gen(function*() {
          yield* query("select pg_stat_force_next_flush()")
          const [row] = yield* query("select seq_tup_read::int as n from pg_stat_user_tables where relname = 'job'")
          return (row as { readonly n: number }).n
        })
        // A plan that fits all parameters is made for the sixth time.
        yield* Effect.repeat(live(1, 1), { times: 8 })
        const before = yield* readInScans
        yield* live(3_000, 500)
        assert.strictEqual(yield* readInScans, before)
      }).pipe(Effect.scoped, Effect.provide(SecureRandom.layerWebCrypto)),
    30_000
  )
})
