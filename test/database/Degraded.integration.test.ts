/**
 * Troubles in which the heartbeat of a replica is well and its callers are not, each real. A replica runs jobs through each of
 * them, beside a healthy one, which must take none of them.
 */
import { make as makeClient } from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Redacted, Schedule, Scope, SubscriptionRef } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { layer as reactivityLayer } from "effect/reactivity/Reactivity"
import { appendFileSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Availability, type State } from "../../src/database/Availability.ts"
import { Executor } from "../../src/provisioner/Executor.ts"
import { Provisioner } from "../../src/provisioner/Provisioner.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { until } from "../support/realDatabase.ts"
import { collectLines } from "../support/replicas.ts"
import * as SmallDisk from "../support/smallDisk.ts"

const test = (name: string, body: Effect.Effect<void, unknown, SecureRandom.SecureRandom | Scope.Scope>) =>
  it.live(name, () => body.pipe(Effect.scoped, Effect.provide(SecureRandom.layerWebCrypto)), 90_000)

/** Several times longer than it may take: a machine that is busy is no failure. */
const soon = (what: string, condition: () => boolean) =>
  Effect.timeoutOrElse(until(condition), {
    duration: "15 seconds",
    orElse: () => Effect.die(new Error(`${what} should have come within seconds`))
  })

const lease = "4 seconds"

/** Longer than a lease: who could not keep it has lost it. */
const aWhile = Effect.sleep("9 seconds")

const startReplica = Effect.fnUntraced(function*(url: string, tags: Record<string, string> = {}) {
  const { layer: Lines, lines } = collectLines()
  const starts = new Map<string, number>()
  const mayEnd = yield* Deferred.make<void>()
  const services = yield* Layer.build(
    Provisioner.layerPostgres({
      url: Redacted.make(url),
      worker: { slots: 2, tags, lease, heartbeatEvery: "1 second", pollEvery: "500 millis" },
      reaper: { every: "500 millis" }
    }).pipe(
      Layer.provide(Executor.layerHandlers({
        wait: (job) =>
          Effect.andThen(
            Effect.sync(() => starts.set(job.job, (starts.get(job.job) ?? 0) + 1)),
            Effect.as(Deferred.await(mayEnd), "ended")
          )
      })),
      Layer.provideMerge(Lines),
      Layer.fresh
    )
  )
  const availability = Context.get(services, Availability)
  const state = (): State => SubscriptionRef.getUnsafe(availability.state)
  yield* soon("the replica", availability.isOpen)
  // That the tables have been made.
  lines.splice(0)
  return { state, lines, starts, mayEnd, provisioner: Context.get(services, Provisioner) }
})

interface Trouble {
  readonly server: PostgresServer.PostgresServer
  /** Of the replica that has it. */
  readonly url: string
  readonly begin: Effect.Effect<void, unknown, Scope.Scope>
  readonly end: Effect.Effect<void, unknown>
  readonly reason: string | undefined
}

/** A replica runs two jobs through a trouble that begins and ends, and what has to be true of all of them. */
const liveThrough = Effect.fnUntraced(function*({ begin, end, reason, server, url }: Trouble) {
  const tags = { on: "hurt" }
  const hurt = yield* startReplica(url, tags)
  const jobs = yield* hurt.provisioner.submitAll([{ type: "wait", tags }, { type: "wait", tags }])
  yield* soon("the jobs' start", () => hurt.starts.size === 2)
  const healthy = yield* startReplica(server.url)
  yield* begin
  if (reason !== undefined) {
    yield* soon("the degradation", () => hurt.state()._tag === "Degraded")
    const state = hurt.state()
    assert.deepStrictEqual(state._tag === "Degraded" ? state.reason : state._tag, reason)
  }
  yield* aWhile
  yield* end
  yield* soon("the return", () => hurt.state()._tag === "Available")
  const rows = yield* server.execute("select status, attempt from lull.job")
  assert.deepStrictEqual(rows, [{ status: "running", attempt: 1 }, { status: "running", attempt: 1 }])
  yield* Deferred.succeed(hurt.mayEnd, undefined)
  for (const { id } of jobs) assert.strictEqual((yield* hurt.provisioner.awaitEnd(id)).status, "succeeded")
  assert.deepStrictEqual([...hurt.starts.values()], [1, 1])
  assert.strictEqual(healthy.starts.size, 0)
  for (const { lines } of [hurt, healthy]) assert.isAtMost(lines.length, 8, JSON.stringify(lines, null, 1))
  if (reason !== undefined) {
    assert.include(hurt.lines[0]?.text ?? "", `database degraded (${reason}: `)
    assert.match(hurt.lines.at(-1)?.text ?? "", /^database (no longer degraded|comes and goes)/)
  }
})

