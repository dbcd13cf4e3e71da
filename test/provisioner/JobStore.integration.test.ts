import * as PostgresClient from "@effect/sql-pg/PgClient"
import { PgClient } from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Duration, Effect, Exit, Fiber, Layer, Redacted, Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { layer as reactivityLayer } from "effect/reactivity/Reactivity"
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
import { newJobs } from "../support/replicas.ts"

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
            Effect.flatMap(
              PgClient,
              (sql) => sql`truncate lull.job, lull.job_output, lull.tag_set, lull.queue, lull.worker`
            )
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
    live: (replica) =>
      Effect.flatMap(Database, (database) =>
        database.write(
          "test.live",
          Effect.flatMap(PgClient, (sql) =>
            sql`insert into lull.replica (id, name) values (${replica}, 'test')
              on conflict (id) do update set beat_at = now()`)
        ))
  })

  const lease = Duration.minutes(1)
  const opened = Effect.gen(function*() {
    const database = yield* open({ url })
    yield* untilAvailable(database)
    yield* database.query("truncate lull.job, lull.job_output, lull.tag_set, lull.queue, lull.worker")
    const worker = { id: database.id, tags: {}, types: undefined }
    const acquire = (limit: number) => database.store.acquire({ worker, limit, lease })
    return { ...database, worker, acquire }
  })
  const test = (name: string, body: Effect.Effect<void, unknown, Scope.Scope | SecureRandom.SecureRandom>) =>
    it.live(name, () => body.pipe(Effect.scoped, Effect.provide(SecureRandom.layerWebCrypto)), 60_000)
  const succeeded = { status: "succeeded", result: 1 } as const

  test(
    "does not wait for a job on which somebody holds a lock, where it is told so, and says of its lease that it is locked",
    Effect.gen(function*() {
      const { acquire, store } = yield* opened
      yield* store.submit(yield* newJobs([{}, {}, {}]))
      const { jobs } = yield* acquire(3)
      const other = yield* PostgresClient.make({ url: Redacted.make(url), maxConnections: 1 })
      const isLocked = yield* Deferred.make<void>()
      const held = yield* Effect.forkChild(other.withTransaction(
        other`select id from lull.job where id = ${jobs[1]!.job} for update`.pipe(
          Effect.andThen(Deferred.succeed(isLocked, undefined)),
          Effect.andThen(Effect.sleep("2 seconds"))
        )
      ))
      yield* Deferred.await(isLocked)
      const ids = jobs.map(({ job }) => job)
      assert.deepStrictEqual(
        (yield* store.leases(ids)).filter(({ isLocked }) => isLocked).map(({ job }) => job),
        [ids[1]]
      )
      const reports = jobs.map((job) => ({ ...job, outcome: succeeded }))
      assert.deepStrictEqual(yield* store.finish(reports, { skipLocked: true }), ["stored", "locked", "stored"])
      yield* Fiber.join(held)
      assert.deepStrictEqual(yield* store.finish(reports, { skipLocked: true }), ["stored", "stored", "stored"])
    }).pipe(Effect.provide(reactivityLayer))
  )

  test(
    "takes as many jobs at once as fit into a message, and the rest in the next",
    Effect.gen(function*() {
      const { acquire, store } = yield* opened
      const input = "x".repeat(1_000_000)
      const jobs = yield* newJobs(Array.from({ length: 12 }, () => ({ input })))
      yield* store.submit(jobs)
      const taken: Array<string> = []
      let isMore = true
      while (isMore) {
        const found = yield* acquire(800)
        assert.isAtMost(found.jobs.length, 5)
        taken.push(...found.jobs.map(({ job }) => job))
        isMore = found.isMore
      }
      assert.deepStrictEqual(taken, jobs.map(({ id }) => id))
      const listed = yield* store.list({ limit: 100 })
      assert.deepStrictEqual(listed.map(({ input, omitted }) => [input, omitted]), jobs.map(() => [null, ["input"]]))
    })
  )

  test(
    "counts inputs as they are read, and not as they are stored, which may be a hundredth of it",
    Effect.gen(function*() {
      const { acquire, query, store } = yield* opened
      const input = "x".repeat(150_000)
      const jobs = yield* newJobs(Array.from({ length: 40 }, () => ({ input })))
      yield* store.submit(jobs)
      assert.deepStrictEqual(yield* query("select max(pg_column_size(input)) < 2000 as is_small from lull.job"), [
        { is_small: true }
      ])
      const { isMore, jobs: taken } = yield* acquire(40)
      assert.isAtMost(taken.length, 28)
      assert.isTrue(isMore)
      const [listed] = yield* store.list({ limit: 1 })
      assert.deepStrictEqual(listed?.omitted, ["input"])
    })
  )

  test(
    "hands on the jobs that it can read, and names the one that it can not",
    Effect.gen(function*() {
      const { acquire, query, store } = yield* opened
      const jobs = yield* newJobs([{}, { input: "to be made larger" }, {}])
      yield* store.submit(jobs)
      // As large as versions before accepted it; the driver ends a connection over a row of more than 16 MiB.
      yield* query(
        `update lull.job set input = to_json(repeat(md5(id::text), 600000)) where input::text = '"to be made larger"'`
      )
      const found = yield* acquire(10)
      const rest = yield* acquire(10)
      assert.deepStrictEqual(
        [...found.jobs, ...rest.jobs].map(({ job }) => job).toSorted(),
        [jobs[0]!.id, jobs[2]!.id].toSorted()
      )
      const [unreadable] = [...found.unreadable, ...rest.unreadable]
      assert.strictEqual(unreadable?.job, jobs[1]!.id)
      assert.match(unreadable?.problem ?? "", /19200002 bytes/)
      assert.deepStrictEqual((yield* store.get(jobs[1]!.id)).omitted, ["input"])
      assert.lengthOf(yield* store.list({ limit: 10 }), 3)
      assert.strictEqual((yield* store.cancel(jobs[1]!.id)).status, "canceling")
    })
  )

  test(
    "works beside the version before: each finds what the other has submitted",
    Effect.gen(function*() {
      const { acquire, id, query, store, worker } = yield* opened
      // What that version wrote.
      const tags = `{"os":"linux"}`
      yield* query(
        `with set as (insert into lull.tag_set (key, tags) values ('${tags}', '${tags}') on conflict do nothing)
        insert into lull.job (id, type, tag_key, input, not_before, waiting)
        values ('${id}', 'old', '${tags}', '1', null, false)`
      )
      const { jobs } = yield* store.acquire({
        worker: { ...worker, tags: { os: "linux" }, types: ["old"] },
        limit: 9,
        lease
      })
      assert.deepStrictEqual(jobs.map(({ job }) => job), [JobId.make(id)])
      const [mine] = yield* newJobs([{ tags: { os: "linux", a: "b" } }])
      yield* store.submit([mine!])
      // How that version looked for jobs.
      const found = yield* query(`select c.id from lull.tag_set s cross join lateral (
          select j.id from lull.job j where j.status = 'pending' and not j.waiting and j.tag_key = s.key limit 9
        ) c where s.tags <@ '{"os":"linux","a":"b"}'`)
      assert.deepStrictEqual(found, [{ id: mine!.id }])
      assert.deepStrictEqual((yield* acquire(9)).jobs, [])
    })
  )

  /** Rows of a table that were read so far, by this connection. */
  const counting = (query: (text: string) => Effect.Effect<ReadonlyArray<unknown>, unknown>) => (table: string) =>
    Effect.andThen(
      query("select pg_stat_force_next_flush()"),
      Effect.map(
        query(`select (seq_tup_read + idx_tup_fetch)::int as n from pg_stat_user_tables
          where schemaname = 'lull' and relname = '${table}'`),
        ([row]) => (row as { readonly n: number }).n
      )
    )

  test(
    "looks at no queue that is for others, however many there are, nor at what waits in them",
    Effect.gen(function*() {
      const database = yield* open({ url, maxConnections: 1 })
      yield* untilAvailable(database)
      const { id, query, store } = database
      yield* query("truncate lull.job, lull.job_output, lull.tag_set, lull.queue, lull.worker")
      yield* query("alter table lull.job set (autovacuum_enabled = false)")
      // Sets of tags with this worker's own tag in them, and jobs of a type that it does not run.
      yield* query(`insert into lull.queue (id, type, tags)
        select gen_random_uuid(), 'mine', jsonb_build_object('os', 'linux', 'user', n::text) from generate_series(1, 20000) n`)
      yield* store.submit(
        yield* newJobs(Array.from({ length: 3_000 }, () => ({ type: "other", tags: { os: "linux" } })))
      )
      const worker = { id, tags: { os: "linux" }, types: ["mine"] }
      const take = (limit: number) => store.acquire({ worker, limit, lease })
      yield* Effect.repeat(take(1), { times: 8 })
      const read = counting(query)
      const before = [yield* read("queue"), yield* read("job")] as const
      yield* Effect.repeat(take(1), { times: 9 })
      const [mine] = yield* newJobs([{ type: "mine", tags: { os: "linux" } }])
      yield* store.submit([mine!])
      assert.deepStrictEqual((yield* take(5)).jobs.map(({ job }) => job), [mine!.id])
      assert.isAtMost((yield* read("queue")) - before[0], 40)
      assert.isAtMost((yield* read("job")) - before[1], 40)
    })
  )

  test(
    "lists jobs of any status without reading all others",
    Effect.gen(function*() {
      const database = yield* open({ url, maxConnections: 1 })
      yield* untilAvailable(database)
      const { query, store } = database
      yield* query("truncate lull.job, lull.job_output, lull.tag_set, lull.queue, lull.worker")
      yield* query(`insert into lull.job (id, type, input, status)
        select gen_random_uuid(), 'test', '1', case when n % 5000 = 0 then 'failed' else 'succeeded' end
        from generate_series(1, 20000) n`)
      const jobs = yield* newJobs([{}, {}, {}])
      yield* store.submit(jobs)
      yield* store.acquire({ worker: { id: database.id, tags: {}, types: undefined }, limit: 1, lease })
      const read = counting(query)
      for (
        const [status, count] of [
          ["failed", 4],
          ["pending", 2],
          ["running", 1],
          ["canceled", 0],
          ["canceling", 0],
          ["succeeded", 10]
        ] as const
      ) {
        const before = yield* read("job")
        assert.lengthOf(yield* store.list({ status, limit: 10 }), count)
        assert.isAtMost((yield* read("job")) - before, 50, status)
      }
      const newest = yield* store.list({ status: "succeeded", limit: 3 })
      const next = yield* store.list({ status: "succeeded", limit: 3, before: newest[2]!.id })
      const all = yield* query(`select id from lull.job where status = 'succeeded' order by id desc limit 6`)
      assert.deepStrictEqual([...newest, ...next].map((job) => ({ id: job.id })), all)
    })
  )

  it.live(
    "reads no more jobs than it is asked for, also by plans that were made when there were none",
    () =>
      Effect.gen(function*() {
        // One connection, so that its statistics can be asked for.
        const { id: worker, query, store, ...opened } = yield* open({ url, maxConnections: 1 })
        yield* untilAvailable(opened)
        const random = yield* SecureRandom.SecureRandom
        yield* query("truncate lull.job, lull.job_output, lull.tag_set, lull.queue, lull.worker")
        yield* query("alter table lull.job set (autovacuum_enabled = false)")
        const live = Effect.fnUntraced(function*(count: number, limit: number) {
          yield* store.submit(
            yield* Effect.forEach(
              Array.from({ length: count }),
              () => Effect.map(random.uuidV7(), (id) => ({ ...request({ type: "test" }), id: JobId.make(id) }))
            )
          )
          const { jobs } = yield* store.acquire({ worker: { id: worker, tags: {}, types: undefined }, limit, lease })
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
          yield* store.leases(jobs.map(({ job }) => job))
          yield* store.reap(jobs.map((job) => ({ ...job, worker, renewal: "never", isLocked: false })))
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
