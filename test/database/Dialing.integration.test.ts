import { PgClient } from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import {
  Context,
  Data,
  type Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Redacted,
  Schedule,
  type Scope,
  Stream
} from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { type ChildProcess, spawn } from "node:child_process"
import { readFileSync } from "node:fs"
import { connect, createServer, type Socket } from "node:net"
import * as Connector from "../../src/database/Connector.ts"
import { Link } from "../../src/database/Link.ts"
import * as PostgresLink from "../../src/database/PostgresLink.ts"
import { Replica } from "../../src/database/Replica.ts"
import { watch } from "../../src/database/SocketWatch.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { open, until, untilAvailable } from "../support/realDatabase.ts"
import * as TcpRelay from "../support/TcpRelay.ts"

const test = (name: string, body: Effect.Effect<void, unknown, SecureRandom.SecureRandom | Scope.Scope>) =>
  it.live(name, () => body.pipe(Effect.scoped, Effect.provide(SecureRandom.layerWebCrypto)), 60_000)

/** What may not be exceeded, as an order of events. */
const atMost = <A, E, R>(effect: Effect.Effect<A, E, R>, duration: Duration.Input, what: string) =>
  Effect.timeoutOrElse(effect, { duration, orElse: () => Effect.die(new Error(`${what} took longer`)) })

type Opened = Effect.Success<ReturnType<typeof open>>

const own = "from pg_stat_activity where application_name = 'lull'"

const pidsOf = (server: PostgresServer.PostgresServer) =>
  Effect.map(server.execute(`select pid ${own} order by pid`), (rows) => rows.map(({ pid }) => Number(pid)))

const many = (opened: Opened, count: number, seconds: number) =>
  Effect.forEach(
    Array.from({ length: count }),
    () => Effect.forkChild(Effect.exit(opened.query(`select pg_sleep(${seconds})`)))
  )

const countInLog = (server: PostgresServer.PostgresServer, text: string) =>
  readFileSync(server.log, "utf8").split("\n").filter((line) => line.includes(text)).length

/** The service's role, with a limit. */
const limited = Effect.fnUntraced(function*(server: PostgresServer.PostgresServer, limit: number) {
  yield* server.execute("create role service login superuser")
  const url = server.url.replace("postgres@", "service@")
  // Superusers have no limit; the tables are made while it is one.
  const first = yield* open({ url })
  yield* untilAvailable(first)
  yield* first.close
  yield* server.execute("alter role service nosuperuser")
  yield* server.execute("grant all on schema lull, public to service")
  yield* server.execute("grant all on all tables in schema lull, public to service")
  yield* server.execute(`alter role service connection limit ${limit}`)
  return url
})

describe("The pool on a server that lets few in", () => {
  test(
    "serves all callers over what it gets, and knocks ever less often",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const url = yield* limited(server, 3)
      const opened = yield* open({ url })
      yield* untilAvailable(opened)
      const callers = yield* many(opened, 40, 0.1)
      const exits = yield* Effect.forEach(callers, Fiber.join)
      assert.isTrue(exits.every(Exit.isSuccess), String(exits.find(Exit.isFailure)))
      // In four seconds of asking for more: 50, 100, 200, 400, 800 ms, then one a second.
      assert.isAtMost(countInLog(server, "too many connections for role"), 12)
      yield* server.execute("alter role service connection limit 8")
      yield* Effect.repeat(Effect.andThen(many(opened, 10, 0.1), Effect.sleep("200 millis")), {
        until: () => Effect.map(pidsOf(server), (pids) => pids.length > 4)
      })
    })
  )

  test(
    "is not thrown away for a password that was changed, and says so only to who finds nothing open",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url })
      yield* untilAvailable(opened)
      yield* opened.query("select 1")
      yield* server.execute("alter role postgres nologin")
      const exits = yield* Effect.flatMap(many(opened, 30, 0.05), (callers) => Effect.forEach(callers, Fiber.join))
      assert.isTrue(exits.every(Exit.isSuccess))
      assert.isAtMost(countInLog(server, "is not permitted to log in"), 12)
    })
  )
})

