import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted, Schedule } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { type ChildProcess, spawn } from "node:child_process"
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Processes from "../../src/database/embedded/Processes.ts"
import { EmbeddedPostgres } from "../../src/database/EmbeddedPostgres.ts"
import { collectLines } from "../support/replicas.ts"

/** A directory `.lull` that is not there yet, in one that only its owner may enter. */
const emptyDirectory = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "lull-embedded-"))),
    // A server whose process was killed may still be at its last writes.
    (parent) => Effect.andThen(none(parent), Effect.sync(() => rmSync(parent, { recursive: true, force: true })))
  ),
  (parent) => join(parent, ".lull")
)

const postgres = (directory: string) => Layer.fresh(EmbeddedPostgres.layer({ directory }))

/** Starts it, does this, and stops it. */
const during = <A, E, R>(directory: string, use: (server: EmbeddedPostgres["Service"]) => Effect.Effect<A, E, R>) =>
  EmbeddedPostgres.use(use).pipe(Effect.provide(postgres(directory)))

const execute = (url: Redacted.Redacted<string>, sql: string) =>
  Effect.scoped(Effect.flatMap(
    PgClient.make({ url, maxConnections: 1, connectTimeout: "2 seconds" }),
    (client) => client.unsafe<Record<string, unknown>>(sql)
  )).pipe(Effect.provide(Layer.fresh(Reactivity.layer)))

const query = (server: EmbeddedPostgres["Service"], sql: string) => execute(server.url, sql)

const eventually = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.retry(effect, { schedule: Schedule.spaced("50 millis"), times: 200 })

const isGone = (pid: number) => Processes.waitUntil(() => !Processes.isRunning(pid), "15 seconds")

/** Our processes for this directory: server, guard and watcher. */
const leftOvers = (directory: string) =>
  readdirSync("/proc").map(Number).filter((pid) =>
    pid > 0 && pid !== process.pid && Processes.isRunning(pid) && Processes.commandLine(pid).includes(directory)
  )

const none = (directory: string) => Processes.waitUntil(() => leftOvers(directory).length === 0, "15 seconds")

const program = join(import.meta.dirname, "../support/embedded-process.ts")

/** A process of its own with the server; returns when that accepts connections. */
const separate = Effect.fnUntraced(function*(directory: string, environment: Record<string, string> = {}) {
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(process.execPath, [program, directory], {
        env: { ...process.env, ...environment },
        stdio: ["ignore", "pipe", "inherit"]
      })
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  const line = yield* Effect.callback<string, Error>((resume) => {
    child.stdout.setEncoding("utf8").once("data", (chunk: string) => resume(Effect.succeed(chunk)))
    child.once("exit", () => resume(Effect.fail(new Error("it ended early"))))
  })
  const [pid = "", url = ""] = line.trim().split(" ")
  return { child, pid: Number(pid), url: Redacted.make(url) }
})

const ended = (child: ChildProcess) =>
  Effect.callback<number | NodeJS.Signals | null>((resume) => {
    if (child.exitCode !== null || child.signalCode !== null) resume(Effect.succeed(child.exitCode ?? child.signalCode))
    else child.once("exit", (code, signal) => resume(Effect.succeed(code ?? signal)))
  })

const mode = (path: string) => (statSync(path).mode & 0o777).toString(8)

