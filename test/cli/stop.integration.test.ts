import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import type { ChildProcess } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import * as PostgresServer from "../support/PostgresServer.ts"
import { freePort, pause, start, until, untilReady } from "./processes.ts"

describe("a service that is stopped", () => {
  const scope = Effect.runSync(Scope.make())
  const directory = mkdtempSync(join(tmpdir(), "lull-stop-"))
  const services: Array<ChildProcess> = []
  let server: PostgresServer.PostgresServer

  beforeAll(async () => {
    server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
  })
  afterAll(async () => {
    for (const child of services) child.kill("SIGKILL")
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(directory, { recursive: true, force: true })
  })

  const serve = async (environment: Record<string, string> = {}) => {
    const port = await freePort()
    const tag = `at=${port}`
    const started = start(["serve"], {
      LULL_LISTEN: `127.0.0.1:${port}`,
      LULL_DATA_DIR: join(directory, String(port)),
      LULL_DATABASE_URL: server.url,
      LULL_WORKER_TAGS: tag,
      ...environment
    })
    services.push(started.child)
    const address = `http://127.0.0.1:${port}`
    await untilReady(address)
    const lull = (...words: ReadonlyArray<string>) => start(["job", ...words], { LULL_URL: address })
    const submit = async (...command: ReadonlyArray<string>) => {
      const id = (await lull("submit", "--tag", tag, "--", ...command).ended).stdout.trim()
      await until(async () => (await (await fetch(`${address}/api/v1/jobs/${id}`)).text()).includes(`"running"`))
      return id
    }
    return { ...started, address, lull, submit }
  }

  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    it(`by ${signal} goes on answering until its jobs have ended, but takes no new ones`, async () => {
      const { address, child, ended, lull, stderr, submit } = await serve()
      const id = await submit("sh", "-c", "echo begun; sleep 4; echo done")
      const waiting = lull("logs", "--follow", id)
      child.kill(signal)
      await until(() => stderr().includes("lull stops"))

      assert.strictEqual((await fetch(`${address}/healthz`)).status, 200)
      const ready = await fetch(`${address}/readyz`)
      assert.strictEqual(ready.status, 503)
      assert.strictEqual((await ready.json() as { status: string }).status, "stopping")
      assert.include(await (await fetch(`${address}/api/v1/jobs/${id}`)).text(), `"running"`)
      assert.strictEqual((await fetch(`${address}/api/v1/jobs`)).status, 200)
      await until(async () => (await (await fetch(`${address}/api/v1/jobs/${id}/logs`)).text()).includes("begun"))
      const refused = await fetch(`${address}/api/v1/jobs`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ input: { command: ["true"] } })
      })
      assert.strictEqual(refused.status, 503)
      assert.isNotNull(refused.headers.get("retry-after"))
      assert.match((await refused.json() as { detail: string }).detail, /is stopping and takes no new jobs/)
      const client = await lull("submit", "--", "true").ended
      assert.strictEqual(client.status, 69)
      assert.match(client.stderr, /^this service is stopping and takes no new jobs.*\n$/)

      const { status } = await ended
      assert.strictEqual(status, 0)
      assert.match(stderr(), new RegExp(`lull stops: ${signal}; 1 job runs, for 10s at most`))
      assert.match(stderr(), /lull has stopped"?\n$/)
      assert.include((await waiting.ended).stdout, "begun\n")
    }, 60_000)
  }

  it("can still be asked to cancel the job that it waits for", async () => {
    const { child, ended, lull, stderr, submit } = await serve({ LULL_SHUTDOWN_DEADLINE: "5 minutes" })
    const id = await submit("sleep", "600")
    child.kill("SIGTERM")
    await until(() => stderr().includes("lull stops"))
    assert.strictEqual((await lull("cancel", id).ended).status, 0)
    assert.strictEqual((await ended).status, 0)
  }, 60_000)

  it("says so and ends with 0 when nothing runs, and when it has only begun to start", async () => {
    const idle = await serve()
    idle.child.kill("SIGTERM")
    assert.strictEqual((await idle.ended).status, 0)
    assert.match(idle.stderr(), /lull stops: SIGTERM; no job runs/)

    const starting = start(["serve"], { LULL_LISTEN: "127.0.0.1:0", LULL_DATA_DIR: join(directory, "new") })
    services.push(starting.child)
    await until(() => starting.stderr().includes("lull uses an embedded PostgreSQL"))
    starting.child.kill("SIGTERM")
    assert.strictEqual((await starting.ended).status, 0)
    assert.match(starting.stderr(), /lull stops: SIGTERM.*lull has stopped/s)
  }, 60_000)

  it("twice by Ctrl-C ends at once", async () => {
    const { child, ended, stderr, submit } = await serve({ LULL_SHUTDOWN_DEADLINE: "5 minutes" })
    await submit("sleep", "600")
    child.kill("SIGINT")
    // What a terminal and npm send for one Ctrl-C.
    child.kill("SIGINT")
    await until(() => stderr().includes("waiting for job"))
    await pause(1_000)
    assert.isNull(child.exitCode)
    child.kill("SIGINT")
    assert.strictEqual((await ended).status, 130)
  }, 60_000)

  it("outlives SIGHUP, where there is no terminal, also without a log file", async () => {
    const { address, child, ended } = await serve({ LULL_LOG_FILE: "none" })
    child.kill("SIGHUP")
    await pause(500)
    assert.isTrue((await fetch(`${address}/readyz`)).ok)
    child.kill("SIGTERM")
    assert.strictEqual((await ended).status, 0)
  }, 60_000)
})