describe("The pool", () => {
  test(
    "keeps its other connections when one of them breaks",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url })
      yield* untilAvailable(opened)
      yield* Effect.flatMap(many(opened, 4, 0.5), (callers) => Effect.forEach(callers, Fiber.join))
      const before = yield* pidsOf(server)
      assert.isAtLeast(before.length, 5)
      const killed = yield* Effect.exit(opened.query("select pg_terminate_backend(pg_backend_pid())"))
      assert.isTrue(Exit.isFailure(killed))
      yield* untilAvailable(opened)
      yield* opened.query("select 1")
      const after = yield* pidsOf(server)
      assert.isAtLeast(after.filter((pid) => before.includes(pid)).length, before.length - 1)
    })
  )

  test(
    "holds one connection beside those of heartbeat and listener when there is little to do",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url })
      yield* untilAvailable(opened)
      yield* Effect.flatMap(many(opened, 10, 0.3), (callers) => Effect.forEach(callers, Fiber.join))
      yield* Effect.repeat(Effect.sleep("200 millis"), {
        until: () => Effect.map(pidsOf(server), (pids) => pids.length <= 3)
      })
    })
  )

  test(
    "is no trap for work that asks the door again, in a transaction or not, with one connection",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url, maxConnections: 1 })
      yield* untilAvailable(opened)
      yield* opened.query("create table item (n int)")
      const nested = opened.database.write(
        "test.nested",
        Effect.flatMap(PgClient, (sql) => Effect.andThen(sql`select 1`, opened.query("insert into item values (1)")))
      )
      yield* nested
      class Refused extends Data.TaggedError("Refused")<{}> {}
      const rolledBack = opened.database.write(
        "test.transaction",
        Effect.flatMap(PgClient, (sql) =>
          sql.withTransaction(Effect.gen(function*() {
            yield* opened.query("insert into item values (2)")
            yield* nested
            return yield* new Refused()
          })))
      )
      assert.strictEqual((yield* Effect.flip(rolledBack))._tag, "Refused")
      assert.deepStrictEqual(yield* opened.query("select n from item"), [{ n: 1 }])
    })
  )

  test(
    "is not renewed for what a caller waited for too long",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url, deadline: "1 second", maxConnections: 1 })
      yield* untilAvailable(opened)
      const pid = () => Effect.map(opened.query("select pg_backend_pid() as pid"), ([row]) => row)
      const before = yield* pid()
      // One after another has the one connection, and asks nothing of the server: the last ones wait longer than their deadline.
      const holding = opened.database.write("test.hold", Effect.sleep("800 millis"))
      const exits = yield* Effect.all(Array.from({ length: 3 }, () => Effect.exit(holding)), { concurrency: 3 })
      assert.isTrue(exits.some(Exit.isFailure))
      yield* untilAvailable(opened)
      assert.deepStrictEqual(yield* pid(), before)
    })
  )

  test(
    "ends slow statements, and statements that wait for a lock, by the server's own limits before anything else does",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const opened = yield* open({ url: server.url, deadline: "2 seconds" })
      yield* untilAvailable(opened)
      yield* opened.query("create table item (n int)")
      const stateOf = (text: string) =>
        Effect.map(
          Effect.flip(opened.query(text)),
          (error) => error._tag === "QueryFailed" ? error.sqlState : error.message
        )
      assert.strictEqual(yield* stateOf("select pg_sleep(10)"), "57014")
      yield* Effect.forkChild(server.execute("do $$ begin lock table item; perform pg_sleep(4); end $$"))
      yield* Effect.sleep("300 millis")
      assert.strictEqual(yield* stateOf("select * from item"), "55P03")
      const [settings] = yield* opened.query(
        "select current_setting('tcp_keepalives_idle') as idle, current_setting('tcp_user_timeout') as timeout"
      )
      assert.deepStrictEqual(settings, { idle: "10", timeout: "30000" })
    })
  )
})

