/**
 * The way to a real PostgreSQL: a pool for the work (`PoolGate`), and one connection of its own for the heartbeat, so that slow
 * work never looks like an outage. All of them are opened by one `Dialer`.
 *
 * A pool never leaves an old primary that went read-only: its connections keep answering. So each connection belongs to the one
 * server that a probe found to take writes, lives five minutes at most, and is not used again after an outage, or when the
 * heartbeat had to be renewed or a server stayed silent: evidence that connections lead to a wrong or a dead place. That one of
 * them breaks is none.
 */
import { makeClient, PgClient } from "@effect/sql-pg/PgClient"
import { make as makeConnection } from "@effect/sql-pg/PgConnection"
import { Cause, Clock, Context, Duration, Effect, Exit, Layer, Redacted, Scope } from "effect"
import { layer as reactivityLayer, Reactivity } from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql/SqlClient"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { type Host, type Hosts, type InvalidDatabaseUrl, parse } from "./ConnectionUrl.ts"
import { type Connector, make as makeConnector } from "./Connector.ts"
import { NoAnswer, Severed, within } from "./Deadline.ts"
import { type Kind, make as makeDialer } from "./Dialer.ts"
import { Link, type ServerIdentity, type Work } from "./Link.ts"
import { Listener } from "./Listener.ts"
import * as Migrations from "./Migrations.ts"
import * as PoolGate from "./PoolGate.ts"
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

/** Logins at a time to a server that is well. */
const loginsAtOnce = 4

/** What the caller's deadline is given to end the work that it gave up, before its connection is ended under it. */
const afterDeadline = Duration.seconds(1)

/** The bound of a TCP connection: so many times what the last one took, and no less than this, for a slow machine. */
const connectTimes = 4
const connectAtLeast = 850

/** A listener is asked for a sign of life this often, and has so long to give it. */
const listenerEvery = Duration.seconds(5)
const listenerWithin = Duration.seconds(3)

/** Migrations may rewrite tables, and wait for those of another replica. */
const migrationDeadline = Duration.minutes(1)

interface Connections {
  readonly client: PgClient
  readonly connector: Connector
  readonly scope: Scope.Closeable
}

/** The connection that work has been lent, as nested work finds it. */
class Lent extends Context.Service<Lent, {
  readonly client: PgClient
  isOver: boolean
}>()("lull/database/PostgresLink/Lent") {}

interface Heartbeat extends Connections {
  readonly host: Host
  readonly openedAt: number
  readonly identity: ServerIdentity | undefined
}

