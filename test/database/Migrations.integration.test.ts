import { makeClient, PgClient } from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Layer, Redacted, Scope, SubscriptionRef } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { layer as reactivityLayer } from "effect/reactivity/Reactivity"
import * as Migrator from "effect/sql/Migrator"
import { SqlClient } from "effect/sql/SqlClient"
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll } from "vitest"
import * as Cluster from "../../src/database/embedded/Cluster.ts"
import * as Migrations from "../../src/database/Migrations.ts"
import { type Migration, migrations } from "../../src/database/Schema.ts"
import { grantsTo, tablesOf } from "../../src/database/SchemaState.ts"
import { examplesOf } from "../support/documents.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { open, until, untilAvailable, untilUnavailable } from "../support/realDatabase.ts"
import { collectLines } from "../support/replicas.ts"

const sqlOfPage = examplesOf("docs/schema.md", "sql").map(({ code }) => code)

const scope = Effect.runSync(Scope.make())
let server: PostgresServer.PostgresServer
beforeAll(async () => {
  server = await Effect.runPromise(Scope.provide(
    PostgresServer.make({ configuration: { max_prepared_transactions: "2" } }),
    scope
  ))
})
afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

const test = (name: string, body: Effect.Effect<void, unknown, SecureRandom.SecureRandom | Scope.Scope>) =>
  it.live(name, () => body.pipe(Effect.scoped, Effect.provide(SecureRandom.layerWebCrypto)), 60_000)

let databases = 0

/** A database of its own, on the one server, with what a test does there. */
const database = Effect.gen(function*() {
  const name = `t${++databases}`
  yield* server.execute(`create database ${name}`)
  const urlOf = (role: string) => `postgres://${role}@127.0.0.1:${server.port}/${name}`
  const connect = (role = "postgres", applicationName = "test") =>
    makeClient({ url: Redacted.make(urlOf(role)), applicationName }).pipe(
      Effect.provide(Layer.fresh(reactivityLayer))
    )
  /** Over a connection of its own. */
  const execute = (text: string, role?: string) =>
    Effect.scoped(Effect.flatMap(connect(role), (client) => client.unsafe<Record<string, unknown>>(text)))
  /** A role that may log in, and nothing else. */
  const role = Effect.gen(function*() {
    const own = `${name}_role${++databases}`
    yield* server.execute(`create role ${own} login`)
    return own
  })
  const migrate = (list?: ReadonlyArray<Migration>, as?: string) =>
    Effect.scoped(Effect.gen(function*() {
      const client = yield* connect(as)
      return yield* Migrations.run(
        {
          client,
          open: connect(as, "lull"),
          askWithin: Duration.seconds(5),
          migrateWithin: Duration.seconds(20)
        },
        list
      )
    }))
  return { name, url: urlOf("postgres"), urlOf, connect, execute, role, migrate }
})

type TestDatabase = Effect.Success<typeof database>

/** As the version before made its tables: unqualified, wherever the search path leads. */
const versionBefore = ({ connect }: TestDatabase, last = 2) => {
  const statements = (migration: Migration, ...first: ReadonlyArray<string>) =>
    Effect.flatMap(
      SqlClient,
      (sql) => Effect.forEach([...first, ...migration.statements], (text) => sql.unsafe(text), { discard: true })
    )
  const loader = Migrator.fromRecord({
    "0001_jobs": statements(migrations[0]!, "create schema if not exists lull"),
    ...(last > 1 ? { "0002_tailnet": statements(migrations[1]!) } : {})
  })
  return (role?: string) =>
    Effect.scoped(
      Effect.flatMap(connect(role), (client) =>
        Migrator.make({})({ loader, table: "lull_migrations" }).pipe(
          Effect.provideService(SqlClient, client),
          Effect.provideService(PgClient, client)
        ))
    )
}

const recorded = ({ execute }: TestDatabase) =>
  Effect.map(execute("select id from lull.migrations order by id"), (rows) => rows.map(({ id }) => id))

const all = migrations.map(({ id }) => id)

const version = Math.max(...all)

