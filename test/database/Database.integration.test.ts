import { make as makePool, PgClient } from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Data, Duration, Effect, Exit, Fiber, Redacted, type Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { layer as reactivityLayer } from "effect/reactivity/Reactivity"
import type { DatabaseUnavailable } from "../../src/database/Unavailable.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { open, until, untilAvailable, untilUnavailable } from "../support/realDatabase.ts"
import { collectLines } from "../support/replicas.ts"
import * as TcpRelay from "../support/TcpRelay.ts"

const test = (name: string, body: Effect.Effect<void, unknown, SecureRandom.SecureRandom | Scope.Scope>) =>
  it.live(name, () => body.pipe(Effect.scoped, Effect.provide(SecureRandom.layerWebCrypto)), 60_000)

const deadline = Duration.seconds(1)
const probeDeadline = Duration.seconds(1)

/** What may not be exceeded: the deadline, and a second. Asserted as an order of events, not on the clock. */
const withinDeadline = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.timeoutOrElse(effect, {
    duration: Duration.sum(deadline, Duration.seconds(1)),
    orElse: () => Effect.die(new Error("it took longer than the deadline and a second"))
  })

const unavailable = (exit: Exit.Exit<unknown, unknown>): DatabaseUnavailable => {
  if (Exit.isFailure(exit)) {
    for (const reason of exit.cause.reasons) {
      if (reason._tag === "Fail" && (reason.error as { _tag?: string })._tag === "DatabaseUnavailable") {
        return reason.error as DatabaseUnavailable
      }
    }
  }
  throw new Error(`expected DatabaseUnavailable, got ${String(exit)}`)
}

/** The server hangs, or so much is known: the work has taken too long. */
const notAnswered = (exit: Exit.Exit<unknown, unknown>) => {
  if (String(exit).includes("took longer than the door's deadline of 1s")) return
  assert.strictEqual(unavailable(exit).reason, "Hung")
}

class NotThatWay extends Data.TaggedError("NotThatWay")<{}> {}

describe("Database on a hung server", () => {
  for (const how of ["a stopped server", "a link that swallows packets"] as const) {
    test(
      `lets no caller wait longer than the deadline and a second, nor closing: ${how}`,
      Effect.gen(function*() {
        const server = yield* PostgresServer.make()
        const relay = yield* TcpRelay.make({ target: server.port })
        const opened = yield* open({
          url: `postgres://postgres@127.0.0.1:${relay.port}/postgres`,
          deadline,
          probeDeadline,
          // So late that it is the callers who find out.
          availability: { beatEvery: "30 seconds" }
        })
        yield* untilAvailable(opened)
        yield* opened.query("create table item (n int)")
        const inTransaction = opened.database.write(
          "test.transaction",
          Effect.flatMap(PgClient, (sql) =>
            sql.withTransaction(Effect.gen(function*() {
              yield* sql`insert into item values (1)`
              yield* how === "a stopped server" ? server.hang : relay.swallow(true)
              // Idle between two statements at the deadline: its ROLLBACK is what hangs.
              yield* Effect.sleep("10 seconds")
            })))
        )
        const callers = yield* Effect.forEach(
          [
            inTransaction,
            ...Array.from(
              { length: 20 },
              () => Effect.andThen(Effect.sleep("300 millis"), opened.query("select pg_sleep(0)"))
            )
          ],
          (call) => Effect.forkChild(Effect.exit(call))
        )
        const exits = yield* withinDeadline(Effect.forEach(callers, Fiber.join))
        for (const exit of exits) notAnswered(exit)
        yield* untilUnavailable(opened)
        assert.strictEqual(unavailable(yield* Effect.exit(opened.query("select 1"))).outcome, "notDone")
        yield* Effect.timeoutOrElse(opened.close, {
          duration: "2 seconds",
          orElse: () => Effect.die(new Error("closing hangs"))
        })
        yield* server.resume
      })
    )
  }

  test(
    "works again by itself when the server goes on",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url, deadline, probeDeadline })
      yield* untilAvailable(opened)
      yield* server.hang
      yield* untilUnavailable(opened)
      const state = yield* opened.state
      assert.strictEqual(state._tag === "Unavailable" ? state.reason : "", "Hung")
      yield* server.resume
      yield* untilAvailable(opened)
      yield* opened.query("select 1")
    })
  )
})

