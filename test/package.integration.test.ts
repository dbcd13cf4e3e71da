/** The packed package in empty projects: what it brings, what it needs, what of it is bundled, and where its maps lead. */
import { assert, describe, it } from "@effect/vitest"
import { build } from "esbuild"
import { execFileSync } from "node:child_process"
import { existsSync, globSync, readdirSync, readFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { root } from "./support/documents.ts"
import { entries, manifest, pack, type Packed, type Project, project } from "./support/packedPackage.ts"

let packed: Packed
beforeAll(() => {
  packed = pack()
}, 120_000)
afterAll(() => packed.remove())

/** All that can be had without a database: logs, loops, outages. */
const withoutDatabase = `
import { DedupLogger, RotatingFile } from "lull/logging"
import { Backoff, ControlLoop, Loops } from "lull/loop"
import { Outage } from "lull/testing"
import { Effect, Layer, Logger } from "effect"

const File = Logger.layer([RotatingFile.logger({ path: "file/app.log" })])
const Logging = DedupLogger.layer().pipe(Layer.provide(File))

let sessions = 0
const program = Effect.gen(function*() {
  yield* Effect.logError("kept")
  const loops = yield* Loops
  const loop = yield* ControlLoop.make({
    name: "example",
    session: Effect.suspend(() => ++sessions < 3 ? Effect.fail(new Error("not yet")) : Effect.never),
    policy: Backoff.session
  })
  yield* loops.fork(loop.name, loop.run)
  while (sessions < 3) yield* Effect.sleep("10 millis")
})

Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(Layer.merge(Logging, Loops.layer)))).then(() =>
  console.log(JSON.stringify([sessions, Outage.make([{ kind: "refused", for: "1 second" }]).length]))
)
`

/** A job through an outage in memory, then one on a PostgreSQL of the application's own. */
const withDatabase = `
import { EmbeddedPostgres, Executor, Job, Provisioner } from "lull"
import { Coordinator } from "lull/tailnet"
import { Outage } from "lull/testing"
import { Effect, Layer } from "effect"

const Handlers = Executor.layerHandlers({ greet: (job) => Effect.succeed("hello " + String(job.input)) })

const InMemory = Provisioner.layerMemory({
  worker: { slots: 2 },
  outage: Outage.make([{ kind: "refused", at: "200 millis", for: "500 millis" }])
}).pipe(Layer.provide(Handlers))

const OnPostgres = Layer.unwrap(
  Effect.map(EmbeddedPostgres, ({ url }) => Provisioner.layerPostgres({ url }))
).pipe(Layer.provide(EmbeddedPostgres.layer({ directory: "postgres" })), Layer.provide(Handlers))

const greet = Effect.gen(function*() {
  const provisioner = yield* Provisioner
  yield* Effect.sleep("1 second")
  const submitted: Job.Job = yield* provisioner.submit({ type: "greet", input: "world" })
  const ended = yield* provisioner.awaitEnd(submitted.id)
  return [ended.status, ended.result]
})

const program = Effect.all([Effect.provide(greet, InMemory), Effect.provide(greet, OnPostgres)])

Effect.runPromise(program).then((both) => console.log(JSON.stringify([...both, typeof Coordinator.layerMemory])))
`

const lastLine = (output: string) => output.trim().split("\n").at(-1)

/** Packages in `node_modules`, those of scopes with their scope. */
const installed = (directory: string): ReadonlyArray<string> =>
  readdirSync(join(directory, "node_modules")).filter((name) => !name.startsWith(".")).flatMap((name) =>
    name.startsWith("@")
      ? readdirSync(join(directory, "node_modules", name)).map((inner) => `${name}/${inner}`)
      : [name]
  ).toSorted()

describe("beside effect alone", () => {
  let app: Project
  beforeAll(() => {
    app = project(packed, { effect: manifest.peerDependencies["effect"] ?? "" })
  }, 120_000)
  afterAll(() => app.remove())

  it("brings nothing: no driver, no platform, no PostgreSQL, no Node, and one copy of effect", () => {
    assert.deepStrictEqual(installed(app.directory), ["effect", "lull"])
    assert.isFalse(existsSync(join(app.directory, "node_modules/lull/node_modules")))
  })

  it("logs, loops and outages work", () => {
    app.write("without.ts", withoutDatabase)
    assert.strictEqual(lastLine(app.run(process.execPath, "without.ts")), "[3,1]")
    assert.include(readFileSync(join(app.directory, "file/app.log"), "utf8"), "kept")
  })

  it("the command says which packages it needs", () => {
    for (const parameters of [["--help"], ["filter"]]) {
      assert.throws(
        () => app.run(process.execPath, join(app.directory, "node_modules/.bin/lull"), ...parameters),
        /\nThe command lull needs the package @effect\/platform-node, which is not installed: npm install .*\n$/
      )
    }
  })

  it("exports only what it says", () => {
    assert.throws(
      () => app.run(process.execPath, "-e", "import('lull/database/Link.js')"),
      /ERR_PACKAGE_PATH_NOT_EXPORTED/
    )
  })

  for (
    const [entry, name] of [
      ["lull/loop", "ControlLoop"],
      ["lull/logging", "DedupLogger"]
    ] as const
  ) {
    it(`a bundle with ${name} of ${entry} is below ${mostBytes / 1_000} kB`, async () => {
      assert.isBelow(await bundledBytes(app, entry, name), mostBytes)
    })
  }

  it("maps lead to the sources, which are in the package", () => {
    const dist = join(app.directory, "node_modules/lull/dist")
    const modules = globSync("**/*.js", { cwd: dist })
    assert.isAbove(modules.length, 50)
    for (const module of modules) {
      for (const file of [module, module.replace(/js$/, "d.ts")]) {
        const map = JSON.parse(readFileSync(join(dist, `${file}.map`), "utf8")) as {
          readonly sources: ReadonlyArray<string>
          readonly sourcesContent?: ReadonlyArray<string>
        }
        const [source = "", ...more] = map.sources.map((path) => join(dist, dirname(file), path))
        assert.deepStrictEqual(more, [])
        assert.include(source, "node_modules/lull/src/")
        const text = readFileSync(source, "utf8")
        if (file.endsWith(".js")) assert.deepStrictEqual(map.sourcesContent, [text])
      }
    }
  })
})

/** Effect's own share is most of it: 139 kB in all with Effect 4.1.0, and 626 kB if nothing could be left out. */
const mostBytes = 200_000

const bundledBytes = async ({ directory }: Project, entry: string, name: string) => {
  const { outputFiles } = await build({
    stdin: { contents: `export { ${name} } from "${entry}"`, resolveDir: directory },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    platform: "node",
    logLevel: "silent"
  })
  return outputFiles.reduce((bytes, { contents }) => bytes + contents.length, 0)
}

/** The lowest version that a range admits is its first. */
const lowest = (range: string) => /^\^(\S+)/.exec(range)?.[1] ?? range

const peers: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  lowest: Object.fromEntries(Object.entries(manifest.peerDependencies).map(([name, range]) => [name, lowest(range)])),
  newest: manifest.peerDependencies
}

