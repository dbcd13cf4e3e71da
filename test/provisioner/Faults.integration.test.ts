/**
 * What other programs do to a database that is there: locks, cancels, limits of a role, broken connections. Whatever it is, each
 * job runs once, and its output and its end arrive.
 */
import { make as makePool, type PgClient } from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Layer, Redacted, Schedule, Scope } from "effect"
import { layer as reactivityLayer } from "effect/reactivity/Reactivity"
import { afterAll, beforeAll } from "vitest"
import { Executor } from "../../src/provisioner/Executor.ts"
import type { JobId } from "../../src/provisioner/Job.ts"
import { JobStore } from "../../src/provisioner/JobStore.ts"
import { Provisioner } from "../../src/provisioner/Provisioner.ts"
import * as PostgresServer from "../support/PostgresServer.ts"

describe("with a database that others use, too", () => {
  const scope = Effect.runSync(Scope.make())
  let server: PostgresServer.PostgresServer
  beforeAll(async () => {
    server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const session = Effect.suspend(() => makePool({ url: Redacted.make(server.url), maxConnections: 1 })).pipe(
    Effect.provide(reactivityLayer)
  )

  /** Does something in a transaction, and stays in it. */
  const holding = (sql: string, forMillis: number) =>
    Effect.gen(function*() {
      const client: PgClient = yield* session
      const begun = yield* Deferred.make<void>()
      yield* Effect.forkScoped(client.withTransaction(
        client.unsafe(sql).pipe(
          Effect.andThen(Deferred.succeed(begun, undefined)),
          Effect.andThen(Effect.sleep(forMillis))
        )
      ))
      yield* Deferred.await(begun)
      yield* Effect.sleep(forMillis)
    })

  const steadily = (sql: string, every: number, forMillis: number) =>
    Effect.gen(function*() {
      const client: PgClient = yield* session
      yield* Effect.ignore(Effect.timeout(
        Effect.repeat(Effect.ignore(client.unsafe(sql)), Schedule.spaced(every)),
        forMillis
      ))
    })

  const backends = "pid <> pg_backend_pid() and application_name = 'lull'"
  const faults: ReadonlyArray<
    readonly [what: string, fault: (ids: ReadonlyArray<JobId>) => Effect.Effect<unknown, unknown, Scope.Scope>]
  > = [
    [
      "a lock on the table of jobs for seven seconds",
      () => holding("lock table lull.job in access exclusive mode", 7_000)
    ],
    ["a lock that lets readers pass", () => holding("lock table lull.job in share mode", 7_000)],
    ["a lock on the table of output", () => holding("lock table lull.job_output in access exclusive mode", 7_000)],
    [
      "locks on the rows of some jobs",
      (ids) =>
        holding(
          `select id from lull.job where id in (${ids.slice(0, 7).map((id) => `'${id}'`).join()}) for update`,
          8_000
        )
    ],
    [
      "somebody who cancels whatever runs",
      () =>
        steadily(`select pg_cancel_backend(pid) from pg_stat_activity where ${backends} and state = 'active'`, 5, 4_000)
    ],
    [
      "somebody who ends connections",
      () =>
        steadily(
          `select pg_terminate_backend(pid) from pg_stat_activity where ${backends} order by random() limit 1`,
          200,
          4_000
        )
    ]
  ]

  for (const [what, fault] of faults) {
    it.live(
      `runs each job once, and keeps what it said and how it ended, through ${what}`,
      () =>
        Effect.gen(function*() {
          const starts: Array<string> = []
          const Live = Provisioner.layerPostgres({
            url: Redacted.make(server.url),
            worker: { slots: 12, heartbeatEvery: "1 second", lease: "10 seconds" },
            reaper: { every: "2 seconds" }
          }).pipe(Layer.provide(Executor.layerHandlers({
            talk: (job, output) =>
              Effect.gen(function*() {
                starts.push(job.job)
                for (let line = 0; line < 12; line++) {
                  yield* output.write("stdout", [`line ${line}`])
                  yield* Effect.sleep(100)
                }
                return { number: job.input }
              })
          })))
          const services = yield* Layer.build(Layer.fresh(Live))
          const provisioner = Context.get(services, Provisioner)
          const store = Context.get(services, JobStore)
          const submitted = yield* provisioner.submitAll(
            Array.from({ length: 36 }, (_, number) => ({ type: "talk", input: number }))
          ).pipe(Effect.retry(Schedule.spaced("100 millis")))
          const ids = submitted.map(({ id }) => id)
          yield* Effect.sleep("600 millis")
          yield* fault(ids)
          for (const [number, id] of ids.entries()) {
            const ended = yield* provisioner.awaitEnd(id).pipe(Effect.retry(Schedule.spaced("100 millis")))
            assert.deepStrictEqual(
              [ended.status, ended.result, ended.attempt],
              ["succeeded", { number }, 1],
              ended.error
            )
            const lines = yield* store.readOutput(id, { limit: 100 })
            assert.deepStrictEqual(
              lines.map(({ text }) => text),
              Array.from({ length: 12 }, (_, line) => `line ${line}`)
            )
          }
          assert.deepStrictEqual(starts.toSorted(), ids.toSorted())
        }).pipe(Effect.scoped),
      90_000
    )
  }
})