describe("Database and lost connections", () => {
  test(
    "makes a connection that is lost in a transaction an error, not a defect",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url })
      yield* untilAvailable(opened)
      const killMe = "select pg_terminate_backend(pg_backend_pid())"
      const transaction = (body: (sql: PgClient) => Effect.Effect<unknown, unknown>) =>
        Effect.exit(opened.database.write(
          "test.transaction",
          Effect.flatMap(PgClient, (sql) => sql.withTransaction(body(sql)))
        ))
      const during = yield* transaction((sql) => sql.unsafe(killMe))
      assert.strictEqual(unavailable(during).outcome, "unknown")
      yield* untilAvailable(opened)
      const between = yield* transaction((sql) =>
        Effect.gen(function*() {
          const [row] = yield* sql<{ pid: number }>`select pg_backend_pid() as pid`
          yield* server.execute(`select pg_terminate_backend(${row!.pid})`)
          yield* Effect.sleep("200 millis")
          yield* sql`select 1`
        })
      )
      unavailable(between)
      yield* untilAvailable(opened)
      const withDomainError = yield* transaction((sql) =>
        Effect.andThen(Effect.ignore(sql.unsafe(killMe)), new NotThatWay())
      )
      unavailable(withDomainError)
      yield* untilAvailable(opened)
      yield* opened.query("select 1")
    })
  )

  test(
    "reports a transaction whose COMMIT got no answer as unknown",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const relay = yield* TcpRelay.make({ target: server.port })
      const opened = yield* open({ url: `postgres://postgres@127.0.0.1:${relay.port}/postgres` })
      yield* untilAvailable(opened)
      yield* opened.query("create table slow (n int)")
      yield* opened.query(
        "create function pause() returns trigger language plpgsql as 'begin perform pg_sleep(1); return null; end'"
      )
      yield* opened.query(
        "create constraint trigger pause after insert on slow deferrable initially deferred " +
          "for each row execute function pause()"
      )
      const writing = yield* Effect.forkChild(Effect.exit(opened.database.write(
        "test.commit",
        Effect.flatMap(PgClient, (sql) => sql.withTransaction(sql`insert into slow values (1)`))
      )))
      yield* Effect.sleep("500 millis")
      yield* relay.dropAll
      assert.strictEqual(unavailable(yield* Fiber.join(writing)).outcome, "unknown")
      // And indeed it was done.
      yield* Effect.repeat(server.execute("select n from slow"), { until: (rows) => rows.length === 1 })
    })
  )

  test(
    "keeps a domain error of a transaction, and rolls it back",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url })
      yield* untilAvailable(opened)
      yield* opened.query("create table item (n int)")
      const error = yield* Effect.flip(opened.database.write(
        "test.transaction",
        Effect.flatMap(
          PgClient,
          (sql) => sql.withTransaction(Effect.andThen(sql`insert into item values (1)`, new NotThatWay()))
        )
      ))
      assert.strictEqual(error._tag, "NotThatWay")
      assert.deepStrictEqual(yield* opened.query("select * from item"), [])
    })
  )

  test(
    "does again what a deadlock rolled back",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make({ configuration: { deadlock_timeout: "100ms" } })
      const opened = yield* open({ url: server.url })
      yield* untilAvailable(opened)
      yield* opened.query("create table item (id int primary key, n int)")
      yield* opened.query("insert into item values (1, 0), (2, 0)")
      const both = (first: number, second: number) =>
        opened.database.write(
          "test.deadlock",
          Effect.flatMap(PgClient, (sql) =>
            sql.withTransaction(Effect.gen(function*() {
              yield* sql`update item set n = n + 1 where id = ${first}`
              yield* Effect.sleep("50 millis")
              yield* sql`update item set n = n + 1 where id = ${second}`
            })))
        )
      yield* Effect.all([both(1, 2), both(2, 1)], { concurrency: 2 })
      assert.deepStrictEqual(yield* opened.query("select n from item"), [{ n: 2 }, { n: 2 }])
    })
  )

  test(
    "says what the server said when a statement is wrong, and stays available",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url })
      yield* untilAvailable(opened)
      const error = yield* Effect.flip(opened.query("select 1/0"))
      assert.strictEqual(error._tag, "QueryFailed")
      if (error._tag === "QueryFailed") {
        assert.deepStrictEqual([error.sqlState, error.detail], ["22012", "division by zero"])
      }
      yield* opened.query("select 1")
    })
  )
})

