import { assert, describe, it } from "@effect/vitest"
import { spawn, spawnSync } from "node:child_process"
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const main = fileURLToPath(new URL("../../src/main.ts", import.meta.url))
const environment = { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "" }

/** A whole log at once. */
const filter = (input: Uint8Array | string, ...flags: ReadonlyArray<string>) => {
  const { status, stderr, stdout } = spawnSync(process.execPath, [main, "filter", ...flags], {
    input,
    env: environment,
    timeout: 60_000,
    maxBuffer: 100_000_000
  })
  return { status, stdout, stderr: String(stderr) }
}

/** One that runs. */
const start = (...flags: ReadonlyArray<string>) => {
  const child = spawn(process.execPath, [main, "filter", ...flags], { env: environment, stdio: "pipe" })
  let stdout = ""
  child.stdout.on("data", (bytes) => stdout += String(bytes))
  const ended = new Promise<number | null>((resolve) => child.on("close", (status) => resolve(status)))
  const until = async (wanted: string) => {
    while (!stdout.includes(wanted)) await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return { child, ended, stdout: () => stdout, until }
}

describe("lull filter", () => {
  it(
    "passes every byte of what does not repeat: CRLF, NUL, no UTF-8, ten megabytes in a line, no last line end",
    () => {
      const log = Buffer.concat([
        Buffer.from("INFO a\r\nWARN b\0c\n"),
        Buffer.from([0xff, 0xfe, 0x80, 10]),
        Buffer.alloc(10_000_000, "x"),
        Buffer.from("\nERROR d\n  at e\n\n{\"f\":1}\nlast")
      ])
      const { status, stdout } = filter(log)
      assert.strictEqual(status, 0)
      assert.isTrue(stdout.equals(log))
    },
    60_000
  )

  it("tells repeats at the end of the log, in its own format, on stdout or stderr", () => {
    const line = (n: number) => `{"level":50,"time":${1_769_860_800_000 + n},"msg":"lost ${n}"}\n`
    const log = Array.from({ length: 1_000 }, (_, n) => line(n)).join("")
    const lines = String(filter(log).stdout).trim().split("\n")
    assert.lengthOf(lines, 2)
    assert.strictEqual(`${lines[0]}\n`, line(0))
    assert.strictEqual(JSON.parse(lines[1] ?? "")["lull.repeat.count"], 999)
    const { stderr, stdout } = filter(log, "--summaries", "stderr")
    assert.strictEqual(String(stdout), line(0))
    assert.strictEqual(JSON.parse(stderr)["lull.repeat.count"], 999)
  }, 60_000)

  it("tells repeats on a file descriptor, and refuses what is none", () => {
    const directory = mkdtempSync(join(tmpdir(), "lull-filter-"))
    const descriptor = openSync(join(directory, "summaries"), "w")
    const { stdout } = spawnSync(process.execPath, [main, "filter", "--summaries", "3"], {
      input: "tick 1\ntick 2\n",
      env: environment,
      stdio: ["pipe", "pipe", "inherit", descriptor]
    })
    assert.strictEqual(String(stdout), "tick 1\n")
    assert.match(readFileSync(join(directory, "summaries"), "utf8"), /^repeated once .*: tick 1\n$/)
    rmSync(directory, { recursive: true })
    const wrong = filter("", "--summaries", "nowhere")
    assert.strictEqual(wrong.status, 64)
    assert.include(wrong.stderr + String(wrong.stdout), "should be stdout, stderr or a file descriptor, as 3")
  }, 60_000)

  it("reads a file as it reads a pipe", () => {
    const directory = mkdtempSync(join(tmpdir(), "lull-filter-"))
    const file = join(directory, "log")
    const log = Array.from({ length: 50_000 }, (_, n) => `kind ${String.fromCharCode(97 + n % 26)} number ${n}\n`).join(
      ""
    )
    writeFileSync(file, log)
    const descriptor = openSync(file, "r")
    const { stdout } = spawnSync(process.execPath, [main, "filter", "--summaries", "stderr"], {
      env: environment,
      stdio: [descriptor, "pipe", "ignore"]
    })
    assert.strictEqual(String(stdout), String(filter(log, "--summaries", "stderr").stdout))
    assert.lengthOf(String(stdout).split("\n"), 27)
    rmSync(directory, { recursive: true })
  }, 60_000)

  it("reports what repeats most", () => {
    const { stdout } = filter(`${"lost 1\n".repeat(75)}${"found\n".repeat(25)}`, "--stats")
    assert.match(String(stdout), /^100 records of 2 kinds, 675 bytes\n.*\n +75 +75% .*lost 1\n +25 +25% .*found\n$/)
  }, 60_000)

  it("passes the first at once, tells while it is quiet, and goes on", async () => {
    const { child, ended, stdout, until } = start("--window", "200ms")
    child.stdin.write("tick 1\n")
    await until("tick 1\n")
    child.stdin.write("tick 2\ntick 3\n")
    await until("repeated 2 times over")
    child.stdin.end("other\n")
    assert.strictEqual(await ended, 0)
    assert.match(stdout(), /other\n$/)
  }, 60_000)

  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    it(`tells what it holds on ${signal}`, async () => {
      const { child, ended, stdout, until } = start()
      child.stdin.write("tick 1\ntick 2\n")
      await until("tick 1\n")
      child.kill(signal)
      assert.strictEqual(await ended, signal === "SIGINT" ? 130 : 143)
      assert.match(stdout(), /^tick 1\nrepeated once over .*: tick 1\n$/)
    }, 60_000)
  }

  it("ends quietly when nobody reads it any more", async () => {
    const { child, ended, until } = start()
    let stderr = ""
    child.stderr.on("data", (bytes) => stderr += String(bytes))
    child.stdin.on("error", () => {})
    child.stdin.write("one\n")
    await until("one")
    child.stdout.destroy()
    for (let n = 0; n < 26; n++) child.stdin.write(`${String.fromCharCode(97 + n)}\n`.repeat(3))
    // As after SIGPIPE.
    assert.strictEqual(await ended, 141)
    assert.strictEqual(stderr, "")
  }, 60_000)

  it("says what a window is", () => {
    const { status, stderr, stdout } = filter("", "--window", "soon")
    assert.strictEqual(status, 64)
    assert.include(stderr + String(stdout), "should be a time, as 10s, 500ms or 2m")
  }, 60_000)
})
