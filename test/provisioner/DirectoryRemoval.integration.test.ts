import { assert, describe, it } from "@effect/vitest"
import { Effect, Result, type Scope } from "effect"
import { execFileSync, spawnSync } from "node:child_process"
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import * as DirectoryRemoval from "../../src/provisioner/DirectoryRemoval.ts"
import { Executor, type JobOutput } from "../../src/provisioner/Executor.ts"
import { JobId } from "../../src/provisioner/Job.ts"
import { collectLines } from "../support/replicas.ts"

const isRoot = process.getuid?.() === 0
/** Only root can mount; an ordinary user's run says what it has not tried. */
const asRoot = <E>(name: string, test: () => Effect.Effect<void, E, Scope.Scope>) =>
  isRoot ? it.live(name, test) : it.live(`needs root, and was not tried: ${name}`, () => Effect.void)

/** `jobs/job` to be removed, and `foreign`, of somebody else, with modes that are unusual. */
const ground = Effect.acquireRelease(
  Effect.sync(() => {
    const root = mkdtempSync(join(tmpdir(), "lull-removal-"))
    const foreign = join(root, "foreign")
    const job = join(root, "jobs", "job")
    mkdirSync(job, { recursive: true })
    mkdirSync(join(foreign, "open"), { recursive: true })
    writeFileSync(join(foreign, "open", "file"), "theirs")
    execFileSync("chmod", ["0755", foreign])
    execFileSync("chmod", ["0555", join(foreign, "open")])
    return { root, foreign, job }
  }),
  ({ root }) =>
    Effect.sync(() => {
      for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n").reverse()) {
        const point = line.split(" ")[4]
        if (point?.startsWith(`${root}/`)) spawnSync("umount", ["--lazy", point])
      }
      spawnSync("chmod", ["-R", "u+rwx", root])
      rmSync(root, { recursive: true, force: true })
    })
)

const assertUntouched = (foreign: string) => {
  const mode = (path: string) => (statSync(path).mode & 0o777).toString(8)
  assert.strictEqual(mode(foreign), "755")
  assert.strictEqual(mode(join(foreign, "open")), "555")
  assert.strictEqual(readFileSync(join(foreign, "open", "file"), "utf8"), "theirs")
}

const bind = (from: string, to: string) => {
  mkdirSync(to, { recursive: true })
  execFileSync("mount", ["--bind", from, to])
}

const problemOf = Effect.fnUntraced(function*(directory: string) {
  const result = yield* Effect.result(DirectoryRemoval.remove(directory))
  return Result.isFailure(result) ? result.failure.message : ""
})