describe("The heartbeat's lane", () => {
  test(
    "takes work while the pool gets no connection, and does not outlast a beat",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const url = yield* limited(server, 5)
      const services = yield* Layer.build(
        PostgresLink.layer({ url: Redacted.make(url) }).pipe(
          Layer.provide(Layer.succeed(Replica, { id: "00000000-0000-7000-8000-000000000001", name: "test" }))
        )
      )
      const link = Context.get(services, Link)
      yield* link.probe(true)
      yield* server.execute("alter role service connection limit 1")
      yield* link.renew(false)
      const work = (text: string) => Effect.flatMap(PgClient, (sql) => sql.unsafe(text))
      const pool = yield* Effect.flip(link.run({ kind: "read", operation: "test.pool" }, work("select 1")))
      assert.include(String(pool.reason.cause), "too many connections")
      const vital = (text: string) =>
        link.run({ kind: "write", operation: "test.vital", lane: "heartbeat" }, work(text))
      assert.deepStrictEqual(yield* vital("select 1 as one"), [{ one: 1 }])
      yield* Effect.flip(vital("select pg_sleep(10)"))
      yield* link.probe(false)
    })
  )
})

describe("The listener", () => {
  test(
    "is replaced when its connection is half open, and those who listen are told",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const relay = yield* TcpRelay.make({ target: server.port })
      const opened = yield* open({
        url: server.url,
        listenUrl: `postgres://postgres@127.0.0.1:${relay.port}/postgres`
      })
      const events: Array<string> = []
      yield* opened.notifications.subscribe((event) => {
        events.push(event._tag === "Missed" ? "missed" : event.payload)
      })
      yield* server.execute("select pg_notify('lull', 'topic a')").pipe(
        Effect.andThen(Effect.sleep("50 millis")),
        Effect.repeat({ until: () => events.includes("a") })
      )
      yield* relay.swallow(true)
      yield* relay.swallow(false)
      // It is well by all appearance, and hears nothing.
      yield* server.execute("select pg_notify('lull', 'topic b')")
      const missed = () => events.filter((event) => event === "missed").length
      const before = missed()
      yield* atMost(until(() => missed() > before), "11 seconds", "noticing a half-open listener")
      yield* server.execute("select pg_notify('lull', 'topic c')").pipe(
        Effect.andThen(Effect.sleep("50 millis")),
        Effect.repeat({ until: () => events.includes("c") })
      )
      assert.isFalse(events.includes("b"))
    })
  )
})

/** A server whose queue of connections is full: the kernel drops what asks for another, as a black hole does. */
const fullServer = Effect.gen(function*() {
  const child = yield* Effect.acquireRelease(
    Effect.callback<{ readonly process: ChildProcess; readonly port: number }>((resume) => {
      const script = `const server = require("net").createServer();
        server.listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => console.log(server.address().port))`
      const started = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] })
      started.stdout.once("data", (text) => resume(Effect.succeed({ process: started, port: Number(String(text)) })))
    }),
    ({ process }) => Effect.sync(() => process.kill("SIGKILL"))
  )
  child.process.kill("SIGSTOP")
  const fillers: Array<Socket> = []
  yield* Effect.addFinalizer(() => Effect.sync(() => fillers.forEach((socket) => socket.destroy())))
  for (let index = 0; index < 4; index++) {
    fillers.push(connect({ port: child.port, host: "127.0.0.1" }).on("error", () => {}))
    yield* Effect.sleep("20 millis")
  }
  return child.port
})

/** A server that does with each of its connections as it is told. */
const served = (handle: (socket: Socket) => void) =>
  Effect.callback<number, never, Scope.Scope>((resume) => {
    const server = createServer(handle)
    server.listen(0, "127.0.0.1", () => {
      const address = server.address()
      resume(Effect.as(
        Effect.addFinalizer(() => Effect.sync(() => server.close())),
        typeof address === "object" && address !== null ? address.port : 0
      ))
    })
  })

