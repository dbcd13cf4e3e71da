/** What others wrote, as the commands show it on a terminal: a real one (`script` makes it), and for comparison a pipe. */
import { assert, describe, it } from "@effect/vitest"
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { createServer, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { quoted } from "../../src/cli/greeting.ts"
import { lineOf } from "../../src/cli/peer.ts"
import type { JobDocument } from "../../src/http/JobDocuments.ts"
import { main, startProgram } from "./processes.ts"

const id = "01890000-0000-7000-8000-000000000000"

/** Clears the screen, sets a title, rings, runs backwards, and forges a line. */
const evil = "a\x1b[2J\x1b]0;owned\x07\x9b2J\x85\b\u202eb\u2028\nfake line"
const shown = "a\\x1b[2J\\x1b]0;owned\\x07\\x9b2J\\x85\\x08\\u202eb\\u2028\\nfake line"

const job: JobDocument = {
  id,
  status: "failed",
  type: "command",
  input: { command: ["echo", evil] },
  tags: { [evil]: evil },
  priority: 0,
  idempotencyKey: evil,
  notBefore: null,
  timeoutSeconds: null,
  maxAttempts: 1,
  attempt: 1,
  worker: null,
  workerName: evil,
  result: { [evil]: evil },
  error: evil,
  createdAt: "2026-01-01T00:00:00.000Z",
  startedAt: null,
  finishedAt: null,
  omitted: [],
  remark: evil
}

const lines = (["stdout", "stderr"] as const).map((stream, index) => ({
  attempt: 1,
  index,
  stream,
  at: job.createdAt,
  text: `${stream}\t${evil}\r`
}))

/** A service whose every text is evil. */
const service = () =>
  createServer((request, response) => {
    const { method, url = "" } = request
    const answer = (status: number, type: string, body: unknown) =>
      response.writeHead(status, { "content-type": type }).end(typeof body === "string" ? body : JSON.stringify(body))
    if (url.includes("missing")) {
      return answer(404, "application/problem+json", { status: 404, detail: `there is no job ${evil}` })
    }
    if (url.includes("/logs")) {
      return answer(
        200,
        "application/x-ndjson",
        lines.map((l) => `${JSON.stringify(l)}\n`).join("")
      )
    }
    if (url.startsWith("/api/v1/jobs?")) return answer(200, "application/json", { jobs: [job, job], cursor: null })
    return answer(method === "POST" && url === "/api/v1/jobs" ? 201 : 200, "application/json", job)
  })

const controls = /[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/u

describe("what others wrote", () => {
  const directory = mkdtempSync(join(tmpdir(), "lull-terminal-"))
  let server: Server
  let environment: Record<string, string> = {}

  beforeAll(async () => {
    server = service()
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
    environment = { LULL_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
  })
  afterAll(() => {
    server.close()
    rmSync(directory, { recursive: true, force: true })
  })

  const piped = (...words: ReadonlyArray<string>) => startProgram(process.execPath, [main, ...words], environment).ended

  /** The lines of both streams, and nothing of how a terminal ends a line: with a CR of its own, also after that of a CR LF. */
  const onTerminal = async (words: ReadonlyArray<string>, input = "/dev/null") => {
    const command = [process.execPath, main, ...words].map(quoted).join(" ")
    const child = spawn("script", ["-qec", `${command} < ${quoted(input)}`, "/dev/null"], {
      env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", TERM: "dumb", ...environment },
      stdio: ["ignore", "pipe", "inherit"]
    })
    const bytes: Array<Buffer> = []
    child.stdout.on("data", (chunk: Buffer) => bytes.push(chunk))
    await new Promise((resolve) => child.on("close", resolve))
    return String(Buffer.concat(bytes)).trimEnd().split(/\r?\r\n/)
  }

  const commands: ReadonlyArray<readonly [lines: number, words: ReadonlyArray<string>]> = [
    [2, ["job", "list"]],
    [20, ["job", "show", id]],
    [1, ["job", "cancel", id]],
    [1, ["job", "show", "missing"]],
    [3, ["job", "submit", "--wait", "--", "true"]]
  ]
  for (const [count, words] of commands) {
    it(`is shown by lull ${words.join(" ")} in lines that nothing in it can add to or change`, async () => {
      const terminal = await onTerminal(words)
      assert.lengthOf(terminal, count)
      for (const line of terminal) assert.notMatch(line, controls)
      const { stderr, stdout } = await piped(...words)
      assert.sameMembers([...stdout.trim().split("\n"), ...stderr.trim().split("\n")].filter(Boolean), terminal)
    }, 60_000)

    it(`is shown by lull ${words.join(" ")} --json as JSON of the same meaning`, async () => {
      const end = words.indexOf("--")
      const at = end < 0 ? words.length : end
      const terminal = await onTerminal([...words.slice(0, at), "--json", ...words.slice(at)])
      for (const line of terminal) {
        assert.notMatch(line, controls)
        const text = JSON.stringify(JSON.parse(line))
        if (line.includes("\"result\"")) assert.strictEqual(text, JSON.stringify(job))
      }
    }, 60_000)
  }

  it("is shown by lull job logs on a terminal, with its tabs; a pipe has every byte of it", async () => {
    const terminal = await onTerminal(["job", "logs", id])
    assert.sameMembers(terminal, [`stdout\t${shown}`, `stderr\t${shown}`])
    const { stderr, stdout } = await piped("job", "logs", id)
    assert.deepStrictEqual([stdout, stderr], [`stdout\t${evil}\r\n`, `stderr\t${evil}\r\n`])
  }, 60_000)

  it("is shown by lull filter on a terminal, with its summaries and its report", async () => {
    const log = join(directory, "log")
    const line = evil.replace("\n", "")
    writeFileSync(log, `${line}\r\n${line}\r\n`)
    const escaped = shown.replace("\\n", "")
    const [first, summary, ...more] = await onTerminal(["filter"], log)
    assert.strictEqual(first, escaped)
    assert.match(summary ?? "", /^repeated once over /)
    assert.isTrue(summary?.endsWith(escaped))
    assert.deepStrictEqual(more, [])
    for (const [, reported] of Object.entries((await onTerminal(["filter", "--stats"], log)).slice(2))) {
      assert.notMatch(reported, controls)
    }
  }, 60_000)

  it("is shown by lull peer join, in words and as JSON", () => {
    const node = {
      key: evil,
      endpoints: [evil],
      relay: { preferred: 0, latencies: {} },
      addresses: [],
      allowedIps: [],
      asOf: 0
    }
    for (const update of [{ peer: id, kind: "node", node }, { peer: id, kind: "lost", reason: evil }] as const) {
      assert.notMatch(lineOf(update, new Map(), false), controls)
      const json = lineOf(update, new Map([[id, evil]]), true)
      assert.notMatch(json, controls)
      assert.deepStrictEqual(JSON.parse(json), update)
    }
  })

  it("is shown in an error of usage", async () => {
    for (const line of await onTerminal(["job", "list", "--limit", evil.replace("\n", "")])) {
      assert.notMatch(line, controls)
    }
  }, 60_000)
})
