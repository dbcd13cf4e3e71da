import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import type { ChildProcess } from "node:child_process"
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import * as PostgresServer from "../support/PostgresServer.ts"
import { freePort, start, untilReady } from "./processes.ts"

const isRoot = process.getuid?.() === 0

describe("the secrets of a service", () => {
  const scope = Effect.runSync(Scope.make())
  const directory = mkdtempSync(join(tmpdir(), "lull-secrets-"))
  chmodSync(directory, 0o711)
  const services: Array<ChildProcess> = []
  const token = "$(id)`id`\\\"'0123456789#=!"
  let server: PostgresServer.PostgresServer
  let count = 0

  beforeAll(async () => {
    server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
  })
  afterAll(async () => {
    for (const child of services) child.kill("SIGKILL")
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(directory, { recursive: true, force: true })
  })

  const serve = async (environment: Record<string, string>) => {
    const data = join(directory, `data-${++count}`)
    const address = `127.0.0.1:${await freePort()}`
    const started = start(["serve"], { LULL_LISTEN: address, LULL_DATA_DIR: data, LULL_TOKEN: token, ...environment })
    services.push(started.child)
    await Promise.race([untilReady(`http://${address}`), started.ended])
    const run = async (script: string) =>
      await start(["job", "submit", "--wait", "--follow", "--", "/bin/sh", "-c", script], {
        LULL_URL: `http://${address}`,
        LULL_TOKEN: token
      }).ended
    const stop = async () => {
      started.child.kill("SIGTERM")
      return await started.ended
    }
    return { ...started, data, run, stop }
  }

  it(
    "are not in its environment for jobs to read, and are accepted as they were given; it stays the same process",
    async () => {
      const { child, run, stop } = await serve({
        LULL_DATABASE_URL: server.url,
        LULL_PEER_TOKEN: "peer-0123456789abcdef"
      })
      const environment = readFileSync(`/proc/${child.pid}/environ`, "utf8")
      for (const secret of [token, "peer-0123456789abcdef", server.url]) assert.notInclude(environment, secret)
      assert.include(environment, "LULL_DATA_DIR=")
      const { status, stderr, stdout } = await run("tr '\\0' '\\n' </proc/$PPID/environ; ls /proc/self/fd; echo done")
      assert.strictEqual(status, 0, stderr)
      assert.include(stdout, "done")
      assert.notInclude(stdout, "0123456789")
      assert.notInclude(stdout.split("\n"), "9")
      const { status: ended, stderr: log } = await stop()
      assert.strictEqual(ended, 0)
      assert.notInclude(log, "there is no such setting")
      assert.strictEqual(log.includes("jobs run as root"), isRoot)
    },
    60_000
  )

  it(
    isRoot
      ? "and its files are closed to jobs of another user, beside an embedded database"
      : "needs root, and was not tried: files that are closed to jobs of another user",
    async () => {
      if (!isRoot) return
      // The account of an embedded database that root starts is `postgres`, if there is one.
      const { data, run, stop } = await serve({ LULL_JOB_USER: "54321:54321" })
      const files = readdirSync(data).map((name) => join(data, name))
      const { stderr, stdout } = await run(
        `id -u; cat /proc/$PPID/environ; for each in ${data} ${files.join(" ")}; do ` +
          `head -c 1 $each 2>/dev/null; ls $each/ 2>/dev/null; done; echo done`
      )
      assert.strictEqual(stdout, "54321\ndone\n", stderr)
      assert.isTrue(existsSync(join(data, "postgres-password")))
      assert.strictEqual(statSync(data).mode & 0o777, 0o711)
      assert.notInclude((await stop()).stderr, "jobs run as root")
    },
    60_000
  )

  it(
    isRoot
      ? "are not given to jobs of the embedded database's own account"
      : "needs root, and was not tried: jobs of the embedded database's own account",
    async () => {
      if (!isRoot) return
      const { stop } = await serve({})
      await stop()
      const { uid } = statSync(join(directory, `data-${count}`, "postgres"))
      const { ended } = start(["serve"], {
        LULL_LISTEN: "127.0.0.1:0",
        LULL_DATA_DIR: join(directory, `data-${count}`),
        LULL_JOB_USER: `${uid}:${uid}`
      })
      const { status, stderr } = await ended
      assert.strictEqual(status, 1)
      assert.match(stderr, /jobs cannot run as \d+:\d+: the embedded PostgreSQL runs as the same user/)
    },
    60_000
  )

  it("are refused together with a user for jobs that is none", async () => {
    const { ended } = start(["serve"], {
      LULL_LISTEN: "127.0.0.1:0",
      LULL_DATA_DIR: join(directory, "none"),
      LULL_DATABASE_URL: server.url,
      LULL_JOB_USER: "no-such-user"
    })
    const { status, stderr } = await ended
    assert.strictEqual(status, 1)
    assert.match(stderr, /jobs cannot run as no-such-user/)
  }, 60_000)
})