for (const [which, versions] of Object.entries(peers)) {
  describe(`beside the ${which} version of each peer`, () => {
    let app: Project
    beforeAll(() => {
      app = project(packed, versions, { isNewest: which === "newest" })
    }, 240_000)
    afterAll(() => app.remove())

    it("brings no Node of its own, and one copy of effect", () => {
      const names = installed(app.directory)
      assert.includeMembers([...names], Object.keys(versions))
      assert.notInclude(names, "node")
      assert.deepStrictEqual(globSync("node_modules/**/node_modules/effect", { cwd: app.directory }), [])
    })

    it("runs jobs, through an outage in memory and on a PostgreSQL", () => {
      app.write("with.ts", withDatabase)
      assert.strictEqual(
        lastLine(app.run(process.execPath, "with.ts")),
        JSON.stringify([["succeeded", "hello world"], ["succeeded", "hello world"], "function"])
      )
    }, 60_000)

    it("logs, loops and outages work", () => {
      app.write("without.ts", withoutDatabase)
      assert.strictEqual(lastLine(app.run(process.execPath, "without.ts")), "[3,1]")
    }, 60_000)

    it("has the command, as a service and as a filter", () => {
      const command = join(app.directory, "node_modules/.bin/lull")
      assert.include(app.run(process.execPath, command, "--help"), "serve")
      app.write("log", "tick 1\ntick 2\n")
      assert.match(app.run("sh", "-c", `${process.execPath} ${command} filter < log`), /^tick 1\nrepeated once/)
    }, 60_000)

    it("a bundle with ControlLoop of lull is no larger than with that of lull/loop", async () => {
      const ofLoop = await bundledBytes(app, "lull/loop", "ControlLoop")
      assert.isBelow(await bundledBytes(app, "lull", "ControlLoop"), ofLoop + 1_000)
    })
  })
}

