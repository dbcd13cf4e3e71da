/** A session that does something in a transaction, and stays in it: what other programs do to a database. */
import { make as makePool } from "@effect/sql-pg/PgClient"
import { Deferred, Effect, Exit, Redacted, Scope } from "effect"
import { layer as reactivityLayer } from "effect/reactivity/Reactivity"
import type { PostgresServer } from "../../test/support/PostgresServer.ts"

/** A session of another program, which stays open. */
const open = (server: PostgresServer) =>
  makePool({ url: Redacted.make(server.url), maxConnections: 1, applicationName: "holder" }).pipe(
    Effect.provide(reactivityLayer)
  )

/** One that has its connection, and runs what it is given. */
export const session = Effect.fnUntraced(function*(server: PostgresServer) {
  const client = yield* open(server)
  yield* client`select 1`
  return (sql: string) => client.unsafe(sql)
})

/** Begins it; answers with its end. */
export const hold = Effect.fnUntraced(function*(server: PostgresServer, sql: string) {
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
  const released = yield* Deferred.make<void>()
  const begun = yield* Deferred.make<void, unknown>()
  const client = yield* Scope.provide(open(server), scope)
  const held = client.withTransaction(
    client.unsafe(sql).pipe(
      Effect.andThen(Deferred.succeed(begun, undefined)),
      Effect.andThen(Deferred.await(released))
    )
  )
  yield* Effect.forkIn(Effect.tapCause(held, (cause) => Deferred.failCause(begun, cause)), scope)
  yield* Deferred.await(begun)
  return Effect.andThen(Deferred.succeed(released, undefined), Scope.close(scope, Exit.void))
})
