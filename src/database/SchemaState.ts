/**
 * What the catalog says of Lull's tables, and what follows from it: pure. `Migrations` asks and acts.
 *
 * Which migrations have run is in `lull.migrations`. The version before had them in a table `lull_migrations`, in whatever
 * schema came first in the search path; what that says counts only where the tables are there that it speaks of. Without
 * either (a dump of the schema alone), the tables tell.
 */
import { Data } from "effect"
import type { Migration } from "./Schema.ts"

/** A row of `lull.migrations`, or of the table before it. */
export interface Recorded {
  readonly id: number
  readonly name: string
  /** The lowest version that may go on with it; `null`: none but those that know it. */
  readonly lowestReader: number | null
}

export interface Table {
  readonly name: string
  readonly isOwned: boolean
  readonly mayRead: boolean
  /** Insert, update and delete. */
  readonly mayWrite: boolean
}

export interface Facts {
  readonly role: string
  readonly database: string
  /** Of the schema, if there is one. */
  readonly owner: string | null
  readonly isReadOnly: boolean
  readonly mayCreateSchema: boolean
  readonly mayUse: boolean
  readonly mayCreate: boolean
  /** What is in the schema `lull`. */
  readonly tables: ReadonlyArray<Table>
}

/** `undefined`: there is no such table. */
export interface Records {
  readonly current: ReadonlyArray<Recorded> | undefined
  readonly legacy: ReadonlyArray<Recorded>
}

/** The database was brought further by a newer version, which does not allow older ones beside it. */
export class SchemaTooNew extends Data.TaggedError("SchemaTooNew")<{
  readonly schema: number
  readonly known: number
}> {
  readonly code = "ERR_LULL_SCHEMA_TOO_NEW"
  override get message() {
    return `the schema of the database is ${this.schema}, and this version of Lull knows ${this.known}: ` +
      "run a newer version of Lull"
  }
}

/** The tables are not what the migrations that have run had made. */
export class SchemaDamaged extends Data.TaggedError("SchemaDamaged")<{ readonly problem: string }> {
  readonly code = "ERR_LULL_SCHEMA_DAMAGED"
  override get message() {
    return this.problem
  }
}

/** The role lacks rights: on the tables, or to bring them up to date. */
export class SchemaForbidden extends Data.TaggedError("SchemaForbidden")<{
  readonly role: string
  readonly problem: string
}> {
  readonly code = "ERR_LULL_SCHEMA_FORBIDDEN"
  override get message() {
    return this.problem
  }
}

export type Refused = SchemaTooNew | SchemaDamaged | SchemaForbidden

export type Decision =
  | { readonly _tag: "Refused"; readonly error: Refused }
  | {
    readonly _tag: "Usable"
    readonly version: number
    /** What is still to be run; empty when the schema is up to date. */
    readonly pending: ReadonlyArray<Migration>
    /** What is to be copied into `lull.migrations`, as it has run before there was one. */
    readonly unrecorded: ReadonlyArray<Migration>
  }

/** Of `lull.migrations`, in the schema. */
export const recordTable = "migrations"

/** The last migration that was recorded in `lull_migrations`. */
const lastLegacyId = 2

/** A name as SQL has it. */
export const quoted = (name: string): string => `"${name.replaceAll("\"", "\"\"")}"`

/** What the service needs, as the owner of the tables grants it. Runs as it is. */
export const grantsTo = (role: string): ReadonlyArray<string> => [
  `grant usage on schema lull to ${quoted(role)}`,
  `grant select, insert, update, delete on all tables in schema lull to ${quoted(role)}`,
  `revoke insert, update, delete on lull.${recordTable} from ${quoted(role)}`,
  `alter default privileges in schema lull grant select, insert, update, delete on tables to ${quoted(role)}`
]

/** The tables that are there once these migrations have run. */
export const tablesOf = (migrations: ReadonlyArray<Migration>): ReadonlySet<string> => {
  const tables = new Set<string>()
  for (const statement of migrations.flatMap(({ statements }) => statements)) {
    const made = /^\s*create\s+(?:unlogged\s+)?table\s+(?:if\s+not\s+exists\s+)?lull\.(\w+)/i.exec(statement)?.[1]
    const dropped = /^\s*drop\s+table\s+(?:if\s+exists\s+)?lull\.(\w+)/i.exec(statement)?.[1]
    if (made !== undefined) tables.add(made)
    if (dropped !== undefined) tables.delete(dropped)
  }
  return tables
}

export const versionOf = (migrations: ReadonlyArray<{ readonly id: number }>): number =>
  migrations.reduce((highest, { id }) => Math.max(highest, id), 0)

/** Before the rows are read: whether they can be. */
export const unreadable = (facts: Facts): Refused | undefined => {
  const records = facts.tables.find(({ name }) => name === recordTable)
  return records === undefined || (facts.mayUse && records.mayRead) ? undefined : lacksRights(facts, [recordTable])
}

