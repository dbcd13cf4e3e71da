/**
 * Libraries that embed the package, compiled with declarations of their own. All that a library exports has its type written
 * into them, so that every type in a public signature needs a name that can be imported. The libraries are made from the
 * declarations of the package, for every export of every entry point: what is added later is covered too.
 *
 * The libraries of declarations are checked as well (`skipLibCheck: false`). What is wrong with those of Effect and its driver
 * by themselves, in a project that imports nothing else, is not counted.
 */
import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import { mkdirSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { root } from "./support/documents.ts"
import { entries, manifest, pack, type Packed, type Project, project } from "./support/packedPackage.ts"
import { librariesOf } from "./support/publicTypes.ts"

/** What an application would write, from each entry point, each in a module of its own. */
const written: Readonly<Record<string, ReadonlyArray<string>>> = {
  "lull": [
    `
import { Provisioner } from "lull"
import { Redacted } from "effect"
export const Live = Provisioner.layerPostgres({ url: Redacted.make("postgres://app@localhost/app") })
export const make = (slots: number) => Provisioner.layerMemory({ worker: { slots } })
`,
    `
import { Executor, Provisioner } from "lull"
import { Effect, Layer, ManagedRuntime, Redacted } from "effect"
export const Handlers = Executor.layerHandlers({ greet: (job) => Effect.succeed(job.input) })
export const Live = Provisioner.layerPostgres({ url: Redacted.make("postgres://app@localhost/app"), worker: { slots: 2 } })
  .pipe(Layer.provide(Handlers))
export const runtime = ManagedRuntime.make(Live)
export const Both = Layer.merge(Live, Layer.empty)
`,
    `
import { Provisioner } from "lull"
import { Effect } from "effect"
export const submit = Effect.fn(function*(type: string) {
  const provisioner = yield* Provisioner
  const job = yield* provisioner.submit({ type })
  return yield* provisioner.awaitEnd(job.id)
})
export const service = Provisioner.use((provisioner) => Effect.succeed(provisioner))
export const caught = submit("greet").pipe(Effect.catchTag("JobNotFound", (error) => Effect.succeed(error)))
`
  ],
  "lull/loop": [
    `
import { Backoff, ControlLoop } from "lull/loop"
import { Effect } from "effect"
export const loop = ControlLoop.make({ name: "poll", session: Effect.fail("gone" as const), policy: Backoff.session })
export const status = Effect.map(loop, ({ status }) => status)
export const policy = Backoff.exponential({ floor: "1 second", cap: "1 minute" })
`
  ],
  "lull/logging": [
    `
import { DedupLogger, Redaction, RotatingFile, StateLog } from "lull/logging"
import { Effect, Layer, Logger } from "effect"
export const File = Logger.layer([RotatingFile.logger({ path: "app.log" })])
export const Logging = DedupLogger.layer().pipe(Layer.provide(File))
export const log = StateLog.make("push")
export const watched = Effect.flatMap(log, (state) => state.watch(Effect.void))
export const redaction = Redaction.make()
`
  ],
  "lull/tailnet": [
    `
import { Coordinator, TailnetLoop, Transports } from "lull/tailnet"
import { Effect, Layer } from "effect"
export const OnMemory = Coordinator.layerMemory()
export const Nothing = Layer.merge(OnMemory, Layer.empty)
export const transport = Transports.inProcess()
export const loop = Effect.flatMap(transport, (one) => TailnetLoop.make({ peer: "a", transports: [one] }))
export const peers = Effect.map(loop, ({ peers }) => peers)
`
  ],
  "lull/testing": [
    `
import { Outage, OutageClock } from "lull/testing"
export const outage = Outage.make([{ kind: "refused", for: "1 minute" }])
export const Clock = OutageClock.layer(outage)
export const { outside, running } = OutageClock
`
  ]
}

const nothingOfOurs = `import * as effect from "effect"
import * as driver from "@effect/sql-pg/PgClient"
export const all = [effect, driver]
`

const compilers = {
  "TypeScript 5.9": join(root, "node_modules/typescript-5.9/bin/tsc"),
  "TypeScript 7": join(root, "node_modules/typescript/bin/tsc")
}

interface Settings {
  readonly module: "nodenext" | "bundler"
  readonly exactOptionalPropertyTypes: boolean
  readonly lib: ReadonlyArray<string>
}

/** Each value of each setting beside each value of each other. */
const settings: ReadonlyArray<Settings> = [
  { module: "nodenext", exactOptionalPropertyTypes: true, lib: ["ES2024"] },
  { module: "nodenext", exactOptionalPropertyTypes: false, lib: ["ES2024", "DOM", "DOM.Iterable"] },
  { module: "bundler", exactOptionalPropertyTypes: true, lib: ["ES2024", "DOM", "DOM.Iterable"] },
  { module: "bundler", exactOptionalPropertyTypes: false, lib: ["ES2024"] }
]

const describeSettings = ({ exactOptionalPropertyTypes, lib, module }: Settings) =>
  `${module}, ${exactOptionalPropertyTypes ? "with" : "without"} exactOptionalPropertyTypes, ${
    lib.includes("DOM") ? "with" : "without"
  } DOM`

const folderOf = (entry: string) => entry.replaceAll("/", "-")

describe("a library that exports what the package gives", () => {
  let packed: Packed
  let app: Project

  beforeAll(() => {
    packed = pack()
    const versions = { ...manifest.peerDependencies, ...manifest.devDependencies }
    const named = (...names: ReadonlyArray<string>) =>
      Object.fromEntries(names.map((name) => [name, versions[name] ?? "missing"]))
    app = project(packed, named("effect", "@effect/sql-pg", "@types/node"))
    for (const entry of entries) {
      mkdirSync(join(app.directory, folderOf(entry)))
      for (const { name, source } of librariesOf(app.directory, entry)) {
        app.write(`${folderOf(entry)}/${name}.ts`, source)
      }
      for (const [at, source] of (written[entry] ?? []).entries()) {
        app.write(`${folderOf(entry)}/written${at}.ts`, source)
      }
    }
    mkdirSync(join(app.directory, "nothing-of-ours"))
    app.write("nothing-of-ours/nothing.ts", nothingOfOurs)
  }, 120_000)
  afterAll(() => {
    app.remove()
    packed.remove()
  })

  /** The errors of one program, by line. */
  const compile = (
    compiler: string,
    folders: ReadonlyArray<string>,
    { module, ...rest }: Settings,
    skipLibCheck = false
  ) => {
    app.write(
      "tsconfig.json",
      JSON.stringify({
        compilerOptions: {
          ...rest,
          skipLibCheck,
          module: module === "bundler" ? "ESNext" : module,
          moduleResolution: module,
          target: "ES2023",
          types: ["node"],
          strict: true,
          declaration: true,
          rootDir: ".",
          outDir: "compiled"
        },
        include: folders.map((folder) => `${folder}/*.ts`)
      })
    )
    const { stdout } = spawnSync(process.execPath, [compiler, "-p", ".", "--pretty", "false"], {
      cwd: app.directory,
      encoding: "utf8"
    })
    return stdout.split("\n").filter((line) => /\berror TS\d+/.test(line))
  }

  /** Effect's modules of cryptography name types of the DOM that Node's types have as values only. */
  const notOurs = (compiler: string, options: Settings) => {
    if (options.lib.includes("DOM")) return []
    const found = compile(compiler, ["nothing-of-ours"], options)
    assert.deepStrictEqual(found.filter((line) => !line.startsWith("node_modules/effect/dist/crypto/")), [])
    return found
  }

  it("there is one for each export", () => {
    const libraries = librariesOf(app.directory, "lull")
    assert.isAbove(libraries.length, 100)
    const sources = libraries.map(({ source }) => source).join("\n")
    for (const part of ["Provisioner as It", "It.layerPostgres", "Effect.map(It, ", "new It(...parameters)"]) {
      assert.include(sources, part)
    }
  })

  for (const [name, compiler] of Object.entries(compilers)) {
    // Names are looked for in the whole program: only one with a single entry point shows whether that one is enough.
    for (const entry of entries) {
      it(`compiles with ${name}, from ${entry} alone`, () => {
        for (const options of settings.slice(0, 1)) {
          assert.deepStrictEqual(compile(compiler, [folderOf(entry)], options, true), [])
        }
      }, 120_000)
    }

    for (const options of settings) {
      it(`compiles with ${name}, and its declarations are checked: ${describeSettings(options)}`, () => {
        const uncounted = notOurs(compiler, options)
        const found = compile(compiler, entries.map(folderOf), options)
        assert.deepStrictEqual(found.filter((line) => !uncounted.includes(line)), [])
      }, 120_000)
    }
  }
})
