/**
 * The way to a real PostgreSQL: a pool for the work, and one connection of its own for the heartbeat, so that slow work
 * never looks like an outage.
 *
 * A pool never leaves an old primary that went read-only: its connections keep answering. So each pool belongs to the
 * one server that a probe found to take writes, its connections live five minutes at most, and after each outage, and
 * after each doubt, there is a new one. The old one's sockets are destroyed, its scope is closed in the background.
 */
import { make as makePool, makeClient, PgClient } from "@effect/sql-pg/PgClient"
import { Cause, Clock, Context, Duration, Effect, Exit, Layer, Redacted, Scope } from "effect"
import { layer as reactivityLayer, Reactivity } from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql/SqlClient"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import { type Host, type Hosts, type InvalidDatabaseUrl, parse } from "./ConnectionUrl.ts"
import { type Connector, make as makeConnector } from "./Connector.ts"
import { within } from "./Deadline.ts"
import { heartbeatSql, takeSpaceSql } from "./HeartbeatSql.ts"
import { Link, openTransaction, type ServerIdentity, type Work } from "./Link.ts"
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

/** No connection outlives this: whatever a pooler or a name in front of the server changes is followed by then. */
const connectionLifetime = Duration.minutes(5)

/** Of a pool to a server that comes and goes. */
const carefulConnections = 2

/** To take a connection of the pool, or space on the disk: the heartbeat waits for it. */
const reachWithin = Duration.seconds(1)

/** Migrations may rewrite tables, and wait for those of another replica. */
const migrationDeadline = Duration.minutes(1)

interface Connections {
  readonly client: PgClient
  readonly connector: Connector
  readonly scope: Scope.Closeable
}

interface Heartbeat extends Connections {
  readonly host: Host
  readonly openedAt: number
  readonly identity: ServerIdentity | undefined
}

