import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { examplesOf, readPage, root, runExample as run } from "../support/documents.ts"

const page = readPage("docs/logging.md")
const examples = examplesOf(page, "ts")

const imports = `import { DedupLogger, StateLog } from "lull/logging"
import { Effect, Layer, Logger, Schedule } from "effect"
`

describe("the examples of docs/logging.md", () => {
  it("the first: two lines for four thousand", () => {
    const lines = run(examples[0] ?? "")
    assert.lengthOf(lines, 2)
    assert.match(lines[0] ?? "", /level=WARN .*message="connect ECONNREFUSED 10\.0\.0\.1:5432"/)
    assert.match(lines[1] ?? "", /repeated 4213 times over .*lull\.repeat\.count=4213/)
  }, 60_000)

  it("redaction", () => {
    const lines = run(`${imports}
const Logging = ${examples[1]?.trim()}.pipe(Layer.provide(Logger.layer([Logger.consoleLogFmt])))
Effect.runPromise(Effect.provide(Effect.log("pin=1234 sk_live_abc"), Logging))`)
    assert.include(lines[0], "pin=<redacted> <redacted>")
  }, 60_000)

  it("changes of state", () => {
    const lines = run(`${imports}
let n = 0
const send = Effect.suspend(() => n++ < 3 ? Effect.fail(new Error("refused")) : Effect.void)
const program = Effect.gen(function*() {
${examples[2]?.replace("Schedule.spaced(\"10 seconds\")", "{ schedule: Schedule.spaced(\"10 millis\"), times: 5 }")}
})
Effect.runPromise(Effect.provide(program, DedupLogger.layer().pipe(Layer.provide(Logger.layer([Logger.consoleLogFmt])))))`)
    assert.lengthOf(lines, 2)
    assert.include(lines[0], "metrics push is failing: refused")
    assert.match(lines[1] ?? "", /well again after .*: 3 failures/)
  }, 60_000)

  it("a log file", () => {
    const directory = mkdtempSync(join(tmpdir(), "lull-docs-"))
    try {
      run((examples[3] ?? "").replace("shop-log/shop.log", join(directory, "shop.log")))
      assert.include(readFileSync(join(directory, "shop.log"), "utf8"), "\"message\":\"payment refused\"")
    } finally {
      rmSync(directory, { recursive: true })
    }
  }, 60_000)
})

const shell = examplesOf(page, "sh")

describe("the shell examples of docs/logging.md", () => {
  const directory = mkdtempSync(join(tmpdir(), "lull-docs-"))
  const script = (name: string, text: string) =>
    writeFileSync(join(directory, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 })
  script("lull", `exec ${process.execPath} ${join(root, "src/main.ts")} "$@"`)
  script("program", "i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo \"ERROR lost after $i ms\" >&2; done; exit 3")
  afterAll(() => rmSync(directory, { recursive: true }))

  const sh = (command: string, ...shellOptions: ReadonlyArray<string>) =>
    spawnSync("bash", [...shellOptions, "-c", command], {
      encoding: "utf8",
      cwd: directory,
      env: { ...process.env, PATH: `${directory}:${process.env["PATH"]}` },
      timeout: 60_000
    })
  const isFiltered = (output: string) =>
    assert.match(output, /^ERROR lost after 1 ms\nrepeated 499 times over .*: ERROR .*\n$/)

  it("a filter behind a program", () => {
    assert.strictEqual(shell[0], "program 2>&1 | lull filter\n")
    isFiltered(sh(shell[0] ?? "").stdout)
  }, 60_000)

  it("a report", () => {
    sh("program 2> log")
    const { stdout } = sh((shell[1] ?? "").replace("/var/log/app.log", "log"))
    assert.match(stdout, /^500 records of 1 kind,/)
  }, 60_000)

  it("a systemd unit: the status is the program's", () => {
    const [, options = "", command = ""] =
      /^ExecStart=\/bin\/bash (.*) -c '(.*)'$/m.exec(examplesOf(page, "ini")[0] ?? "") ?? []
    const { status, stdout } = sh(command.replaceAll("/usr/bin/program", "program"), ...options.split(" "))
    isFiltered(stdout)
    assert.strictEqual(status, 3)
  }, 60_000)

  it("a container's command", () => {
    isFiltered(sh(shell[2] ?? "").stdout)
  }, 60_000)

  it("a sidecar on a named pipe", () => {
    const [sidecar = "", program = ""] = (shell[3] ?? "").replaceAll("/logs/", "./").replaceAll(/ +#.*/g, "")
      .trim().split("\n")
    isFiltered(sh(`(sleep 1; ${program}) & ${sidecar}`).stdout)
  }, 60_000)
})
