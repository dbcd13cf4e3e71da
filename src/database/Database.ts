/**
 * The one door to the database: every statement of every store passes here.
 *
 * - While `Availability` says no, work is refused at once, without touching a connection: a thousand callers cost nothing.
 *   Before its first word work waits.
 * - Work has a deadline that holds on a hung server and on a link that swallows packets (`Deadline`, `Connector`).
 * - Failures become `DatabaseUnavailable` or `QueryFailed`, and are reported to `Availability`: what became of Lull's own work,
 *   and connections that could not be made. Slow, locked or wrong statements of an application are its own affair; at most they
 *   make the heartbeat come at once. A lost transaction is an error here, though the driver makes it a defect.
 * - A transaction that was rolled back by a deadlock or a serialization failure is done again, a few times.
 * - Inside an open transaction work uses its connection, or fails with it, and its failure aborts the transaction.
 *
 * Work of kind `write` whose answer was lost is reported with `outcome: "unknown"`. The door does not repeat it: every
 * operation of a store is safe to repeat, and its caller knows whether it is still wanted.
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import {
  Cause,
  Clock,
  Context,
  Duration,
  Effect,
  Fiber,
  Layer,
  Metric,
  type Redacted,
  Schedule,
  SubscriptionRef
} from "effect"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import type { Loops } from "../loop/Loops.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
import type { Outage } from "../testing/Outage.ts"
import { Admissions, type Caller, type Ended, type Refusal } from "./Admissions.ts"
import * as Availability from "./Availability.ts"
import type { InvalidDatabaseUrl } from "./ConnectionUrl.ts"
import { NoAnswer, Severed, within } from "./Deadline.ts"
import { Link, type Work } from "./Link.ts"
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
      Layer.provideMerge(Availability.layerWithAdmissions(options.availability))
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

/** What cannot wait for the pool waits so long for it, and then so long for the heartbeat's connection. */
const vitalPatience = Duration.seconds(1)
const heartbeatLane = Duration.seconds(1)

const nothingKnown = { attempts: 0, retryAfter: Duration.zero }

/** Of the deadline: a statement that was ended later than this was ended by the server's time limit, and not by somebody. */
const timeLimit = 0.7