export const make = Effect.fnUntraced(function*(options: Options, hosts: Hosts, listenHosts: Hosts | undefined) {
  const replica = yield* Replica
  const reactivity = yield* Reactivity
  const deadline = Duration.fromInputUnsafe(options.deadline ?? defaultDeadline)
  const probeDeadline = Duration.fromInputUnsafe(options.probeDeadline ?? defaultProbeDeadline)
  const prepare = options.prepare ?? true

  const configuration = (host: Host, connector: Connector, within: Duration.Duration) => ({
    url: Redacted.make(host.url),
    stream: connector.stream,
    prepare,
    connectTimeout: within,
    applicationName: "lull",
    // A pooler in transaction mode refuses parameters that it does not know, and cannot prepare either.
    ...(prepare ? { startupParameters: { ...serverTimeouts(within), ...planning } } : {})
  })

  const close = (connections: Connections, cause: Error) =>
    Effect.sync(() => connections.connector.refuse(cause)).pipe(
      Effect.andThen(Effect.forkDetach(Scope.close(connections.scope, Exit.void), { startImmediately: true })),
      Effect.asVoid
    )

  const openSingle = Effect.fnUntraced(function*(host: Host, answerWithin: Duration.Duration) {
    const scope = yield* Scope.make()
    const connector = makeConnector({ host: host.host, port: host.port, answerWithin: Duration.toMillis(answerWithin) })
    const client = yield* makeClient(configuration(host, connector, answerWithin)).pipe(
      Effect.provideService(Reactivity, reactivity),
      Scope.provide(scope),
      Effect.onError(() => Effect.forkDetach(Scope.close(scope, Exit.void)))
    )
    return { client, connector, scope }
  })

  const openPool = Effect.fnUntraced(function*(host: Host, carefully: boolean) {
    const maxConnections = options.maxConnections ?? 10
    const scope = yield* Scope.make()
    const connector = makeConnector({
      host: host.host,
      port: host.port,
      answerWithin: shares.socket * Duration.toMillis(deadline)
    })
    const client = yield* makePool({
      ...configuration(host, connector, deadline),
      maxConnections: carefully ? Math.min(carefulConnections, maxConnections) : maxConnections,
      connectionTTL: connectionLifetime
    }).pipe(Effect.provideService(Reactivity, reactivity), Scope.provide(scope))
    return { client, connector, scope }
  })

  const beatText = heartbeatSql(replica)
  const beat = (client: PgClient) => client.unsafe(beatText)

  /** Each start of a process leaves a row; whoever was not heard of for a day is no replica any more. */
  const forgetReplicas = (client: PgClient) => client`delete from lull.replica where beat_at < now() - interval '1 day'`

  const migrate = Effect.fnUntraced(function*(host: Host) {
    const connections = yield* openSingle(host, migrationDeadline)
    yield* Migrations.run.pipe(
      Effect.provideService(PgClient, connections.client),
      Effect.provideService(SqlClient, connections.client),
      Effect.ensuring(close(connections, new Error("migrated")))
    )
  })

  let heartbeat: Heartbeat | undefined
  let pool: Connections | undefined
  /** The server whose schema is known to be up to date. */
  let migrated: string | undefined
  let target: Host = hosts[0]

  /** All clients of pools that there were: a transaction may outlive the pool. */
  const clients = new WeakSet<PgClient>()
  /** One of another link is another database's. */
  const ownTransaction = Effect.map(
    openTransaction,
    (client) => client !== undefined && clients.has(client) ? client : undefined
  )

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
    const connections = yield* within(openSingle(host, probeDeadline), probeDeadline)
    return yield* Effect.gen(function*() {
      const identity = yield* within(readIdentity(connections.client), probeDeadline)
      const server = identity?.systemIdentifier ?? host.url
      const write = within(beat(connections.client), probeDeadline)
      const setUp = Effect.andThen(within(migrate(host), migrationDeadline), write)
      yield* migrated === server ? Effect.catchIf(write, isSchemaMissing, () => setUp) : setUp
      migrated = server
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
      return Effect.as(within(beat(kept.client), probeDeadline), kept.identity)
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
    run: <A, E, R>(what: Work, work: Effect.Effect<A, E, R>) =>
      Effect.flatMap(ownTransaction, (inside): Effect.Effect<A, E | SqlError, Exclude<R, PgClient>> => {
        const client = inside ?? (what.lane === "heartbeat" ? heartbeat : pool)?.client
        return client === undefined ? Effect.fail(notConnected) : Effect.provideService(work, PgClient, client)
      }),
    inTransaction: Effect.map(ownTransaction, (inside) => inside !== undefined),
    reach: within(
      Effect.suspend(() => pool === undefined ? Effect.fail(notConnected) : pool.client`select 1`),
      reachWithin
    ),
    takeSpace: within(
      Effect.suspend(() => heartbeat === undefined ? Effect.fail(notConnected) : heartbeat.client.unsafe(takeSpaceSql)),
      reachWithin
    ),
    renew: (carefully) =>
      Effect.andThen(
        retirePool,
        // Fails only for a URL that no probe would have got through with.
        Effect.orDie(Effect.map(Effect.suspend(() => openPool(target, carefully)), (opened) => {
          pool = opened
          clients.add(opened.client)
        }))
      ),
    sever: (cause) => Effect.andThen(dropPool(cause), dropHeartbeat(cause))
  })
  return Context.make(Link, link).pipe(Context.add(Listener, Listener.of({ listen })))
})

export const layer = (options: Options): Layer.Layer<Link | Listener, InvalidDatabaseUrl, Replica> =>
  Layer.effectContext(Effect.gen(function*() {
    const hosts = yield* Effect.fromResult(parse(Redacted.value(options.url)))
    const listenHosts = options.listenUrl === undefined
      ? undefined
      : yield* Effect.fromResult(parse(Redacted.value(options.listenUrl)))
    return yield* make(options, hosts, listenHosts)
  })).pipe(Layer.provide(reactivityLayer))

/**
 * A prepared statement keeps a plan that was made when the tables were empty, and then reads all of them, each time, until
 * they are analyzed: sixty thousand jobs later an acquire took 300 milliseconds. All that Lull looks for has an index.
 * Without `jit`, as servers before 18 take the price of a scan that cannot be avoided for a reason to compile it.
 */
const planning = { enable_seqscan: "off", jit: "off" }

/**
 * The server answers first, then the socket ends, and then the door: a lock that is waited for, a statement that takes too long
 * and a server that does not answer are three things, and no two of these race.
 */
const shares = { lock: 0.4, statement: 0.8, socket: 0.9 } as const

const serverTimeouts = (deadline: Duration.Duration) => ({
  lock_timeout: `${Math.round(shares.lock * Duration.toMillis(deadline))}ms`,
  statement_timeout: `${Math.round(shares.statement * Duration.toMillis(deadline))}ms`,
  idle_in_transaction_session_timeout: `${2 * Duration.toMillis(deadline)}ms`
})

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

const isSchemaMissing = (error: unknown) => classify(error)?.reason === "SchemaMissing"

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
