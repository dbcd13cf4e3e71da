/**
 * What the door and the prober stand in front of: a way to a database. `PostgresLink` is a real one, `ScriptedLink` one
 * that obeys an `Outage`. Not for stores: they pass through `Database`.
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import { Context, Data, Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"

/** Which server answered. Another identifier, or a timeline that went back, is another history of the data. */
export interface ServerIdentity {
  readonly systemIdentifier: string
  readonly timeline: number
}

export interface Work {
  readonly kind: "read" | "write"
  /** What is done, as `Service.method`. */
  readonly operation: string
  /** Over the connection of the heartbeat, if it is there: for what has to get through while the pool is in trouble. Default pool. */
  readonly lane?: "pool" | "heartbeat" | undefined
}

/**
 * The client on which this fiber has an open transaction, if it has one. Whatever runs inside uses its connection, or fails with
 * it: on another one it would be stored although the transaction is rolled back.
 */
export const openTransaction: Effect.Effect<PgClient | undefined> = Effect.contextWith(
  (context: Context.Context<never>) => Effect.succeed(openTransactionIn(context))
)

export const openTransactionIn = (context: Context.Context<never>): PgClient | undefined => {
  const client = Context.getOrUndefined(context, PgClient)
  return client !== undefined && Context.getOrUndefined(context, client.transactionService) !== undefined
    ? client
    : undefined
}

/** No connection of the pool is open, and none has been opened in the time that there was. */
export class NothingOpen extends Data.TaggedError("NothingOpen")<{}> {}

export class Link extends Context.Service<Link, {
  /**
   * Writes the heartbeat of this replica: the one proof that the database takes our writes. With `fresh` over a new
   * connection, to each host in turn, and the tables are made or brought up to date first, if this server may need it.
   * Bounded in time by itself: it fails with `NoAnswer` on a server that does not answer, and as `Locked` (55P03) when
   * somebody holds a lock on one of Lull's tables.
   */
  readonly probe: (fresh: boolean) => Effect.Effect<ServerIdentity | undefined, unknown>
  /**
   * Runs work on a connection of its own, in its lane. Work that is nested in other work, and all that is in a transaction, runs
   * on the connection of that; it takes no further one.
   */
  readonly run: <A, E, R>(
    what: Work,
    work: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | SqlError, Exclude<R, PgClient>>
  /** Whether the fiber is inside an open transaction of this link. */
  readonly inTransaction: Effect.Effect<boolean>
  /**
   * Takes a connection of the pool, uses it, and gives it back. Bounded in time by itself: it fails with `NothingOpen` when there
   * is no open connection, and with another error when all of them are busy.
   */
  readonly reach: Effect.Effect<void, unknown>
  /** Writes what needs new space on the disk, and leaves nothing there. Bounded in time by itself. */
  readonly takeSpace: Effect.Effect<void, unknown>
  /**
   * New connections for everything, to the server that the last probe found. `carefully`: few of them, as the server comes
   * and goes, and each return would be met with all of them.
   */
  readonly renew: (carefully: boolean) => Effect.Effect<void>
  /** Ends all connections at once. Whoever waits on one fails with this cause. */
  readonly sever: (cause: Error) => Effect.Effect<void>
}>()("lull/database/Link") {}
