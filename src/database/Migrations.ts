/**
 * Brings the tables (`Schema`) up to date, and notices when they are not what this version needs.
 *
 * It reads first, without any lock but that of a select. Only if there is something to do it takes an advisory lock, so
 * that replicas which start together do not meet, looks again under it, and runs what is missing, all in one transaction: a
 * failure leaves nothing half done.
 *
 * A statement that changes a table waits for those who read it (pg_dump, a transaction that somebody forgot), and everybody
 * else then waits behind it. So it waits for `lockTimeout` only; it fails with the names of who was in the way, and the
 * next probe tries again.
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import { Context, Data, type Duration, Effect, Fiber, type Scope } from "effect"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import { passAlways } from "../logging/PassAlways.ts"
import { type NoAnswer, type Severed, within } from "./Deadline.ts"
import { type Migration, migrations as ownMigrations } from "./Schema.ts"
import * as SchemaState from "./SchemaState.ts"
import { classify, describe } from "./Unavailable.ts"

/** Other sessions hold locks that a migration needs. Nothing was changed; it is tried again. */
export class SchemaBlocked extends Data.TaggedError("SchemaBlocked")<{
  readonly from: number
  readonly to: number
  /** Who was in the way, in words. */
  readonly blockers: string
}> {
  readonly code = "ERR_LULL_SCHEMA_BLOCKED"
  override get message() {
    return `the schema of the database has to be brought from ${this.from} to ${this.to}, and waits for ${this.blockers}`
  }
}

/** A statement of a migration failed. Nothing of it was kept. */
export class MigrationFailed extends Data.TaggedError("MigrationFailed")<{
  readonly migration: string
  readonly sqlState: string | undefined
  readonly detail: string
  readonly cause: unknown
}> {
  readonly code = "ERR_LULL_MIGRATION_FAILED"
  override get message() {
    const state = this.sqlState === undefined ? "" : ` (SQLSTATE ${this.sqlState})`
    const advice = this.sqlState === statementTimeout ? "; lull migrate gives it more time" : ""
    return `${this.migration} failed, and nothing of it was kept: ${this.detail}${state}${advice}`
  }
}

export type SchemaError = SchemaState.Refused | SchemaBlocked | MigrationFailed

export interface Report {
  /** 0: there were no tables. */
  readonly from: number
  readonly to: number
  readonly applied: ReadonlyArray<Migration>
  /** There were none of the tables, though their migrations had been recorded: whatever they held is gone. */
  readonly wereGone: boolean
}

/** For `lull migrate`: brings the tables up to date over a connection of its own. */
export class Migrator extends Context.Service<Migrator, {
  /** `grantTo`: a role that gets the rights the service needs. */
  readonly migrate: (
    grantTo: string | undefined
  ) => Effect.Effect<Report, SchemaError | SqlError | NoAnswer | Severed>
}>()("lull/database/Migrations/Migrator") {}

/** "lull": every session that migrates takes this advisory lock. */
const advisoryLock = 0x6c756c6c

/** Shorter than the deadline of other replicas' work (5 s), which waits behind us for as long. */
const lockTimeout = "2s"

/** Several looks within `lockTimeout`; a migration that is quick is never looked at. */
const lookForBlockersEvery = "400 millis"

const statementTimeout = "57014"

/** What somebody else's locks do to us: lock_timeout, a deadlock, a serialization failure. */
const blockedStates: ReadonlySet<string> = new Set(["55P03", "40P01", "40001"])

const isMissing = (error: SqlError) => {
  const { code } = describe(error)
  return code === "42P01" || code === "3F000"
}

