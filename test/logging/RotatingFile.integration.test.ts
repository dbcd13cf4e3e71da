import { assert, describe, it } from "@effect/vitest"
import { Effect, Logger } from "effect"
import { spawn, spawnSync } from "node:child_process"
import {
  appendFileSync,
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { gunzipSync } from "node:zlib"
import { afterAll } from "vitest"
import * as RotatingFile from "../../src/logging/RotatingFile.ts"

const root = mkdtempSync(join(tmpdir(), "lull-file-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const sizeOf = (directory: string) =>
  readdirSync(directory).reduce((sum, name) => sum + statSync(join(directory, name)).size, 0)

const pause = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis))

describe("RotatingFile on a real disk", () => {
  it("rotates, compresses and keeps the quota; every file can be read", async () => {
    const directory = join(root, "quota")
    const quota = 200_000
    const logEach = (from: number, to: number) =>
      Effect.gen(function*() {
        const logger = yield* RotatingFile.logger({ path: join(directory, "shop.log"), quota, maxBytes: 20_000 })
        yield* Effect.gen(function*() {
          for (let n = from; n < to; n++) {
            yield* Effect.logInfo(`record ${n} `.padEnd(500, String(Math.random())))
            if (n % 10 === 0) assert.isAtMost(sizeOf(directory), quota)
          }
          // Longer than until the compression of what is there.
          yield* Effect.sleep("3 seconds")
        }).pipe(Effect.provide(Logger.layer([logger])))
      }).pipe(Effect.scoped, Effect.runPromise)
    await logEach(0, 1_000)
    const names = readdirSync(directory)
    assert.isAbove(names.filter((name) => name.endsWith(".gz")).length, 3)
    await logEach(1_000, 1_500)
    assert.isAtMost(sizeOf(directory), quota)
    const lines = readdirSync(directory).sort((one, other) =>
      // The file that is written has no number, and comes last.
      one === "shop.log" ? 1 : other === "shop.log" ? -1 : one < other ? -1 : 1
    ).flatMap((name) => {
      const bytes = readFileSync(join(directory, name))
      return (name.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString().trimEnd().split("\n")
    })
    const numbers = lines.map((line) => Number(/record (\d+)/.exec(line)?.[1]))
    const first = numbers[0] ?? 0
    assert.deepStrictEqual(numbers, Array.from({ length: 1_500 - first }, (_, at) => first + at))
    assert.isAbove(numbers.length, 300)
  }, 30_000)

  it("a process that is killed at any moment loses nothing that was written through", async () => {
    const directory = join(root, "killed")
    const program = join(root, "program.ts")
    const source = fileURLToPath(new URL("../../src/logging/index.ts", import.meta.url))
    const effect = fileURLToPath(new URL("../../node_modules/effect/dist/index.js", import.meta.url))
    writeFileSync(
      program,
      `import { RotatingFile } from ${JSON.stringify(source)}
import { Effect, Logger } from ${JSON.stringify(effect)}
import { writeSync } from "node:fs"
const main = Effect.gen(function*() {
  const logger = yield* RotatingFile.logger({ path: ${JSON.stringify(join(directory, "shop.log"))}, maxBytes: 50_000 })
  yield* Effect.gen(function*() {
    for (let n = 0; ; n++) {
      yield* n % 3 === 0 ? Effect.logError("error " + n) : Effect.logInfo("info " + n)
      if (n % 3 === 0) writeSync(1, n + "\\n")
    }
  }).pipe(Effect.provide(Logger.layer([logger])))
})
Effect.runPromise(Effect.scoped(main))
`
    )
    for (let round = 0; round < 5; round++) {
      rmSync(directory, { recursive: true, force: true })
      const child = spawn(process.execPath, [program], { stdio: ["ignore", "pipe", "inherit"] })
      let confirmed = ""
      child.stdout.on("data", (bytes) => confirmed += String(bytes))
      const closed = new Promise((resolve) => child.on("close", resolve))
      while (confirmed.split("\n").length < 50) await pause(10)
      await pause(Math.random() * 300)
      child.kill("SIGKILL")
      await closed
      const last = Number(confirmed.trimEnd().split("\n").at(-1))
      const written = readdirSync(directory).map((name) => {
        const bytes = readFileSync(join(directory, name))
        return (name.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString()
      }).join("")
      const found = new Set([...written.matchAll(/(?:error|info) (\d+)/g)].map(([, number]) => Number(number)))
      for (let n = 0; n <= last; n++) assert.isTrue(found.has(n), `${n} of ${last} is missing`)
    }
  }, 60_000)

  it("process.exit and an uncaught exception lose nothing", async () => {
    const source = fileURLToPath(new URL("../../src/logging/index.ts", import.meta.url))
    const effect = fileURLToPath(new URL("../../node_modules/effect/dist/index.js", import.meta.url))
    for (const end of ["process.exit(3)", "setImmediate(() => { throw new Error(\"oops\") })"]) {
      const path = join(root, "exit", "shop.log")
      rmSync(join(root, "exit"), { recursive: true, force: true })
      const program = join(root, "exit.ts")
      writeFileSync(
        program,
        `import { RotatingFile } from ${JSON.stringify(source)}
import { Effect, Logger } from ${JSON.stringify(effect)}
Effect.runPromise(Effect.scoped(Effect.gen(function*() {
  const logger = yield* RotatingFile.logger({ path: ${JSON.stringify(path)} })
  yield* Effect.provide(Effect.logInfo("last words"), Logger.layer([logger]))
  ${end}
  yield* Effect.never
})))
`
      )
      const child = spawn(process.execPath, [program], { stdio: "ignore" })
      await new Promise((resolve) => child.on("close", resolve))
      assert.include(readFileSync(path, "utf8"), "last words")
    }
  }, 30_000)

  it("renamed by another program, and made anew when it is told to", async () => {
    const path = join(root, "renamed", "shop.log")
    await Effect.gen(function*() {
      const file = yield* RotatingFile.make({ path })
      const log = (text: string) => Effect.provide(Effect.logError(text), Logger.layer([file.logger]))
      yield* log("one")
      renameSync(path, `${path}.1`)
      yield* file.reopen
      yield* log("two")
      assert.include(readFileSync(`${path}.1`, "utf8"), "one")
      assert.include(readFileSync(path, "utf8"), "two")
      assert.notInclude(readFileSync(path, "utf8"), "one")
      assert.strictEqual(statSync(path).mode & 0o777, 0o640)
    }).pipe(Effect.scoped, Effect.runPromise)
  })

  it("a path that is no file, or below one, is refused", async () => {
    const refused = (path: string) =>
      Effect.runPromise(RotatingFile.make({ path }).pipe(Effect.scoped, Effect.flip, Effect.map((e) => e.message)))
    mkdirSync(join(root, "directory"))
    assert.include(await refused(join(root, "directory")), "is no regular file")
    writeFileSync(join(root, "file"), "")
    assert.include(await refused(join(root, "file", "shop.log")), "cannot be used: ")
    assert.include(await refused("/dev/full"), "/dev/full is no regular file")
    chmodSync(join(root, "directory"), 0o500)
    if (process.getuid?.() !== 0) assert.include(await refused(join(root, "directory", "shop.log")), "EACCES")
    chmodSync(join(root, "directory"), 0o700)
  })
})

/** A disk of one megabyte, where that can be had. */
const mounted = () => {
  const directory = join(root, "small")
  mkdirSync(directory, { recursive: true })
  return spawnSync("mount", ["-t", "tmpfs", "-o", "size=1m", "none", directory]).status === 0 ? directory : undefined
}

describe("RotatingFile on a full disk", () => {
  const directory = mounted()
  afterAll(() => {
    if (directory !== undefined) spawnSync("umount", [directory])
  })

  it.skipIf(directory === undefined)(
    "gives up its oldest files, then drops and counts, and says so when there is room",
    async () => {
      const path = join(directory ?? "", "log", "shop.log")
      await Effect.gen(function*() {
        const file = yield* RotatingFile.make({ path, quota: 50_000_000, maxBytes: 100_000 })
        const log = (count: number) =>
          Effect.gen(function*() {
            for (let n = 0; n < count; n++) yield* Effect.logError(`record ${n} `.padEnd(200, "x"))
          }).pipe(Effect.provide(Logger.layer([file.logger])))
        yield* log(10_000)
        assert.deepStrictEqual(file.counts(), { written: 10_000, dropped: 0 })
        // Somebody else takes all that is left, over and over.
        const other = join(directory ?? "", "other")
        const takeAll = () => {
          for (let bytes = 1_000_000; bytes >= 1; bytes = Math.floor(bytes / 2)) {
            try {
              appendFileSync(other, Buffer.alloc(bytes))
            } catch {
              // Full.
            }
          }
        }
        let logged = 10_000
        while (file.counts().dropped === 0) {
          takeAll()
          yield* log(1_000)
          logged += 1_000
        }
        const { dropped } = file.counts()
        assert.notInclude(readdirSync(join(path, "..")).join(), "shop-", "the oldest are gone")
        rmSync(other)
        yield* Effect.sleep("1500 millis")
        assert.deepStrictEqual(file.counts(), { written: logged - dropped, dropped })
        assert.include(readFileSync(path, "utf8"), `${dropped} log records were dropped`)
      }).pipe(Effect.scoped, Effect.runPromise)
    },
    30_000
  )
})
