import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Redacted, Schedule, Scope } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { existsSync, readdirSync } from "node:fs"
import { connect, type Socket } from "node:net"
import { dirname } from "node:path"
import * as Processes from "../../src/database/embedded/Processes.ts"
import * as PostgresServer from "./PostgresServer.ts"
import * as TcpRelay from "./TcpRelay.ts"

/** A client with one session, which is kept. */
const client = (port: number) =>
  PgClient.make({
    url: Redacted.make(`postgres://postgres@127.0.0.1:${port}/postgres`),
    maxConnections: 1,
    connectTimeout: "1 second"
  }).pipe(Effect.provide(Layer.fresh(Reactivity.layer)))

const processesOf = (server: PostgresServer.PostgresServer) =>
  readdirSync("/proc").map(Number).filter((pid) =>
    pid > 0 && pid !== process.pid && Processes.isRunning(pid) &&
    Processes.commandLine(pid).includes(server.cluster.data)
  )

const answers = (server: PostgresServer.PostgresServer) =>
  server.execute("select 1 as one").pipe(Effect.timeout("1 second"), Effect.map((rows) => rows[0]?.["one"]))

describe("PostgresServer", () => {
  it.live("hangs, sessions included, and goes on with them", () =>
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const session = yield* client(server.port)
      const [before] = yield* session.unsafe("select pg_backend_pid() as pid")
      yield* server.hang
      const waiting = yield* Effect.forkChild(session.unsafe("select pg_backend_pid() as pid"))
      assert.isTrue(Exit.isFailure(yield* Effect.exit(answers(server))))
      assert.isUndefined(waiting.pollUnsafe())
      yield* server.resume
      assert.deepStrictEqual((yield* Fiber.join(waiting))[0], before)
    }))

  it.live("is killed with all its children, and starts on the same port with its data", () =>
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      yield* server.execute("create table kept (id int)")
      const pid = yield* server.pid
      yield* server.kill
      assert.isUndefined(yield* server.pid)
      assert.isEmpty(processesOf(server))
      yield* Effect.flip(answers(server))
      yield* server.start
      assert.notStrictEqual(yield* server.pid, pid)
      assert.deepStrictEqual(yield* server.execute("select * from kept"), [])
    }))

  it.live("stops in each mode, hung or not, and starts without a wait", () =>
    Effect.gen(function*() {
      const server = yield* PostgresServer.make({ configuration: { max_connections: "20" } })
      assert.deepStrictEqual(yield* server.execute("show max_connections"), [{ max_connections: "20" }])
      for (const mode of ["smart", "fast", "immediate"] as const) {
        yield* server.stop(mode)
        assert.isUndefined(yield* server.pid)
        yield* server.startNoWait
        yield* Effect.retry(answers(server), { schedule: Schedule.spaced("20 millis"), times: 500 })
        yield* server.start
      }
      yield* server.hang
      yield* server.stop("fast")
      assert.isEmpty(processesOf(server))
    }))

  it.live("becomes read-only and writable again", () =>
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const session = yield* client(server.port)
      yield* session.unsafe("create table t (id int)")
      yield* server.readOnly(true)
      const error = yield* Effect.flip(session.unsafe("insert into t values (1)"))
      assert.include(String(error.reason.cause), "read-only transaction")
      yield* server.readOnly(false)
      yield* session.unsafe("insert into t values (1)")
    }))

  it.live("has a standby that follows, refuses writes, and accepts them once it is promoted", () =>
    Effect.gen(function*() {
      const primary = yield* PostgresServer.make()
      yield* primary.execute("create table t (id int)")
      const standby = yield* primary.makeStandby
      yield* primary.execute("insert into t values (7)")
      yield* standby.execute("select id from t").pipe(
        Effect.repeat({ schedule: Schedule.spaced("20 millis"), until: (rows) => rows.length === 1 }),
        Effect.timeout("10 seconds")
      )
      const error = yield* Effect.flip(standby.execute("insert into t values (8)"))
      assert.include(String(error.reason.cause), "read-only transaction")
      yield* primary.kill
      yield* standby.promote
      yield* standby.execute("insert into t values (8)")
      assert.deepStrictEqual(yield* standby.execute("select id from t order by id"), [{ id: 7 }, { id: 8 }])
    }))

  it.live("leaves no process and no file behind, also when it hangs", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const server = yield* PostgresServer.make().pipe(Scope.provide(scope))
      yield* server.hang
      assert.isNotEmpty(processesOf(server))
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(yield* Processes.waitUntil(() => processesOf(server).length === 0, "2 seconds"))
      assert.isFalse(existsSync(dirname(server.cluster.data)))
    }))
})

/** How a connection ended: by what error, or without one. */
const ending = (socket: Socket) =>
  Effect.callback<string>((resume) => {
    let code = "closed"
    socket.on("error", (error) => code = "code" in error ? String(error.code) : error.message)
    socket.once("close", () => resume(Effect.succeed(code)))
  })

describe("TcpRelay", () => {
  it.live("relays, and swallows both old and new connections until it stops", () =>
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const relay = yield* TcpRelay.make({ target: server.port })
      const old = yield* client(relay.port)
      assert.deepStrictEqual(yield* old.unsafe("select 1 as one"), [{ one: 1 }])
      assert.strictEqual(yield* relay.connections, 1)
      yield* relay.swallow(true)
      const waiting = yield* Effect.forkChild(old.unsafe("select 2 as two"))
      const error = yield* Effect.flip(Effect.flatMap(client(relay.port), (sql) => sql.unsafe("select 1")))
      assert.strictEqual(error.reason._tag, "ConnectionError")
      yield* relay.swallow(false)
      assert.isUndefined(waiting.pollUnsafe())
      assert.deepStrictEqual(yield* Effect.flatMap(client(relay.port), (sql) => sql.unsafe("select 1 as one")), [{
        one: 1
      }])
      yield* relay.dropAll
      assert.isTrue(Exit.isFailure(yield* Fiber.await(waiting)))
      assert.strictEqual(yield* relay.accepted, 3)
    }))

  it.live("resets and refuses connections, and sends new ones to another target", () =>
    Effect.gen(function*() {
      const [one, two] = [yield* PostgresServer.make(), yield* PostgresServer.make()]
      const relay = yield* TcpRelay.make({ target: one.port })
      const portOf = Effect.scoped(Effect.flatMap(client(relay.port), (sql) => sql.unsafe("show port")))
      assert.deepStrictEqual(yield* portOf, [{ port: String(one.port) }])
      yield* relay.setTarget(two.port)
      assert.deepStrictEqual(yield* portOf, [{ port: String(two.port) }])
      const socket = connect(relay.port, "127.0.0.1")
      yield* Processes.waitUntil(() => !socket.connecting, "1 second")
      yield* Effect.repeat(relay.accepted, {
        schedule: Schedule.spaced("5 millis"),
        until: (accepted) => accepted === 3
      })
      const end = yield* Effect.forkChild(ending(socket), { startImmediately: true })
      yield* relay.refuse(true)
      assert.strictEqual(yield* ending(connect(relay.port, "127.0.0.1")), "ECONNREFUSED")
      assert.isFalse(socket.destroyed)
      yield* relay.dropAll
      assert.strictEqual(yield* Fiber.join(end), "ECONNRESET")
      yield* relay.refuse(false)
      assert.deepStrictEqual(yield* portOf, [{ port: String(two.port) }])
    }))
})
