import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import type { ChildProcess } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer, type Server as HttpServer } from "node:http"
import { type AddressInfo, createServer as createTcpServer, type Server as TcpServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import * as PostgresServer from "../support/PostgresServer.ts"
import { type Ended, freePort, pause, start, until, untilReady } from "./processes.ts"

interface Document {
  readonly id?: string
  readonly status?: string
  readonly stream?: string
  readonly text?: string
  readonly error?: string
  readonly job?: string
}

const documents = (text: string) => text.split("\n").filter(Boolean).map((line) => JSON.parse(line) as Document)

const listening = async (server: HttpServer | TcpServer) => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  return (server.address() as AddressInfo).port
}

describe("lull job", () => {
  const scope = Effect.runSync(Scope.make())
  const directory = mkdtempSync(join(tmpdir(), "lull-job-"))
  const services: Array<ChildProcess> = []
  const token = "0123456789abcdef"
  let server: PostgresServer.PostgresServer
  let address = ""
  let guarded = ""
  let port = 0

  const serve = async (environment: Record<string, string> = {}, at?: number) => {
    const port = at ?? await freePort()
    const started = start(["serve"], {
      LULL_LISTEN: `127.0.0.1:${port}`,
      LULL_DATA_DIR: join(directory, String(port)),
      LULL_DATABASE_URL: server.url,
      LULL_WORKER_SLOTS: "16",
      ...environment
    })
    services.push(started.child)
    return { ...started, address: `http://127.0.0.1:${port}`, port }
  }

  const lull = (...words: ReadonlyArray<string>) => start(["job", ...words], { LULL_URL: address })

  const show = async (id: string) => await (await fetch(`${address}/api/v1/jobs/${id}`)).json() as Document

  beforeAll(async () => {
    server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
    const started = await serve()
    address = started.address
    port = started.port
    await untilReady(address)
    guarded = (await serve({ LULL_TOKEN: token, LULL_WORKER_SLOTS: "0" })).address
    await untilReady(guarded)
  })
  afterAll(async () => {
    for (const child of services) child.kill("SIGKILL")
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(directory, { recursive: true, force: true })
  })

  describe("that is interrupted", () => {
    const waiting = async (...flags: ReadonlyArray<string>) => {
      const started = lull("submit", "--wait", ...flags, "--", "sleep", "60")
      await until(() => /^job \S+\n/m.test(started.stderr()))
      const id = /^job (\S+)$/m.exec(started.stderr())?.[1] ?? ""
      return { ...started, id }
    }
    const cancel = async (id: string) => void (await lull("cancel", id).ended)

    for (const [signal, status] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]] as const) {
      it(`by ${signal} while it waits exits with ${status}, says its id, and lets the job go on`, async () => {
        const { child, ended, id } = await waiting()
        child.kill(signal)
        const { status: exited, stderr, stdout } = await ended
        assert.deepStrictEqual([exited, stdout], [status, ""])
        assert.include(stderr, `job ${id} goes on`)
        assert.match((await show(id)).status ?? "", /^(pending|running)$/)
        await cancel(id)
      }, 60_000)

      it(`by ${signal} cancels the job, when that was wanted, and exits with ${status}`, async () => {
        const { child, ended, id } = await waiting("--cancel-on-interrupt")
        child.kill(signal)
        const { status: exited, stderr } = await ended
        assert.strictEqual(exited, status)
        assert.match(stderr, new RegExp(`job ${id} cancel(ing|ed)\n`))
        await until(async () => (await show(id)).status === "canceled")
      }, 60_000)
    }

    for (const [signal, status] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
      it(`by ${signal} while it follows a log exits with ${status}`, async () => {
        const id = (await lull("submit", "--", "sh", "-c", "echo here; sleep 60").ended).stdout.trim()
        const following = lull("logs", "--follow", id)
        await until(() => following.stdout().includes("here"))
        following.child.kill(signal)
        assert.strictEqual((await following.ended).status, status)
        await cancel(id)
      }, 60_000)
    }

    it("does not wait for long for a service that does not answer its cancel", async () => {
      const own = await serve()
      await untilReady(own.address)
      const started = start(["job", "submit", "--wait", "--cancel-on-interrupt", "--", "sleep", "60"], {
        LULL_URL: own.address
      })
      await until(() => /^job \S+\n/m.test(started.stderr()))
      own.child.kill("SIGSTOP")
      started.child.kill("SIGINT")
      const { status, stderr } = await started.ended
      own.child.kill("SIGKILL")
      assert.strictEqual(status, 130)
      assert.match(stderr, /job \S+ was not canceled: /)
    }, 60_000)

    it("says so in JSON too", async () => {
      const started = lull("submit", "--wait", "--json", "--cancel-on-interrupt", "--", "sleep", "60")
      await until(() => started.stderr().includes("\n"))
      started.child.kill("SIGINT")
      const { status, stderr, stdout } = await started.ended
      assert.deepStrictEqual([status, stdout], [130, ""])
      assert.strictEqual(documents(stderr).length, 2)
    }, 60_000)
  })

  it("exits as its job did", async () => {
    const cases: ReadonlyArray<readonly [number, ReadonlyArray<string>]> = [
      [0, ["--", "true"]],
      [7, ["--", "sh", "-c", "exit 7"]],
      [124, ["--timeout", "0.3", "--", "sleep", "60"]],
      [137, ["--", "sh", "-c", "kill -KILL $$"]],
      [139, ["--", "sh", "-c", "kill -SEGV $$"]],
      [127, ["--", "/no/such/program"]],
      [126, ["--", "/etc/passwd"]]
    ]
    for (const [status, words] of cases) {
      const { status: exited, stderr } = await lull("submit", "--wait", ...words).ended
      assert.strictEqual(exited, status, stderr)
    }
    const canceled = lull("submit", "--wait", "--", "sleep", "60")
    await until(() => canceled.stderr().includes("\n"))
    await lull("cancel", canceled.stderr().replace("job", "").trim()).ended
    assert.strictEqual((await canceled.ended).status, 130)
  }, 60_000)

  it("prints JSON alone, whatever else is asked", async () => {
    const command = ["--", "sh", "-c", "echo out; echo err >&2; exit 3"]
    const both = await lull("submit", "--json", "--wait", "--follow", ...command).ended
    assert.strictEqual(both.status, 3)
    const printed = documents(both.stdout)
    assert.sameMembers(printed.flatMap(({ text }) => text ?? []), ["out", "err"])
    assert.strictEqual(printed.at(-1)?.status, "failed")
    assert.strictEqual(documents(both.stderr)[0]?.job, printed.at(-1)?.id)
    const waited = await lull("submit", "--json", "--wait", ...command).ended
    assert.strictEqual(documents(waited.stdout).length, 1)
    const id = printed.at(-1)?.id ?? ""
    for (const words of [["show", id], ["logs", id], ["logs", "--follow", id], ["list", "--limit", "3"]]) {
      const { status, stderr, stdout } = await lull(...words, "--json").ended
      assert.deepStrictEqual([status, stderr], [0, ""])
      assert.isAbove(documents(stdout).length, 0)
    }
    for (
      const [status, ...words] of [
        [1, "show", "x"],
        [1, "cancel", id],
        [64, "submit"],
        [64, "list", "--nonsense"],
        [64, "list", "--limit", "many"],
        [64, "list", "--url", "nonsense"],
        [64, "submit", "--priority", "1000000000", "--", "true"],
        [69, "list", "--url", "http://127.0.0.1:1"],
        [77, "list", "--url", guarded]
      ] as const
    ) {
      const ended = await lull(...words, "--json").ended
      // Of a command that is to be run, `--json` is a part.
      const { status: exited, stderr, stdout } = words.some((word) => word === "--")
        ? await lull(words[0], "--json", ...words.slice(1)).ended
        : ended
      assert.deepStrictEqual([exited, stdout], [status, ""], stderr)
      const [said, ...more] = documents(stderr)
      assert.strictEqual(more.length, 0)
      assert.isAbove(said?.error?.length ?? 0, 0)
    }
  }, 120_000)

  it("exits with 64 when it is not called rightly, says what is wrong, and keeps stdout clean", async () => {
    for (
      const words of [
        [],
        ["submit"],
        ["submit", "--priority", "high", "--", "true"],
        ["submit", "--not-before", "tomorrow", "--", "true"],
        ["submit", "--tag", "linux", "--", "true"],
        ["submit", "--cancel-on-interrupt", "--", "true"],
        ["list", "--status", "lost"],
        ["list", "--limit", "0"],
        ["show"],
        ["logs", "--folow", "x"],
        ["nonsense"],
        ["list", "--url", "nonsense"],
        ["list", "--url", "localhost:7070"],
        ["list", "--url", "ftp://127.0.0.1"],
        ["list", "--url", "http://user:secret@127.0.0.1:7070"]
      ]
    ) {
      const { status, stderr, stdout } = await lull(...words).ended
      assert.deepStrictEqual([status, stdout], [64, ""], words.join(" "))
      assert.notStrictEqual(stderr.trim(), "")
      assert.notInclude(stderr, "secret")
    }
    for (const name of ["LULL_TOKEN", "LULL_PEER_TOKEN"]) {
      const words = name === "LULL_TOKEN" ? ["job", "list"] : ["peer", "join", "--name", "a"]
      const { status, stderr } = await start(words, { LULL_URL: address, [name]: "" }).ended
      assert.deepStrictEqual([status, stderr.startsWith(`${name} is set, and empty`)], [64, true], stderr)
    }
  }, 120_000)

  it("says of each address in a sentence of its own why it is not the service's", async () => {
    const stranger = createServer((_, response) => response.end("hello"))
    const other = createServer((_, response) => {
      response.writeHead(404, { "content-type": "application/problem+json" })
      response.end(JSON.stringify({ title: "Not Found", status: 404, detail: "No static resource" }))
    })
    const proxy = createServer((_, response) => response.writeHead(502).end())
    const moved = createServer((_, response) => response.writeHead(301, { location: "https://lull.example" }).end())
    const wordy = createTcpServer((socket) => void socket.on("error", () => {}).end("SSH-2.0-OpenSSH_9.2\r\n"))
    const curt = createTcpServer((socket) => void socket.on("error", () => {}).destroy())
    const mute = createTcpServer((socket) => void socket.on("error", () => {}))
    const servers = { stranger, other, proxy, moved, wordy, curt, mute }
    const says: Record<keyof typeof servers, RegExp> = {
      stranger: /is no Lull service of this version: its answer/,
      other: /is no Lull service of this version: it answered 404, No static resource/,
      proxy: /what stands before it answered 502/,
      moved: /it points to https:\/\/lull\.example/,
      wordy: /does not speak HTTP/,
      curt: /closed the connection without an answer/,
      mute: /nothing has come within 10s/
    }
    for (const [name, pattern] of Object.entries(says)) {
      const strange = servers[name as keyof typeof servers]
      const url = `http://127.0.0.1:${await listening(strange)}`
      const { status, stderr } = await lull("list", "--url", url).ended
      assert.strictEqual(status, 69, stderr)
      assert.match(stderr, pattern)
      assert.strictEqual(stderr.trim().split("\n").length, 1)
      strange.close()
    }
    const tls = await lull("list", "--url", `https://127.0.0.1:${port}`).ended
    assert.match(tls.stderr, /does not speak TLS/)
    const name = await lull("list", "--url", "http://nobody.invalid:7070").ended
    assert.match(name.stderr, /"nobody\.invalid"/)

    const none = await lull("list", "--url", guarded).ended
    assert.strictEqual(none.status, 77)
    assert.match(none.stderr, /asks for a token: set LULL_TOKEN/)
    const wrong = await start(["job", "list"], { LULL_URL: guarded, LULL_TOKEN: "fedcba9876543210" }).ended
    assert.strictEqual(wrong.status, 77)
    assert.match(wrong.stderr, /does not accept this LULL_TOKEN/)
    const right = await start(["job", "list"], { LULL_URL: guarded, LULL_TOKEN: token }).ended
    assert.strictEqual(right.status, 0)
  }, 120_000)

  it.concurrent(
    "gives up after ten seconds where nothing has ever answered, also when it is to wait for its job",
    async () => {
      const nobody = `http://127.0.0.1:${await freePort()}`
      const ended = await Promise.all([
        lull("submit", "--wait", "--url", nobody, "--", "true").ended,
        lull("submit", "--follow", "--url", nobody, "--", "true").ended
      ])
      for (const { status, stderr, stdout } of ended) {
        assert.deepStrictEqual([status, stdout], [69, ""])
        assert.match(stderr, /connection was refused.*given up after 10s/)
      }
    },
    60_000
  )

  it.concurrent("waits for a service that comes later, when it is told to", async () => {
    const later = await freePort()
    const url = `http://127.0.0.1:${later}`
    const waits = [["submit", "--wait", "--wait-for-service", "--url", url, "--", "true"], [
      "list",
      "--wait-for-service",
      "--url",
      url
    ]].map((words) => lull(...words).ended)
    let ended: ReadonlyArray<Ended> | undefined
    const all = Promise.all(waits).then((results) => ended = results)
    await pause(12_000)
    assert.isUndefined(ended)
    await serve({}, later)
    for (const { status, stderr } of await all) assert.strictEqual(status, 0, stderr)
  }, 60_000)

  it.concurrent("waits through an absence of a service that has answered", async () => {
    const none = { LULL_WORKER_SLOTS: "0" }
    const own = await serve(none)
    await untilReady(own.address)
    const environment = { LULL_URL: own.address }
    const waiting = start(["job", "submit", "--wait", "--tag", "for=nobody", "--", "true"], environment)
    await until(() => waiting.stderr().includes("job "))
    own.child.kill("SIGTERM")
    await own.ended
    await pause(12_000)
    assert.isNull(waiting.child.exitCode)
    await serve(none, own.port)
    await untilReady(own.address)
    await start(["job", "cancel", waiting.stderr().split(/\s/)[1] ?? ""], environment).ended
    const { status, stderr } = await waiting.ended
    assert.strictEqual(status, 130, stderr)
  }, 120_000)
})