/** Why it is unavailable, as `/readyz` and the log have it. */
const complaint = (opened: Effect.Success<ReturnType<typeof open>>) =>
  Effect.map(untilUnavailable(opened), () => {
    const state = SubscriptionRef.getUnsafe(opened.availability.state)
    return state._tag === "Unavailable" ? `${state.reason}: ${state.lastError}` : state._tag
  })

/** A migration more than there is. */
const next = (...statements: ReadonlyArray<string>): ReadonlyArray<Migration> => [
  ...migrations,
  { id: version + 1, name: "next", statements }
]

/** A transaction of somebody else that stays open until the returned effect is run. */
const holding = Effect.fnUntraced(function*(from: TestDatabase, applicationName: string, statement: string) {
  const client = yield* from.connect("postgres", applicationName)
  yield* client.unsafe("begin")
  yield* client.unsafe(statement)
  const [row] = yield* client.unsafe<{ pid: number }>("select pg_backend_pid() as pid")
  return { pid: row!.pid, release: client.unsafe("rollback") }
})

describe("Migrations of a database that is empty", () => {
  test(
    "make the tables in the schema lull, and nothing outside it",
    Effect.gen(function*() {
      const here = yield* database
      assert.deepStrictEqual((yield* here.migrate()).applied, migrations)
      const tables = yield* here.execute(
        "select schemaname || '.' || tablename as name from pg_tables where schemaname !~ '^(pg_|information)' order by 1"
      )
      assert.deepStrictEqual(
        tables.map(({ name }) => name),
        [...tablesOf(migrations), "migrations"].map((name) => `lull.${name}`).toSorted()
      )
      assert.deepStrictEqual(yield* recorded(here), all)
      assert.deepStrictEqual((yield* here.migrate()).applied, [])
    })
  )

  test(
    "run once when many start together, also where there is something to add",
    Effect.gen(function*() {
      const here = yield* database
      const together = (list: ReadonlyArray<Migration>) =>
        Effect.all(Array.from({ length: 6 }, () => here.migrate(list)), { concurrency: "unbounded" })
      // A snapshot from before the lock would show them all an empty database.
      yield* here.execute(`alter database ${here.name} set default_transaction_isolation = serializable`)
      const made = yield* together(migrations)
      assert.strictEqual(made.filter(({ applied }) => applied.length > 0).length, 1)
      const added = yield* together(next("create table lull.added (n int)"))
      assert.strictEqual(added.filter(({ applied }) => applied.length > 0).length, 1)
    })
  )

  test(
    "leave nothing half done when a statement fails, and say which migration and why",
    Effect.gen(function*() {
      const here = yield* database
      const broken = next("create table lull.half (n int)", "insert into lull.half select 1/0")
      const error = yield* Effect.flip(here.migrate(broken))
      assert.strictEqual(error._tag, "MigrationFailed")
      assert.strictEqual(
        error.message,
        `migration ${version + 1} (next) failed, and nothing of it was kept: division by zero (SQLSTATE 22012)`
      )
      assert.deepStrictEqual(yield* here.execute("select nspname from pg_namespace where nspname = 'lull'"), [])
      yield* here.migrate()
      yield* Effect.flip(here.migrate(broken))
      assert.deepStrictEqual(yield* recorded(here), all)
      assert.deepStrictEqual(yield* here.execute("select to_regclass('lull.half')::text as there"), [{ there: null }])
    })
  )

  test(
    "need no search path: with an empty one Lull works",
    Effect.gen(function*() {
      const here = yield* database
      const role = yield* here.role
      yield* here.execute(`grant create on database ${here.name} to ${role}`)
      yield* here.execute(`alter role ${role} set search_path = ''`)
      const opened = yield* open({ url: here.urlOf(role) })
      yield* untilAvailable(opened)
      assert.deepStrictEqual(yield* opened.query("show search_path"), [{ search_path: "\"\"" }])
      assert.deepStrictEqual(yield* recorded(here), all)
    })
  )
})