describe("Unavailable, by a real server", () => {
  const cases: ReadonlyArray<
    readonly [
      what: string,
      reason: string,
      url: (server: PostgresServer.PostgresServer) => Effect.Effect<string, unknown>
    ]
  > = [
    ["a port where nobody listens", "Unreachable", (server) => Effect.as(server.stop("fast"), server.url)],
    ["a name that does not exist", "Unreachable", () => Effect.succeed("postgres://u@nowhere.invalid/db")],
    [
      "a database that does not exist",
      "Misconfigured",
      (server) => Effect.succeed(server.url.replace(/postgres$/, "other"))
    ],
    [
      "a user that does not exist",
      "Misconfigured",
      (server) => Effect.succeed(server.url.replace("postgres@", "other@"))
    ],
    [
      "a server without TLS when TLS is asked for",
      "Misconfigured",
      (server) => Effect.succeed(`${server.url}?sslmode=require`)
    ],
    ["a server that is read-only", "ReadOnly", (server) => Effect.as(server.readOnly(true), server.url)]
  ]
  for (const [what, reason, url] of cases) {
    test(
      `${reason}: ${what}`,
      Effect.gen(function*() {
        const server = yield* PostgresServer.make()
        const opened = yield* open({ url: yield* url(server), deadline, probeDeadline })
        yield* untilUnavailable(opened)
        const state = yield* opened.state
        assert.strictEqual(state._tag === "Unavailable" ? state.reason : "", reason)
      })
    )
  }

  test(
    "Refusing: a server whose connections are all taken",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make({
        configuration: {
          max_connections: "4",
          superuser_reserved_connections: "0",
          reserved_connections: "0",
          max_wal_senders: "0"
        }
      })
      const other = yield* makePool({ url: Redacted.make(server.url), maxConnections: 4 }).pipe(
        Effect.provide(reactivityLayer)
      )
      const holding = yield* Effect.forkChild(Effect.all(
        Array.from({ length: 4 }, () => Effect.exit(other`select pg_sleep(5)`)),
        { concurrency: "unbounded" }
      ))
      yield* Effect.sleep("500 millis")
      const second = yield* open({ url: server.url })
      yield* untilUnavailable(second)
      const state = yield* second.state
      assert.strictEqual(state._tag === "Unavailable" ? state.reason : "", "Refusing")
      yield* Fiber.interrupt(holding)
    })
  )

  test(
    "tables that were dropped are made anew",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url, availability: { beatEvery: "100 millis" } })
      yield* untilAvailable(opened)
      yield* server.execute("drop schema lull cascade")
      yield* Effect.eventually(Effect.andThen(Effect.sleep("50 millis"), opened.query("select * from lull.job")))
    })
  )
})

