/**
 * Every example of README.md and of the pages in `docs` is run as it is printed. Addresses of a database or a service that is
 * not there become those of the test's, and nothing else is changed. An example that is run elsewhere, or nowhere, is listed
 * below with the reason.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll } from "vitest"
import * as Cluster from "../src/database/embedded/Cluster.ts"
import {
  assertPrinted,
  commentExamples,
  type Example,
  examplesIn,
  examplesOf,
  pages,
  readPage,
  root,
  runExample,
  type Started,
  startExample,
  startShell,
  typeErrors
} from "./support/documents.ts"
import * as PostgresServer from "./support/PostgresServer.ts"
import { until } from "./support/realDatabase.ts"

const examples = pages.flatMap(examplesIn)
const programs = examples.filter(({ language }) => language === "ts")

/** Programs that go on until they are ended, or print what the page only describes: each has a test of its own below. */
const apart = ["docs/tailnet.md, ts 1", "docs/tailnet.md, ts 2"]

/** Lines of shell examples that are not run here, and why. */
const notRunHere: Readonly<Record<string, string>> = {
  "LULL_DATABASE_URL=postgres://lull_owner:…@db/app lull migrate --grant-to lull_service":
    "database/Migrations.integration.test.ts, with the statements of that page",
  "LULL_DATABASE_URL=postgres://lull_service:…@db/app lull serve":
    "database/Migrations.integration.test.ts, with the statements of that page",
  "npm ci && npm start     # the service, on an embedded PostgreSQL in .lull/; prints its address and a command to try":
    "installing would replace what this test runs on; the service is that of the test, see lull.integration.test.ts for the embedded server",
  "npm ci && npm test      # types, lint, format, all tests": "it is what runs this test",
  "npm install lull effect @effect/sql-pg":
    "the package under test is a tarball: package.integration.test.ts installs it, with these peers",
  "program 2>&1 | lull filter": "logging/docs.integration.test.ts",
  "lull filter --stats < /var/log/app.log": "logging/docs.integration.test.ts",
  "sh -c 'program 2>&1 | exec lull filter'": "logging/docs.integration.test.ts",
  "mkfifo /logs/pipe; exec lull filter < /logs/pipe     # the sidecar": "logging/docs.integration.test.ts",
  "exec program > /logs/pipe 2>&1                       # the program": "logging/docs.integration.test.ts"
}

const linesOf = (example: Example | undefined) => (example?.code ?? "").trim().split("\n")