describe("What costs a login", () => {
  const logins = (server: PostgresServer.PostgresServer) => countInLog(server, "connection authorized")

  test(
    "is not a statement that is interrupted, whose server has confirmed that it is canceled",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make({ configuration: { log_connections: "on" } })
      const opened = yield* open({ url: server.url, maxConnections: 1 })
      yield* untilAvailable(opened)
      yield* opened.query("select 1")
      const before = logins(server)
      for (let index = 0; index < 10; index++) {
        yield* Effect.timeoutOption(opened.query("select pg_sleep(30)"), "50 millis")
        yield* opened.query("select 1")
      }
      // Heartbeat and listener may have been renewed meanwhile.
      assert.isAtMost(logins(server) - before, 3)
    })
  )

  test(
    "is a connection that ends under each statement, but ever less often",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make({ configuration: { log_connections: "on" } })
      const opened = yield* open({ url: server.url })
      yield* untilAvailable(opened)
      const before = logins(server)
      yield* Effect.ignore(opened.query("select pg_terminate_backend(pg_backend_pid())")).pipe(
        Effect.andThen(Effect.sleep("20 millis")),
        Effect.replicateEffect(150, { discard: true })
      )
      assert.isAtMost(logins(server) - before, 40)
      assert.strictEqual((yield* opened.state)._tag, "Available")
    })
  )

  test(
    "is a stream of rows, which has a connection of its own, so that other statements go on beside it",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make({ configuration: { log_connections: "on" } })
      const opened = yield* open({ url: server.url, maxConnections: 1 })
      yield* untilAvailable(opened)
      yield* opened.query("create table item (n int)")
      const before = yield* pidsOf(server)
      yield* opened.database.write(
        "test.stream",
        Effect.flatMap(PgClient, (sql) =>
          Stream.runForEach(
            sql<{ readonly n: number }>`select generate_series(1, 5000) as n`.stream,
            ({ n }) => n % 1000 === 0 ? Effect.asVoid(sql`insert into item values (${n})`) : Effect.void
          ))
      )
      assert.deepStrictEqual(yield* opened.query("select count(*)::int as n from item"), [{ n: 5 }])
      // The one that was lent is lent again, and that of the stream is gone.
      yield* Effect.repeat(Effect.sleep("50 millis"), {
        until: () => Effect.map(pidsOf(server), (pids) => JSON.stringify(pids) === JSON.stringify(before))
      })
    })
  )
})

describe("A server that is restarted again and again", () => {
  test(
    "is worked with in each of fifteen short up-times, and knocked at no more than 75 times a minute",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const relay = yield* TcpRelay.make({ target: server.port })
      const opened = yield* open({ url: server.url.replace(`:${server.port}/`, `:${relay.port}/`) })
      yield* untilAvailable(opened)
      const before = yield* relay.accepted
      for (let round = 0; round < 15; round++) {
        yield* server.stop("fast")
        yield* Effect.sleep("300 millis")
        yield* server.start
        const served = Effect.retry(opened.query("select 1"), Schedule.spaced("20 millis"))
        // A probe each second, and what the machine needs besides.
        yield* Effect.all([atMost(served, "2500 millis", `round ${round}`), Effect.sleep("1 second")], {
          concurrency: 2
        })
      }
      assert.isAtMost((yield* relay.accepted) - before, 75)
    })
  )
})

describe("A listener with an address of its own that stays silent", () => {
  test(
    "holds up nobody, not even the end",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const silent = yield* served(() => {})
      const listenUrl = `postgres://postgres@127.0.0.1:${silent}/postgres?connect_timeout=30`
      const opened = yield* open({ url: server.url, listenUrl })
      yield* untilAvailable(opened)
      const callers = yield* many(opened, 6, 1)
      yield* atMost(Effect.forEach(callers, Fiber.join), "4 seconds", "six seconds of work on several connections")
      yield* atMost(opened.close, "5 seconds", "the end")
    })
  )
})