describe("the list of what the package runs on", () => {
  interface Component {
    readonly name: string
    readonly version: string
    readonly purl: string
    readonly hashes?: ReadonlyArray<{ readonly alg: string; readonly content: string }>
    readonly licenses?: ReadonlyArray<unknown>
  }
  interface Bom {
    readonly bomFormat: string
    readonly specVersion: string
    readonly metadata: { readonly component: Component }
    readonly components: ReadonlyArray<Component>
  }
  const read = () => {
    const text = execFileSync("tar", ["-xzOf", packed.tarball, "package/sbom.cdx.json"], { encoding: "utf8" })
    return { bom: JSON.parse(text) as Bom, text }
  }

  it("is in it as CycloneDX, and names the package and each peer in the version that it was tested with", () => {
    const { bom } = read()
    assert.strictEqual(bom.bomFormat, "CycloneDX")
    assert.match(bom.specVersion, /^1\.\d$/)
    assert.strictEqual(bom.metadata.component.name, "lull")
    const versions = new Map(bom.components.map(({ name, version }) => [name, version]))
    for (const peer of Object.keys(manifest.peerDependencies)) {
      assert.strictEqual(versions.get(peer), manifest.devDependencies[peer], peer)
    }
  })

  it("has what the peers bring, with licences and hashes, and no tool that the package was only made with", () => {
    const { bom, text } = read()
    const names = bom.components.map(({ name }) => name)
    for (const tool of ["vitest", "typescript", "dprint", "oxlint", "esbuild", "node"]) assert.notInclude(names, tool)
    assert.isAbove(names.length, Object.keys(manifest.peerDependencies).length)
    for (const { hashes, licenses, name, purl } of bom.components) {
      assert.match(purl, /^pkg:npm\//, name)
      assert.strictEqual(hashes?.[0]?.alg, "SHA-512", name)
      assert.isNotEmpty(licenses, name)
    }
    // So that the same sources make the same package.
    assert.notMatch(text, /serialNumber|timestamp/)
  })
})

describe("what package.json asks of its neighbours", () => {
  it("peers are ranges, all but effect are optional, and there is nothing else to install", () => {
    for (const [name, range] of Object.entries(manifest.peerDependencies)) {
      assert.match(range, /^\^/, name)
      assert.strictEqual(manifest.peerDependenciesMeta[name]?.optional, name === "effect" ? undefined : true, name)
    }
    assert.isUndefined(manifest.dependencies)
  })

  it("each entry point has a folder and a module of its own name", () => {
    for (const entry of entries) {
      assert.isTrue(existsSync(join(root, "src", entry.replace(/^lull\/?/, ""), "index.ts")), entry)
    }
  })
})