describe("Database and servers that change", () => {
  test(
    "leaves an old primary that lives on read-only for the new one, in one outage or none",
    Effect.gen(function*() {
      const old = yield* PostgresServer.make()
      const relay = yield* TcpRelay.make({ target: old.port })
      const opened = yield* open({
        url: `postgres://postgres@127.0.0.1:${relay.port}/postgres`,
        deadline,
        probeDeadline
      })
      yield* untilAvailable(opened)
      const standby = yield* old.makeStandby
      yield* untilAvailable(opened)
      yield* opened.query("create table item (n int)")
      yield* Effect.repeat(standby.execute("select to_regclass('item') is not null as there"), {
        until: ([row]) => row?.["there"] === true
      })
      // The old one keeps our connections, and answers them.
      yield* old.readOnly(true)
      yield* untilUnavailable(opened)
      const state = yield* opened.state
      assert.strictEqual(state._tag === "Unavailable" ? state.reason : "", "ReadOnly")
      yield* relay.setTarget(standby.port)
      yield* standby.promote
      yield* Effect.eventually(Effect.andThen(Effect.sleep("10 millis"), opened.query("insert into item values (1)")))
      assert.deepStrictEqual(yield* standby.execute("select n from item"), [{ n: 1 }])
    })
  )

  test(
    "finds the promoted standby among the hosts of its URL when the primary is killed",
    Effect.gen(function*() {
      const primary = yield* PostgresServer.make()
      const standby = yield* primary.makeStandby
      const opened = yield* open({
        url: `postgres://postgres@127.0.0.1:${primary.port},127.0.0.1:${standby.port}/postgres`,
        deadline,
        probeDeadline
      })
      yield* untilAvailable(opened)
      yield* Effect.repeat(standby.execute("select to_regclass('lull.replica') is not null as there"), {
        until: ([row]) => row?.["there"] === true
      })
      yield* primary.kill
      yield* untilUnavailable(opened)
      yield* standby.promote
      yield* Effect.eventually(Effect.andThen(Effect.sleep("10 millis"), opened.query("create table item (n int)")))
      assert.strictEqual((yield* standby.execute("select * from lull.replica")).length, 1)
    })
  )

  test(
    "says once that another server answers",
    Effect.gen(function*() {
      const { layer, lines } = collectLines()
      yield* Effect.gen(function*() {
        const one = yield* PostgresServer.make()
        const other = yield* PostgresServer.make()
        const relay = yield* TcpRelay.make({ target: one.port })
        const opened = yield* open({ url: `postgres://postgres@127.0.0.1:${relay.port}/postgres` })
        yield* untilAvailable(opened)
        yield* relay.setTarget(other.port)
        yield* relay.dropAll
        yield* until(() => lines.some(({ text }) => text.includes("another database server answers")))
        yield* untilAvailable(opened)
        // Its schema was made, and its row, before anything needed them.
        assert.strictEqual((yield* opened.query("select * from lull.replica")).length, 1)
      }).pipe(Effect.provide(layer))
    })
  )

  test(
    "lets two replicas start together on an empty database",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const replicas = yield* Effect.all(Array.from({ length: 5 }, () => open({ url: server.url })), {
        concurrency: "unbounded"
      })
      yield* Effect.forEach(replicas, untilAvailable, { concurrency: "unbounded" })
      const rows = yield* replicas[0]!.query("select id::text from lull.replica order by id")
      assert.deepStrictEqual(rows.map((row) => (row as { id: string }).id), replicas.map(({ id }) => id).toSorted())
    })
  )

  test(
    "makes its own row again when a failover has lost it",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url, availability: { beatEvery: "100 millis" } })
      yield* untilAvailable(opened)
      yield* server.execute("delete from lull.replica")
      yield* Effect.repeat(server.execute("select id from lull.replica"), { until: (rows) => rows.length === 1 })
    })
  )

  test(
    "starts before its server, and works when it comes",
    Effect.gen(function*() {
      const { layer, lines } = collectLines()
      yield* Effect.gen(function*() {
        const server = yield* PostgresServer.make()
        yield* server.stop("fast")
        const opened = yield* open({ url: server.url })
        yield* untilUnavailable(opened)
        yield* server.start
        yield* untilAvailable(opened)
        yield* opened.query("select 1")
        assert.isAtMost(lines.filter(({ text }) => text.startsWith("database")).length, 3)
      }).pipe(Effect.provide(layer))
    })
  )

  test(
    "works without prepared statements",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url, prepare: false })
      yield* untilAvailable(opened)
      yield* opened.query("select 1")
      const [row] = yield* opened.query("select count(*)::int as n from pg_prepared_statements")
      assert.deepStrictEqual(row, { n: 0 })
    })
  )
})