describe("Migrations of a database of the version before", () => {
  for (
    const [where, prepare] of [
      ["public", () => Effect.void],
      ["a schema of the role", (here: TestDatabase) =>
        Effect.andThen(
          here.execute("create schema \"An app's\""),
          here.execute(`alter database ${here.name} set search_path = "An app's", public`)
        )]
    ] as const
  ) {
    test(
      `copy its rows, leave its table in ${where}, and let it start beside this one`,
      Effect.gen(function*() {
        const here = yield* database
        yield* prepare(here)
        const before = versionBefore(here)
        assert.strictEqual((yield* before()).length, 2)
        const rows = "select migration_id as id, name, created_at as at from lull_migrations order by migration_id"
        const old = yield* here.execute(rows)
        const report = yield* here.migrate()
        assert.deepStrictEqual(report.applied.map(({ id }) => id), all.filter((id) => id > 2))
        const copied = "select id, name, applied_at as at from lull.migrations where id <= 2 order by id"
        assert.deepStrictEqual(yield* here.execute(copied), old)
        assert.deepStrictEqual(yield* here.execute(rows), old)
        assert.deepStrictEqual(yield* before(), [])
        // In whatever order they start.
        const opened = yield* open({ url: here.url })
        yield* untilAvailable(opened)
        assert.deepStrictEqual(yield* before(), [])
        yield* opened.query("select 1")
      })
    )
  }

  test(
    "find its table also when the search path has changed since, and do not mind an empty one",
    Effect.gen(function*() {
      const here = yield* database
      yield* versionBefore(here)()
      yield* here.execute("create schema elsewhere")
      yield* here.execute(`alter database ${here.name} set search_path = elsewhere`)
      // The version before makes its table there, and fails at what is there already.
      yield* Effect.flip(versionBefore(here)())
      const opened = yield* open({ url: here.url })
      yield* untilAvailable(opened)
      assert.deepStrictEqual(yield* recorded(here), all)
    })
  )

  test(
    "go on from where an older one was",
    Effect.gen(function*() {
      const here = yield* database
      yield* versionBefore(here, 1)()
      const { applied, from } = yield* here.migrate()
      assert.deepStrictEqual([from, applied.map(({ id }) => id)], [1, all.slice(1)])
    })
  )

  test(
    "make everything again where its table says that they have run and the tables are gone, and say so",
    Effect.gen(function*() {
      const here = yield* database
      yield* versionBefore(here)()
      yield* here.execute("drop schema lull cascade")
      const { layer, lines } = collectLines()
      yield* Effect.provide(Effect.flatMap(open({ url: here.url }), untilAvailable), layer)
      assert.deepStrictEqual(yield* recorded(here), all)
      assert.deepStrictEqual(lines.filter(({ text }) => text.includes("tables")).map(({ text }) => text), [
        "the tables of Lull were gone from the database and have been made again: the jobs that they held are gone"
      ])
    })
  )

  test(
    "go on with a dump of the schema alone, and keep its jobs",
    Effect.gen(function*() {
      const here = yield* database
      yield* versionBefore(here)()
      yield* here.execute("drop table public.lull_migrations")
      yield* here.execute("insert into lull.tag_set values ('kept', '{}')")
      const opened = yield* open({ url: here.url })
      yield* untilAvailable(opened)
      assert.deepStrictEqual(yield* recorded(here), all)
      assert.deepStrictEqual(yield* opened.query("select key from lull.tag_set"), [{ key: "kept" }])
    })
  )

  test(
    "name the tables of a part of a dump that are missing",
    Effect.gen(function*() {
      const here = yield* database
      yield* versionBefore(here)()
      yield* here.execute("drop table lull.job_output, lull.job")
      const opened = yield* open({ url: here.url })
      assert.match(yield* complaint(opened), /^Misconfigured: lull\.job, lull\.job_output are missing/)
    })
  )

  test(
    "let it start on a database that this one has made, after what docs/schema.md says",
    Effect.gen(function*() {
      const here = yield* database
      yield* here.migrate()
      const [goBack] = sqlOfPage.filter((text) => text.includes("lull_migrations"))
      for (const statement of goBack!.split(";").filter((text) => text.trim() !== "")) yield* here.execute(statement)
      assert.deepStrictEqual(yield* versionBefore(here)(), [])
    })
  )
})

