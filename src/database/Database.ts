/**
 * The one door to the database: every statement of every store passes here.
 *
 * - While `Availability` says no, work is refused at once, without touching a connection: a thousand callers cost nothing.
 * - Work has a deadline that holds on a hung server and on a link that swallows packets (`Deadline`, `Connector`).
 * - Failures become `DatabaseUnavailable`, which is reported to `Availability`, or `QueryFailed`. A lost transaction is an
 *   error here, though the driver makes it a defect.
 * - A transaction that was rolled back by a deadlock or a serialization failure is done again, a few times.
 *
 * Work of kind `write` whose answer was lost is reported with `outcome: "unknown"`. The door does not repeat it: every
 * operation of a store is safe to repeat, and its caller knows whether it is still wanted.
 */
import type { PgClient } from "@effect/sql-pg/PgClient"
import {
  Cause,
  Clock,
  Context,
  Duration,
  Effect,
  Layer,
  Metric,
  type Redacted,
  Schedule,
  SubscriptionRef
} from "effect"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import type { Loops } from "../loop/Loops.ts"
import type { Outage } from "../testing/Outage.ts"
import * as Availability from "./Availability.ts"
import type { InvalidDatabaseUrl } from "./ConnectionUrl.ts"
import { NoAnswer, Severed, within } from "./Deadline.ts"
import { Link, openTransaction, type Work } from "./Link.ts"
import type { Listener } from "./Listener.ts"
import * as PostgresLink from "./PostgresLink.ts"
import type { Replica } from "./Replica.ts"
import * as ScriptedLink from "./ScriptedLink.ts"
import * as Unavailable from "./Unavailable.ts"

/** What the door makes of the errors of the work: SQL errors are gone. */
export type DoorError<E> = Exclude<E, SqlError> | Unavailable.DatabaseUnavailable | Unavailable.QueryFailed

export interface Options {
  /** Work that takes longer fails as `Hung`. Default 5 seconds. */
  readonly deadline?: Duration.Input | undefined
  readonly availability?: Availability.Options | undefined
}

/** Work at the door. `operation` names it as `Service.method`. */
export type Pass = <A, E, R>(
  operation: string,
  work: Effect.Effect<A, E, R>
) => Effect.Effect<A, DoorError<E>, Exclude<R, PgClient>>

export class Database extends Context.Service<Database, {
  /** Work that changes nothing. */
  readonly read: Pass
  /** Work that changes something, and is safe to repeat. */
  readonly write: Pass
  /**
   * The same for Lull's own stores: what becomes of their work says how the database is, and what becomes of an
   * application's does not.
   */
  readonly own: {
    readonly read: Pass
    readonly write: Pass
    /** Work that has to get through while the pool is in trouble: over the connection of the heartbeat, if need be. */
    readonly vital: Pass
  }
}>()("lull/database/Database") {
  /** In front of whatever `Link` is given. */
  static readonly layerLink = (
    options: Options = {}
  ): Layer.Layer<Database | Availability.Availability, never, Link | Loops> =>
    Layer.effect(Database, make(options)).pipe(
      Layer.provideMerge(Availability.Availability.layer(options.availability))
    )

  /** In front of a real PostgreSQL. It need not be there yet. */
  static readonly layerPostgres = (
    options: PostgresLink.Options & Options & { readonly url: Redacted.Redacted<string> }
  ): Layer.Layer<Database | Availability.Availability | Listener, InvalidDatabaseUrl, Replica | Loops> =>
    Database.layerLink(options).pipe(Layer.provideMerge(PostgresLink.layer(options)))

  /** In front of nothing, obeying a script: for memory stores, on `TestClock`. */
  static readonly layerScripted = (
    outage: Outage,
    options: Options = {}
  ): Layer.Layer<Database | Availability.Availability, never, Loops> =>
    Database.layerLink(options).pipe(Layer.provide(ScriptedLink.layer(outage)))

  /** In front of a real PostgreSQL, and obeying a script besides. */
  static readonly faulty = (
    outage: Outage,
    options: PostgresLink.Options & Options & { readonly url: Redacted.Redacted<string> }
  ): Layer.Layer<Database | Availability.Availability | Listener, InvalidDatabaseUrl, Replica | Loops> =>
    Database.layerLink(options).pipe(
      Layer.provide(ScriptedLink.decorate(outage)),
      Layer.provideMerge(PostgresLink.layer(options))
    )
}

const calls = Metric.counter("lull_database_calls_total", {
  description: "Work at the door of the database, by what became of it",
  incremental: true
})
const done = Metric.withAttributes(calls, { outcome: "done" })
const refused = Metric.withAttributes(calls, { outcome: "refused" })
const unavailable = Metric.withAttributes(calls, { outcome: "unavailable" })
const failed = Metric.withAttributes(calls, { outcome: "failed" })

/** A transaction that a deadlock rolled back is worth this many further attempts. */
const conflictRetries = 4