describe("A connection", () => {
  test(
    "is given up within its own bound when packets vanish",
    Effect.gen(function*() {
      const port = yield* fullServer
      const error = yield* Effect.callback<Error>((resume) => {
        const connector = Connector.make({
          host: "127.0.0.1",
          port,
          answerWithin: 30_000,
          loginWithin: 30_000,
          connectWithin: 200,
          onConnected: () => resume(Effect.die(new Error("it connected"))),
          onSilent: () => {},
          enterFurther: () => () => {}
        })
        connector.stream().on("error", (failed) => resume(Effect.succeed(failed)))
      })
      assert.strictEqual("code" in error && error.code, "ETIMEDOUT")
      assert.include(error.message, "no connection within 200 ms")
    })
  )

  const piece = (type: string, length: number) => {
    const bytes = new Uint8Array(5 + length)
    bytes[0] = type.charCodeAt(0)
    new DataView(bytes.buffer).setInt32(1, 4 + length)
    return bytes
  }

  const silences = (port: number, within: number) => {
    let count = 0
    const socket = connect({ port, host: "127.0.0.1" })
    watch(socket, () => within, () => count++)
    return { socket, count: () => count }
  }

  test(
    "is not silent while a large answer arrives in pieces, and is when it stops in the middle of one",
    Effect.gen(function*() {
      let send: (bytes: Uint8Array) => void = () => {}
      const port = yield* served((socket) => {
        send = (bytes) => socket.write(bytes)
      })
      const { count, socket } = silences(port, 400)
      yield* Effect.addFinalizer(() => Effect.sync(() => socket.destroy()))
      socket.write("query")
      for (let index = 0; index < 10; index++) {
        yield* Effect.sleep("100 millis")
        send(piece("D", 1_000))
      }
      send(piece("Z", 1))
      yield* Effect.sleep("800 millis")
      assert.strictEqual(count(), 0)
      socket.write("query")
      yield* Effect.sleep("50 millis")
      send(piece("D", 1_000).subarray(0, 300))
      yield* until(() => count() === 1)
    })
  )

  test(
    "is silent however much is written to it meanwhile",
    Effect.gen(function*() {
      const port = yield* served((socket) => socket.resume())
      const { count, socket } = silences(port, 300)
      yield* Effect.addFinalizer(() => Effect.sync(() => socket.destroy()))
      const writing = yield* Effect.forkChild(Effect.forever(
        Effect.andThen(Effect.sync(() => socket.write("more")), Effect.sleep("20 millis"))
      ))
      yield* until(() => count() >= 1)
      yield* Fiber.interrupt(writing)
    })
  )

  test(
    "that is given up while an answer is owed sends nothing any more",
    Effect.gen(function*() {
      let received = 0
      let ended: Error | undefined
      let read = () => {}
      const port = yield* served((socket) => {
        socket.pause()
        read = () => socket.resume()
        socket.on("data", (bytes) => received += bytes.length).on("error", (error) => ended = error)
      })
      const connector = Connector.make({
        host: "127.0.0.1",
        port,
        answerWithin: 30_000,
        loginWithin: 30_000,
        connectWithin: 5_000,
        onConnected: () => {},
        onSilent: () => {},
        enterFurther: () => () => {}
      })
      const stream = connector.stream().on("error", () => {})
      const sent = 30_000_000
      stream.write(new Uint8Array(sent))
      yield* Effect.sleep("300 millis")
      connector.end(new Error("given up"))
      read()
      yield* until(() => ended !== undefined)
      assert.strictEqual(ended !== undefined && "code" in ended ? ended.code : "", "ECONNRESET")
      assert.isBelow(received, sent)
    })
  )
})
