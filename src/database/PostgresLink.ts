/**
 * The way to a real PostgreSQL: a pool for the work (`PoolGate`), and one connection of its own for the heartbeat, so that slow
 * work never looks like an outage. All of them are opened by one `Dialer`.
 *
 * A pool never leaves an old primary that went read-only: its connections keep answering. So each connection belongs to the one
 * server that a probe found to take writes, lives five minutes at most, and is not used again after an outage, or when the
 * heartbeat had to be renewed or a server stayed silent: evidence that connections lead to a wrong or a dead place. That one of
 * them breaks is none.
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import { Cause, Context, Duration, Effect, Exit, Layer, type Redacted } from "effect"
import { layer as reactivityLayer } from "effect/reactivity/Reactivity"
import type { SqlError } from "effect/sql/SqlError"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { type Host, type Hosts, resolve } from "./ConnectionOptions.ts"
import {
  brokenWith,
  close,
  closePolitely,
  type Connection,
  connectionLifetime,
  make as makeConnections
} from "./Connections.ts"
import { InvalidDatabaseUrl } from "./ConnectionUrl.ts"
import { NoAnswer, Severed, within } from "./Deadline.ts"
import { type Kind, make as makeDialer } from "./Dialer.ts"
import { heartbeatSql, takeSpaceSql } from "./HeartbeatSql.ts"
import { Link, NothingOpen, openTransactionIn, type ServerIdentity, type Work } from "./Link.ts"
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

/** Of a pool to a server that comes and goes: each return costs so many logins. */
const carefulConnections = 1

/** Logins at a time to a server that is well. */
const loginsAtOnce = 4

/** What the caller's deadline is given to end the work that it gave up, before its connection is ended under it. */
const afterDeadline = Duration.seconds(1)

/** A row that somebody has locked is reported as locked, and not as a server that does not answer. */
const heartbeatLockWithin = Duration.seconds(1)

/** To take a connection of the pool, or space on the disk: the heartbeat waits for it. */
const reachWithin = Duration.seconds(1)

/** A listener is asked for a sign of life this often, and has so long to give it. */
const listenerEvery = Duration.seconds(5)
const listenerWithin = Duration.seconds(3)

/**
 * A table or a right that is missing fails the heartbeat itself. That a newer version has changed the tables is for this to
 * notice.
 */
const checkEvery = Duration.seconds(10)

/** Migrations may rewrite tables. */
const migrationDeadline = Duration.minutes(1)

/** The same, for somebody who asked for it and waits. */
const commandDeadline = Duration.hours(1)

/** The connection that work has been lent, as nested work finds it. */
class Lent extends Context.Service<Lent, {
  readonly client: PgClient
  isOver: boolean
}>()("lull/database/PostgresLink/Lent") {}

interface Heartbeat extends Connection {
  readonly host: Host
  readonly openedAt: number
  /** When the schema was last compared with what this version knows. */
  checkedAt: number
  readonly identity: ServerIdentity | undefined
}

