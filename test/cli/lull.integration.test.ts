import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import type { ChildProcess } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import * as PostgresServer from "../support/PostgresServer.ts"
import { freePort, pause, start, untilReady } from "./processes.ts"

describe("lull", () => {
  const scope = Effect.runSync(Scope.make())
  const directory = mkdtempSync(join(tmpdir(), "lull-cli-"))
  const services: Array<ChildProcess> = []
  let server: PostgresServer.PostgresServer
  let address = ""
  let service: ReturnType<typeof start>
  const lull = (...parameters: ReadonlyArray<string>) => start(parameters, { LULL_URL: address }).ended

  const serve = async ({ LULL_DATABASE_URL = server.url, ...environment }: Record<string, string> = {}) => {
    const port = await freePort()
    const started = start(["serve"], {
      LULL_LISTEN: `127.0.0.1:${port}`,
      LULL_DATA_DIR: join(directory, "data"),
      // None: an embedded one.
      ...LULL_DATABASE_URL === "none" ? {} : { LULL_DATABASE_URL },
      LULL_SECRET: "hush",
      ...environment
    })
    services.push(started.child)
    return { ...started, address: `http://127.0.0.1:${port}` }
  }

  beforeAll(async () => {
    server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
    const started = await serve()
    service = started
    address = started.address
    await untilReady(address)
  })
  afterAll(async () => {
    for (const child of services) child.kill("SIGKILL")
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(directory, { recursive: true, force: true })
  })

  it("says at which port it listens, also when it chose it, and which settings there are not", async () => {
    const { child, ended, stderr } = await serve({ LULL_LISTEN: "127.0.0.1:0", LULL_WORKER_SLOT: "8" })
    while (!/ready at/.test(stderr())) await pause(20)
    child.kill("SIGTERM")
    await ended
    assert.match(stderr(), /LULL_WORKER_SLOT: there is no such setting/)
    assert.match(stderr(), /listens at http:\/\/127\.0\.0\.1:[1-9]\d*"/)
  })

  it("keeps its log in a file too, and makes that anew on SIGHUP", async () => {
    const file = join(directory, "log", "here.log")
    const { child, ended, stderr } = await serve({ LULL_LISTEN: "127.0.0.1:0", LULL_LOG_FILE: file })
    while (!/ready at/.test(stderr())) await pause(20)
    await pause(300)
    assert.match(readFileSync(file, "utf8"), /level=INFO .*lull is ready at/)
    renameSync(file, `${file}.1`)
    child.kill("SIGHUP")
    while (!existsSync(file)) await pause(20)
    child.kill("SIGTERM")
    await ended
    assert.strictEqual(child.exitCode, 0)
  })

  it("does not start with a log file that it was told of and cannot have", async () => {
    const { ended } = await serve({ LULL_LOG_FILE: "/dev/null/lull.log" })
    const { status, stderr } = await ended
    assert.strictEqual(status, 1)
    assert.match(stderr, /^the log file \/dev\/null\/lull\.log cannot be used: .*\n$/)
    const wrong = await serve({ LULL_LOG_QUOTA: "1 kB" })
    assert.match(
      (await wrong.ended).stderr,
      /LULL_LOG_QUOTA="1 kB" is wrong: it should be at least 1 MB, as 500 MB or 2 GB/
    )
  })

  it("submits a job, follows its output on its own streams, and exits with its status", async () => {
    const done = await lull("job", "submit", "--wait", "--follow", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert.strictEqual(done.status, 3)
    assert.strictEqual(done.stdout, "out\n")
    assert.include(done.stderr, "err\n")
  })

  it("gives a job what it was given, and nothing of the service", async () => {
    const done = await lull("job", "submit", "--wait", "--follow", "--env", "A=1", "--", "env")
    const names = done.stdout.trim().split("\n").map((line) => line.split("=")[0]).toSorted()
    assert.deepStrictEqual(names, ["A", "HOME", "LULL_JOB_ID", "LULL_JOB_LEASE", "PATH", "TMPDIR"])
  })

  it("prints JSON for scripts", async () => {
    const submitted = JSON.parse((await lull("job", "submit", "--json", "--", "true")).stdout) as { id: string }
    const shown = JSON.parse((await lull("job", "show", "--json", submitted.id)).stdout) as { id: string }
    assert.strictEqual(shown.id, submitted.id)
    const listed = (await lull("job", "list", "--json")).stdout.trim().split("\n").map((line) =>
      JSON.parse(line) as { id: string }
    )
    assert.isTrue(listed.some(({ id }) => id === submitted.id))
  })

  it("cancels a job", async () => {
    const { stdout } = await lull("job", "submit", "--", "sleep", "60")
    const canceled = await lull("job", "cancel", stdout.trim())
    assert.strictEqual(canceled.status, 0)
    assert.match(canceled.stdout, /cancel(ed|ing)/)
    const logs = await lull("job", "logs", "--follow", stdout.trim())
    assert.strictEqual(logs.status, 0)
  })

  it("waits for a job through an outage", async () => {
    const waiting = lull("job", "submit", "--wait", "--", "sh", "-c", "sleep 3; exit 7")
    await pause(1_500)
    await Effect.runPromise(server.stop("immediate"))
    await pause(3_000)
    await Effect.runPromise(server.start)
    assert.strictEqual((await waiting).status, 7)
    assert.isTrue(service.child.exitCode === null)
  }, 60_000)

  it("says in one line what is wrong", async () => {
    const nobody = await start(["job", "list"], { LULL_URL: "http://127.0.0.1:1" }).ended
    assert.strictEqual(nobody.status, 69)
    assert.match(nobody.stderr, /^no service answers at http:\/\/127\.0\.0\.1:1: the connection was refused; .*\n$/)
    const unknown = await lull("job", "show", "x")
    assert.deepStrictEqual([unknown.status, unknown.stderr.trim()], [1, "there is no job \"x\""])
    const wrong = await start(["serve"], { LULL_WORKER_SLOTS: "many", LULL_LOG_FORMAT: "xml" }).ended
    assert.deepStrictEqual([wrong.status, wrong.stderr.trim().split("\n").length], [64, 2])
    const taken = await start(["serve"], { LULL_LISTEN: address.replace("http://", ""), LULL_DATABASE_URL: server.url })
      .ended
    assert.strictEqual(taken.status, 1)
    assert.include(taken.stderr, "LULL_LISTEN")
  }, 60_000)

  it("explains every command", async () => {
    for (
      const words of [[], ["serve"], ["job"], ["job", "submit"], ["job", "list"], ["job", "show"], ["job", "logs"], [
        "job",
        "cancel"
      ], ["peer", "join"]]
    ) {
      const help = await start([...words, "--help"], {}).ended
      assert.strictEqual(help.status, 0)
      assert.include(help.stdout, "USAGE")
    }
    assert.include((await start(["serve", "--help"], {}).ended).stdout, "LULL_DATABASE_URL")
  }, 60_000)

  it("lets a running job end on SIGTERM, stores its result, and exits with 0", async () => {
    const started = await serve({ LULL_DATA_DIR: join(directory, "other"), LULL_WORKER_TAGS: "at=other" })
    await untilReady(started.address)
    const { stdout } = await start(["job", "submit", "--tag", "at=other", "--", "sleep", "2"], {
      LULL_URL: started.address
    }).ended
    const id = stdout.trim()
    while (!(await lull("job", "show", id)).stdout.includes("running"));
    started.child.kill("SIGTERM")
    assert.strictEqual((await started.ended).status, 0)
    assert.include((await lull("job", "show", id)).stdout, "succeeded")
  }, 60_000)

  it("ends in time on SIGTERM with its database away, and says what could not be stored", async () => {
    const started = await serve({
      LULL_DATA_DIR: join(directory, "third"),
      LULL_WORKER_TAGS: "at=third",
      LULL_SHUTDOWN_DEADLINE: "1 second"
    })
    await untilReady(started.address)
    const { stdout } = await start(["job", "submit", "--tag", "at=third", "--", "sleep", "60"], {
      LULL_URL: started.address
    }).ended
    while (!(await lull("job", "show", stdout.trim())).stdout.includes("running"));
    await Effect.runPromise(server.stop("immediate"))
    started.child.kill("SIGTERM")
    const ended = await started.ended
    assert.strictEqual(ended.status, 0)
    assert.include(ended.stderr, stdout.trim())
    await Effect.runPromise(server.start)
  }, 60_000)

  it("serves on an embedded PostgreSQL, and leaves none behind", async () => {
    const data = join(directory, "embedded")
    const started = await serve({ LULL_DATA_DIR: data, LULL_DATABASE_URL: "none" })
    await untilReady(started.address)
    // Root's server, and its jobs of another user, have to pass; what is in it is closed.
    assert.strictEqual(statSync(data).mode & 0o777, process.getuid?.() === 0 ? 0o711 : 0o700)
    assert.strictEqual(statSync(join(data, "log")).mode & 0o777, 0o700)
    const pid = Number(readFileSync(join(data, "postgres", "postmaster.pid"), "utf8").split("\n")[0])
    const done = await start(["job", "submit", "--wait", "--follow", "--", "echo", "hello"], {
      LULL_URL: started.address
    }).ended
    assert.deepStrictEqual([done.status, done.stdout], [0, "hello\n"])
    started.child.kill("SIGINT")
    assert.strictEqual((await started.ended).status, 0)
    assert.isFalse(existsSync(`/proc/${pid}`) && readFileSync(`/proc/${pid}/stat`, "utf8").includes("(postgres)"))
  }, 60_000)
})
