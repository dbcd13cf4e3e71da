import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("../..", import.meta.url))
const page = readFileSync(join(root, "docs/logging.md"), "utf8")
const examples = [...page.matchAll(/^```ts\n(.*?)^```/gms)].map(([, code = ""]) => code)

/** Runs a program as an application would have it, but with the sources in the place of the package. */
const run = (code: string) => {
  // Below the project, so that `effect` is found.
  const directory = mkdtempSync(join(root, "test", ".docs-"))
  try {
    const file = join(directory, "example.ts")
    writeFileSync(file, code.replaceAll("\"lull/logging\"", JSON.stringify(join(root, "src/logging/index.ts"))))
    const { status, stderr, stdout } = spawnSync(process.execPath, [file], { encoding: "utf8", timeout: 60_000 })
    assert.strictEqual(status, 0, stderr)
    return stdout.trim().split("\n")
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

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
})