describe("Migrations that somebody is in the way of", () => {
  test(
    "take no lock when there is nothing to do: a dump, or a lock on a table before it, keeps no replica from starting",
    Effect.gen(function*() {
      const here = yield* database
      yield* versionBefore(here)()
      yield* here.migrate()
      yield* holding(here, "pg_dump", "lock table lull.migrations, lull.job, lull.replica in access share mode")
      yield* holding(here, "another", "lock table public.lull_migrations in access exclusive mode")
      yield* holding(here, "another", "select pg_advisory_lock(1819634796)")
      const opened = yield* open({ url: here.url })
      yield* until(() => SubscriptionRef.getUnsafe(opened.availability.state)._tag !== "Starting")
      assert.isTrue(opened.availability.isOpen())
    })
  )

  test(
    "say once who that is, and go on when it is gone",
    Effect.gen(function*() {
      const here = yield* database
      yield* here.migrate(migrations.slice(0, 1))
      const dump = yield* holding(here, "pg_dump", "lock table lull.job, lull.replica in access share mode")
      const { layer, lines } = collectLines()
      const opened = yield* Effect.provide(open({ url: here.url }), layer)
      const expected = `Refusing: the schema of the database has to be brought from 1 to ${version}, and waits for ` +
        `session ${dump.pid} (pg_dump, role postgres), which holds a lock on lull.replica`
      assert.strictEqual(yield* complaint(opened), expected)
      // Tried a second time.
      yield* until(() => {
        const state = SubscriptionRef.getUnsafe(opened.availability.state)
        return state._tag === "Unavailable" && state.attempts > 1
      })
      // Its waiting keeps nobody else waiting for long.
      yield* here.execute("select * from lull.replica")
      yield* dump.release
      yield* untilAvailable(opened)
      assert.deepStrictEqual(yield* recorded(here), all)
      assert.strictEqual(lines.filter(({ text }) => text.includes("pg_dump")).length, 1)
    })
  )

  test(
    "name the session at the head of the queue, not another that waits",
    Effect.gen(function*() {
      const here = yield* database
      yield* here.migrate()
      const dump = yield* holding(here, "pg_dump", "lock table lull.job in access share mode")
      const list = next("alter table lull.job add column added int")
      const [first, second] = yield* Effect.all([Effect.flip(here.migrate(list)), Effect.flip(here.migrate(list))], {
        concurrency: 2
      })
      for (const error of [first, second]) {
        assert.strictEqual(error._tag, "SchemaBlocked")
        assert.include(error.message, `session ${dump.pid} (pg_dump, role postgres)`)
      }
    })
  )

  test(
    "name a prepared transaction, and a session that holds the lock of migrations",
    Effect.gen(function*() {
      const here = yield* database
      yield* here.migrate()
      const preparing = yield* here.connect()
      yield* preparing.unsafe("begin")
      yield* preparing.unsafe("lock table lull.job in access share mode")
      yield* preparing.unsafe("prepare transaction 'forgotten'")
      const list = next("alter table lull.job add column added int")
      assert.include(
        (yield* Effect.flip(here.migrate(list))).message,
        "a prepared transaction, which holds a lock on lull.job"
      )
      yield* here.execute("rollback prepared 'forgotten'")
      const other = yield* holding(here, "somebody", "select pg_advisory_lock(1819634796)")
      assert.include((yield* Effect.flip(here.migrate(list))).message, `session ${other.pid} (somebody, role postgres)`)
    })
  )
})