export const make = Effect.fnUntraced(function*(options: Options, hosts: Hosts, listenHosts: Hosts | undefined) {
  const replica = yield* Replica
  const reactivity = yield* Reactivity
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  const maxConnections = options.maxConnections ?? 10
  const deadline = Duration.fromInputUnsafe(options.deadline ?? defaultDeadline)
  const probeDeadline = Duration.fromInputUnsafe(options.probeDeadline ?? defaultProbeDeadline)
  const prepare = options.prepare ?? true

  const configuration = (
    host: Host,
    connector: Connector,
    within: Duration.Duration,
    lockWithin = Duration.times(within, 0.4)
  ) => ({
    url: Redacted.make(host.url),
    stream: connector.stream,
    prepare,
    // The driver's error says more than that of who waits for it, so it comes first.
    connectTimeout: Duration.times(Duration.min(within, probeDeadline), 0.9),
    applicationName: "lull",
    // A pooler in transaction mode refuses parameters that it does not know, and cannot prepare either.
    ...(prepare ? { startupParameters: { ...serverTimeouts(within, lockWithin), ...keepalive, ...planning } } : {})
  })

  /** A row that somebody has locked is reported as locked, and not as a server that does not answer. */
  const heartbeatLockWithin = Duration.min(Duration.seconds(1), Duration.times(probeDeadline, 0.4))

  const dialer = yield* makeDialer
  const serverOf = (host: Host) => `${host.host}:${host.port}`
  /** How long the last TCP connection to each server took. */
  const connectTook = new Map<string, number>()
  const connectWithin = (server: string) => {
    const took = connectTook.get(server)
    const most = Duration.toMillis(probeDeadline)
    return took === undefined ? most : Math.min(most, Math.max(connectAtLeast, connectTimes * took))
  }

  /** At once, with this error for who works with it. */
  const close = (connections: Pick<Connections, "connector" | "scope">, cause: Error) =>
    Effect.sync(() => connections.connector.end(cause)).pipe(
      Effect.andThen(Effect.forkDetach(Scope.close(connections.scope, Exit.void), { startImmediately: true })),
      Effect.asVoid
    )

  /** Says goodbye to the server first. */
  const closePolitely = (connections: Connections) =>
    Effect.sync(() => connections.connector.letGo()).pipe(
      Effect.andThen(Scope.close(connections.scope, Exit.void)),
      Effect.andThen(Effect.sleep("1 second")),
      Effect.andThen(Effect.sync(() => connections.connector.end(new Error("the server did not take its leave"))))
    )

  /** A connection in its turn, made by `open` with the driver's configuration. */
  const openWith = Effect.fnUntraced(function*<A>(
    host: Host,
    kind: Kind,
    answerWithin: Duration.Duration,
    open: (
      configuration_: ReturnType<typeof configuration>
    ) => Effect.Effect<A, SqlError, Scope.Scope | Reactivity>
  ) {
    const server = serverOf(host)
    return yield* dialer.dial({ server, kind }, (connected) =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const connector = makeConnector({
          host: host.host,
          port: host.port,
          answerWithin: 0.9 * Duration.toMillis(answerWithin),
          connectWithin: connectWithin(server),
          onConnected: (millis) => {
            connectTook.set(server, millis)
            connected()
          },
          onSilent: distrust,
          enterCancel: (begin) => dialer.enter({ server, kind: "cancel" }, begin)
        })
        const lockWithin = kind === "probe" && answerWithin === probeDeadline ? heartbeatLockWithin : undefined
        const opened = yield* open(configuration(host, connector, answerWithin, lockWithin)).pipe(
          Effect.provideService(Reactivity, reactivity),
          Scope.provide(scope),
          Effect.onError(() => close({ connector, scope }, new Error("the connection could not be made")))
        )
        const openedAt = yield* monotonicMillis
        connector.onClosed((error) => {
          if (error === undefined) return
          runFork(Effect.flatMap(monotonicMillis, (at) => dialer.broke(server, at - openedAt, brokenWith(error))))
        })
        return { opened, connector, scope }
      }))
  })

  const openSingle = (host: Host, answerWithin: Duration.Duration, kind: Kind = "probe") =>
    Effect.map(
      openWith(host, kind, answerWithin, (configured) => makeClient({ ...configured, acquireForStream: true })),
      ({ connector, opened, scope }): Connections => ({ client: opened, connector, scope })
    )

  const beat = (client: PgClient) =>
    client`insert into lull.replica (id, name) values (${replica.id}, ${replica.name})
      on conflict (id) do update set beat_at = now()`

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
  let isPoolOpen = false
  let isCareful = false
  /** The server whose schema is known to be up to date. */
  let migrated: string | undefined
  let target: Host = hosts[0]

  const dropHeartbeat = (cause: Error) =>
    Effect.suspend(() => {
      const dropped = heartbeat
      heartbeat = undefined
      return dropped === undefined ? Effect.void : close(dropped, cause)
    })

  const nextKind = (): Kind => pool.stats().open === 0 ? "first" : "work"

  const pool: PoolGate.PoolGate<Connections, SqlError> = yield* PoolGate.make<Connections, SqlError>({
    open: Effect.suspend(() => openSingle(target, deadline, nextKind())),
    close: (connections, error) => {
      runFork(error === undefined ? closePolitely(connections) : close(connections, error))
    },
    isSound: ({ connector }) => connector.isSound(),
    onClosed: ({ connector }, closed) => connector.onClosed(closed),
    most: () => isCareful ? Math.min(carefulConnections, maxConnections) : maxConnections,
    retryAfter: () => dialer.retryAfter({ server: serverOf(target), kind: nextKind() }),
    atOnce: () => dialer.isTroubled(serverOf(target)) ? 1 : loginsAtOnce,
    lendFor: Duration.sum(deadline, afterDeadline),
    lifetime: connectionLifetime
  })

  /** A server that stayed silent on one connection is not asked over the others that were made with it. */
  const distrust = () => pool.renew()

  const dropPool = (cause: Error) =>
    Effect.sync(() => {
      isPoolOpen = false
      pool.sever(cause, Cause.fail(brokenWith(cause)))
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
    // Where the server lets us have two connections and no third, they are for the heartbeat and the work.
    if (isPoolOpen) yield* pool.use(() => Effect.void)
    const [first, ...others] = listenHosts ?? [target]
    const attempt = (host: Host) =>
      Effect.acquireRelease(
        openWith(host, "listener", listenerWithin, makeConnection),
        (connections) => close(connections, new Error("the listener is closing"))
      )
    const { connector, opened } = yield* others.reduce(
      (tried, host) => Effect.catch(tried, () => attempt(host)),
      attempt(first)
    )
    const pinned = yield* opened.pin
    const queue = yield* pinned.listen(channel)
    const endWith = (error: unknown) =>
      Effect.sync(() => connector.end(error instanceof Error ? error : new Error(String(error))))
    // Before it is asked to `UNLISTEN`, which a server that is gone would not answer.
    yield* Effect.addFinalizer(() => endWith("the listener is closing"))
    yield* within(pinned.query("select 1"), listenerWithin).pipe(
      Effect.delay(listenerEvery),
      Effect.forever,
      Effect.catch(endWith),
      Effect.forkScoped
    )
    return queue
  })

  /** Its beats go on meanwhile: so it has half of the time of one. */
  const runVital = <A, E, R>(client: PgClient, work: Effect.Effect<A, E, R>) =>
    within(Effect.provideService(work, PgClient, client), Duration.times(probeDeadline, 0.5)).pipe(
      Effect.mapError((error) => error instanceof NoAnswer || error instanceof Severed ? brokenWith(error) : error)
    )

  const lend = <A, E, R>(work: Effect.Effect<A, E, R>) => ({ client }: Connections) => {
    const lent = { client, isOver: false }
    return work.pipe(
      Effect.provideService(PgClient, client),
      Effect.provideService(Lent, lent),
      Effect.ensuring(Effect.sync(() => {
        lent.isOver = true
      }))
    )
  }

  const run = <A, E, R>(what: Work, work: Effect.Effect<A, E, R>) =>
    Effect.withFiber((fiber): Effect.Effect<A, E | SqlError, Exclude<R, PgClient>> => {
      const outer = Context.getOrUndefined(fiber.context, Lent)
      if (outer !== undefined && !outer.isOver) {
        const again = Effect.provideService(work, PgClient, outer.client)
        // What runs in a transaction is part of it. Other nested work must not wait for a connection that its own caller holds.
        return isInTransaction(fiber.context, outer.client) ? again : pool.useIdle(lend(work), again)
      }
      if (what.lane === "heartbeat" && heartbeat !== undefined) return runVital(heartbeat.client, work)
      return isPoolOpen ? pool.use(lend(work)) : Effect.fail(notConnected)
    })

  const link = Link.of({
    probe,
    run,
    renew: (carefully) =>
      Effect.sync(() => {
        isCareful = carefully
        isPoolOpen = true
        pool.renew()
      }),
    sever: (cause) =>
      Effect.andThen(
        dialer.suspect(serverOf(target), brokenWith(cause)),
        Effect.andThen(dropPool(cause), dropHeartbeat(cause))
      )
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
 * They do not race: a lock that is waited for gives way first, then the statement, then the socket's watch (0.9 of the deadline),
 * and last who waits. So an error says what it was, and a connection is not lost because a statement was slow.
 */
const serverTimeouts = (deadline: Duration.Duration, lockWithin: Duration.Duration) => {
  const milliseconds = (duration: Duration.Duration) => `${Math.ceil(Duration.toMillis(duration))}ms`
  return {
    lock_timeout: milliseconds(lockWithin),
    statement_timeout: milliseconds(Duration.times(deadline, 0.8)),
    idle_in_transaction_session_timeout: milliseconds(Duration.times(deadline, 2))
  }
}

/** The server finds out in less than a minute that we are gone without a word, and ends what we had open. */
const keepalive = {
  tcp_keepalives_idle: "10",
  tcp_keepalives_interval: "5",
  tcp_keepalives_count: "3",
  tcp_user_timeout: "30s"
}

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

const brokenWith = (cause: Error) =>
  new SqlError({ reason: new ConnectionError({ cause, message: cause.message, operation: "acquire" }) })

const notConnected = brokenWith(new Error("no connection has been made yet"))

const isInTransaction = (context: Context.Context<never>, client: PgClient) =>
  Context.getOrUndefined(context, client.transactionService) !== undefined