export const make = Effect.fnUntraced(function*(options: Options, hosts: Hosts, listenHosts: Hosts | undefined) {
  const replica = yield* Replica
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  const deadline = Duration.fromInputUnsafe(options.deadline ?? defaultDeadline)
  const probeDeadline = Duration.fromInputUnsafe(options.probeDeadline ?? defaultProbeDeadline)
  const maxConnections = options.maxConnections ?? 10
  const dialer = yield* makeDialer
  const { inspect, raw, single } = yield* makeConnections({
    prepare: options.prepare ?? true,
    dialer,
    connectAtMost: probeDeadline,
    // A server that stayed silent on one connection is not asked over the others that were made with it.
    onSilent: () => pool.renew()
  })

  /** For the prober, and what it does besides. */
  const openSingle = (host: Host, answerWithin: Duration.Duration, lockWithin?: Duration.Duration) =>
    single(host, "probe", { answerWithin, lockWithin })
  const openHeartbeat = (host: Host) =>
    openSingle(host, probeDeadline, Duration.min(heartbeatLockWithin, Duration.times(probeDeadline, 0.4)))

  const beatText = heartbeatSql(replica)
  const beat = (client: PgClient) => client.unsafe(beatText)

  /**
   * Each start of a process leaves a row; one that was not heard of for a day is no replica any more. By the database's clock, as no
   * other outlives the processes; if that is set a day ahead, who lives writes its row again with its next heartbeat.
   */
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
  let isPoolOpen = false
  let isCareful = false
  let target: Host = hosts[0]

  const dropHeartbeat = (cause: Error) =>
    Effect.suspend(() => {
      const dropped = heartbeat
      heartbeat = undefined
      return dropped === undefined ? Effect.void : close(dropped, cause)
    })

  /** Those that work has been lent: what another link has lent is of another database. */
  const clients = new WeakSet<PgClient>()

  const ownTransactionIn = (context: Context.Context<never>) => {
    const client = openTransactionIn(context)
    return client !== undefined && clients.has(client) ? client : undefined
  }

  const kindOf = (place: PoolGate.Place): Kind => place === "more" ? "work" : place

  const pool: PoolGate.PoolGate<Connection, SqlError> = yield* PoolGate.make<Connection, SqlError>({
    open: (place) => single(target, kindOf(place), { answerWithin: deadline }),
    close: (connection, error) => {
      runFork(error === undefined ? closePolitely(connection) : close(connection, error))
    },
    isSound: ({ connector }) => connector.isSound(),
    onClosed: ({ connector }, closed) => connector.onClosed((error) => closed(error !== undefined)),
    most: () => isCareful ? Math.min(carefulConnections, maxConnections) : maxConnections,
    retryAfter: (place) => dialer.retryAfter({ server: target.name, kind: kindOf(place) }),
    atOnce: () => dialer.isTroubled(target.name) ? 1 : loginsAtOnce,
    isScarce: () => dialer.isTroubled(target.name),
    lendFor: Duration.sum(deadline, afterDeadline),
    lifetime: connectionLifetime
  })

  const dropPool = (cause: Error) =>
    Effect.sync(() => {
      isPoolOpen = false
      pool.sever(cause, Cause.fail(brokenWith(cause)))
    })

  /** A heartbeat over a new connection, which is kept if it was written. */
  const probeHost = (host: Host) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(openHeartbeat(host), (connections) =>
        restore(Effect.gen(function*() {
          yield* within(inspect(connections.client, host), probeDeadline)
          const identity = yield* within(readIdentity(connections.client), probeDeadline)
          yield* schema.ensure(connectionsOfSchema(host, connections.client, migrationDeadline))
          yield* within(beat(connections.client), probeDeadline)
          yield* within(forgetReplicas(connections.client), probeDeadline)
          const now = yield* monotonicMillis
          return { ...connections, host, identity, openedAt: now, checkedAt: now }
        })).pipe(Effect.onError(() => close(connections, new Error("the probe failed")))))
    )

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
    Effect.flatMap(monotonicMillis, (now) => {
      const kept = heartbeat
      if (fresh || kept === undefined || now - kept.openedAt > Duration.toMillis(connectionLifetime)) return probeHosts
      const isDue = now - kept.checkedAt >= Duration.toMillis(checkEvery)
      if (isDue) kept.checkedAt = now
      return Effect.as(
        within(Effect.andThen(isDue ? schema.check(kept.client) : Effect.void, beat(kept.client)), probeDeadline),
        kept.identity
      )
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
        raw(host, { answerWithin: listenerWithin }),
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

  const lend = <A, E, R>(work: Effect.Effect<A, E, R>) => ({ client }: Connection) => {
    clients.add(client)
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
      const lent = Context.getOrUndefined(fiber.context, Lent)
      const outer = lent !== undefined && clients.has(lent.client) ? lent : undefined
      // What runs in a transaction is part of it, or fails with it.
      const transaction = ownTransactionIn(fiber.context)
      if (transaction !== undefined) {
        return outer?.client === transaction && outer.isOver
          ? Effect.fail(transactionIsOver)
          : Effect.provideService(work, PgClient, transaction)
      }
      if (outer !== undefined && !outer.isOver) {
        // On another connection it could be stored although a transaction around it is rolled back; and it must not wait for one
        // that its own caller holds.
        return Effect.provideService(work, PgClient, outer.client)
      }
      if (what.lane === "heartbeat" && heartbeat !== undefined) return runVital(heartbeat.client, work)
      return isPoolOpen ? pool.use(lend(work)) : Effect.fail(notConnected)
    })

  const link = Link.of({
    probe,
    run,
    inTransaction: Effect.contextWith((context: Context.Context<never>) =>
      Effect.succeed(ownTransactionIn(context) !== undefined)
    ),
    // A connection that is open has been let in, and its work says the rest; that all are busy is no answer.
    reach: Effect.catchTag(
      within(
        Effect.suspend(() => isPoolOpen ? pool.use(() => Effect.void) : Effect.fail(notConnected)),
        reachWithin
      ),
      "NoAnswer",
      (error) => Effect.fail(pool.stats().open === 0 ? new NothingOpen() : error)
    ),
    takeSpace: within(
      Effect.suspend(() => heartbeat === undefined ? Effect.fail(notConnected) : heartbeat.client.unsafe(takeSpaceSql)),
      reachWithin
    ),
    renew: (carefully) =>
      Effect.sync(() => {
        isCareful = carefully
        isPoolOpen = true
        pool.renew()
      }),
    sever: (cause) =>
      Effect.andThen(
        dialer.suspect(target.name, brokenWith(cause)),
        Effect.andThen(dropPool(cause), dropHeartbeat(cause))
      )
  })
  const migrator = Migrations.migrateHosts(hosts, (host) =>
    Effect.map(
      Effect.acquireRelease(
        openSingle(host, probeDeadline),
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
      // They are shown in the log: from what is no PostgreSQL anything might come.
      if (row === undefined || !/^\d{1,20}$/.test(row.id)) return undefined
      return { systemIdentifier: row.id, timeline: Number.parseInt(row.timeline, 16) }
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

const notConnected = brokenWith(new Error("no connection has been made yet"))

const transactionIsOver = brokenWith(new Error("the transaction that this work belongs to is over"))