const readFacts = Effect.flatMap(PgClient, (sql) =>
  Effect.map(
    sql<SchemaState.Facts>`select current_user::text as role, current_database()::text as database,
      pg_get_userbyid(s.nspowner)::text as owner,
      current_setting('transaction_read_only') = 'on' as "isReadOnly",
      has_database_privilege(current_database(), 'create') as "mayCreateSchema",
      coalesce(has_schema_privilege(s.oid, 'usage'), false) as "mayUse",
      coalesce(has_schema_privilege(s.oid, 'create'), false) as "mayCreate",
      coalesce((
        select json_agg(json_build_object(
          'name', c.relname,
          'isOwned', pg_has_role(c.relowner, 'usage'),
          'mayRead', has_table_privilege(c.oid, 'select'),
          'mayWrite', has_table_privilege(c.oid, 'insert') and has_table_privilege(c.oid, 'update')
            and has_table_privilege(c.oid, 'delete')
        ) order by c.relname) from pg_class c where c.relnamespace = s.oid and c.relkind in ('r', 'p')
      ), '[]') as tables
      from (values (0)) as one left join pg_namespace s on s.nspname = 'lull'`,
    // One row of constants beside an outer join.
    ([facts]) => facts!
  ))

const readCurrent = Effect.flatMap(
  PgClient,
  (sql) =>
    sql<SchemaState.Recorded>`select id, name, lowest_reader as "lowestReader"
    from lull.${sql.literal(SchemaState.recordTable)} order by id`
)

/** The tables of the version before, in whatever schema they are. One that was made by a failed start is empty. */
const readLegacy = Effect.flatMap(PgClient, (sql) =>
  Effect.gen(function*() {
    const tables = yield* sql<{ readonly schema: string }>`select n.nspname::text as schema
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relname = 'lull_migrations' and c.relkind = 'r' and has_schema_privilege(n.oid, 'usage')
        and has_table_privilege(c.oid, 'select')
        and (select count(*) from pg_attribute a where a.attrelid = c.oid and not a.attisdropped
          and a.attname in ('migration_id', 'created_at', 'name')) = 3`
    const rows = yield* Effect.forEach(
      tables,
      ({ schema }) =>
        sql<LegacyRow>`select migration_id as id, name, created_at::text as "appliedAt", null as "lowestReader"
          from ${sql(schema)}.lull_migrations order by migration_id`
    )
    return rows.flat()
  }))

type LegacyRow = SchemaState.Recorded & { readonly appliedAt: string }

const read = (migrations: ReadonlyArray<Migration>) =>
  Effect.gen(function*() {
    const facts = yield* readFacts
    const unreadable = SchemaState.unreadable(facts)
    if (unreadable !== undefined) {
      return { facts, legacy: [], decision: { _tag: "Refused", error: unreadable } as const }
    }
    const hasRecords = facts.tables.some(({ name }) => name === SchemaState.recordTable)
    const current = hasRecords ? yield* readCurrent : undefined
    const legacy = hasRecords ? [] : yield* readLegacy
    return { facts, legacy, decision: SchemaState.decide(facts, { current, legacy }, migrations) }
  })

/**
 * Each statement sees another moment: between two of them another replica may have committed, or somebody may have dropped
 * everything. What is to be refused is looked at twice.
 */
const look = (migrations: ReadonlyArray<Migration>) => {
  const once = Effect.catchTag(read(migrations), "SqlError", (error) => isMissing(error) ? read(migrations) : error)
  return Effect.flatMap(once, (seen) => seen.decision._tag === "Refused" ? once : Effect.succeed(seen))
}

/** Fails if this version cannot work with the tables. That something is still to be run is no failure. */
const inspect = (migrations: ReadonlyArray<Migration>) =>
  Effect.flatMap(
    look(migrations),
    ({ decision }) => decision._tag === "Refused" ? Effect.fail(decision.error) : Effect.succeed(decision)
  )

/** Who holds what this session waits for. Sessions that wait themselves are left out: the one at the head of the queue counts. */
const findBlockers = (pid: number) =>
  Effect.flatMap(PgClient, (sql) =>
    Effect.map(
      sql<{ readonly blocker: string }>`with recursive waiting(pid) as (
          select unnest(pg_blocking_pids(${pid}::int))
          union select unnest(pg_blocking_pids(w.pid)) from waiting w where w.pid <> 0
        ), wanted as (
          select ' on ' || relation::regclass::text as relation from pg_locks
          where pid = ${pid}::int and not granted and relation is not null limit 1
        )
        select case when w.pid = 0 then 'a prepared transaction'
            else 'session ' || w.pid || ' (' || coalesce(nullif(a.application_name, ''), a.backend_type, 'unnamed')
              || coalesce(', role ' || a.usename, '') || ')' end
          || ', which holds a lock' || coalesce((select relation from wanted), '') as blocker
        from waiting w left join pg_stat_activity a on a.pid = w.pid
        where w.pid = 0 or pg_blocking_pids(w.pid) = '{}' order by 1`,
      (rows) => rows.map(({ blocker }) => blocker).join("; ")
    ))

