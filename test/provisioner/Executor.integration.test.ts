import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Queue, Schedule, Schema } from "effect"
import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type ExecutionFailed, Executor, type ExecutorUnable, type JobOutput } from "../../src/provisioner/Executor.ts"
import { JobId, type LeasedJob, type OutputLine } from "../../src/provisioner/Job.ts"
import * as OutputBuffer from "../../src/provisioner/OutputBuffer.ts"
import { lineGoesOn, maxLineLength } from "../../src/provisioner/OutputLines.ts"

const directory = mkdtempSync(join(tmpdir(), "lull-executor-"))
process.once("exit", () => rmSync(directory, { recursive: true, force: true }))

const Live = Executor.layerChildProcess({ directory, terminationGrace: "1 second" })

const jobId = Schema.decodeUnknownSync(JobId)
let jobs = 0
const leased = (input: unknown, type = "command"): LeasedJob => ({
  job: jobId(`01900000-0000-7000-8000-${String(++jobs).padStart(12, "0")}`),
  token: 7,
  type,
  input,
  tags: {},
  timeout: undefined,
  attempt: 1,
  maxAttempts: 1
})

const shell = (script: string, more: object = {}) => leased({ command: ["/bin/sh", "-c", script], ...more })

const node = (script: string) => leased({ command: [process.execPath, "-e", script] })

/** Keeps everything, and lets a test wait for a line. */
const recorder = () => {
  const lines: Array<Pick<OutputLine, "stream" | "text">> = []
  const arrivals = Effect.runSync(Queue.unbounded<string>())
  const output: JobOutput = {
    write: (stream, texts) =>
      Effect.sync(() => {
        for (const text of texts) {
          lines.push({ stream, text })
          Queue.offerUnsafe(arrivals, text)
        }
      })
  }
  const text = (stream: OutputLine["stream"]) => lines.filter((line) => line.stream === stream).map((line) => line.text)
  return { output, text, nextLine: Queue.take(arrivals) }
}

const run = (job: LeasedJob, output: JobOutput) => Executor.use((executor) => executor.run(job, output))

/** Runs a job to its end. */
const ended = Effect.fnUntraced(function*(job: LeasedJob) {
  const { output, text } = recorder()
  const exit = yield* Effect.exit(run(job, output))
  return { end: describeExit(exit), stdout: text("stdout"), stderr: text("stderr"), lull: text("lull") }
})

const describeExit = (exit: Exit.Exit<unknown, ExecutionFailed | ExecutorUnable>) => {
  if (Exit.isSuccess(exit)) return exit.value
  const error = exit.cause.reasons.find(Cause.isFailReason)?.error
  return error === undefined || error._tag === "ExecutorUnable"
    ? exit.cause
    : { error: error.error, result: error.result }
}

const success = { exitCode: 0, signal: null }

/** Starts a job, waits until it has said so, cancels it, and returns what it left. */
const canceled = Effect.fnUntraced(function*(job: LeasedJob) {
  const { nextLine, output, text } = recorder()
  const fiber = yield* Effect.forkChild(run(job, output))
  const line = yield* nextLine
  yield* Fiber.interrupt(fiber)
  return { line, stdout: text("stdout"), lull: text("lull"), exit: yield* Fiber.await(fiber) }
})

/** Whether a process runs; a zombie does not. */
const isRunning = (pid: string | undefined) => {
  assert.match(pid ?? "", /^\d+$/)
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))
  } catch {
    return false
  }
}

/** For what ends without telling anybody; the test's own timeout bounds it. */
const eventually = (condition: () => boolean) =>
  Effect.sync(condition).pipe(Effect.repeat({ schedule: Schedule.spaced("20 millis"), until: (is) => is }))

const hasSetsid = existsSync("/usr/bin/setsid")

