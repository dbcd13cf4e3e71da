/** Tokens in files, tokens that are changed while the service runs, and addresses with a prefix: as a unit would use them. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import type { ChildProcess } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { request } from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll } from "vitest"
import * as PostgresServer from "../support/PostgresServer.ts"
import { freePort, start, until, untilReady } from "./processes.ts"

const oldToken = "old-token-0123456789"
const newToken = "new-token-0123456789"

describe("lull", () => {
  const scope = Effect.runSync(Scope.make())
  const directory = mkdtempSync(join(tmpdir(), "lull-tokens-"))
  const children: Array<ChildProcess> = []
  let server: PostgresServer.PostgresServer

  const run = (words: ReadonlyArray<string>, environment: Record<string, string> = {}) => {
    const started = start(words, environment)
    children.push(started.child)
    return started
  }

  const serve = async (environment: Record<string, string>, chosenPort?: number) => {
    const port = chosenPort ?? await freePort()
    const started = run(["serve"], {
      LULL_LISTEN: `127.0.0.1:${port}`,
      LULL_DATA_DIR: join(directory, "data"),
      LULL_DATABASE_URL: server.url,
      LULL_WORKER_SLOTS: "0",
      LULL_LOG_FILE: "none",
      ...environment
    })
    const address = `http://127.0.0.1:${port}`
    await untilReady(address)
    return { ...started, address, port }
  }

  let files = 0
  const file = (content: string) => {
    const path = join(directory, `file-${files++}`)
    writeFileSync(path, content)
    return path
  }

  const statusWith = async (address: string, token: string) =>
    (await fetch(`${address}/api/v1/jobs`, { headers: { authorization: `Bearer ${token}` } })).status

  const peersOf = async (address: string, token: string) => {
    const response = await fetch(`${address}/metrics`, { headers: { authorization: `Bearer ${token}` } })
    return Number(/^lull_tailnet_peers (\d+)/m.exec(await response.text())?.[1] ?? 0)
  }

  beforeAll(async () => {
    server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
  })
  afterEach(async () => {
    const ended = children.splice(0).filter((child) => child.exitCode === null && child.signalCode === null)
    for (const child of ended) child.kill("SIGKILL")
    await until(() => ended.every((child) => child.exitCode !== null || child.signalCode !== null))
  })
  afterAll(async () => {
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(directory, { recursive: true, force: true })
  })

  it(
    "reads its tokens again on SIGHUP: both while they are changed, then the new one, and goes on with that when the file is gone",
    async () => {
      const tokens = file(`${oldToken}\n`)
      const { address, child, stderr } = await serve({ LULL_TOKEN_FILE: tokens })
      const reads = () => stderr().split("LULL_TOKEN_FILE was read again").length
      const changed = async (content: string) => {
        const before = reads()
        writeFileSync(tokens, content)
        child.kill("SIGHUP")
        await until(() => reads() > before)
        return [await statusWith(address, oldToken), await statusWith(address, newToken)]
      }
      assert.strictEqual(await statusWith(address, newToken), 401)
      assert.deepStrictEqual(await changed(`${oldToken}\n${newToken}\n`), [200, 200])
      assert.deepStrictEqual(await changed(`${newToken}\n`), [401, 200])
      rmSync(tokens)
      child.kill("SIGHUP")
      await until(() => /cannot be read: there is no such file; the tokens that were read before/.test(stderr()))
      assert.deepStrictEqual([await statusWith(address, oldToken), await statusWith(address, newToken)], [401, 200])
      assert.notInclude(stderr(), oldToken)
      assert.notInclude(stderr(), newToken)
      assert.isNull(child.exitCode)
    },
    60_000
  )

  it("does not start with a secret that is in two places, in no file, or in one that is empty", async () => {
    const cases: ReadonlyArray<readonly [environment: Record<string, string>, pattern: RegExp]> = [
      [{ LULL_TOKEN: newToken, LULL_TOKEN_FILE: file(newToken) }, /^LULL_TOKEN and LULL_TOKEN_FILE are both set/],
      [{ LULL_PEER_TOKEN_FILE: join(directory, "gone") }, /^LULL_PEER_TOKEN_FILE=.*: there is no such file\n$/],
      [{ LULL_DATABASE_URL: "", LULL_DATABASE_URL_FILE: file("\n") }, /^LULL_DATABASE_URL and LULL_DATABASE_URL_FILE/],
      [{ LULL_DATABASE_URL_FILE: file("\n") }, /^LULL_DATABASE_URL_FILE=.* is an empty file: /]
    ]
    for (const [environment, pattern] of cases) {
      const { status, stderr } = await run(["serve"], { LULL_DATA_DIR: join(directory, "data"), ...environment }).ended
      assert.strictEqual(status, 64)
      assert.match(stderr, pattern)
      assert.strictEqual(stderr.trim().split("\n").length, 1)
    }
  }, 60_000)

  it("takes the address of its database from a file", async () => {
    const { stderr } = await run(["migrate"], { LULL_DATABASE_URL_FILE: file(`${server.url}\n`) }).ended
    assert.strictEqual(stderr, "")
  }, 60_000)

  it("job sends the first token of its file, and says what is wrong with the file", async () => {
    const { address } = await serve({ LULL_TOKEN: oldToken })
    const list = (environment: Record<string, string>) =>
      run(["job", "list"], { LULL_URL: address, ...environment }).ended
    assert.deepStrictEqual(await list({ LULL_TOKEN_FILE: file(`${oldToken}\n${newToken}\n`) }), {
      status: 0,
      stdout: "",
      stderr: ""
    })
    assert.strictEqual((await list({ LULL_TOKEN: `${oldToken},${newToken}` })).status, 0)
    assert.strictEqual((await list({ LULL_TOKEN_FILE: file(`${newToken}\n${oldToken}\n`) })).status, 77)
    for (
      const [environment, pattern] of [
        [{ LULL_TOKEN: oldToken, LULL_TOKEN_FILE: file(oldToken) }, /^LULL_TOKEN and LULL_TOKEN_FILE are both set/],
        [{ LULL_TOKEN_FILE: join(directory, "gone") }, /^LULL_TOKEN_FILE=.*: there is no such file\n$/],
        [{ LULL_TOKEN_FILE: file("\n") }, /^LULL_TOKEN_FILE=.* is an empty file: /],
        [{ LULL_TOKEN_FILE: "" }, /^LULL_TOKEN_FILE is set, and empty/]
      ] as ReadonlyArray<readonly [Record<string, string>, RegExp]>
    ) {
      const { status, stderr } = await list(environment)
      assert.strictEqual(status, 64)
      assert.match(stderr, pattern)
    }
    const peer = await run(["peer", "join", "--name", "a"], { LULL_PEER_TOKEN_FILE: join(directory, "gone") }).ended
    assert.strictEqual(peer.status, 64)
    assert.match(peer.stderr, /^LULL_PEER_TOKEN_FILE=.*: there is no such file\n$/)
  }, 60_000)

  it("peer dials with the token that its file holds by then", async () => {
    const tokens = file(`${oldToken}\n`)
    const one = await serve({ LULL_TOKEN: oldToken })
    const alone = await peersOf(one.address, oldToken)
    run(["peer", "join", "--name", "alice"], { LULL_URL: one.address, LULL_PEER_TOKEN_FILE: tokens })
    await until(async () => await peersOf(one.address, oldToken) > alone)
    writeFileSync(tokens, `${newToken}\n`)
    one.child.kill("SIGTERM")
    await one.ended
    const again = await serve({ LULL_TOKEN: newToken }, one.port)
    await until(async () => await peersOf(again.address, newToken) > alone)
  }, 60_000)

  it("is called by its public names, with the prefix and without, by job and by peer", async () => {
    const { address, port, stderr } = await serve({
      LULL_TOKEN: oldToken,
      LULL_PUBLIC_URL: "https://lull.example/in/lull",
      LULL_TRUSTED_PROXIES: "127.0.0.1"
    })
    const client = { LULL_TOKEN: oldToken }
    for (const url of [address, `${address}/`, `${address}/in/lull`, `${address}/in/lull/`]) {
      const { status, stderr: said } = await run(["job", "submit", "--url", url, "--", "true"], client).ended
      assert.strictEqual(status, 0, said)
    }
    const alone = await peersOf(address, oldToken)
    run(["peer", "join", "--name", "alice", "--url", `${address}/in/lull/`], client)
    run(["peer", "join", "--name", "bob", "--url", `ws://127.0.0.1:${port}/api/v1/tailnet`], client)
    await until(async () => await peersOf(address, oldToken) === alone + 2)
    const asked = (headers: Record<string, string>, path = "/in/lull/healthz") =>
      new Promise<number>((resolve, reject) =>
        request({ host: "127.0.0.1", port, path, headers }, (response) => {
          response.resume().on("end", () => resolve(response.statusCode ?? 0))
        }).on("error", reject).end()
      )
    assert.strictEqual(await asked({ host: "lull.example" }), 200)
    assert.strictEqual(await asked({ host: "lull.example", origin: "https://lull.example" }), 200)
    assert.strictEqual(await asked({ host: "lull.example", origin: "http://lull.example" }), 403)
    assert.strictEqual(await asked({ host: "evil.example", "x-forwarded-host": "lull.example" }), 403)
    assert.strictEqual(await asked({ "sec-fetch-site": "cross-site" }), 403)
    assert.strictEqual(await asked({}, "/in/lull/api/v1/jobs"), 401)
    assert.strictEqual(await asked({}, "/in/lull/in/lull/healthz"), 401)
    await asked({ authorization: "Bearer hush-hush-hush-hush", "x-forwarded-for": "203.0.113.9" }, "/api/v1/jobs")
    await until(() => stderr().includes("203.0.113.9 gave a token that is not accepted"))
    run(["peer", "join", "--name", "carol", "--url", address], { LULL_TOKEN: "hush-hush-hush-hush" })
    await until(() => stderr().includes("127.0.0.1 gave a token that is not accepted"))
    assert.notInclude(stderr(), "hush")
  }, 60_000)

  it("peer joins no address with a user, a query or another protocol", async () => {
    for (
      const url of ["ftp://127.0.0.1", "http://user:hush@127.0.0.1", "http://127.0.0.1?x=hush", "127.0.0.1:7070", ","]
    ) {
      const { status, stderr } = await run(["peer", "join", "--name", "a", "--url", url]).ended
      assert.strictEqual(status, 64, url)
      assert.strictEqual(stderr.trim().split("\n").length, 1)
    }
  }, 60_000)
})
