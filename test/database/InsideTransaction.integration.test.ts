/** What happens inside an open transaction at the door: afterwards all of it is there, or nothing. */
import { PgClient } from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Latch, Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { afterAll, beforeAll } from "vitest"
import * as PostgresServer from "../support/PostgresServer.ts"
import { open, untilAvailable } from "../support/realDatabase.ts"
import { newJobs } from "../support/replicas.ts"

const test = (name: string, body: Effect.Effect<void, unknown, Scope.Scope | SecureRandom.SecureRandom>) =>
  it.live(name, () => body.pipe(Effect.scoped, Effect.provide(SecureRandom.layerWebCrypto)), 30_000)

describe("work inside an open transaction", () => {
  const scope = Effect.runSync(Scope.make())
  let server: PostgresServer.PostgresServer
  beforeAll(async () => {
    server = await Effect.runPromise(
      Scope.provide(PostgresServer.make({ configuration: { deadlock_timeout: "100ms" } }), scope)
    )
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const opened = Effect.gen(function*() {
    const door = yield* open({ url: server.url, deadline: "2 seconds", probeDeadline: "1 second" })
    yield* untilAvailable(door)
    yield* server.execute("drop table if exists app")
    yield* server.execute("create table app (n int primary key, m int)")
    yield* server.execute("truncate lull.job cascade")
    const counts = Effect.map(
      server.execute("select (select count(*) from app)::int as app, (select count(*) from lull.job)::int as jobs"),
      ([row]) => row
    )
    const transaction = <A, E>(body: (sql: PgClient) => Effect.Effect<A, E, PgClient>) =>
      door.database.write("App.work", Effect.flatMap(PgClient, (sql) => sql.withTransaction(body(sql))))
    return { ...door, counts, transaction }
  })

  const failures: ReadonlyArray<readonly [what: string, work: (sql: PgClient) => Effect.Effect<unknown, unknown>]> = [
    ["a statement that is wrong", (sql: PgClient) => sql`select * from usres`],
    ["a value that is refused", (sql: PgClient) => sql`insert into app values (1, 0), (1, 0)`],
    ["a value that the driver cannot send", (sql: PgClient) => sql`insert into app values (${{} as never})`],
    ["work that takes longer than the server lets it", (sql: PgClient) => sql`select pg_sleep(10)`],
    [
      "work that stands still between two statements",
      (sql: PgClient) => Effect.andThen(sql`insert into app values (7, 7)`, Effect.sleep("10 seconds"))
    ]
  ] as const
  for (const [what, work] of failures) {
    for (const order of ["before", "after"] as const) {
      test(
        `leaves nothing when it has failed, though its caller goes on: ${what}, with a job submitted ${order} it`,
        Effect.gen(function*() {
          const { counts, database, store, transaction } = yield* opened
          const jobs = yield* newJobs([{}])
          const exit = yield* Effect.exit(transaction(() =>
            Effect.gen(function*() {
              if (order === "before") yield* store.submit(jobs)
              yield* Effect.ignore(database.write("App.part", Effect.flatMap(PgClient, work)))
              if (order === "after") yield* Effect.ignore(store.submit(jobs))
            })
          ))
          assert.isTrue(Exit.isFailure(exit))
          // Also what the server still works on has ended by then.
          yield* Effect.sleep("500 millis")
          assert.deepStrictEqual(yield* counts, { app: 0, jobs: 0 })
        })
      )
    }
  }

  test(
    "takes back no more than a savepoint that its caller has made around it",
    Effect.gen(function*() {
      const { counts, database, store, transaction } = yield* opened
      const jobs = yield* newJobs([{}])
      yield* transaction((sql) =>
        Effect.gen(function*() {
          yield* store.submit(jobs)
          const wrong = database.write("App.part", Effect.flatMap(PgClient, (inner) => inner`select * from usres`))
          yield* Effect.ignore(sql.withTransaction(Effect.andThen(sql`insert into app values (2, 0)`, wrong)))
          yield* sql`insert into app values (1, 0)`
        })
      )
      assert.deepStrictEqual(yield* counts, { app: 1, jobs: 1 })
    })
  )

  test(
    "is not refused while the door is shut for others, and is not repeated on another connection when its own is lost",
    Effect.gen(function*() {
      const { availability, counts, database, store, transaction } = yield* opened
      const jobs = yield* newJobs([{}, {}])
      yield* transaction((sql) =>
        Effect.gen(function*() {
          yield* sql`insert into app values (1, 0)`
          availability.report({ reason: "Unreachable", code: undefined, detail: "scripted" })
          assert.isFalse(availability.isOpen())
          yield* store.submit(jobs.slice(0, 1))
        })
      )
      assert.deepStrictEqual(yield* counts, { app: 1, jobs: 1 })
      yield* untilAvailable({ availability })
      const exit = yield* Effect.exit(transaction((sql) =>
        Effect.gen(function*() {
          yield* sql`insert into app values (2, 0)`
          yield* Effect.ignore(database.write(
            "App.part",
            Effect.flatMap(PgClient, (inner) => inner`select pg_terminate_backend(pg_backend_pid())`)
          ))
          yield* Effect.ignore(store.submit(jobs.slice(1)))
        })
      ))
      assert.isTrue(Exit.isFailure(exit))
      assert.deepStrictEqual(yield* counts, { app: 1, jobs: 1 })
    })
  )

  test(
    "leaves nothing when the server is stopped and started in between",
    Effect.gen(function*() {
      const { counts, store, transaction } = yield* opened
      const jobs = yield* newJobs([{}])
      const exit = yield* Effect.exit(transaction((sql) =>
        Effect.gen(function*() {
          yield* sql`insert into app values (1, 0)`
          yield* Effect.orDie(Effect.andThen(server.stop("fast"), server.start))
          yield* Effect.ignore(store.submit(jobs))
        })
      ))
      assert.isTrue(Exit.isFailure(exit))
      assert.deepStrictEqual(yield* counts, { app: 0, jobs: 0 })
    })
  )

  test(
    "is repeated as a whole after a conflict, by who began it, and not in part",
    Effect.gen(function*() {
      const { counts, database, store, transaction } = yield* opened
      yield* server.execute("insert into app values (1, 0), (2, 0)")
      // The first job of a kind makes a row for the kind, on which the second would wait.
      yield* store.submit(yield* newJobs([{}]))
      const count = { whole: 0, part: 0 }
      const bothHold = Latch.makeUnsafe(false)
      const both = (first: number, second: number) =>
        Effect.flatMap(newJobs([{}]), (jobs) =>
          transaction((sql) =>
            Effect.gen(function*() {
              yield* store.submit(jobs)
              yield* sql`update app set m = m + 1 where n = ${first}`
              count.whole++
              if (count.whole === 2) yield* bothHold.open
              yield* bothHold.await
              yield* database.write(
                "App.part",
                Effect.suspend(() => {
                  count.part++
                  return Effect.flatMap(PgClient, (inner) => inner`update app set m = m + 1 where n = ${second}`)
                })
              )
            })
          ))
      yield* Effect.all([both(1, 2), both(2, 1)], { concurrency: 2 })
      assert.deepStrictEqual(yield* server.execute("select m from app"), [{ m: 2 }, { m: 2 }])
      assert.deepStrictEqual(yield* counts, { app: 2, jobs: 3 })
      assert.isAbove(count.whole, 2)
      assert.strictEqual(count.part, count.whole)
    })
  )

  test(
    "does not use the transaction of another database",
    Effect.gen(function*() {
      const { transaction } = yield* opened
      yield* server.execute("create database elsewhere")
      const elsewhere = yield* open({ url: server.url.replace(/postgres$/, "elsewhere") })
      yield* untilAvailable(elsewhere)
      const jobs = yield* newJobs([{}])
      yield* transaction(() => elsewhere.store.submit(jobs))
      const stored = yield* elsewhere.query("select count(*)::int as jobs from lull.job")
      assert.deepStrictEqual(stored, [{ jobs: 1 }])
    })
  )
})

describe("an application's own failures", () => {
  test(
    "name what was wrong, shut no door, and make no connection anew",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const door = yield* open({ url: server.url, deadline: "2 seconds", probeDeadline: "1 second" })
      yield* untilAvailable(door)
      const state = yield* door.state
      yield* server.execute("create role nobody")
      yield* server.execute("create table locked (n int)")
      const wrong: ReadonlyArray<readonly [sql: string, sqlState: string | undefined, says: string]> = [
        ["select * from usres", "42P01", "usres"],
        ["select * from nowhere.at_all", "42P01", "nowhere"],
        ["create table nowhere.x (n int)", "3F000", "nowhere"],
        ["select no_such_function()", "42883", "no_such_function"],
        ["select no_such_column", "42703", "no_such_column"],
        ["do $$ begin set local role nobody; perform * from locked; end $$", "42501", "permission denied"],
        ["select pg_sleep(5)", "57014", "statement timeout"],
        ["do $$ begin raise exception 'mine' using errcode = '53100'; end $$", "53100", "mine"],
        ["do $$ begin raise exception 'mine' using errcode = '57P03'; end $$", "57P03", "mine"],
        ["do $$ begin raise exception 'mine' using errcode = '08006'; end $$", "08006", "mine"],
        ["do $$ begin set transaction read only; create table x (n int); end $$", "25006", "read-only"],
        ["rollback to savepoint nothing", "25P01", "SAVEPOINT"]
      ]
      for (const [sql, sqlState, says] of wrong) {
        const error = yield* Effect.flip(door.query(sql))
        if (error._tag !== "QueryFailed") return assert.fail(`${sql}: ${error.message}`)
        assert.strictEqual(error.sqlState, sqlState, sql)
        assert.include(error.message, says, sql)
        assert.isTrue(door.availability.isOpen(), sql)
      }
      // Two slow statements of one caller, of whom nobody else notices anything.
      const slow = Effect.flip(door.database.write(
        "App.slow",
        Effect.flatMap(PgClient, (sql) => Effect.andThen(sql`select pg_sleep(1.2)`, sql`select pg_sleep(1.2)`))
      ))
      const [first, second] = yield* Effect.all([slow, slow], { concurrency: 2 })
      for (const error of [first, second]) {
        assert.strictEqual(error._tag, "QueryFailed")
        assert.include(error.message, "took longer than the door's deadline of 2s")
      }
      yield* door.query("select 1")
      assert.deepStrictEqual(yield* door.state, state)
    })
  )
})