describe("the removal of a job's directory", () => {
  it.live("removes all that is in it, links included, and says nothing of one that is not there", () =>
    Effect.gen(function*() {
      const { foreign, job } = yield* ground
      mkdirSync(join(job, "a", "b"), { recursive: true })
      writeFileSync(join(job, "a", "b", "file"), "")
      execFileSync("mkfifo", [join(job, "a", "pipe")])
      symlinkSync(foreign, join(job, "a", "directory"))
      symlinkSync(join(foreign, "open", "file"), join(job, "file"))
      symlinkSync("/nowhere", join(job, "dangling"))
      for (let times = 0; times < 2; times++) yield* DirectoryRemoval.remove(job)
      yield* DirectoryRemoval.remove(join(job, "of", "none"))
      assert.isFalse(existsSync(job))
      assertUntouched(foreign)
    }))

  it.live("removes a link that a job put in the place of its directory, not what is behind it", () =>
    Effect.gen(function*() {
      const { foreign, job } = yield* ground
      rmSync(job, { recursive: true })
      symlinkSync(foreign, job)
      yield* DirectoryRemoval.remove(job)
      assert.deepStrictEqual(readdirSync(join(job, "..")), [])
      assertUntouched(foreign)
    }))

  it.live(
    "removes directories that are nested deeper than a path or a process's descriptors can reach",
    () =>
      Effect.gen(function*() {
        const { job } = yield* ground
        const nest =
          `const { mkdirSync, writeFileSync } = require("node:fs"); for (let depth = 0; depth < 3000; depth++) ` +
          `{ mkdirSync("directory"); process.chdir("directory"); if (depth % 100 === 0) writeFileSync("file", "") }`
        execFileSync(process.execPath, ["-e", nest], { cwd: job })
        yield* DirectoryRemoval.remove(job)
        assert.isFalse(existsSync(job))
      }),
    30_000
  )

  it.live("removes directories without any rights of their owner, and changes no mode where it need not", () =>
    Effect.gen(function*() {
      const { foreign, job } = yield* ground
      mkdirSync(join(job, "closed", "inner"), { recursive: true })
      writeFileSync(join(job, "closed", "inner", "file"), "")
      symlinkSync(foreign, join(job, "closed", "link"))
      execFileSync("chmod", ["0", join(job, "closed", "inner"), join(job, "closed"), job])
      const module = pathToFileURL(join(import.meta.dirname, "../../src/provisioner/DirectoryRemoval.ts")).href
      const program = `import { Effect } from "effect"; const { remove } = await import(${JSON.stringify(module)});` +
        `await Effect.runPromise(remove(${JSON.stringify(job)}))`
      const node = [process.execPath, "--input-type=module", "-e", program]
      // Root may do everything whatever the modes, unless it gives that up.
      const lesser = ["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
      const [file = "", ...words] = isRoot ? ["setpriv", ...lesser, ...node] : node
      const { status, stderr } = spawnSync(file, words, {
        encoding: "utf8",
        cwd: join(import.meta.dirname, "../..")
      })
      assert.strictEqual(stderr, "")
      assert.strictEqual(status, 0)
      assert.isFalse(existsSync(job))
      assertUntouched(foreign)
    }))

  asRoot(
    "leaves what is behind a bind mount of the same disk, names it, and removes the rest",
    () =>
      Effect.gen(function*() {
        const { foreign, job } = yield* ground
        bind(foreign, join(job, "root", "mnt"))
        mkdirSync(join(job, "more"))
        writeFileSync(join(job, "root", "file"), "")
        assert.include(yield* problemOf(job), `${join(job, "root", "mnt")} is a mount`)
        assertUntouched(foreign)
        assert.deepStrictEqual(readdirSync(job), ["root"])
        assert.deepStrictEqual(readdirSync(join(job, "root")), ["mnt"])
        execFileSync("umount", [join(job, "root", "mnt")])
        yield* DirectoryRemoval.remove(job)
        assert.isFalse(existsSync(job))
      })
  )

  asRoot(
    "leaves what is mounted on the job's directory itself, on a file of it, and deep below",
    () =>
      Effect.gen(function*() {
        const { foreign, job, root } = yield* ground
        writeFileSync(join(job, "file"), "")
        execFileSync("mount", ["--bind", join(foreign, "open", "file"), join(job, "file")])
        const deep = join(job, ...Array.from({ length: 40 }, () => "d"))
        bind(foreign, join(deep, "mnt"))
        assert.notStrictEqual(yield* problemOf(job), "")
        assertUntouched(foreign)
        const another = join(root, "jobs", "another")
        bind(foreign, another)
        assert.include(yield* problemOf(another), `${another} is a mount`)
        assertUntouched(foreign)
      })
  )

  asRoot("leaves another device", () =>
    Effect.gen(function*() {
      const { job } = yield* ground
      mkdirSync(join(job, "tmpfs"))
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", join(job, "tmpfs")])
      writeFileSync(join(job, "tmpfs", "file"), "")
      execFileSync("chmod", ["0500", join(job, "tmpfs")])
      assert.include(yield* problemOf(job), `${join(job, "tmpfs")} is a mount or another device`)
      assert.strictEqual(statSync(join(job, "tmpfs")).mode & 0o777, 0o500)
      assert.isTrue(existsSync(join(job, "tmpfs", "file")))
    }))

  asRoot(
    "leaves what a job has mounted and not unmounted, and the next attempt is not run on it",
    () =>
      Effect.gen(function*() {
        const { foreign, root } = yield* ground
        const { layer, lines } = collectLines()
        const output: JobOutput = { write: () => Effect.void }
        const job = {
          job: JobId.make("01900000-0000-7000-8000-000000000010"),
          token: 1,
          type: "command",
          input: { command: ["/bin/sh", "-c", `mkdir -p root/mnt && mount --bind "${foreign}" root/mnt`] },
          tags: {},
          timeout: undefined,
          attempt: 1,
          maxAttempts: 1
        }
        const again = yield* Effect.gen(function*() {
          const executor = yield* Executor
          yield* executor.run(job, output)
          return yield* Effect.flip(executor.run(job, output))
        }).pipe(
          Effect.provide(Executor.layerChildProcess({ directory: join(root, "jobs"), terminationGrace: "1 second" })),
          Effect.provide(layer)
        )
        assertUntouched(foreign)
        assert.strictEqual(again._tag, "ExecutorUnable")
        assert.lengthOf(lines, 1)
        assert.include(lines[0]?.text, "root/mnt is a mount")
      })
  )
})