describe("a command", () => {
  it.live("gets the environment that is promised and nothing of the service's own", () =>
    Effect.gen(function*() {
      process.env["LULL_TEST_SECRET"] = "do not tell"
      const job = leased({ command: ["/usr/bin/env"], env: { REGION: "eu", TMPDIR: "/elsewhere", EMPTY: "" } })
      const { end, stdout } = yield* ended(job)
      delete process.env["LULL_TEST_SECRET"]
      assert.deepStrictEqual(end, success)
      assert.sameMembers(stdout, [
        "REGION=eu",
        "EMPTY=",
        `PATH=${process.env["PATH"]}`,
        `HOME=${process.env["HOME"]}`,
        `TMPDIR=${directory}/${job.job}-1/tmp`,
        `LULL_JOB_ID=${job.job}`,
        `LULL_JOB_LEASE=${job.job}/7`
      ])
    }).pipe(Effect.provide(Live)))

  it.live("may have another PATH and HOME, and is searched in that PATH", () =>
    Effect.gen(function*() {
      const { end } = yield* ended(leased({ command: ["sh", "-c", ":"], env: { PATH: "/nowhere" } }))
      assert.deepStrictEqual(end, {
        error: "command not found: \"sh\", or its interpreter",
        result: { exitCode: 127, signal: null }
      })
      const { stdout } = yield* ended(shell("echo $HOME", { env: { HOME: "/somewhere" } }))
      assert.deepStrictEqual(stdout, ["/somewhere"])
    }).pipe(Effect.provide(Live)))

  it.live("runs in a directory of its own that nobody else can read and that is gone afterwards", () =>
    Effect.gen(function*() {
      const good = shell("pwd; stat -c %a . tmp; touch file tmp/file")
      const { stdout } = yield* ended(good)
      assert.deepStrictEqual(stdout, [join(directory, `${good.job}-1`), "700", "700"])
      yield* ended(shell("touch file; exit 1"))
      yield* ended(shell("mkdir -p a/b; touch a/b/c; chmod 0500 a/b a; chmod 0 ."))
      yield* ended(leased({ command: ["/does/not/exist"] }))
      yield* canceled(shell("touch file; echo up; sleep 100"))
      assert.deepStrictEqual(readdirSync(directory), [])
    }).pipe(Effect.provide(Live)))

  it.live("reads the given input, or the end of file at once", () =>
    Effect.gen(function*() {
      const text = "äöü\n".repeat(100_000)
      assert.deepStrictEqual((yield* ended(leased({ command: ["cat"] }))).stdout, [])
      assert.deepStrictEqual((yield* ended(leased({ command: ["wc", "-c"], stdin: text }))).stdout, ["700000"])
      assert.deepStrictEqual((yield* ended(leased({ command: ["true"], stdin: text }))).end, success)
    }).pipe(Effect.provide(Live)))

  const ends: ReadonlyArray<readonly [string, LeasedJob, unknown]> = [
    ["succeeds with status 0", shell("exit 0"), success],
    ["fails with another status", shell("exit 3"), {
      error: "exit status 3",
      result: { exitCode: 3, signal: null }
    }],
    ["fails by a signal", shell("kill -SEGV $$"), {
      error: "killed by SIGSEGV",
      result: { exitCode: null, signal: "SIGSEGV" }
    }],
    ["that is not found has the status that a shell would give", leased({ command: ["no-such-program", "x"] }), {
      error: "command not found: \"no-such-program\", or its interpreter",
      result: { exitCode: 127, signal: null }
    }],
    ["that is not executable has the status that a shell would give", leased({ command: ["/dev/null"] }), {
      error: "command not executable: \"/dev/null\" (EACCES)",
      result: { exitCode: 126, signal: null }
    }],
    ["with too large arguments says so", leased({ command: ["echo", "x".repeat(3_000_000)] }), {
      error: "command not executable: the arguments and environment of \"echo\" are too large",
      result: { exitCode: 126, signal: null }
    }],
    ["without a program is refused", leased({ command: [] }), {
      error: "the input is not a command: Missing key at [\"command\"][0]",
      result: null
    }],
    ["with NUL is refused", leased({ command: ["echo", "a\0b"] }), {
      error: "the input is not a command: must not contain NUL at [\"command\"][1]",
      result: null
    }],
    ["with an impossible variable is refused", leased({ command: ["echo"], env: { "A=B": "" } }), {
      error: "the input is not a command: names must not be empty or contain = or NUL at [\"env\"]",
      result: null
    }],
    ["of another type is refused", leased({}, "terraform"), {
      error: "no executor here runs jobs of the type \"terraform\"",
      result: null
    }]
  ]
  for (const [name, job, expected] of ends) {
    it.live(name, () =>
      Effect.gen(function*() {
        assert.deepStrictEqual((yield* ended(job)).end, expected)
      }).pipe(Effect.provide(Live)))
  }

  // As root there is no directory that could not be written; a file in its place is the same to a command.
  for (const directory of ["/etc/hostname", "/etc/hostname/jobs"]) {
    it.live(`is not started, and nothing is said of it, where no directory can be made: ${directory}`, () =>
      Effect.gen(function*() {
        const executor = yield* Executor
        const failure = yield* Effect.flip(run(shell("true"), recorder().output))
        assert.strictEqual(failure._tag, "ExecutorUnable")
        assert.include(failure.message, "could not make a directory for a job: E")
        const ground = yield* Effect.flip(executor.ready ?? Effect.void)
        assert.strictEqual(ground._tag, "ExecutorUnable")
      }).pipe(Effect.provide(Executor.layerChildProcess({ directory }))))
  }
})