describe("Tables that change under a service", () => {
  const availability = { beatEvery: "100 millis" } as const

  test(
    "are made again when the schema was dropped, which is said in one line",
    Effect.gen(function*() {
      const here = yield* database
      const { layer, lines } = collectLines()
      const opened = yield* Effect.provide(open({ url: here.url, availability }), layer)
      yield* untilAvailable(opened)
      yield* here.execute("drop schema lull cascade")
      yield* Effect.eventually(Effect.andThen(Effect.sleep("50 millis"), opened.query("select * from lull.job")))
      assert.deepStrictEqual(yield* recorded(here), all)
      yield* untilAvailable(opened)
      assert.deepStrictEqual(
        lines.filter(({ text }) => text.includes("gone")).map(({ level, text }) => `${level} ${text}`),
        ["Warn the tables of Lull were gone from the database and have been made again: the jobs that they held are gone"]
      )
    })
  )

  for (const table of tablesOf(migrations)) {
    test(
      `are named when one is missing, and the service goes on when it is there again: ${table}`,
      Effect.gen(function*() {
        const here = yield* database
        const opened = yield* open({ url: here.url, availability })
        yield* untilAvailable(opened)
        yield* here.execute(`alter table lull.${table} rename to hidden`)
        assert.strictEqual(
          yield* complaint(opened),
          `Misconfigured: lull.${table} is missing in the database, where Lull had made it: restore it from a backup; ` +
            "or, if nothing is to be kept, drop the schema lull, and it is made again"
        )
        const another = yield* open({ url: here.url })
        assert.match(yield* complaint(another), new RegExp(`^Misconfigured: lull.${table} is missing`))
        yield* here.execute(`alter table lull.hidden rename to ${table}`)
        yield* untilAvailable(opened)
        yield* untilAvailable(another)
      })
    )
  }

  test(
    "of a newer version refuse this one, running or starting, until they are gone",
    Effect.gen(function*() {
      const here = yield* database
      const opened = yield* open({ url: here.url, availability })
      yield* untilAvailable(opened)
      yield* here.execute("insert into lull.migrations (id, name) values (41, 'far'), (42, 'farther')")
      const expected = `Misconfigured: the schema of the database is 42, and this version of Lull knows ${version}: ` +
        "run a newer version of Lull"
      assert.strictEqual(yield* complaint(opened), expected)
      const starting = yield* open({ url: here.url })
      assert.strictEqual(yield* complaint(starting), expected)
      yield* here.execute(`update lull.migrations set lowest_reader = ${version + 1} where id > 40`)
      yield* Effect.sleep("300 millis")
      assert.strictEqual(yield* complaint(starting), expected)
      yield* here.execute(`update lull.migrations set lowest_reader = ${version} where id > 40`)
      yield* untilAvailable(opened)
      yield* untilAvailable(starting)
      assert.strictEqual((yield* here.migrate()).applied.length, 0)
    })
  )

  test(
    "of a newer version that allows older ones beside it let them start",
    Effect.gen(function*() {
      const here = yield* database
      const newer: ReadonlyArray<Migration> = [
        ...migrations,
        { id: version + 1, name: "wider", statements: ["alter table lull.job add column w int"], lowestReader: version }
      ]
      yield* here.migrate(newer)
      const opened = yield* open({ url: here.url })
      yield* untilAvailable(opened)
      assert.strictEqual((yield* here.migrate(newer)).applied.length, 0)
    })
  )

  test(
    "of another line of development are refused by the name of the migration",
    Effect.gen(function*() {
      const here = yield* database
      yield* here.migrate()
      yield* here.execute("update lull.migrations set name = 'other' where id = 2")
      const opened = yield* open({ url: here.url })
      assert.match(
        yield* complaint(opened),
        /^Misconfigured: migration 2 of the database is "other", and "tailnet" in this version of Lull/
      )
    })
  )
})