describe("EmbeddedPostgres", () => {
  it.live("starts in a directory that is not there yet, closed to others, and answers", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      yield* during(directory, (server) =>
        Effect.gen(function*() {
          assert.deepStrictEqual(
            yield* query(server, "select current_user::text as name, current_setting('fsync') as fsync"),
            [
              { name: "lull", fsync: "on" }
            ]
          )
          assert.strictEqual(server.directory, join(directory, "postgres"))
          assert.strictEqual(mode(server.directory), "700")
          assert.strictEqual(mode(join(directory, "postgres-password")), "600")
          assert.strictEqual(mode(join(directory, "postgres.log")), "600")
          assert.strictEqual(mode(join(directory, "lock")), "600")
          assert.strictEqual(mode(directory), process.getuid?.() === 0 ? "711" : "700")
          assert.deepStrictEqual(readdirSync(directory).sort(), [
            "lock",
            "postgres",
            "postgres-password",
            "postgres.log"
          ])
        }))
    }))

  it.live("refuses a wrong password and never has the right one on a command line", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      yield* during(directory, (server) =>
        Effect.gen(function*() {
          const password = readFileSync(join(directory, "postgres-password"), "utf8").trim()
          const url = Redacted.value(server.url)
          assert.include(url, password)
          const refused = yield* Effect.flip(execute(Redacted.make(url.replace(password, "guess")), "select 1"))
          assert.strictEqual(refused.reason._tag, "AuthenticationError")
          for (const pid of leftOvers(directory)) assert.notInclude(Processes.commandLine(pid), password)
        }))
    }))

  it.live("keeps its data over a stop with its scope, which leaves no process behind", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      const pid = yield* during(
        directory,
        (server) => Effect.as(query(server, "create table kept (id int)"), server.pid)
      )
      assert.isFalse(Processes.isRunning(pid))
      assert.isTrue(yield* none(directory))
      assert.notInclude(readdirSync(directory), "lock")
      assert.deepStrictEqual(yield* during(directory, (server) => query(server, "select * from kept")), [])
    }))

  it.live("ends when its process is killed, and starts again", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      const { child, pid } = yield* separate(directory)
      child.kill("SIGKILL")
      yield* ended(child)
      // At once, while the guard is still at work.
      yield* during(directory, (server) => query(server, "select 1"))
      assert.isFalse(Processes.isRunning(pid))
      const again = yield* separate(directory)
      again.child.kill("SIGKILL")
      assert.isTrue(yield* isGone(again.pid))
      assert.isTrue(yield* none(directory))
    }))

  it.live("starts anew when its process was killed in the middle of the first start", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      const child = spawn(process.execPath, [program, directory], { stdio: "ignore" })
      const isUnderWay = () => {
        const made = existsSync(directory)
          ? readdirSync(directory).find((name) => name.startsWith("postgres.new-"))
          : undefined
        return made !== undefined && existsSync(join(directory, made, "data", "PG_VERSION"))
      }
      assert.isTrue(yield* Processes.waitUntil(isUnderWay, "20 seconds"))
      child.kill("SIGKILL")
      yield* ended(child)
      assert.notInclude(readdirSync(directory), "postgres")
      yield* during(directory, (server) => query(server, "select 1"))
      assert.isTrue(yield* none(directory))
      assert.deepStrictEqual(readdirSync(directory).sort(), ["postgres", "postgres-password", "postgres.log"])
    }))

  it.live("ends an orphan whose guard was killed together with its process", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      const { child, pid } = yield* separate(directory)
      for (const other of leftOvers(directory)) if (other !== pid) process.kill(other, "SIGKILL")
      yield* ended(child)
      assert.isTrue(Processes.isRunning(pid))
      yield* during(directory, (server) => query(server, "select 1"))
      assert.isFalse(Processes.isRunning(pid))
    }))

  it.live("leaves no server after SIGINT, SIGTERM, or a second SIGINT", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      for (const signals of [["SIGINT"], ["SIGTERM"], ["SIGINT", "SIGINT"]] as const) {
        const { child, pid } = yield* separate(directory)
        for (const signal of signals) {
          child.kill(signal)
          yield* Effect.sleep("5 millis")
        }
        // The second ends it by `process.exit`, without finalizers.
        assert.strictEqual(yield* ended(child), signals.length === 1 ? 130 : 131)
        if (signals.length === 1) assert.isFalse(Processes.isRunning(pid))
        assert.isTrue(yield* isGone(pid))
        assert.isTrue(yield* none(directory))
      }
    }))

  it.live("is not stopped by a Ctrl-C that reaches the process group of a terminal", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      const { pid } = yield* separate(directory)
      const session = (id: number | "self") => readFileSync(`/proc/${id}/stat`, "latin1").split(") ")[1]?.split(" ")[3]
      assert.notStrictEqual(session(pid), session("self"))
    }))

  it.live("starts in spite of a stale postmaster.pid and a stale lock whose process ids were given to others", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      yield* during(directory, () => Effect.void)
      // The process ids of others: ours, which PostgreSQL would respect, and that of init.
      for (const pid of [process.pid, 1]) {
        writeFileSync(
          join(directory, "postgres", "postmaster.pid"),
          `${pid}\n${join(directory, "postgres")}\n1700000000\n20001\n\n127.0.0.1\n        0         0\nready   \n`
        )
        chmodSync(join(directory, "postgres", "postmaster.pid"), 0o644)
        writeFileSync(join(directory, "lock"), `${pid} another-boot/17 abcdef\n`)
        yield* during(directory, (server) => query(server, "select 1"))
      }
      writeFileSync(join(directory, "lock"), "")
      yield* during(directory, (server) => query(server, "select 1"))
    }))

  it.live("refuses a second instance, also by another name, while the first goes on", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      yield* during(directory, (server) =>
        Effect.gen(function*() {
          symlinkSync(directory, `${directory}-link`)
          for (const name of [directory, `${directory}-link`]) {
            const error = yield* Effect.flip(during(name, () => Effect.void))
            assert.strictEqual(error._tag, "DirectoryInUse")
            if (error._tag === "DirectoryInUse") assert.strictEqual(error.pid, process.pid)
            assert.include(error.message, directory)
          }
          yield* query(server, "select 1")
        }))
      const { child, url } = yield* separate(directory)
      const error = yield* Effect.flip(during(directory, () => Effect.void))
      if (error._tag === "DirectoryInUse") assert.strictEqual(error.pid, child.pid)
      assert.strictEqual(error._tag, "DirectoryInUse")
      yield* execute(url, "select 1")
    }))

  it.live("is started again by itself on the same port when its server or guard is killed", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      const { layer, lines } = collectLines()
      yield* during(directory, (server) =>
        Effect.gen(function*() {
          const guardOf = (pid: number) =>
            Number(readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.split(" ")[1])
          for (const victim of [(pid: number) => pid, guardOf]) {
            const before = server.pid
            process.kill(victim(before), "SIGKILL")
            yield* eventually(
              Effect.andThen(
                Effect.suspend(() => server.pid === before ? Effect.fail("not yet") : Effect.void),
                query(server, "select 1")
              )
            )
            assert.isFalse(Processes.isRunning(before))
          }
        })).pipe(Effect.provide(layer))
      assert.strictEqual(lines.length, 2)
      assert.include(lines[0]?.text, "the embedded PostgreSQL died, it is started again")
    }))

  it.live("gives the server nothing of our environment", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      const { pid } = yield* separate(directory, { LULL_SECRET: "tell nobody", PGPORT: "1", PGDATA: "/nowhere" })
      for (const other of leftOvers(directory)) {
        const environment = readFileSync(`/proc/${other}/environ`, "utf8")
        // The process that starts it has ours.
        if (environment.includes("LULL_SECRET")) assert.include(Processes.commandLine(other), "embedded-process")
      }
      const names = readFileSync(`/proc/${pid}/environ`, "utf8").split("\0").map((entry) => entry.split("=")[0])
      // PWD and its like are the shell's; PG_GRANDPARENT_PID would be pg_ctl's.
      assert.isEmpty(
        names.filter((name) =>
          !["", "PATH", "LANG", "LC_ALL", "TZ", "PWD", "OLDPWD", "_", "SHLVL"].includes(name ?? "")
        )
      )
    }))

  it.live("says which versions do not fit, and what else is wrong", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      yield* during(directory, () => Effect.void)
      const version = join(directory, "postgres", "PG_VERSION")
      writeFileSync(version, "15\n")
      const mismatch = yield* Effect.flip(during(directory, () => Effect.void))
      assert.strictEqual(mismatch._tag, "DataVersionMismatch")
      assert.match(mismatch.message, /by PostgreSQL 15,.* is 18/)
      writeFileSync(version, "18\n")
      rmSync(join(directory, "postgres", "global", "pg_control"))
      const broken = yield* Effect.flip(during(directory, () => Effect.void))
      assert.strictEqual(broken._tag, "EmbeddedPostgresFailed")
      assert.match(broken.message, /"start".*LULL_DATABASE_URL.*pg_control/)
      rmSync(join(directory, "postgres"), { recursive: true })
      mkdirSync(join(directory, "postgres", "mine"), { recursive: true })
      const other = yield* Effect.flip(during(directory, () => Effect.void))
      assert.match(other.message, /neither empty nor data of PostgreSQL/)
      assert.isFalse(readdirSync(directory).includes("lock"))
    }))

  it.live("says that a port is taken", () =>
    Effect.gen(function*() {
      const [one, two] = [yield* emptyDirectory, yield* emptyDirectory]
      yield* during(one, (server) =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(
            EmbeddedPostgres.use(() => Effect.void).pipe(
              Effect.provide(EmbeddedPostgres.layer({ directory: two, port: server.port }))
            )
          )
          assert.include(error.message, "Address already in use")
          assert.isTrue(yield* none(two))
        }))
    }))

  it.live("ends with its scope while a client holds a session and the server is stopped by SIGSTOP", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      const pid = yield* during(directory, (server) =>
        Effect.gen(function*() {
          const socket = connect(server.port, "127.0.0.1").on("error", () => {})
          yield* Effect.sleep("50 millis")
          process.kill(server.pid, "SIGSTOP")
          yield* Effect.addFinalizer(() => Effect.sync(() => socket.destroy()))
          return server.pid
        }))
      assert.isFalse(Processes.isRunning(pid))
      assert.isTrue(yield* none(directory))
    }))
})