describe("the examples of the pages", () => {
  const scope = Effect.runSync(Scope.make())
  const directory = mkdtempSync(join(tmpdir(), "lull-docs-"))
  const started: Array<Started> = []
  let database = ""
  let databaseOfService = ""
  let service = ""

  beforeAll(async () => {
    const server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
    // An application has a database of its own: the service of these tests would take its jobs.
    await Effect.runPromise(server.execute("create database app"))
    database = server.url.replace(/postgres$/, "app")
    databaseOfService = server.url
    writeFileSync(join(directory, "lull"), `#!/bin/sh\nexec ${process.execPath} ${join(root, "src/main.ts")} "$@"\n`, {
      mode: 0o755
    })
  })
  beforeAll(async () => {
    const port = await Effect.runPromise(Cluster.freePort)
    service = `http://127.0.0.1:${port}`
    keepRunning = startShell("exec lull serve", directory, {
      ...path(),
      LULL_LISTEN: `127.0.0.1:${port}`,
      LULL_DATABASE_URL: databaseOfService,
      LULL_DATA_DIR: join(directory, "data"),
      LULL_LOG_FILE: "none"
    })
    await Effect.runPromise(Effect.repeat(
      Effect.promise(() => fetch(`${service}/readyz`).then(({ ok }) => ok, () => false)),
      { until: (isReady) => isReady }
    ))
  })
  let keepRunning: Started | undefined
  const end = ({ child }: Started) => {
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      process.kill(child.spawnfile === "sh" ? -child.pid : child.pid, "SIGTERM")
    }
  }
  afterEach(() => started.splice(0).forEach(end))
  afterAll(async () => {
    if (keepRunning !== undefined) {
      end(keepRunning)
      const { child } = keepRunning
      await Effect.runPromise(until(() => child.exitCode !== null || child.signalCode !== null))
    }
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(directory, { recursive: true, force: true })
  })

  const path = () => ({ PATH: `${directory}:${process.env["PATH"] ?? ""}` })

  /** The one change: what is printed names servers that are not there. */
  const here = (text: string) =>
    text.replaceAll("postgres://app@localhost/app", database)
      .replaceAll(/http:\/\/(?:127\.0\.0\.1:707\d|one:7070|two:7070)/g, service)

  const shell = (line: string) =>
    spawnSync("sh", ["-c", here(line)], {
      cwd: root,
      encoding: "utf8",
      env: { ...process.env, ...path(), LULL_URL: service },
      timeout: 60_000
    })

  const shellInBackground = (line: string) => {
    const running = startShell(here(line), directory, { ...path(), LULL_URL: service })
    started.push(running)
    return running
  }

  it("type-check, each as the module that it is", () => {
    assert.strictEqual(typeErrors(programs), "")
  }, 60_000)

  for (const example of programs.filter(({ name }) => !apart.includes(name))) {
    it(
      `${example.name} runs as printed${example.output === undefined ? "" : ", and prints what the page shows"}`,
      () => {
        const printed = runExample(here(example.code), directory)
        if (example.output !== undefined) assertPrinted(printed, example.output)
      },
      60_000
    )
  }

  it("the log file of docs/logging.md is where the page says it is", () => {
    assert.isTrue(existsSync(join(directory, "shop-log/shop.log")))
    assert.include(readFileSync(join(directory, "shop-log/shop.log"), "utf8"), "\"message\":\"payment refused\"")
  })

  it("docs/tailnet.md, ts 2 runs as printed, and its peers learn of each other", () => {
    const [, onMemory] = examplesOf("docs/tailnet.md", "ts")
    assert.include(runExample(onMemory?.code ?? ""), "alice knows how to reach bob")
  }, 60_000)

  it.live(
    "docs/tailnet.md, ts 1 runs as printed, and hears of the peer that its tunnel leads to",
    () =>
      Effect.gen(function*() {
        const [ofService] = examplesOf("docs/tailnet.md", "ts")
        const other = /tunnels: \["(.*)"\]/.exec(ofService?.code ?? "")?.[1] ?? ""
        const example = startExample(here(ofService?.code ?? ""))
        started.push(example)
        shellInBackground(`lull peer join --name ${other}`)
        yield* until(() => example.output().includes(`node ${other}`))
      }),
    60_000
  )

  it.live(
    "the peers of the first lines of docs/tailnet.md join, and one hears of the other",
    () =>
      Effect.gen(function*() {
        const [alice = "", bob = ""] = linesOf(examplesOf("docs/tailnet.md", "sh")[0])
        assert.match(alice, /^lull peer join --name alice /)
        const first = shellInBackground(alice)
        shellInBackground(bob)
        yield* until(() => /^bob {2}node {2}/m.test(first.output()))
      }),
    60_000
  )

  it("the commands of the README that a service answers do what they say", () => {
    const [, trying] = examplesOf("README.md", "sh")
    const [hello = "", tagged = "", list = "", ready = "", ...more] = linesOf(trying)
    assert.deepStrictEqual(more, [])
    assert.match(hello, /^npm run lull -- job submit --wait --follow -- echo hello$/)
    const greeted = shell(hello)
    assert.strictEqual(greeted.status, 0, greeted.stderr)
    assert.match(greeted.stdout, /^hello$/m)
    const submitted = shell(tagged)
    assert.strictEqual(submitted.status, 0, submitted.stderr)
    const id = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/.exec(submitted.stdout)?.[0]
    assert.isDefined(id, submitted.stdout)
    const listed = shell(list)
    assert.strictEqual(listed.status, 0, listed.stderr)
    assert.include(listed.stdout, id)
    assert.include(ready, "/readyz")
    assert.strictEqual(shell(`${ready} -f`).status, 0)
  }, 60_000)

  it("each line of a shell example is run by a test, or listed with the reason why not", () => {
    const runHere = [
      ...linesOf(examplesOf("README.md", "sh")[1]),
      ...linesOf(examplesOf("docs/tailnet.md", "sh")[0])
    ]
    const all = examples.filter(({ language }) => language === "sh").flatMap(linesOf)
    assert.deepStrictEqual(all.filter((line) => !runHere.includes(line) && !Object.hasOwn(notRunHere, line)), [])
    assert.deepStrictEqual(Object.keys(notRunHere).filter((line) => !all.includes(line)), [])
  })

  it("no page has a block in a language that is not looked at", () => {
    // Those of proxies are tried in http/Proxies.debian.test.ts.
    assert.deepStrictEqual([...new Set(examples.map(({ language }) => language))].toSorted(), [
      "caddyfile",
      "ini",
      "json",
      "nginx",
      "sh",
      "sql",
      "ts"
    ])
    // A fence without a language would be passed over above.
    for (const page of pages) {
      const fences = readPage(page).split("\n").filter((line) => line.startsWith("```"))
      assert.deepStrictEqual(fences.filter((line, at) => (line === "```") !== (at % 2 === 1)), [], page)
    }
  })
})

/** Where the names in doc comments come from, which show fragments. */
const imports: Readonly<Record<string, ReadonlyArray<string>>> = {
  effect: ["Effect", "Layer", "Logger", "Redacted", "Schedule"],
  lull: ["Executor", "Provisioner"],
  "lull/logging": ["DedupLogger", "RotatingFile", "StateLog"],
  "lull/loop": ["Loops"],
  "lull/testing": ["Outage", "OutageClock"]
}

const asModule = ({ code, name }: { readonly name: string; readonly code: string }) => ({
  name,
  code: [
    ...Object.entries(imports).map(([from, names]) => `import { ${names.join(", ")} } from "${from}"`),
    "declare const send: Effect.Effect<void, Error>",
    // Parts of an effect stand in one.
    ...(/^(?:const \w+ = )?yield\*/m.test(code) ? ["Effect.gen(function*() {", code, "})"] : [code])
  ].join("\n")
})

describe("the examples in doc comments", () => {
  it("type-check", () => {
    const found = commentExamples()
    assert.isAtLeast(found.length, 5)
    assert.strictEqual(typeErrors(found.map(asModule)), "")
  }, 60_000)
})