describe("Roles", () => {
  const grants = (here: TestDatabase, role: string) => Effect.forEach(grantsTo(role), (grant) => here.execute(grant))

  test(
    "that may change nothing work on tables that are up to date, without trying to",
    Effect.gen(function*() {
      const here = yield* database
      const role = yield* here.role
      yield* here.migrate()
      yield* grants(here, role)
      const { layer, lines } = collectLines()
      const opened = yield* Effect.provide(open({ url: here.urlOf(role) }), layer)
      yield* untilAvailable(opened)
      assert.deepStrictEqual(lines, [])
      const may = yield* here.execute(`select has_schema_privilege('${role}', 'lull', 'create') as made,
        has_table_privilege('${role}', 'lull.migrations', 'insert, update, delete, truncate') as recorded,
        has_table_privilege('${role}', 'lull.job', 'truncate, references, trigger') as more`)
      assert.deepStrictEqual(may, [{ made: false, recorded: false, more: false }])
    })
  )

  test(
    "that may change nothing work on tables of the version before that lack nothing but the record of it",
    Effect.gen(function*() {
      const here = yield* database
      const role = yield* here.role
      yield* versionBefore(here)()
      if (version > 2) yield* here.migrate()
      yield* here.execute(`grant usage on schema lull to ${role}`)
      yield* here.execute(`grant select, insert, update, delete on all tables in schema lull to ${role}`)
      yield* Effect.flatMap(open({ url: here.urlOf(role) }), untilAvailable)
    })
  )

  test(
    "that may change nothing are told what they lack, and who may",
    Effect.gen(function*() {
      const here = yield* database
      const role = yield* here.role
      const owner = yield* here.role
      const opened = yield* open({ url: here.urlOf(role) })
      assert.strictEqual(
        yield* complaint(opened),
        `Misconfigured: the database has no tables of Lull yet, and the role "${role}" may not change that: it lacks ` +
          `CREATE on the database "${here.name}"; run lull migrate with a role that may`
      )
      yield* here.execute(`create schema lull authorization ${owner}`)
      yield* here.migrate(migrations.slice(0, 1), owner)
      yield* grants(here, role).pipe(Effect.ignore)
      const another = yield* open({ url: here.urlOf(role) })
      assert.strictEqual(
        yield* complaint(another),
        `Misconfigured: the schema of the database is 1 and has to be ${version}, and the role "${role}" may not change ` +
          "that: it lacks CREATE on the schema lull and ownership of lull.job, lull.job_output, lull.migrations, " +
          `lull.replica, lull.tag_set; run lull migrate with a role that may, as its owner "${owner}"`
      )
      // And when somebody has done it, the service goes on by itself.
      yield* here.migrate(migrations, owner)
      yield* Effect.forEach(grantsTo(role), (grant) => here.execute(grant, owner))
      yield* untilAvailable(opened)
      yield* untilAvailable(another)
    })
  )

  test(
    "that own nothing but the schema make the tables in it, and do not ask for more",
    Effect.gen(function*() {
      const here = yield* database
      const owner = yield* here.role
      yield* here.execute(`create schema lull authorization ${owner}`)
      yield* Effect.flatMap(open({ url: here.urlOf(owner) }), untilAvailable)
      assert.deepStrictEqual(yield* recorded(here), all)
    })
  )

  test(
    "without rights on the tables are told which, in statements that can be run as they are",
    Effect.gen(function*() {
      const here = yield* database
      yield* here.execute("create role \"o'dd Role\" login").pipe(Effect.ignore)
      yield* here.migrate()
      const url = here.urlOf("o'dd%20Role")
      const opened = yield* open({ url })
      const said = yield* complaint(opened)
      assert.match(
        said,
        /^Misconfigured: the role "o'dd Role" lacks rights on the schema lull; as "postgres": grant usage on/
      )
      for (const grant of said.slice(said.indexOf("grant usage")).split(";").filter((text) => text.trim() !== "")) {
        yield* here.execute(grant)
      }
      yield* untilAvailable(opened)
      // Tables of later migrations need no further grants.
      yield* here.migrate(next("create table lull.later (n int)"))
      yield* here.execute("insert into lull.later values (1)", "o'dd%20Role")
      yield* here.execute("drop owned by \"o'dd Role\"")
    })
  )

  test(
    "that lose a right while the service runs are told which table",
    Effect.gen(function*() {
      const here = yield* database
      const role = yield* here.role
      yield* here.migrate()
      yield* grants(here, role)
      const opened = yield* open({ url: here.urlOf(role), availability: { beatEvery: "100 millis" } })
      yield* untilAvailable(opened)
      yield* here.execute(`revoke update on lull.job from ${role}`)
      assert.match(
        yield* complaint(opened),
        new RegExp(`^Misconfigured: the role "${role}" lacks rights on lull.job; as`)
      )
      yield* grants(here, role)
      yield* untilAvailable(opened)
    })
  )

  test(
    "that may not make the schema again are told so when it was dropped",
    Effect.gen(function*() {
      const here = yield* database
      const role = yield* here.role
      yield* here.migrate()
      yield* grants(here, role)
      const opened = yield* open({ url: here.urlOf(role), availability: { beatEvery: "100 millis" } })
      yield* untilAvailable(opened)
      yield* here.execute("drop schema lull cascade")
      assert.match(yield* complaint(opened), /^Misconfigured: the database has no tables of Lull yet, and the role/)
    })
  )

  test(
    "on a server that is read-only hear of that, and not of rights",
    Effect.gen(function*() {
      const here = yield* database
      yield* here.execute(`alter database ${here.name} set default_transaction_read_only = on`)
      const opened = yield* open({ url: here.urlOf(yield* here.role) })
      assert.match(yield* complaint(opened), /^ReadOnly/)
    })
  )
})