/** A role that may do all that Lull does, and is subject to limits, as `postgres` is not. */
const limitedRole = Effect.fnUntraced(function*(server: PostgresServer.PostgresServer) {
  // The first replica makes the tables.
  yield* Effect.scoped(startReplica(server.url))
  yield* server.execute("create role worker login inherit in role postgres password 'secret'")
  yield* server.execute("grant execute on function pg_control_system() to worker")
  return server.url.replace("postgres@", "worker:secret@")
})

/** Of the connections of the role all but that of the heartbeat, which is known by its last statement. */
const poolOf = (server: PostgresServer.PostgresServer, and = "") =>
  server.execute(
    `select pid${and} from pg_stat_activity a where usename = 'worker' and query not like 'do $lull$%'
      and exists (select from pg_stat_activity where usename = 'worker' and query like 'do $lull$%')`
  )

const untilFound = <A, E, R>(rows: Effect.Effect<ReadonlyArray<A>, E, R>) =>
  Effect.repeat(rows, { schedule: Schedule.spaced("100 millis"), until: (found) => found.length > 0 })

const killPool = (server: PostgresServer.PostgresServer) => poolOf(server, ", pg_terminate_backend(pid)")
const endPool = (server: PostgresServer.PostgresServer) => untilFound(killPool(server))

describe("a replica that can open no connection", () => {
  test(
    "keeps its jobs when its role is limited to the one that it has",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      yield* liveThrough({
        server,
        url: yield* limitedRole(server),
        begin: Effect.andThen(server.execute("alter role worker connection limit 1"), endPool(server)),
        end: Effect.asVoid(server.execute("alter role worker connection limit -1")),
        reason: "Refusing"
      })
    })
  )

  test(
    "keeps its jobs when the server answers no login any more",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const url = yield* limitedRole(server)
      const signalServer = (signal: NodeJS.Signals) =>
        Effect.map(server.pid, (pid) => pid === undefined ? undefined : process.kill(pid, signal))
      yield* liveThrough({
        server,
        url,
        begin: Effect.gen(function*() {
          const rows = yield* untilFound(poolOf(server))
          yield* signalServer("SIGSTOP")
          for (const { pid } of rows) process.kill(Number(pid), "SIGTERM")
        }),
        end: signalServer("SIGCONT"),
        reason: "Hung"
      })
    })
  )

  for (const limit of [2, 3]) {
    test(
      `keeps its jobs when its role is limited to ${limit}, served or not`,
      Effect.gen(function*() {
        const server = yield* PostgresServer.make()
        yield* liveThrough({
          server,
          url: yield* limitedRole(server),
          begin: Effect.andThen(server.execute(`alter role worker connection limit ${limit}`), endPool(server)),
          end: Effect.asVoid(server.execute("alter role worker connection limit -1")),
          reason: undefined
        })
      })
    )
  }

  test(
    "keeps its jobs when its password was changed",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const url = yield* limitedRole(server)
      const rules = join(server.cluster.data, "pg_hba.conf")
      const before = readFileSync(rules, "utf8")
      writeFileSync(rules, "host all worker 127.0.0.1/32 scram-sha-256\n")
      appendFileSync(rules, before)
      yield* server.execute("select pg_reload_conf()")
      yield* liveThrough({
        server,
        url,
        begin: Effect.andThen(server.execute("alter role worker password 'another'"), endPool(server)),
        end: Effect.asVoid(server.execute("alter role worker password 'secret'")),
        reason: "Misconfigured"
      })
    })
  )

  test(
    "keeps its jobs when another program has taken all connections of the server",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make({ configuration: { max_connections: "20" } })
      const url = yield* limitedRole(server)
      yield* server.execute("create role other login")
      const taken = yield* Scope.make()
      /** Takes what there is, and what becomes free. */
      const take = makeClient({ url: Redacted.make(server.url.replace("postgres@", "other@")), maxConnections: 1 })
        .pipe(
          Effect.flatMap((client) => client`select pg_sleep(600)`),
          Effect.scoped,
          Effect.ignoreCause,
          Effect.andThen(Effect.sleep("5 millis")),
          Effect.forever,
          Effect.provide(reactivityLayer)
        )
      yield* liveThrough({
        server,
        url,
        begin: Effect.gen(function*() {
          for (let count = 0; count < 20; count++) yield* Effect.forkIn(take, taken)
          yield* Effect.sleep("500 millis")
          yield* endPool(server)
          // It may have been there first for what became free.
          yield* Effect.replicateEffect(Effect.andThen(Effect.sleep("200 millis"), killPool(server)), 10)
        }),
        end: Scope.close(taken, Exit.void).pipe(
          Effect.andThen(
            server.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'other'")
          ),
          Effect.asVoid
        ),
        reason: "Refusing"
      })
    })
  )
})