const make = Effect.fnUntraced(function*(options: Options) {
  const link = yield* Link
  const availability = yield* Availability.Availability
  const deadline = Duration.fromInputUnsafe(options.deadline ?? PostgresLink.defaultDeadline)

  /** What callers are told while, or because, the database is away. */
  const refusal = (
    operation: string,
    outcome: Unavailable.WorkOutcome,
    met?: { readonly classified: Unavailable.Classified; readonly cause: unknown }
  ) =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      const state = SubscriptionRef.getUnsafe(availability.state)
      const known = state._tag === "Unavailable" ? state : undefined
      return new Unavailable.DatabaseUnavailable({
        reason: met?.classified.reason ?? known?.reason ?? "Unreachable",
        since: known?.since ?? (state._tag === "Starting" ? state.since : now),
        attempts: known?.attempts ?? 0,
        retryAfter: Duration.millis(Math.max(0, (known?.nextAttempt ?? now) - now)),
        outcome,
        operation,
        detail: met?.classified.detail ?? known?.lastError ?? "no connection has been made yet",
        ...met === undefined ? {} : { cause: met.cause }
      })
    })

  const translate = Effect.fnUntraced(function*<E>(what: Work, cause: Cause.Cause<E | SqlError | NoAnswer | Severed>) {
    const error = databaseError(cause)
    if (error === undefined) return yield* Effect.failCause(withoutDatabaseErrors<E>(cause))
    const found = Unavailable.classify(error)
    // Somebody else's missing table is a fault of the statement: only Lull's own work knows which tables have to be there.
    const classified = found?.reason === "SchemaMissing" && what.isOwn !== true ? undefined : found
    if (classified === undefined) {
      yield* Metric.update(failed, 1)
      const { code, detail } = Unavailable.describe(error)
      return yield* new Unavailable.QueryFailed({
        operation: what.operation,
        kind: Unavailable.kindOf(code),
        outcome: "notDone",
        sqlState: code,
        detail,
        cause: error
      })
    }
    yield* Metric.update(unavailable, 1)
    availability.report(classified)
    const outcome = what.kind === "read" || Unavailable.isCertainlyNotDone(classified) ? "notDone" : "unknown"
    return yield* Effect.flatMap(refusal(what.operation, outcome, { classified, cause: error }), Effect.fail)
  })

  const run = <A, E, R>(what: Work, work: Effect.Effect<A, E, R>) =>
    Effect.flatMap(openTransaction, (transaction) => {
      const once = link.run(what, work)
      // A conflict has ended the whole transaction, which only its beginning can do again.
      const whole = transaction === undefined ? Effect.retry(once, whileRolledBack) : once
      return within(whole, deadline).pipe(
        Effect.tap(Metric.update(done, 1)),
        Effect.catchCause((cause) => translate<E>(what, cause))
      )
    })

  const refuse = (operation: string) =>
    Effect.suspend(() => {
      availability.countRefused()
      return Effect.andThen(
        Metric.update(refused, 1),
        Effect.flatMap(refusal(operation, "notDone"), Effect.fail)
      )
    })

  const pass = <A, E, R>(what: Work, work: Effect.Effect<A, E, R>) =>
    Effect.suspend(() => {
      if (availability.isOpen()) return run(what, work)
      if (SubscriptionRef.getUnsafe(availability.state)._tag !== "Starting") return refuse(what.operation)
      // Whether there is a database is about to be known.
      return Effect.andThen(
        Effect.timeoutOption(availability.decided, deadline),
        Effect.suspend(() => availability.isOpen() ? run(what, work) : refuse(what.operation))
      )
    })

  for (const outcome of [done, refused, unavailable, failed]) yield* Metric.update(outcome, 0)

  const read = (isOwn: boolean): Pass => (operation, work) => pass({ kind: "read", operation, isOwn }, work)
  const write = (isOwn: boolean): Pass => (operation, work) => pass({ kind: "write", operation, isOwn }, work)
  return Database.of({
    read: read(false),
    write: write(false),
    own: { read: read(true), write: write(true), vital: write(true) }
  })
})

const whileRolledBack = {
  schedule: Schedule.jittered(Schedule.exponential("10 millis")),
  times: conflictRetries,
  while: (error: unknown) => isSqlError(error) && Unavailable.isRolledBackByConflict(error)
}

/**
 * The database's part in a cause. A connection lost in a transaction also fails its `ROLLBACK`, and then the driver's
 * whole cause consists of defects.
 */
const databaseError = (cause: Cause.Cause<unknown>): unknown => {
  if (Cause.hasInterrupts(cause)) return undefined
  for (const reason of cause.reasons) {
    const error = Cause.isFailReason(reason) ? reason.error : Cause.isDieReason(reason) ? reason.defect : undefined
    if (isSqlError(error) || error instanceof NoAnswer || error instanceof Severed) return error
  }
  return undefined
}

const withoutDatabaseErrors = <E>(
  cause: Cause.Cause<E | SqlError | NoAnswer | Severed>
): Cause.Cause<Exclude<E, SqlError>> => cause as Cause.Cause<Exclude<E, SqlError>>