describe("lull migrate", () => {
  const main = fileURLToPath(new URL("../../src/main.ts", import.meta.url))
  const directory = mkdtempSync(join(tmpdir(), "lull-migrate-"))
  afterAll(() => rmSync(directory, { recursive: true, force: true }))

  const start = (environment: Record<string, string>, ...parameters: ReadonlyArray<string>) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        const child = spawn(process.execPath, [main, ...parameters], {
          env: { PATH: process.env["PATH"] ?? "", HOME: directory, LULL_DATA_DIR: directory, ...environment },
          stdio: ["ignore", "pipe", "pipe"]
        })
        const output = { stdout: "", stderr: "" }
        child.stdout.on("data", (bytes) => output.stdout += String(bytes))
        child.stderr.on("data", (bytes) => output.stderr += String(bytes))
        const ended = new Promise<number | null>((resolve) => child.on("close", resolve))
        return { child, output, ended: Effect.promise(() => ended) }
      }),
      ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
    )

  const run = (environment: Record<string, string>, ...parameters: ReadonlyArray<string>) =>
    Effect.scoped(Effect.flatMap(
      start(environment, ...parameters),
      ({ ended, output }) => Effect.map(ended, (status) => ({ status, ...output }))
    ))

  test(
    "brings the tables up to date with one role, lets another use them, and that one runs jobs and peers",
    Effect.gen(function*() {
      const here = yield* database
      const [owner, role] = ["lull_owner", "lull_service"]
      const [prepare] = sqlOfPage.filter((text) => text.includes("create role"))
      for (const statement of prepare!.split(";").filter((text) => text.trim() !== "")) yield* here.execute(statement)
      const migrating = { LULL_DATABASE_URL: here.urlOf(owner) }
      const made = yield* run(migrating, "migrate", "--grant-to", role)
      assert.deepStrictEqual(made, {
        status: 0,
        stdout: `the schema of the database was brought from 0 to ${version}: ${
          migrations.map(({ id, name }) => `${id} ${name}`).join(", ")
        }\n${grantsTo(role).map((grant) => `${grant};\n`).join("")}`,
        stderr: ""
      })
      const again = yield* run(migrating, "migrate")
      assert.deepStrictEqual([again.status, again.stdout], [
        0,
        `the schema of the database is ${version}: there is nothing to do\n`
      ])
      const port = yield* Cluster.freePort
      const url = `http://127.0.0.1:${port}`
      const serving = yield* start(
        { LULL_DATABASE_URL: here.urlOf(role), LULL_LISTEN: `127.0.0.1:${port}` },
        "serve"
      )
      yield* until(() => serving.output.stderr.includes("lull is ready"))
      const job = yield* run(
        { LULL_URL: url },
        "job",
        "submit",
        "--wait",
        "--follow",
        "--",
        "sh",
        "-c",
        "echo out; exit 3"
      )
      assert.deepStrictEqual([job.status, job.stdout], [3, "out\n"])
      yield* start({ LULL_URL: url }, "peer", "join", "--name", "alice", "--tunnel", "bob")
      yield* start({ LULL_URL: url }, "peer", "join", "--name", "bob")
      yield* Effect.repeat(
        here.execute("select from lull.peer, lull.tunnel where node is not null and id = from_peer"),
        { until: (rows) => rows.length > 0 }
      )
      // Run by root, a service warns of what its jobs may do.
      const lines = serving.output.stderr.split("\n").filter((line) => !line.includes("LULL_JOB_USER"))
      assert.notMatch(lines.join("\n"), /permission|unavailable|level=(WARN|ERROR)/)
    })
  )

  test(
    "says who is in the way, once, goes on when that one is gone, and gives up after as long as it was told to",
    Effect.gen(function*() {
      const here = yield* database
      yield* here.migrate(migrations.slice(0, 1))
      const dump = yield* holding(here, "pg_dump", "lock table lull.replica in access share mode")
      const environment = { LULL_DATABASE_URL: here.url }
      const said = `waits for session ${dump.pid} (pg_dump, role postgres), which holds a lock on lull.replica`
      const impatient = yield* run(environment, "migrate", "--wait", "1")
      assert.strictEqual(impatient.status, 69)
      assert.include(impatient.stderr, said)
      const waiting = yield* start(environment, "migrate")
      yield* until(() => waiting.output.stderr.includes(said))
      yield* Effect.sleep("3 seconds")
      yield* dump.release
      assert.strictEqual(yield* waiting.ended, 0)
      assert.strictEqual(waiting.output.stderr.split("waits for").length, 2)
      assert.deepStrictEqual(yield* recorded(here), all)
    })
  )

  test(
    "says in a sentence what is wrong with the database, the role or the settings",
    Effect.gen(function*() {
      const here = yield* database
      const role = yield* here.role
      const cases = [
        [64, {}, [], /^LULL_DATABASE_URL is not set: it should name the database/],
        [
          77,
          { LULL_DATABASE_URL: here.urlOf(role) },
          [],
          /^the database has no tables of Lull yet, and the role .* lacks CREATE/
        ],
        [1, { LULL_DATABASE_URL: here.url }, ["--grant-to", "nobody here"], /^role "nobody here" does not exist/],
        [69, { LULL_DATABASE_URL: "postgres://u@127.0.0.1:1/d" }, [], /ECONNREFUSED/]
      ] as const
      for (const [expectedStatus, environment, parameters, expected] of cases) {
        const { status, stderr } = yield* run(environment, "migrate", ...parameters)
        assert.match(stderr, expected)
        assert.deepStrictEqual([status, stderr.trim().split("\n").length], [expectedStatus, 1])
      }
    })
  )

  test(
    "refuses a newer schema, as the service does, which is not ready and says which version it knows",
    Effect.gen(function*() {
      const here = yield* database
      yield* here.migrate()
      yield* here.execute("insert into lull.migrations (id, name) values (42, 'far')")
      const port = yield* Cluster.freePort
      const token = "0123456789abcdef"
      const serving = yield* start(
        { LULL_DATABASE_URL: here.url, LULL_LISTEN: `127.0.0.1:${port}`, LULL_TOKEN: token },
        "serve"
      )
      const words =
        `the schema of the database is 42, and this version of Lull knows ${version}: run a newer version of Lull`
      yield* until(() => serving.output.stderr.includes(words))
      const headers = { authorization: `Bearer ${token}` }
      const ready = yield* Effect.promise(() => fetch(`http://127.0.0.1:${port}/readyz`, { headers }))
      assert.strictEqual(ready.status, 503)
      const body = (yield* Effect.promise(() => ready.json())) as { reason: string; lastError: string }
      assert.deepStrictEqual([body.reason, body.lastError], ["Misconfigured", words])
      const migrating = yield* run({ LULL_DATABASE_URL: here.url }, "migrate")
      assert.deepStrictEqual([migrating.status, migrating.stderr], [1, `${words}\n`])
    })
  )
})