/** Holds a lock until the scope closes. */
const holdLock = Effect.fnUntraced(function*(server: PostgresServer.PostgresServer, table: string, mode: string) {
  const client = yield* Effect.provide(
    makeClient({ url: Redacted.make(server.url), maxConnections: 1 }),
    reactivityLayer
  )
  const held = yield* Deferred.make<void>()
  const fiber = yield* Effect.forkScoped(client.withTransaction(
    client.unsafe(`lock table ${table} in ${mode} mode`).pipe(
      Effect.andThen(Deferred.succeed(held, undefined)),
      Effect.andThen(Effect.never)
    )
  ))
  yield* Deferred.await(held)
  return Effect.asVoid(Fiber.interrupt(fiber))
})

describe("a lock on a table", () => {
  test(
    "takes no jobs from anybody, however long it is held",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const lock = yield* Scope.make()
      yield* liveThrough({
        server,
        url: server.url,
        begin: Effect.asVoid(Scope.provide(holdLock(server, "lull.job", "access exclusive"), lock)),
        end: Scope.close(lock, Exit.void),
        reason: "Locked"
      })
    })
  )

  test(
    "is noticed by a replica with nothing to do, and so is its end: every table, every mode that stops writes",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const replica = yield* startReplica(server.url)
      for (
        const [table, mode] of [
          ["lull.job", "share"],
          ["lull.replica", "access exclusive"],
          ["lull.peer", "exclusive"],
          ["lull.tunnel", "share row exclusive"],
          ["lull.job_output", "share"]
        ] as const
      ) {
        yield* Effect.scoped(Effect.gen(function*() {
          yield* holdLock(server, table, mode)
          yield* soon(`the lock on ${table}`, () => replica.state()._tag === "Degraded")
          const state = replica.state()
          assert.strictEqual(state._tag === "Degraded" ? state.reason : "", "Locked", table)
        }))
        yield* soon(`the end of the lock on ${table}`, () => replica.state()._tag === "Available")
      }
      assert.isTrue(replica.lines.every(({ text }) => !text.startsWith("database unavailable")))
    })
  )

  test(
    "that stops no writes, or lasts for less than a second, is nothing to speak of",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const replica = yield* startReplica(server.url)
      yield* Effect.scoped(
        Effect.andThen(holdLock(server, "lull.job", "share update exclusive"), Effect.sleep("5 seconds"))
      )
      for (let count = 0; count < 8; count++) {
        yield* Effect.scoped(
          Effect.andThen(holdLock(server, "lull.job", "access exclusive"), Effect.sleep("200 millis"))
        )
        yield* Effect.sleep("300 millis")
      }
      assert.strictEqual(replica.state()._tag, "Available")
      assert.deepStrictEqual(replica.lines, [])
    })
  )
})

