/**
 * The way to a real PostgreSQL: a pool for the work, and one connection of its own for the heartbeat, so that slow work
 * never looks like an outage.
 *
 * A pool never leaves an old primary that went read-only: its connections keep answering. So each pool belongs to the
 * one server that a probe found to take writes, its connections live five minutes at most, and after each outage, and
 * after each doubt, there is a new one. The old one's sockets are destroyed, its scope is closed in the background.
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import { Cause, Clock, Context, Duration, Effect, Exit, Layer, type Redacted } from "effect"
import { layer as reactivityLayer } from "effect/reactivity/Reactivity"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import { connectWithin, type Host, type Hosts, resolve } from "./ConnectionOptions.ts"
import { close, connectionLifetime, type Connections, make as makeConnections } from "./Connections.ts"
import { InvalidDatabaseUrl } from "./ConnectionUrl.ts"
import { within } from "./Deadline.ts"
import { Link, openTransaction, type ServerIdentity } from "./Link.ts"
import { Listener } from "./Listener.ts"
import * as Migrations from "./Migrations.ts"
import { Replica } from "./Replica.ts"
import { classify, type Reason } from "./Unavailable.ts"

export interface Options {
  readonly url: Redacted.Redacted<string>
  /** For `LISTEN`, where `url` is that of a pooler which does not pass it on. Default: `url`. */
  readonly listenUrl?: Redacted.Redacted<string> | undefined
  /** Connections of the pool. Default 10. */
  readonly maxConnections?: number | undefined
  /** Prepared statements; `false` behind a pooler in transaction mode. Default true. */
  readonly prepare?: boolean | undefined
  /** A statement that takes longer fails. Default 5 seconds. */
  readonly deadline?: Duration.Input | undefined
  /** A heartbeat that takes longer, to one host, means that the database is hung. Default 3 seconds. */
  readonly probeDeadline?: Duration.Input | undefined
}

export const defaultDeadline = Duration.seconds(5)
const defaultProbeDeadline = Duration.seconds(3)

/** Of a pool to a server that comes and goes. */
const carefulConnections = 2

/** Migrations may rewrite tables. */
const migrationDeadline = Duration.minutes(1)

/** The same, for somebody who asked for it and waits. */
const commandDeadline = Duration.hours(1)

interface Heartbeat extends Connections {
  readonly host: Host
  readonly openedAt: number
  readonly identity: ServerIdentity | undefined
}