describe("Notifications", () => {
  test(
    "arrive, and are told as missed when the listener has connected anew",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url })
      const events: Array<string> = []
      yield* opened.notifications.subscribe((event) => {
        events.push(event._tag === "Missed" ? "missed" : `${event.topic}:${event.payload}`)
      })
      const missed = () => events.filter((event) => event === "missed").length
      yield* until(() => missed() > 0)
      // Until the listener is there.
      yield* Effect.repeat(
        Effect.andThen(server.execute("select pg_notify('lull', 'topic pay load')"), Effect.sleep("20 millis")),
        { until: () => events.includes("topic:pay load") }
      )
      const connected = missed()
      yield* server.execute("select pg_terminate_backend(pid) from pg_stat_activity where query like 'LISTEN%'")
      yield* until(() => missed() > connected)
      const again = missed()
      yield* server.stop("immediate")
      yield* server.start
      yield* until(() => missed() > again)
    })
  )

  test(
    "that do not arrive are noticed, and said once",
    Effect.gen(function*() {
      const { layer, lines } = collectLines()
      yield* Effect.gen(function*() {
        const server = yield* PostgresServer.make()
        // Notifications stay within a database; listening in another is as deaf as behind a pooler.
        yield* open({ url: server.url, listenUrl: server.url.replace(/postgres$/, "template1") })
        yield* until(() => lines.some(({ text }) => text.includes("LULL_DATABASE_LISTEN_URL")))
      }).pipe(Effect.provide(layer))
    })
  )
})

describe("Database under load that loses its server", () => {
  for (const fault of ["hang", "kill"] as const) {
    test(
      `answers every waiting caller with an error, and interrupts none: ${fault}`,
      Effect.gen(function*() {
        const server = yield* PostgresServer.make()
        const opened = yield* open({ url: server.url, deadline, probeDeadline, maxConnections: 3 })
        yield* untilAvailable(opened)
        // More callers than connections, so that most wait for one.
        const callers = yield* Effect.forEach(
          Array.from({ length: 50 }),
          () => Effect.forkChild(Effect.exit(opened.query("select pg_sleep(0.3)")))
        )
        yield* Effect.sleep("100 millis")
        yield* server[fault]
        const exits = yield* Effect.forEach(callers, Fiber.join)
        assert.strictEqual(exits.length, 50)
        for (const exit of exits) {
          if (Exit.isSuccess(exit)) continue
          if (fault === "hang") notAnswered(exit)
          else unavailable(exit)
        }
        assert.isTrue(exits.some(Exit.isFailure))
      })
    )
  }
})

describe("an address for LISTEN that is wrong", () => {
  test(
    "is said once, with what it means, and is no trouble of the database; and so is that it is right",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const { layer, lines } = collectLines()
      const opened = yield* Effect.provide(
        open({ url: server.url, listenUrl: server.url.replace("postgres@", "listener@") }),
        layer
      )
      yield* untilAvailable(opened)
      const notices = () => lines.filter(({ text }) => text.startsWith("notifications of the database"))
      yield* until(() => notices().length > 0)
      yield* Effect.sleep("3 seconds")
      assert.strictEqual((yield* opened.state)._tag, "Available")
      yield* server.execute("create role listener login")
      yield* until(() => notices().length > 1)
      assert.deepStrictEqual(notices().map(({ text }) => text), [
        "notifications of the database do not arrive, jobs are found by polling meanwhile: role \"listener\" does not exist",
        "notifications of the database arrive again"
      ])
    })
  )
})