const make = Effect.fnUntraced(function*(options: Options) {
  const link = yield* Link
  const availability = yield* Availability.Availability
  const admissions = yield* Admissions
  const deadline = Duration.fromInputUnsafe(options.deadline ?? PostgresLink.defaultDeadline)
  const serverTimeout = timeLimit * Duration.toMillis(deadline)
  /** Work of applications that is under way: it may hold all connections. */
  let applications = 0
  /** Conflicts of statements inside a transaction: only its outermost call may repeat it. */
  const conflictsInside = new WeakSet<Unavailable.QueryFailed>()

  const whileRolledBack = {
    schedule: Schedule.jittered(Schedule.exponential("10 millis")),
    times: conflictRetries,
    while: (error: unknown) =>
      isSqlError(error)
        ? Unavailable.isRolledBackByConflict(error)
        : error instanceof Unavailable.QueryFailed && conflictsInside.has(error)
  }

  const unavailableFor = (what: Work, known: Refusal, outcome: Unavailable.WorkOutcome, cause?: unknown) =>
    new Unavailable.DatabaseUnavailable({ ...known, outcome, operation: what.operation, cause })

  const queryFailed = (
    what: Work,
    failure: { readonly kind: Unavailable.FailureKind; readonly code?: string | undefined; readonly detail: string },
    outcome: Unavailable.WorkOutcome,
    cause: unknown
  ) => {
    const { code, detail, kind } = failure
    return new Unavailable.QueryFailed({ operation: what.operation, kind, outcome, sqlState: code, detail, cause })
  }

  const overdue = {
    kind: "passing",
    detail: `took longer than the door's deadline of ${Duration.format(deadline)}`
  } as const

  const outcomeOf = (what: Work, ended: Ended): Unavailable.WorkOutcome =>
    what.kind === "read" || (ended._tag !== "Overdue" && Unavailable.isCertainlyNotDone(ended)) ? "notDone" : "unknown"

  /** What its caller gets for work that failed in or on its way to the database, and was reported. */
  const tell = Effect.fnUntraced(function*(
    what: Work,
    { whose }: Caller,
    ended: Ended,
    cause: unknown
  ) {
    const isOwn = whose !== "application"
    const outcome = outcomeOf(what, ended)
    const patience = verdictWithin(ended, isOwn)
    if (patience !== undefined) yield* admissions.verdict(patience)
    const known = yield* admissions.refusal
    const isAway = known !== undefined && SubscriptionRef.getUnsafe(availability.state)._tag === "Unavailable"
    const since = known?.since ?? (yield* Clock.currentTimeMillis)
    const because = (reason: Unavailable.Reason) =>
      unavailableFor(what, { ...nothingKnown, ...known, since, reason, detail: ended.detail }, outcome, cause)
    switch (ended._tag) {
      case "NoConnection":
      case "Lost":
        return isAway ? unavailableFor(what, known, outcome, cause) : because(ended.reason)
      case "Overdue":
        if (isAway) return unavailableFor(what, known, outcome, cause)
        return isOwn ? because("Slow") : queryFailed(what, overdue, outcome, cause)
      case "Statement": {
        const { trouble } = ended
        if (!isOwn) {
          return isAway && Unavailable.isSuspicious(ended)
            ? unavailableFor(what, known, outcome, cause)
            : queryFailed(what, ended, outcome, cause)
        }
        if (trouble === undefined) return queryFailed(what, ended, outcome, cause)
        if (known !== undefined) return unavailableFor(what, known, outcome, cause)
        return Unavailable.mayBeOneRow(trouble) ? queryFailed(what, ended, outcome, cause) : because(trouble)
      }
    }
  })

  const endedBy = (error: unknown, took: number): Ended =>
    error instanceof NoAnswer
      ? { _tag: "Overdue", detail: overdue.detail }
      : Unavailable.judge(error, took >= serverTimeout)

  /** Reports what became of work, and translates it. `startedAt`: when it began. */
  const translate = Effect.fnUntraced(function*<E>(
    what: Work,
    caller: Caller,
    startedAt: number,
    cause: Cause.Cause<E | SqlError | NoAnswer | Severed>
  ) {
    const error = databaseError(cause)
    if (error === undefined) {
      admissions.withoutEvidence(caller)
      return yield* Effect.failCause(withoutDatabaseErrors<E>(cause))
    }
    const ended = endedBy(error, (yield* monotonicMillis) - startedAt)
    yield* admissions.failed(caller, ended, isByOthers(what, ended, applications > 0))
    const told = yield* tell(what, caller, ended, error)
    yield* Metric.update(told._tag === "QueryFailed" ? failed : unavailable, 1)
    return yield* told
  })

  const attempt = <A, E, R>(what: Work, work: Effect.Effect<A, E, R>, within_: Duration.Duration) =>
    within(Effect.retry(link.run(what, work), whileRolledBack), within_)

  const settled = <A, E, R>(
    what: Work,
    caller: Caller,
    effect: Effect.Effect<A, E | SqlError | NoAnswer | Severed, R>
  ) =>
    Effect.flatMap(monotonicMillis, (startedAt) =>
      effect.pipe(
        Effect.tap(() =>
          Effect.flatMap(monotonicMillis, (at) => {
            admissions.succeeded(caller, { at, lane: what.lane ?? "pool" })
            return Metric.update(done, 1)
          })
        ),
        Effect.catchCause((cause) => translate<E>(what, caller, startedAt, cause))
      ))

  const overHeartbeat = <A, E, R>({ kind, operation }: Work, caller: Caller, work: Effect.Effect<A, E, R>) => {
    const what: Work = { kind, operation, lane: "heartbeat" }
    return settled(what, caller, attempt(what, work, Duration.min(heartbeatLane, deadline)))
  }

  /** Over the pool; and over the heartbeat's connection, if the pool does not answer soon, or has none. */
  const vitally = <A, E, R>(what: Work, caller: Caller, work: Effect.Effect<A, E, R>) =>
    Effect.catchIf(
      settled(what, caller, attempt(what, work, Duration.min(vitalPatience, deadline))),
      (error) => error instanceof Unavailable.DatabaseUnavailable && error.cause !== undefined,
      () => overHeartbeat(what, caller, work)
    )

  /** The heartbeat's connection may have broken as well, and is made again in a moment. */
  const whileHeartbeatIsRenewed = {
    schedule: Schedule.spaced("250 millis"),
    times: 8,
    while: (error: unknown) =>
      error instanceof Unavailable.DatabaseUnavailable &&
      SubscriptionRef.getUnsafe(availability.state)._tag !== "Unavailable"
  }

  const counted = <A, E, R>(work: Effect.Effect<A, E, R>) =>
    Effect.suspend(() => {
      applications++
      return Effect.ensuring(work, Effect.sync(() => applications--))
    })

  const admitted = <A, E, R>(
    how: "Pass" | "HeartbeatOnly",
    what: Work,
    caller: Caller,
    work: Effect.Effect<A, E, R>,
    left: Duration.Duration
  ) => {
    if (how === "HeartbeatOnly") return Effect.retry(overHeartbeat(what, caller, work), whileHeartbeatIsRenewed)
    if (caller.whose === "vital") return vitally(what, caller, work)
    const once = attempt(what, work, left)
    return settled(what, caller, caller.whose === "own" ? once : counted(once))
  }

  const outside = <A, E, R>(
    what: Work,
    caller: Caller,
    work: Effect.Effect<A, E, R>,
    left: Duration.Duration
  ) =>
    // From the admission on, so that there is no moment in which an interruption leaves it without an answer.
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(admissions.admit(caller), (admission) =>
        admission._tag === "Refused"
          ? Effect.andThen(
            Metric.update(refused, 1),
            Effect.fail(unavailableFor(what, admission.refusal, "notDone"))
          )
          : restore(admitted(admission._tag, what, caller, work, left)).pipe(
            Effect.onInterrupt(() => Effect.sync(() => admissions.withoutEvidence(caller)))
          ))
    )

  /** Until the first probe has decided, work waits, within its deadline. */
  const whenDecided = <A, E, R>(work: (left: Duration.Duration) => Effect.Effect<A, E, R>) =>
    Effect.suspend(() => {
      if (SubscriptionRef.getUnsafe(availability.state)._tag !== "Starting") return work(deadline)
      return Effect.timed(Effect.timeoutOption(availability.decided, deadline)).pipe(
        Effect.flatMap(([took]) => work(Duration.max(Duration.zero, Duration.subtract(deadline, took))))
      )
    })

  /**
   * Inside an open transaction work has only its connection, whatever the door would say: it lives or fails with it. What failed
   * aborts the transaction, also where the server does not know of the failure, so that the rest of it is not stored alone.
   */
  const inside = <A, E, R>(what: Work, work: Effect.Effect<A, E, R>) =>
    Effect.flatMap(monotonicMillis, (startedAt) =>
      Effect.catchCause(
        Effect.tap(within(link.run(what, work), deadline), Metric.update(done, 1)),
        (cause: Cause.Cause<E | SqlError | NoAnswer | Severed>) => translateInside<E>(what, startedAt, cause)
      ))

  const translateInside = Effect.fnUntraced(function*<E>(
    what: Work,
    startedAt: number,
    cause: Cause.Cause<E | SqlError | NoAnswer | Severed>
  ) {
    const error = databaseError(cause)
    if (error === undefined) return yield* Effect.failCause(withoutDatabaseErrors<E>(cause))
    const ended = endedBy(error, (yield* monotonicMillis) - startedAt)
    const caller: Caller = { operation: what.operation, whose: "application" }
    if (ended._tag !== "Overdue" && ended._tag !== "Statement") {
      yield* Metric.update(unavailable, 1)
      yield* admissions.failed(caller, { ...ended, _tag: "Lost" }, false)
      return yield* yield* tell(what, caller, ended, error)
    }
    yield* abort(what)
    yield* Metric.update(failed, 1)
    const told = queryFailed(what, ended._tag === "Overdue" ? overdue : ended, outcomeOf(what, ended), error)
    if (isSqlError(error) && Unavailable.isRolledBackByConflict(error)) conflictsInside.add(told)
    return yield* told
  })

  /** On the transaction's own connection, where it comes before a COMMIT, however long what runs there now takes to end. */
  const abort = (what: Work) =>
    Effect.forkDetach(
      Effect.ignoreCause(link.run(what, Effect.flatMap(PgClient, (sql) => sql.unsafe(abortSql)))),
      { startImmediately: true }
    ).pipe(Effect.flatMap((fiber) => Effect.timeoutOption(Fiber.await(fiber), abortWithin)))

  for (const outcome of [done, refused, unavailable, failed]) yield* Metric.update(outcome, 0)

  const pass = (kind: Work["kind"], whose: Caller["whose"]): Pass => (operation, work) => {
    const what: Work = { kind, operation }
    return Effect.flatMap(link.inTransaction, (isInside) =>
      isInside
        ? inside(what, work)
        : whenDecided((left) => outside(what, { operation, whose }, work, left)))
  }

  return Database.of({
    read: pass("read", "application"),
    write: pass("write", "application"),
    own: { read: pass("read", "own"), write: pass("write", "own"), vital: pass("write", "vital") }
  })
})

/** How long an error waits for the heartbeat, which finds out whether it was the database; `undefined` if that is no question. */
const verdictWithin = (ended: Ended, isOwn: boolean): Duration.Duration | undefined => {
  if (ended._tag === "Overdue") return Duration.millis(500)
  if (ended._tag !== "Statement") return undefined
  if (!isOwn) return Unavailable.isSuspicious(ended) ? Duration.millis(500) : undefined
  // A heartbeat waits for locks, too, and tries twice; and it may have to wait for its turn (`AskedBeats`).
  return ended.trouble === "Locked" || ended.trouble === "Slow" ? Duration.millis(2_000) : undefined
}

const abortSql = `do $lull$ begin raise exception 'work inside this transaction has failed'; end $lull$`

/** The caller goes on after this, and the statement is sent before what the caller sends next all the same. */
const abortWithin = Duration.millis(500)

/**
 * Whether a failure says nothing of the operation. Own work that waited while applications were at work: they may have held all
 * connections. What the heartbeat's connection met is for the next heartbeat to find.
 */
const isByOthers = (what: Work, ended: Ended, isShared: boolean) =>
  (ended._tag === "Overdue" && isShared) || (ended._tag !== "Statement" && what.lane === "heartbeat")

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