export const decide = (facts: Facts, records: Records, migrations: ReadonlyArray<Migration>): Decision => {
  const rows = records.current ?? legacyRows(facts, records.legacy, migrations)
  const foreign = foreignRow(rows, migrations)
  if (foreign !== undefined) return { _tag: "Refused", error: foreign }
  const ids = new Set(rows.map(({ id }) => id))
  const applied = migrations.filter(({ id }) => ids.has(id))
  const pending = migrations.filter(({ id }) => !ids.has(id))
  const there = new Set(facts.tables.map(({ name }) => name))
  const missing = [...tablesOf(applied)].filter((name) => !there.has(name))
  const error = missing.length > 0
    ? tablesMissing(missing)
    : pending.length > 0 && !facts.isReadOnly
    ? mayNotMigrate(facts, versionOf(rows), migrations)
    : mayNotWork(facts, tablesOf(applied))
  if (error !== undefined) return { _tag: "Refused", error }
  return { _tag: "Usable", version: versionOf(rows), pending, unrecorded: records.current === undefined ? applied : [] }
}

/** What had run before there was `lull.migrations`: what the table before it says, if its tables are there; or the tables. */
const legacyRows = (
  facts: Facts,
  legacy: ReadonlyArray<Recorded>,
  migrations: ReadonlyArray<Migration>
): ReadonlyArray<Recorded> => {
  const there = new Set(facts.tables.map(({ name }) => name))
  const hasSomeOf = (some: ReadonlyArray<Migration>) => [...tablesOf(some)].some((name) => there.has(name))
  if (!hasSomeOf(migrations)) return []
  if (legacy.length > 0) return legacy
  return migrations.filter((migration) => migration.id <= lastLegacyId && hasSomeOf([migration]))
    .map(({ id, name }) => ({ id, name, lowestReader: null }))
}

/** What this version does not know and may not pass over. */
const foreignRow = (
  rows: ReadonlyArray<Recorded>,
  migrations: ReadonlyArray<Migration>
): SchemaTooNew | SchemaDamaged | undefined => {
  const known = versionOf(migrations)
  for (const { id, lowestReader, name } of rows) {
    const own = migrations.find((migration) => migration.id === id)
    if (own === undefined && (lowestReader ?? id) > known) return new SchemaTooNew({ schema: versionOf(rows), known })
    if (own !== undefined && own.name !== name) {
      return new SchemaDamaged({
        problem: `migration ${id} of the database is "${name}", and "${own.name}" in this version of Lull: it was ` +
          "made by a version that was never released; run that version, or use another database"
      })
    }
  }
  return undefined
}

const tablesMissing = (missing: ReadonlyArray<string>) => {
  const it = missing.length === 1 ? "it" : "them"
  return new SchemaDamaged({
    problem: `${
      missing.map((name) => `lull.${name}`).join(", ")
    } ${missing.length === 1 ? "is" : "are"} missing in the ` +
      `database, where Lull had made ${it}: restore ${it} from a backup; or, if nothing is to be kept, drop the schema ` +
      "lull, and it is made again"
  })
}

const mayNotMigrate = (
  facts: Facts,
  from: number,
  migrations: ReadonlyArray<Migration>
): SchemaForbidden | undefined => {
  const { database, mayCreate, mayCreateSchema, owner, role, tables } = facts
  const ours = new Set([...tablesOf(migrations), recordTable])
  const foreign = tables.filter(({ isOwned, name }) => !isOwned && ours.has(name)).map(({ name }) => `lull.${name}`)
  const lacking = [
    ...(owner === null && !mayCreateSchema ? [`CREATE on the database ${quoted(database)}`] : []),
    ...(owner !== null && !mayCreate ? ["CREATE on the schema lull"] : []),
    ...(foreign.length > 0 ? [`ownership of ${foreign.join(", ")}`] : [])
  ]
  if (lacking.length === 0) return undefined
  const what = from === 0
    ? "the database has no tables of Lull yet"
    : `the schema of the database is ${from} and has to be ${versionOf(migrations)}`
  const who = owner === null ? "a role that may" : `a role that may, as its owner ${quoted(owner)}`
  return new SchemaForbidden({
    role,
    problem: `${what}, and the role ${quoted(role)} may not change that: it lacks ${lacking.join(" and ")}; ` +
      `run lull migrate with ${who}`
  })
}

const mayNotWork = (facts: Facts, needed: ReadonlySet<string>): SchemaForbidden | undefined => {
  if (facts.owner === null) return undefined
  const lacking = facts.tables.filter(({ mayRead, mayWrite, name }) => needed.has(name) && !(mayRead && mayWrite))
    .map(({ name }) => name)
  return facts.mayUse && lacking.length === 0 ? undefined : lacksRights(facts, lacking)
}

const lacksRights = (facts: Facts, tables: ReadonlyArray<string>): SchemaForbidden => {
  const where = facts.mayUse ? tables.map((name) => `lull.${name}`).join(", ") : "the schema lull"
  return new SchemaForbidden({
    role: facts.role,
    problem: `the role ${quoted(facts.role)} lacks rights on ${where}; as ${
      facts.owner === null ? "the owner" : quoted(facts.owner)
    }: ${grantsTo(facts.role).map((grant) => `${grant};`).join(" ")}`
  })
}