describe("a heartbeat", () => {
  test(
    "makes no transaction of somebody else the victim of a deadlock, however soon the server looks for one",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make({ configuration: { deadlock_timeout: "10ms" } })
      const replica = yield* startReplica(server.url)
      for (
        const [first, second] of [
          ["lock table lull.job in access exclusive mode", "lock table lull.replica in access exclusive mode"],
          ["lock table lull.tunnel in share mode", "lock table lull.job in share mode"],
          ["update lull.replica set beat_at = now()", "lock table lull.worker in access exclusive mode"]
        ] as const
      ) {
        // Longer than it is from one heartbeat to the next, so that each time one waits.
        yield* server.execute(`do $$ begin ${first}; perform pg_sleep(2.6); ${second}; end $$`)
        yield* soon("the end of the locks", () => replica.state()._tag === "Available")
      }
      assert.isTrue(replica.lines.every(({ text }) => !text.startsWith("database unavailable")))
    })
  )
})

describe("a disk that is full", () => {
  test(
    "is known by what cannot be written, while the heartbeat can, and takes no jobs from anybody",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const { ids } = server.cluster.account
      const disk = ids === undefined ? undefined : yield* SmallDisk.make(16, ids)
      if (disk !== undefined) {
        yield* server.execute(`create tablespace small location '${disk.directory}'`)
        yield* server.execute("alter system set default_tablespace = small")
        yield* server.execute("select pg_reload_conf()")
      }
      yield* Effect.scoped(startReplica(server.url))
      // Where nothing can be mounted, the error alone is the server's.
      const pretend = `create function lull.no_space() returns trigger language plpgsql as
        'begin raise exception ''could not extend file: No space left on device'' using errcode = ''53100''; end'`
      const submitting = yield* Scope.make()
      const writer = yield* startReplica(server.url)
      yield* liveThrough({
        server,
        url: server.url,
        begin: Effect.gen(function*() {
          if (disk === undefined) {
            yield* server.execute(pretend)
            yield* server.execute("create trigger full before insert on lull.job execute function lull.no_space()")
          } else yield* disk.fill
          yield* Effect.forkIn(
            Effect.forever(
              writer.provisioner.submit({ type: "none", tags: { nobody: "x" }, input: "x".repeat(100_000) }).pipe(
                Effect.ignoreCause,
                Effect.andThen(Effect.sleep("100 millis"))
              )
            ),
            submitting
          )
          yield* soon("the degradation of who writes", () => writer.state()._tag === "Degraded")
          const state = writer.state()
          assert.strictEqual(state._tag === "Degraded" ? state.reason : "", "Full")
          // Nobody writes any more, and the disk is still full.
          yield* Scope.close(submitting, Exit.void)
          yield* Effect.sleep("7 seconds")
          if (disk !== undefined) assert.strictEqual(writer.state()._tag, "Degraded")
        }),
        end: Effect.gen(function*() {
          yield* disk === undefined ? Effect.asVoid(server.execute("drop trigger full on lull.job")) : disk.empty
          yield* soon("the return of who writes", () => writer.state()._tag === "Available")
          yield* server.execute("delete from lull.job where type = 'none'")
        }),
        reason: undefined
      })
      assert.isAtMost(writer.lines.length, 8, JSON.stringify(writer.lines, null, 1))
    })
  )
})
