import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { type ChildProcess, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, symlinkSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import * as PostgresServer from "../support/PostgresServer.ts"
import { main, root, servicesAt, start, type Started, startProgram, until } from "./processes.ts"

describe("a service that starts", () => {
  const scope = Effect.runSync(Scope.make())
  const directory = mkdtempSync(join(tmpdir(), "lull-start-"))
  const services: Array<ChildProcess> = []
  const token = "0123456789abcdef"
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

  const settings = (environment: Record<string, string>) => ({
    LULL_LISTEN: "127.0.0.1:0",
    LULL_DATA_DIR: join(directory, `data-${++count}`),
    LULL_DATABASE_URL: server.url,
    ...environment
  })

  const greeted = async (started: Started) => {
    services.push(started.child)
    await until(() => /try.*: /.test(started.stderr()) || started.child.exitCode !== null)
    return started
  }
  const serve = (environment: Record<string, string>) => greeted(start(["serve"], settings(environment)))

  const ended = async ({ child, ended }: Started) => {
    child.kill("SIGTERM")
    return await ended
  }

  it("says which database it uses, which version answers, and which jobs it runs, but no password", async () => {
    const url = server.url.replace(/^postgres:\/\/(\w+)(:[^@]*)?@/, "postgres://$1:hush@")
    const { stderr } = await ended(
      await serve({ LULL_DATABASE_URL: url, LULL_WORKER_TAGS: "os=linux", LULL_WORKER_SLOTS: "3" })
    )
    const { pathname, port, username } = new URL(url)
    assert.include(
      stderr,
      `lull uses the database ${
        pathname.slice(1)
      } at 127.0.0.1:${port} as role ${username}, and runs 3 jobs at a time, ` +
        "whose tags are of os=linux"
    )
    assert.match(stderr, /the database is served by PostgreSQL \d+\.\d+/)
    assert.notInclude(stderr, "hush")
  }, 60_000)

  it("says nothing of what Kubernetes and Docker set for a service of its name", async () => {
    const { stderr } = await ended(
      await serve({
        LULL_SERVICE_HOST: "10.0.0.1",
        LULL_SERVICE_PORT: "7070",
        LULL_SERVICE_PORT_HTTP: "7070",
        LULL_PORT: "tcp://10.0.0.1:7070",
        LULL_PORT_7070_TCP: "tcp://10.0.0.1:7070",
        LULL_PORT_7070_TCP_ADDR: "10.0.0.1"
      })
    )
    // Who runs the tests as root is told what that means for jobs.
    assert.deepStrictEqual(stderr.split("\n").filter((line) => /WARN/.test(line) && !/jobs run as root/.test(line)), [])
  }, 60_000)

  it("refuses secrets that are empty", async () => {
    for (const name of ["LULL_DATABASE_URL", "LULL_DATABASE_LISTEN_URL", "LULL_TOKEN", "LULL_PEER_TOKEN"]) {
      const { status, stderr } = await start(["serve"], settings({ [name]: "" })).ended
      assert.deepStrictEqual([status, stderr], [
        64,
        `${name} is set, and empty: give it its value, or do not set it at all\n`
      ])
    }
  }, 60_000)

  describe("prints a command to try", () => {
    const path = process.env["PATH"] ?? ""

    /** As somebody would who copies the line into another terminal. */
    const tried = (stderr: string, environment: Record<string, string> = {}) => {
      const [, line = ""] = /try[^:]*: ((?:npm|lull|\/).*?)"?$/m.exec(stderr) ?? []
      return spawnSync("sh", ["-c", line.replaceAll("\\\\", "\\").replaceAll("\\\"", "\"")], {
        cwd: root,
        encoding: "utf8",
        env: { PATH: path, HOME: directory, ...environment }
      })
    }

    for (
      const [name, environment] of [
        ["a port", {}],
        ["IPv6", { LULL_LISTEN: "[::1]:0" }],
        ["a name", { LULL_LISTEN: "localhost:0" }],
        ["all addresses, with a token", { LULL_LISTEN: "0.0.0.0:0", LULL_TOKEN: token }],
        ["all addresses of IPv6, with a token", { LULL_LISTEN: "[::]:0", LULL_TOKEN: token }],
        ["tags", { LULL_WORKER_TAGS: "os=linux,size=very large" }]
      ] as ReadonlyArray<readonly [string, Record<string, string>]>
    ) {
      it(`which works as it is printed, for ${name}`, async () => {
        const started = await serve(environment)
        const { status, stderr, stdout } = tried(
          started.stderr(),
          "LULL_TOKEN" in environment ? { LULL_TOKEN: token } : {}
        )
        assert.deepStrictEqual([status, stdout], [0, "hello\n"], stderr)
        assert.strictEqual(/with LULL_TOKEN set/.test(started.stderr()), "LULL_TOKEN" in environment)
        await ended(started)
      }, 60_000)
    }

    it("which works as it is printed, for a service without a worker", async () => {
      const started = await serve({ LULL_WORKER_SLOTS: "0" })
      assert.strictEqual(tried(started.stderr()).status, 0)
      assert.match(started.stderr(), /runs no jobs here/)
      await ended(started)
    }, 60_000)

    it("which is npm's, for who has started it by npm", async () => {
      const started = await greeted(startProgram("npm", ["start"], settings({})))
      assert.match(started.stderr(), /try: npm run lull -- /)
      assert.include(tried(started.stderr()).stdout, "hello\n")
      await ended(started)
    }, 60_000)

    it("which is lull's, for who has it in the path", async () => {
      symlinkSync(main, join(directory, "lull"))
      const withLull = { PATH: `${join(root, "node_modules", ".bin")}:${directory}:${path}` }
      const started = await greeted(startProgram("lull", ["serve"], settings(withLull)))
      assert.match(started.stderr(), /try: lull job submit /)
      assert.strictEqual(tried(started.stderr(), withLull).stdout, "hello\n")
      await ended(started)
    }, 60_000)
  })

  // Only root can become somebody else. Without it the rest is the same, and nothing is left to be seen.
  it("says in words that initdb needs a name for its user", async () => {
    if (process.getuid?.() !== 0) return
    const data = mkdtempSync(join(tmpdir(), "lull-nameless-"))
    spawnSync("chown", ["54321:54321", data])
    const words = ["--reuid=54321", "--regid=54321", "--clear-groups", process.execPath, main, "serve"]
    const started = startProgram("setpriv", words, { LULL_LISTEN: "127.0.0.1:0", LULL_DATA_DIR: data })
    services.push(started.child)
    const { status, stderr } = await started.ended
    rmSync(data, { recursive: true, force: true })
    assert.strictEqual(status, 1)
    assert.match(stderr, /the user id that it runs under has no name.*LULL_DATABASE_URL/)
    assert.deepStrictEqual(servicesAt("127.0.0.1:0").filter((pid) => pid === started.child.pid), [])
  }, 60_000)
})
