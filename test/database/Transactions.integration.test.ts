/** What an application does in a transaction of its own, through the door: all of it is there afterwards, or nothing. */
import { PgClient } from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope, SubscriptionRef } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { afterAll, beforeAll } from "vitest"
import * as PostgresServer from "../support/PostgresServer.ts"
import { open, until, untilAvailable } from "../support/realDatabase.ts"
import { newJobs } from "../support/replicas.ts"

describe("a transaction of an application", () => {
  const scope = Effect.runSync(Scope.make())
  let server: PostgresServer.PostgresServer
  beforeAll(async () => {
    server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const opened = Effect.gen(function*() {
    const database = yield* open({ url: server.url })
    yield* untilAvailable(database)
    yield* database.query("drop table if exists app")
    yield* database.query("create table app (n int)")
    yield* database.query("truncate lull.job cascade")
    const epoch = () => {
      const state = SubscriptionRef.getUnsafe(database.availability.state)
      return state._tag === "Available" ? state.epoch : 0
    }
    /** New connections for everything, while the transaction is open. */
    const renew = Effect.gen(function*() {
      const before = epoch()
      database.availability.report({ reason: "ReadOnly", code: undefined, detail: "scripted" })
      yield* until(() => epoch() > before && database.availability.isOpen())
    })
    const counts = Effect.gen(function*() {
      const [row] = yield* database.query(
        "select (select count(*) from app)::int as app, (select count(*) from lull.job)::int as jobs"
      )
      return row
    })
    return { ...database, renew, counts }
  })
  const test = (name: string, body: Effect.Effect<void, unknown, Scope.Scope | SecureRandom.SecureRandom>) =>
    it.live(name, () => body.pipe(Effect.scoped, Effect.provide(SecureRandom.layerWebCrypto)))

  for (const isRenewed of [false, true]) {
    const when = isRenewed ? ", also when the connections are renewed in between" : ""
    test(
      `takes back a job that was submitted in it when it is rolled back${when}`,
      Effect.gen(function*() {
        const { counts, database, renew, store } = yield* opened
        const jobs = yield* newJobs([{}, {}])
        const error = yield* Effect.flip(database.write(
          "App.work",
          Effect.flatMap(PgClient, (sql) =>
            sql.withTransaction(Effect.gen(function*() {
              yield* sql`insert into app values (1)`
              if (isRenewed) yield* renew
              yield* store.submit(jobs)
              return yield* Effect.fail("the application changed its mind")
            })))
        ))
        assert.strictEqual(error, "the application changed its mind")
        assert.deepStrictEqual(yield* counts, { app: 0, jobs: 0 })
      })
    )

    test(
      `stores a job with the rest of it${when}`,
      Effect.gen(function*() {
        const { counts, database, renew, store } = yield* opened
        const jobs = yield* newJobs([{}])
        yield* database.write(
          "App.work",
          Effect.flatMap(PgClient, (sql) =>
            sql.withTransaction(Effect.gen(function*() {
              yield* store.submit(jobs)
              if (isRenewed) yield* renew
              yield* sql`insert into app values (1)`
              // The same job again, in a savepoint, changes nothing.
              yield* sql.withTransaction(store.submit(jobs))
            })))
        )
        assert.deepStrictEqual(yield* counts, { app: 1, jobs: 1 })
      })
    )
  }

  test(
    "is one also when it begins in work that is nested in other work, while other connections are idle",
    Effect.gen(function*() {
      const { counts, database, query, store } = yield* opened
      yield* Effect.forEach(Array.from({ length: 6 }), () => query("select pg_sleep(0.1)"), { concurrency: 6 })
      const jobs = yield* newJobs([{}])
      const nested = database.write(
        "App.inner",
        Effect.flatMap(PgClient, (sql) =>
          sql.withTransaction(Effect.gen(function*() {
            yield* sql`insert into app values (1)`
            yield* store.submit(jobs)
            return yield* Effect.fail("the application changed its mind")
          })))
      )
      const inTransaction = database.write(
        "App.outer",
        Effect.flatMap(PgClient, (sql) => Effect.andThen(sql`insert into app values (2)`, nested))
      )
      assert.strictEqual(yield* Effect.flip(inTransaction), "the application changed its mind")
      assert.deepStrictEqual(yield* counts, { app: 1, jobs: 0 })
      assert.strictEqual(
        yield* Effect.flip(
          database.write("App.outer", Effect.flatMap(PgClient, (sql) => sql.withTransaction(nested)))
        ),
        "the application changed its mind"
      )
      assert.deepStrictEqual(yield* counts, { app: 1, jobs: 0 })
    })
  )

  test(
    "fails with a connection that was lost, and leaves nothing",
    Effect.gen(function*() {
      const { counts, database, store } = yield* opened
      const jobs = yield* newJobs([{}])
      const exit = yield* Effect.exit(database.write(
        "App.work",
        Effect.flatMap(PgClient, (sql) =>
          sql.withTransaction(Effect.gen(function*() {
            yield* sql`insert into app values (1)`
            const [row] = yield* sql<{ pid: number }>`select pg_backend_pid() as pid`
            yield* Effect.orDie(server.execute(`select pg_terminate_backend(${row?.pid})`))
            yield* Effect.sleep("100 millis")
            yield* store.submit(jobs)
          })))
      ))
      assert.isTrue(Exit.isFailure(exit))
      yield* Effect.sleep("200 millis")
      assert.deepStrictEqual(yield* counts, { app: 0, jobs: 0 })
    })
  )

  test(
    "that names a table which is not there is told so, and others notice nothing",
    Effect.gen(function*() {
      const { availability, database, query } = yield* opened
      const error = yield* Effect.flip(
        database.read("App.find", Effect.flatMap(PgClient, (sql) => sql`select * from usres`))
      )
      assert.strictEqual(error._tag, "QueryFailed")
      assert.include(error.message, "relation \"usres\" does not exist")
      assert.isTrue(availability.isOpen())
      assert.lengthOf(yield* query("select 1"), 1)
    })
  )
})