const record = (migration: Migration, appliedAt: string | undefined) =>
  Effect.flatMap(
    PgClient,
    (sql) =>
      sql`insert into lull.${sql.literal(SchemaState.recordTable)} (id, name, applied_at, lowest_reader)
      values (${migration.id}::int, ${migration.name}, coalesce(${appliedAt ?? null}::text::timestamptz, now()),
        ${migration.lowestReader ?? migration.id}::int)`
  )

const recordTableStatement = `create table lull.${SchemaState.recordTable} (
  id integer primary key,
  name text not null,
  applied_at timestamptz not null default now(),
  lowest_reader integer
)`

const nameOf = ({ id, name }: Migration) => `migration ${id} (${name})`

/** What failed, unless it is the database that is away. */
const failed = (migration: string) => (error: SqlError): SqlError | MigrationFailed => {
  const { code, detail } = describe(error)
  const isOurs = code !== undefined && !blockedStates.has(code) && (classify(error) === undefined || isMissing(error))
  return isOurs ? new MigrationFailed({ migration, sqlState: code, detail, cause: error }) : error
}

/** In a transaction, under the lock. */
const runPending = Effect.fnUntraced(function*(migrations: ReadonlyArray<Migration>) {
  const sql = yield* PgClient
  const { decision, facts, legacy } = yield* read(migrations)
  if (decision._tag === "Refused") return yield* Effect.fail(decision.error)
  const { pending, unrecorded, version } = decision
  const report: Report = {
    from: version,
    to: SchemaState.versionOf(migrations),
    applied: pending,
    wereGone: version === 0 && legacy.length > 0
  }
  const mayRecord = facts.owner === null || facts.mayCreate
  if (pending.length === 0 && (unrecorded.length === 0 || !mayRecord)) return report
  yield* Effect.gen(function*() {
    if (facts.owner === null) yield* sql.unsafe("create schema lull")
    if (facts.tables.every(({ name }) => name !== SchemaState.recordTable)) yield* sql.unsafe(recordTableStatement)
    for (const migration of unrecorded) {
      yield* record(migration, legacy.find(({ id }) => id === migration.id)?.appliedAt)
    }
  }).pipe(Effect.mapError(failed("the table of migrations")))
  for (const migration of pending) {
    yield* Effect.forEach(migration.statements, (statement) => sql.unsafe(statement), { discard: true }).pipe(
      Effect.andThen(record(migration, undefined)),
      Effect.mapError(failed(nameOf(migration)))
    )
  }
  return report
})

/**
 * Over `migrating`, a connection that nobody else uses; `watching` is another one, which asks who is in the way. Nothing is
 * on the search path, so that no table of somebody else is met by mistake.
 */
const migrate = Effect.fnUntraced(function*(
  migrations: ReadonlyArray<Migration>,
  migrating: PgClient,
  watching: PgClient,
  from: number
) {
  let blockers = ""
  const watch = (pid: number) =>
    findBlockers(pid).pipe(
      Effect.provideService(PgClient, watching),
      Effect.tap((found) => Effect.sync(() => blockers = found || blockers)),
      // Only a description is lost. To interrupt a statement means to ask the server once more; it is quicker to let it end.
      Effect.ignore,
      Effect.uninterruptible,
      Effect.delay(lookForBlockersEvery),
      Effect.forever
    )
  return yield* migrating.withTransaction(Effect.gen(function*() {
    // Whatever the role's default is: what is read under the lock has to be what the last one under it has committed.
    yield* migrating`set transaction isolation level read committed`
    const [session] = yield* migrating<{ readonly pid: number }>`select pg_backend_pid() as pid,
      set_config('lock_timeout', ${lockTimeout}, true), set_config('search_path', 'pg_catalog', true)`
    const watcher = yield* Effect.forkChild(watch(session!.pid))
    return yield* migrating`select pg_advisory_xact_lock(${advisoryLock}::bigint)::text`.pipe(
      Effect.andThen(runPending(migrations)),
      Effect.ensuring(Fiber.interrupt(watcher))
    )
  })).pipe(
    Effect.provideService(PgClient, migrating),
    Effect.catchIf(
      (error) => isSqlError(error) && blockedStates.has(describe(error).code ?? ""),
      () =>
        new SchemaBlocked({
          from,
          to: SchemaState.versionOf(migrations),
          blockers: blockers || "another session that holds a lock"
        })
    )
  )
})