export const make = Effect.fnUntraced(function*(options: Options, hosts: Hosts, listenHosts: Hosts | undefined) {
  const replica = yield* Replica
  const deadline = Duration.fromInputUnsafe(options.deadline ?? defaultDeadline)
  const probeDeadline = Duration.fromInputUnsafe(options.probeDeadline ?? defaultProbeDeadline)
  const { inspect, pool: openHostPool, single: openSingle } = yield* makeConnections({
    prepare: options.prepare ?? true
  })

  const openPool = (host: Host, carefully: boolean) => {
    const maxConnections = options.maxConnections ?? 10
    return openHostPool(host, deadline, carefully ? Math.min(carefulConnections, maxConnections) : maxConnections)
  }

  const beat = (client: PgClient) =>
    client`insert into lull.replica (id, name) values (${replica.id}, ${replica.name})
      on conflict (id) do update set beat_at = now()`

  /** Each start of a process leaves a row; whoever was not heard of for a day is no replica any more. */
  const forgetReplicas = (client: PgClient) => client`delete from lull.replica where beat_at < now() - interval '1 day'`

  const schema = Migrations.make()

  /** A connection of its own for what changes tables, as it may take longer. */
  const connectionsOfSchema = (host: Host, client: PgClient, migrateWithin: Duration.Duration) => ({
    client,
    open: Effect.map(
      Effect.acquireRelease(
        openSingle(host, migrateWithin),
        (connections) => close(connections, new Error("the schema has been looked at"))
      ),
      (connections) => connections.client
    ),
    askWithin: probeDeadline,
    migrateWithin
  })

  let heartbeat: Heartbeat | undefined
  let pool: Connections | undefined
  let target: Host = hosts[0]

  const dropHeartbeat = (cause: Error) =>
    Effect.suspend(() => {
      const dropped = heartbeat
      heartbeat = undefined
      return dropped === undefined ? Effect.void : close(dropped, cause)
    })

  const dropPool = (cause: Error) =>
    Effect.suspend(() => {
      const dropped = pool
      pool = undefined
      return dropped === undefined ? Effect.void : close(dropped, cause)
    })

  /** The old pool gets no new work, and may end what it has begun. */
  const retirePool = Effect.suspend(() => {
    const retired = pool
    pool = undefined
    if (retired === undefined) return Effect.void
    const cause = new Error("the connections have been renewed")
    return Effect.sleep(deadline).pipe(Effect.andThen(close(retired, cause)), Effect.forkDetach, Effect.asVoid)
  })

  /** A heartbeat over a new connection, which is kept if it was written. */
  const probeHost = Effect.fnUntraced(function*(host: Host) {
    const connections = yield* within(openSingle(host, probeDeadline), connectWithin(host, probeDeadline))
    return yield* Effect.gen(function*() {
      yield* within(inspect(connections.client, host), probeDeadline)
      const identity = yield* within(readIdentity(connections.client), probeDeadline)
      yield* schema.ensure(connectionsOfSchema(host, connections.client, migrationDeadline))
      yield* within(beat(connections.client), probeDeadline)
      yield* within(forgetReplicas(connections.client), probeDeadline)
      return { ...connections, host, identity, openedAt: yield* Clock.currentTimeMillis }
    }).pipe(Effect.onError(() => close(connections, new Error("the probe failed"))))
  })

  /** Each host in turn, beginning with the one that was good last. */
  const probeHosts = Effect.gen(function*() {
    yield* dropHeartbeat(new Error("a new heartbeat connection is being opened"))
    let failure: { readonly cause: Cause.Cause<unknown>; readonly rank: number } | undefined
    for (const host of [target, ...hosts.filter((other) => other !== target)]) {
      const exit = yield* Effect.exit(probeHost(host))
      if (Exit.isSuccess(exit)) {
        heartbeat = exit.value
        target = host
        return exit.value.identity
      }
      if (Cause.hasInterrupts(exit.cause)) return yield* Effect.failCause(exit.cause)
      const rank = tellingRank(Cause.squash(exit.cause))
      if (failure === undefined || rank < failure.rank) failure = { cause: exit.cause, rank }
    }
    return yield* failure === undefined ? Effect.die("a URL has at least one host") : Effect.failCause(failure.cause)
  })

  const probe = (fresh: boolean) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const kept = heartbeat
      if (fresh || kept === undefined || now - kept.openedAt > Duration.toMillis(connectionLifetime)) return probeHosts
      return Effect.as(
        within(Effect.andThen(schema.check(kept.client), beat(kept.client)), probeDeadline),
        kept.identity
      )
    })

  yield* Effect.addFinalizer(() => {
    const cause = new Error("the service is closing")
    return Effect.andThen(dropHeartbeat(cause), dropPool(cause))
  })

  /** To the server that takes writes; or, with addresses of its own, to the first of them that can be reached. */
  const listen = Effect.fnUntraced(function*(channel: string) {
    const [first, ...others] = listenHosts ?? [target]
    const attempt = (host: Host) =>
      Effect.flatMap(
        Effect.acquireRelease(
          openSingle(host, probeDeadline),
          (connections) => close(connections, new Error("the listener is closing"))
        ),
        ({ client }) => client.listen(channel)
      )
    return yield* others.reduce((tried, host) => Effect.catch(tried, () => attempt(host)), attempt(first))
  })

  const link = Link.of({
    probe,
    run: <A, E, R>(_: unknown, work: Effect.Effect<A, E, R>) =>
      Effect.flatMap(openTransaction, (transaction): Effect.Effect<A, E | SqlError, Exclude<R, PgClient>> => {
        const client = transaction ?? pool?.client
        return client === undefined ? Effect.fail(notConnected) : Effect.provideService(work, PgClient, client)
      }),
    renew: (carefully) =>
      Effect.andThen(
        retirePool,
        // Fails only for a URL that no probe would have got through with.
        Effect.orDie(Effect.map(Effect.suspend(() => openPool(target, carefully)), (opened) => {
          pool = opened
        }))
      ),
    sever: (cause) => Effect.andThen(dropPool(cause), dropHeartbeat(cause))
  })
  const migrator = Migrations.migrateHosts(hosts, (host) =>
    Effect.map(
      Effect.acquireRelease(
        within(openSingle(host, probeDeadline), probeDeadline),
        (connections) => close(connections, new Error("the schema has been looked at"))
      ),
      ({ client }) => connectionsOfSchema(host, client, commandDeadline)
    ))
  return Context.make(Link, link).pipe(
    Context.add(Listener, Listener.of({ listen })),
    Context.add(Migrations.Migrator, migrator)
  )
})

export const layer = (
  options: Options
): Layer.Layer<Link | Listener | Migrations.Migrator, InvalidDatabaseUrl, Replica> =>
  Layer.effectContext(Effect.gen(function*() {
    const hosts = yield* resolve(options.url)
    const listenHosts = options.listenUrl === undefined ? undefined : yield* Effect.mapError(
      resolve(options.listenUrl),
      ({ problem }) => new InvalidDatabaseUrl({ problem: `in that for LISTEN, ${problem}` })
    )
    return yield* make(options, hosts, listenHosts)
  })).pipe(Layer.provide(reactivityLayer))

/** Managed services may not let everybody ask for these; then a change of server goes unnoticed, and nothing else. */
const readIdentity = (client: PgClient) =>
  client<{ readonly id: string; readonly timeline: string }>`select system_identifier::text as id,
      case when pg_is_in_recovery() then '0' else left(pg_walfile_name(pg_current_wal_lsn()), 8) end as timeline
    from pg_control_system()`.pipe(
    Effect.map((rows): ServerIdentity | undefined => {
      const row = rows[0]
      return row && { systemIdentifier: row.id, timeline: Number.parseInt(row.timeline, 16) }
    }),
    Effect.catchIf((error) => classify(error) === undefined, () => Effect.undefined)
  )

/**
 * Of several hosts' answers the one that tells the operator most: a standby that says "read-only" tells more than a dead
 * primary that says nothing.
 */
const tellingOrder: ReadonlyArray<Reason> = [
  "ReadOnly",
  "Full",
  "Refusing",
  "SchemaMissing",
  "Misconfigured",
  "Hung",
  "Unreachable"
]

const tellingRank = (error: unknown): number => {
  const reason = classify(error)?.reason
  return reason === undefined ? -1 : tellingOrder.indexOf(reason)
}

const notConnected = new SqlError({
  reason: new ConnectionError({ cause: new Error("no connection has been made yet"), operation: "acquire" })
})