describe("output", () => {
  it.live("comes by stream, in order, to the last line without line end", () =>
    Effect.gen(function*() {
      const { stderr, stdout } = yield* ended(shell("printf 'a\\r\\nb\\n\\nc'; printf 'x\\ny' >&2"))
      assert.deepStrictEqual(stdout, ["a", "b", "", "c"])
      assert.deepStrictEqual(stderr, ["x", "y"])
    }).pipe(Effect.provide(Live)))

  it.live("keeps characters together that the job wrote in parts", () =>
    Effect.gen(function*() {
      const { stdout } = yield* ended(shell("printf '\\342\\202'; sleep 0.1; printf '\\254\\n'"))
      assert.deepStrictEqual(stdout, ["€"])
    }).pipe(Effect.provide(Live)))

  it.live("may be binary", () =>
    Effect.gen(function*() {
      const { end, stdout } = yield* ended(shell("head -c 1000000 /dev/urandom; printf '\\na\\000\\377b\\n'"))
      assert.deepStrictEqual(end, success)
      assert.strictEqual(stdout.at(-1), "a\uFFFD\uFFFDb")
      assert.isFalse(stdout.some((line) => /[\0\n]/.test(line)))
    }).pipe(Effect.provide(Live)))

  it.live("may be a line of ten megabytes", () =>
    Effect.gen(function*() {
      const { stdout } = yield* ended(node("process.stdout.write('0123456789'.repeat(1e6))"))
      assert.isTrue(stdout.every((line) => line.length <= maxLineLength))
      assert.strictEqual(stdout.map((line) => line.replace(lineGoesOn, "")).join(""), "0123456789".repeat(1e6))
    }).pipe(Effect.provide(Live)))

  it.live("is complete even when much is in the pipe at the end", () =>
    Effect.gen(function*() {
      const { stdout } = yield* ended(shell("seq 1 200000"))
      assert.strictEqual(stdout.length, 200_000)
      assert.strictEqual(stdout.at(-1), "200000")
    }).pipe(Effect.provide(Live)))

  it.live("of a hundred megabytes in one go takes no memory and does not keep others waiting", () =>
    Effect.gen(function*() {
      const buffer = yield* OutputBuffer.make()
      const before = process.memoryUsage.rss()
      let peak = 0
      const watch = yield* Effect.sync(() => {
        peak = Math.max(peak, process.memoryUsage.rss())
      }).pipe(Effect.repeat(Schedule.spaced("5 millis")), Effect.forkChild)
      const line = "x".repeat(99)
      const big = yield* Effect.forkChild(run(shell(`yes ${line} | head -c 100000000`), buffer))
      yield* buffer.awaitLines
      const quick = yield* ended(shell("echo quick"))
      assert.deepStrictEqual(quick.stdout, ["quick"])
      assert.isUndefined(big.pollUnsafe())
      yield* Fiber.join(big)
      yield* Fiber.interrupt(watch)
      yield* buffer.finish
      const lines = yield* buffer.take(Infinity)
      assert.match(lines.at(-1)?.text ?? "", /^\[lull: 9\d{5} lines \(\d+ bytes\) were cut here/)
      assert.isAbove(peak, 0)
      assert.isBelow(peak - before, 150_000_000)
    }).pipe(Effect.provide(Live)))
})

describe("cancellation", () => {
  it.live("lets a job end by itself on SIGTERM, and keeps what it says meanwhile", () =>
    Effect.gen(function*() {
      const { exit, lull, stdout } = yield* canceled(
        shell("trap 'echo saving; sleep 0.2; echo saved; exit' TERM; echo up; while :; do sleep 0.05; done")
      )
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      assert.deepStrictEqual(stdout, ["up", "saving", "saved"])
      assert.deepStrictEqual(lull, [])
    }).pipe(Effect.provide(Live)))

  it.live("kills a job that ignores SIGTERM after the grace, and says so", () =>
    Effect.gen(function*() {
      const { line, lull } = yield* canceled(shell("trap '' TERM; echo $$; while :; do sleep 0.1; done"))
      assert.isFalse(isRunning(line))
      assert.deepStrictEqual(lull, ["[lull: still running 1s after SIGTERM, ended by SIGKILL]"])
    }).pipe(Effect.provide(Live)))

  it.live("ends a job that is stopped", () =>
    Effect.gen(function*() {
      const { line, lull } = yield* canceled(shell("echo $$; kill -STOP $$"))
      assert.isFalse(isRunning(line))
      assert.deepStrictEqual(lull, [])
    }).pipe(Effect.provide(Live)))

  it.live("ends children of children", () =>
    Effect.gen(function*() {
      const { line } = yield* canceled(shell("sh -c 'sleep 1000 & echo $!; wait' & wait"))
      assert.isFalse(isRunning(line))
    }).pipe(Effect.provide(Live)))

  it.live("ends what has left the process group", () =>
    Effect.gen(function*() {
      const { line, lull } = yield* canceled(
        shell("setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.1; done' </dev/null & sleep 1000")
      )
      assert.isFalse(isRunning(line))
      assert.match(lull.join(), /had left the job's process group were killed/)
    }).pipe(Effect.provide(Live)), { skip: !hasSetsid })

  it.live("does not touch another attempt of the same job", () =>
    Effect.gen(function*() {
      const other = recorder()
      const job = shell("setsid sh -c 'echo $$; exec sleep 1000' & sleep 1000")
      const fiber = yield* Effect.forkChild(run({ ...job, attempt: 2, token: 70 }, other.output))
      const survivor = yield* other.nextLine
      const { line } = yield* canceled(job)
      assert.isFalse(isRunning(line))
      assert.isTrue(isRunning(survivor))
      yield* Fiber.interrupt(fiber)
      assert.isFalse(isRunning(survivor))
    }).pipe(Effect.provide(Live)), { skip: !hasSetsid })
})

describe("the end of a job", () => {
  it.live("does not wait for a background process that holds its output, but ends it", () =>
    Effect.gen(function*() {
      const { end, lull, stdout } = yield* ended(shell("sleep 1000 & echo $!"))
      assert.deepStrictEqual(end, success)
      assert.isFalse(isRunning(stdout[0]))
      assert.deepStrictEqual(lull, ["[lull: processes that the job left behind were ended]"])
    }).pipe(Effect.provide(Live)))

  it.live("does not wait for ever for a process out of its reach that holds its output", () =>
    Effect.gen(function*() {
      const { end, stdout } = yield* ended(shell("env -i setsid sleep 1000 & echo $!; sleep 0.2"))
      assert.deepStrictEqual(end, success)
      assert.isTrue(isRunning(stdout[0]))
      process.kill(Number(stdout[0]), "SIGKILL")
    }).pipe(Effect.provide(Live)), { skip: !hasSetsid })

  it.live("ends what has left the process group", () =>
    Effect.gen(function*() {
      for (let round = 0; round < 10; round++) {
        const { stdout } = yield* ended(shell("setsid sh -c 'echo $$; exec sleep 1000' & read line", { stdin: null }))
        yield* eventually(() => stdout.length === 0 || !isRunning(stdout[0]))
      }
    }).pipe(Effect.provide(Live)), { skip: !hasSetsid })

  it.live("comes also when the service is killed", () =>
    Effect.gen(function*() {
      const service = spawn(process.execPath, [join(import.meta.dirname, "killedService.ts"), directory], {
        stdio: ["ignore", "pipe", "inherit"]
      })
      const pids = yield* Effect.callback<Array<string>>((resume) => {
        let text = ""
        service.stdout.on("data", (chunk) => {
          text += chunk
          if (text.split("\n").length > 2) resume(Effect.succeed(text.trim().split("\n")))
        })
      })
      assert.isTrue(pids.every(isRunning))
      service.kill("SIGKILL")
      yield* eventually(() => !pids.some(isRunning))
    }), { skip: !hasSetsid })
})

describe("handlers", () => {
  const Handlers = Executor.layerHandlers({
    greet: (job, output) => Effect.as(output.write("stdout", [`hello ${String(job.input)}`]), { greeted: true })
  })

  it.effect("run the jobs of their type", () =>
    Effect.gen(function*() {
      const { end, stdout } = yield* ended(leased("world", "greet"))
      assert.deepStrictEqual(end, { greeted: true })
      assert.deepStrictEqual(stdout, ["hello world"])
    }).pipe(Effect.provide(Handlers)))

  it.effect("fail a job of a type that nobody handles", () =>
    Effect.gen(function*() {
      for (const type of ["command", "constructor", "__proto__"]) {
        const { end } = yield* ended(leased(null, type))
        assert.deepStrictEqual(end, { error: `no executor here runs jobs of the type "${type}"`, result: null })
      }
    }).pipe(Effect.provide(Handlers)))
})