export interface Connections<E> {
  /** The one of the heartbeat: it asks. */
  readonly client: PgClient
  /** Another one, whose statements may take longer. Opened only if there is something to do. */
  readonly open: Effect.Effect<PgClient, E, Scope.Scope>
  readonly askWithin: Duration.Duration
  readonly migrateWithin: Duration.Duration
}

const nothingToDo = (version: number): Report => ({ from: version, to: version, applied: [], wereGone: false })

/** Looks, and runs what is to be run. Idempotent; any number of them may run at a time. */
export const run = Effect.fnUntraced(function*<E>(
  connections: Connections<E>,
  migrations: ReadonlyArray<Migration> = ownMigrations
) {
  const { askWithin, client, migrateWithin, open } = connections
  const { pending, unrecorded, version } = yield* within(
    Effect.provideService(inspect(migrations), PgClient, client),
    askWithin
  )
  if (pending.length === 0 && unrecorded.length === 0) return nothingToDo(version)
  return yield* within(
    Effect.scoped(Effect.flatMap(open, (migrating) => migrate(migrations, migrating, client, version))),
    migrateWithin
  )
})

/** Gives a role the rights that the service needs. */
const grant = (role: string) =>
  Effect.flatMap(
    PgClient,
    (sql) =>
      sql.withTransaction(Effect.forEach(SchemaState.grantsTo(role), (text) => sql.unsafe(text), { discard: true }))
  )

/** At the first of several hosts that takes writes. */
export const migrateHosts = <Host>(
  hosts: readonly [Host, ...ReadonlyArray<Host>],
  connect: (host: Host) => Effect.Effect<Connections<SqlError>, SqlError | NoAnswer | Severed, Scope.Scope>
): Migrator["Service"] => ({
  migrate: (grantTo) => {
    const attempt = (host: Host) =>
      Effect.scoped(Effect.gen(function*() {
        const connections = yield* connect(host)
        const report = yield* run(connections)
        if (grantTo !== undefined) yield* Effect.provideService(grant(grantTo), PgClient, connections.client)
        return report
      }))
    const [first, ...others] = hosts
    return others.reduce((tried, host) => Effect.catchIf(tried, isAnothersTurn, () => attempt(host)), attempt(first))
  }
})

/** A host that is away or a standby, in front of another. */
const isAnothersTurn = (error: unknown) => {
  const reason = classify(error)?.reason
  return !(error instanceof SchemaBlocked) && (reason === "Unreachable" || reason === "ReadOnly" || reason === "Hung")
}

/** What a process knows of the tables that it works with, and says when they were made or brought up to date. */
export const make = (migrations: ReadonlyArray<Migration> = ownMigrations) => {
  let hasSeen = false
  return {
    /** With each heartbeat: somebody may have dropped a table, or taken a right. */
    check: (client: PgClient) => Effect.provideService(Effect.asVoid(inspect(migrations)), PgClient, client),
    ensure: <E>(connections: Connections<E>) =>
      Effect.flatMap(run(connections, migrations), (report) => {
        const lines = linesOf(report, hasSeen)
        hasSeen = true
        return passAlways(lines)
      })
  }
}

const linesOf = (report: Report, hasSeen: boolean): Effect.Effect<void> => {
  if (report.applied.length === 0) return Effect.void
  if (report.from > 0) {
    return Effect.logInfo(`the schema of the database was brought from ${report.from} to ${report.to}`)
  }
  return hasSeen || report.wereGone
    ? Effect.logWarning(
      "the tables of Lull were gone from the database and have been made again: the jobs that they held are gone"
    )
    : Effect.logInfo(`the tables of Lull have been made in the database: its schema is ${report.to}`)
}
