/** What can be done to the database, each on a server of its own. */
import { Clock, Effect, type Scope } from "effect"
import * as PostgresServer from "../../test/support/PostgresServer.ts"
import * as TcpRelay from "../../test/support/TcpRelay.ts"

export const kinds = ["stop", "kill", "hang", "restarts", "readonly", "switchover"] as const
export type Kind = typeof kinds[number]

export interface Stage {
  /** Where the measured processes connect. */
  readonly port: number
  readonly url: string
  /** The outage, from its beginning to the moment at which the database takes writes again. */
  readonly outage: (seconds: number) => Effect.Effect<{ readonly from: number; readonly to: number }, unknown>
  /** The server that has the data in the end. */
  readonly last: () => PostgresServer.PostgresServer
}

export const stage = (kind: Kind): Effect.Effect<Stage, unknown, Scope.Scope> =>
  kind === "switchover" ? switchover : Effect.map(PostgresServer.make({ fsync: true }), (server) => ({
    port: server.port,
    url: server.url,
    last: () => server,
    outage: (seconds: number) =>
      Effect.gen(function*() {
        yield* scratch(server)
        const from = yield* Clock.currentTimeMillis
        switch (kind) {
          case "stop":
            yield* server.stop("immediate")
            yield* Effect.sleep(`${seconds} seconds`)
            yield* server.startNoWait
            break
          case "kill":
            yield* server.kill
            yield* Effect.sleep(`${seconds} seconds`)
            yield* server.startNoWait
            break
          case "hang":
            yield* server.hang
            yield* Effect.sleep(`${seconds} seconds`)
            yield* server.resume
            break
          case "readonly":
            yield* server.readOnly(true)
            yield* Effect.sleep(`${seconds} seconds`)
            yield* server.readOnly(false)
            break
          case "restarts":
            // Ten, one after another, whatever `--seconds` says: a server in a crash loop, or under an operator's hands.
            for (let restart = 0; restart < 10; restart++) {
              yield* server.stop("fast")
              yield* Effect.sleep("300 millis")
              yield* server.start
              yield* Effect.sleep("1 second")
            }
            break
        }
        return { from, to: yield* writable(server) }
      })
  }))

/** The old primary lives on, read-only, with our connections open; then new connections reach the promoted standby. */
const switchover = Effect.gen(function*() {
  const primary = yield* PostgresServer.make({ fsync: true, configuration: { wal_level: "replica" } })
  const standby = yield* primary.makeStandby
  const relay = yield* TcpRelay.make({ target: primary.port })
  return {
    port: relay.port,
    url: `postgres://postgres@127.0.0.1:${relay.port}/postgres`,
    last: () => standby,
    outage: (seconds: number) =>
      Effect.gen(function*() {
        yield* scratch(primary)
        const from = yield* Clock.currentTimeMillis
        yield* primary.readOnly(true)
        yield* Effect.sleep(`${seconds} seconds`)
        // Whatever was committed has to have arrived before the standby takes over.
        yield* Effect.repeat(
          Effect.all([
            primary.execute("select pg_current_wal_lsn()::text as at"),
            standby.execute("select pg_last_wal_replay_lsn()::text as at")
          ]),
          { until: ([[sent], [replayed]]) => sent?.["at"] === replayed?.["at"] }
        )
        yield* relay.setTarget(standby.port)
        yield* standby.promote
        return { from, to: yield* writable(standby) }
      })
  }
})

const scratch = (server: PostgresServer.PostgresServer) =>
  server.execute("create table if not exists storm_scratch (at timestamptz)")

/** The first moment at which a write of ours is taken. */
const writable = (server: PostgresServer.PostgresServer) =>
  Effect.andThen(
    Effect.eventually(
      Effect.andThen(Effect.sleep("10 millis"), server.execute("insert into storm_scratch values (now())"))
    ),
    Clock.currentTimeMillis
  )
