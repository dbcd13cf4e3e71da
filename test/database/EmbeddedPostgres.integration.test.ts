import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted, Schedule } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import {
  chmodSync,
  chownSync,
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
import { socketPath } from "../../src/database/ConnectionUrl.ts"
import * as Binaries from "../../src/database/embedded/Binaries.ts"
import * as Cluster from "../../src/database/embedded/Cluster.ts"
import * as Processes from "../../src/database/embedded/Processes.ts"
import * as ServerAccount from "../../src/database/embedded/ServerAccount.ts"
import { EmbeddedPostgres } from "../../src/database/EmbeddedPostgres.ts"
import { collectLines } from "../support/replicas.ts"

/** What is in the place for temporary files for this directory. */
const temporary = (directory: string) => {
  const hash = createHash("sha256").update(directory).digest("hex").slice(0, 12)
  return readdirSync(tmpdir()).filter((name) => new RegExp(`^lull-(socket|programs)-${hash}-`).test(name))
}

/** A directory `.lull` that is not there yet, in one that only its owner may enter. */
const emptyDirectory = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "lull-embedded-"))),
    // A server whose process was killed may still be at its last writes.
    (parent) =>
      Effect.andThen(
        none(parent),
        Effect.sync(() => {
          rmSync(parent, { recursive: true, force: true })
          for (const name of temporary(join(parent, ".lull"))) rmSync(join(tmpdir(), name), { recursive: true })
        })
      )
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
const separate = Effect.fnUntraced(function*(
  directory: string,
  environment: Record<string, string> = {},
  under: ReadonlyArray<string> = []
) {
  const [file = "", ...words] = [...under, process.execPath, program, directory]
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(file, words, {
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

const isRoot = process.getuid?.() === 0

/** These tests have directories that only their owner may enter, and root's server is not the owner. */
const socketsBeside = isRoot ? [] : ["socket"]

const mode = (path: string) => (statSync(path).mode & 0o777).toString(8)

/** What a server asks of somebody who says to be the superuser: the mechanism of SASL, or the number of another request. */
const askedFor = (port: number) =>
  Effect.callback<string, Error>((resume) => {
    const parameters = Buffer.from("user\0lull\0\0", "latin1")
    const head = Buffer.alloc(8)
    head.writeInt32BE(parameters.length + 8, 0)
    head.writeInt32BE(196_608, 4)
    const socket = connect(port, "127.0.0.1", () => socket.write(Buffer.concat([head, parameters])))
    socket.on("error", (error) => resume(Effect.fail(error)))
    socket.once("data", (answer: Buffer) => {
      socket.destroy()
      const kind = answer.readInt32BE(5)
      resume(Effect.succeed(kind === 10 ? answer.subarray(9).toString("latin1").split("\0")[0] ?? "" : String(kind)))
    })
  })

/** The lines of /proc/<pid>/status about what a process may do. */
const privileges = (pid: number) =>
  Object.fromEntries(
    readFileSync(`/proc/${pid}/status`, "latin1").split("\n").flatMap((line) => {
      const [, name = "", value = ""] = /^(Cap\w+|Groups|NoNewPrivs):\s*(.*?)\s*$/.exec(line) ?? []
      return name === "" ? [] : [[name, value.replace(/^0+$/, "0")]]
    })
  )

/** Whether somebody else may enter a directory; only root can ask. */
const isOpenToNobody = (path: string) =>
  spawnSync("setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", "ls", path]).status === 0

describe("EmbeddedPostgres", () => {
  it.live("listens on no port, where others could take its place, but at a socket that only its account reaches", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      // As root its account may pass to the data here, and there not.
      for (const parentMode of [0o711, 0o700]) {
        chmodSync(join(directory, ".."), parentMode)
        yield* during(directory, (server) =>
          Effect.gen(function*() {
            const socket = server.socket ?? ""
            assert.strictEqual(mode(socket), "700")
            assert.isTrue(existsSync(socketPath(socket, server.port)))
            assert.strictEqual(socket === join(directory, "socket"), !isRoot || parentMode === 0o711)
            assert.isFalse(isRoot && isOpenToNobody(socket))
            assert.deepStrictEqual(yield* query(server, "show listen_addresses"), [{ listen_addresses: "" }])
          }))
      }
    }))

  it.live("has its socket elsewhere where the path of the directory is too long, and leaves nothing there", () =>
    Effect.gen(function*() {
      const directory = join(yield* emptyDirectory, "x".repeat(60), "y, \"y".repeat(5))
      const { child } = yield* separate(directory)
      const made = temporary(directory)
      assert.lengthOf(made, 1)
      child.kill("SIGKILL")
      yield* ended(child)
      yield* during(directory, (server) =>
        Effect.gen(function*() {
          assert.strictEqual(mode(server.socket ?? ""), "700")
          yield* query(server, "select 1")
          assert.lengthOf(temporary(directory), 1)
          assert.notInclude(temporary(directory), made[0])
        }))
      assert.deepStrictEqual(temporary(directory), [])
    }))

  it.live("starts in spite of a socket that a killed one left, whose process id was given to another", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      chmodSync(join(directory, ".."), 0o711)
      yield* during(directory, () => Effect.void)
      const path = socketPath(join(directory, "socket"), 5432)
      writeFileSync(path, "")
      writeFileSync(`${path}.lock`, `${process.pid}\n${directory}\n1700000000\n5432\n${join(directory, "socket")}\n`)
      yield* during(directory, (server) => query(server, "select 1"))
    }))

  it.live("has no privileges beyond its account, whoever made its directory and however closed that is", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      // As the log of the service makes it, which comes first.
      mkdirSync(directory, { mode: 0o700 })
      const open = yield* emptyDirectory
      chmodSync(join(open, ".."), 0o755)
      for (const each of [directory, open]) {
        yield* during(each, (server) =>
          Effect.gen(function*() {
            const { CapBnd, NoNewPrivs, ...held } = privileges(server.pid)
            assert.deepStrictEqual(
              { ...held, Groups: isRoot ? held["Groups"] : "" },
              { Groups: "", CapInh: "0", CapPrm: "0", CapEff: "0", CapAmb: "0" }
            )
            if (isRoot) assert.deepStrictEqual({ CapBnd, NoNewPrivs }, { CapBnd: "0", NoNewPrivs: "1" })
            const secret = isRoot ? "/etc/shadow" : "/etc/sudoers"
            const error = yield* Effect.flip(query(server, `select pg_read_file('${secret}')`))
            assert.notStrictEqual(error.reason._tag, "ConnectionError")
            assert.deepStrictEqual(yield* query(server, "select 1 as one"), [{ one: 1 }])
          }))
      }
    }))

  it.live(
    isRoot
      ? "does not pass on capabilities that the service was given with an ordinary user"
      : "needs root, and was not tried: capabilities that the service was given with an ordinary user",
    () =>
      Effect.gen(function*() {
        if (!isRoot) return
        const directory = yield* emptyDirectory
        mkdirSync(directory)
        for (const path of [directory, join(directory, "..")]) chownSync(path, 65_534, 65_534)
        const words = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search"]
        const { pid, url } = yield* separate(directory, {}, [
          "setpriv",
          ...words,
          "--ambient-caps=+dac_read_search",
          "--"
        ])
        const { CapAmb, CapEff, CapInh, CapPrm } = privileges(pid)
        assert.deepStrictEqual([CapAmb, CapEff, CapInh, CapPrm], ["0", "0", "0", "0"])
        yield* Effect.flip(execute(url, "select pg_read_file('/etc/shadow')"))
      })
  )

  it.live("runs a copy of programs that its account cannot reach", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      mkdirSync(directory, { mode: 0o700 })
      const { root } = yield* Binaries.resolve
      execFileSync("cp", ["-r", root, join(directory, "native")])
      const original = Binaries.inDirectory(join(directory, "native"))
      yield* Effect.scoped(Effect.gen(function*() {
        const { binaries, version } = yield* ServerAccount.choose(original, join(directory, "postgres"))
        assert.strictEqual(version, "18")
        assert.strictEqual(binaries.root === original.root, !isRoot)
        assert.lengthOf(temporary(directory), isRoot ? 1 : 0)
      }))
      assert.deepStrictEqual(temporary(directory), [])
    }))

  it.live("keeps its log within its quota while it runs, with the newest lines", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      const quota = 100_000
      const log = join(directory, "postgres-log")
      const bytes = () => readdirSync(log).reduce((sum, name) => sum + statSync(join(log, name)).size, 0)
      const layer = Layer.fresh(EmbeddedPostgres.layer({ directory, logQuota: quota }))
      yield* EmbeddedPostgres.use((server) =>
        Effect.gen(function*() {
          for (let round = 1; round <= 5; round++) {
            yield* query(
              server,
              `do $$ begin for i in 1..500 loop raise log 'round ${round} line % %', i, repeat('x', 200); end loop; end $$`
            )
            yield* eventually(Effect.suspend(() =>
              readFileSync(join(log, "postgres.log"), "utf8").includes(`round ${round} line 500`)
                ? Effect.void
                : Effect.fail("not yet")
            ))
            assert.isAtMost(bytes(), quota)
          }
          assert.isAbove(readdirSync(log).length, 1)
        })
      ).pipe(Effect.provide(layer))
      assert.include(readFileSync(join(log, "postgres.log"), "utf8"), "database system is shut down")
    }))

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
          assert.strictEqual(mode(join(directory, "postgres-log")), "700")
          assert.strictEqual(mode(join(directory, "lock")), "600")
          assert.strictEqual(mode(directory), isRoot ? "711" : "700")
          assert.deepStrictEqual(readdirSync(directory).sort(), [
            "lock",
            "postgres",
            "postgres-log",
            "postgres-password",
            ...socketsBeside
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
      assert.deepStrictEqual(readdirSync(directory).sort(), [
        "postgres",
        "postgres-log",
        "postgres-password",
        ...socketsBeside
      ])
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

  it.live("listens on a port that is asked for, with SCRAM, and says that it is taken", () =>
    Effect.gen(function*() {
      const [one, two] = [yield* emptyDirectory, yield* emptyDirectory]
      const port = yield* Cluster.freePort
      const at = (directory: string) => Layer.fresh(EmbeddedPostgres.layer({ directory, port }))
      yield* EmbeddedPostgres.use(() =>
        Effect.gen(function*() {
          assert.deepStrictEqual(yield* askedFor(port), "SCRAM-SHA-256")
          const error = yield* Effect.flip(EmbeddedPostgres.use(() => Effect.void).pipe(Effect.provide(at(two))))
          assert.include(error.message, "Address already in use")
          assert.isTrue(yield* none(two))
        })
      ).pipe(Effect.provide(at(one)))
    }))

  it.live("ends with its scope while a client holds a session and the server is stopped by SIGSTOP", () =>
    Effect.gen(function*() {
      const directory = yield* emptyDirectory
      const pid = yield* during(directory, (server) =>
        Effect.gen(function*() {
          const socket = connect(socketPath(server.socket ?? "", server.port)).on("error", () => {})
          yield* Effect.sleep("50 millis")
          process.kill(server.pid, "SIGSTOP")
          yield* Effect.addFinalizer(() => Effect.sync(() => socket.destroy()))
          return server.pid
        }))
      assert.isFalse(Processes.isRunning(pid))
      assert.isTrue(yield* none(directory))
    }))
})
