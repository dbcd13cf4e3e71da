/**
 * One measurement of `lull/logging`, for `npm run bench -- logging`. Its last line is its answer, as JSON.
 *
 *     node scripts/bench/logging.ts call no-op|held|varied-no-op|varied-held
 *     node scripts/bench/logging.ts repeats 1000000
 *     node scripts/bench/logging.ts file 300000
 *     node scripts/bench/logging.ts generate text|json MEGABYTES FILE
 *     node scripts/bench/logging.ts filter uniq|lull|adjacent FILE
 */
import { Effect, Layer, Logger } from "effect"
import { spawn } from "node:child_process"
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { DedupLogger, RotatingFile } from "../../src/logging/index.ts"

const [what = "", which = "", ...rest] = process.argv.slice(2)

const deduplicated = (write: (text: string) => void) =>
  DedupLogger.layer().pipe(
    Layer.provide(Logger.layer([Logger.map(Logger.formatLogFmt, (line) => write(line + "\n"))]))
  )

const nanosPerCall = (log: (n: number) => Effect.Effect<void>, loggers: Layer.Layer<never>) =>
  Effect.gen(function*() {
    const calls = 1_000_000
    const repeat = Effect.gen(function*() {
      for (let n = 0; n < calls; n++) yield* log(n)
    })
    yield* repeat
    const start = performance.now()
    yield* repeat
    return { nanos: (performance.now() - start) * 1e6 / calls }
  }).pipe(Effect.provide(loggers))

/** A call of a logger that does nothing, and of one that holds what it is given. */
const call = () => {
  const constant = Effect.logError("connect ECONNREFUSED 127.0.0.1:5432")
  const log = which.startsWith("varied")
    ? (n: number) => Effect.logError(`job ${n} failed at 10.0.0.1:${n % 65_536} after 250 ms`)
    : () => constant
  return nanosPerCall(
    log,
    which.endsWith("no-op") ? Logger.layer([Logger.make(() => undefined)]) : deduplicated(() => 0)
  )
}

const repeats = Effect.suspend(() => {
  let bytes = 0
  const count = Number(which)
  const error = (n: number) => Effect.logError(`connect ECONNREFUSED 10.0.0.${n % 250}:5432`)
  return Effect.gen(function*() {
    for (let n = 0; n < count / 10; n++) yield* error(n)
    globalThis.gc?.()
    const before = process.memoryUsage().heapUsed
    for (let n = count / 10; n < count; n++) yield* error(n)
    globalThis.gc?.()
    return process.memoryUsage().heapUsed - before
  }).pipe(
    Effect.provide(deduplicated((text) => bytes += text.length)),
    Effect.map((grown) => ({ bytes, heapGrownKilobytes: grown / 1_000 }))
  )
})

const file = Effect.gen(function*() {
  const directory = mkdtempSync(join(tmpdir(), "bench-lull-"))
  const count = Number(which)
  // As pino: no rotation within the measurement.
  const made = yield* RotatingFile.make({ path: join(directory, "lull.log"), quota: 4e9, maxBytes: 1e9 })
  const write = Effect.fnUntraced(function*(records: number) {
    for (let n = 0; n < records; n++) {
      yield* Effect.logInfo("request completed", {
        requestId: `req-${n}`,
        method: "GET",
        path: "/api/v1/jobs",
        status: 200,
        millis: n % 900
      })
    }
  }, Effect.provide(Logger.layer([made.logger])))
  yield* write(100_000)
  const start = performance.now()
  yield* write(count)
  yield* made.flush
  const seconds = (performance.now() - start) / 1_000
  rmSync(directory, { recursive: true })
  return { perSecond: count / seconds }
}).pipe(Effect.scoped)

const lines: Readonly<Record<string, (n: number) => string>> = {
  text: (n) =>
    `2026-11-23T10:00:${String(n % 60).padStart(2, "0")}.${String(n % 1_000).padStart(3, "0")}Z INFO [worker-${
      n % 9
    }] connect failed to 10.0.${n % 255}.${n % 200}:5432 after ${n % 900} ms: connection refused (attempt ${n})\n`,
  json: (n) =>
    `{"level":${n % 50 === 0 ? 50 : 30},"time":${
      1_700_000_000_000 + n
    },"pid":4242,"hostname":"api-1","req":{"id":${n},"method":"GET","url":"/api/v1/jobs/${
      n * 7_919 % 1_000_000
    }"},"msg":"request ${n % 50 === 0 ? "failed" : "completed"} in ${n % 900} ms"}\n`
}

const generate = (megabytes: number, path: string) => {
  const descriptor = openSync(path, "w")
  for (let bytes = 0, n = 0; bytes < megabytes * 1e6;) {
    let text = ""
    for (let each = 0; each < 5_000; each++) text += lines[which]!(n++)
    bytes += writeSync(descriptor, text)
  }
  closeSync(descriptor)
}

const commands: Readonly<Record<string, ReadonlyArray<string>>> = {
  uniq: ["uniq", "-c"],
  lull: [process.execPath, fileURLToPath(new URL("../../src/main.ts", import.meta.url)), "filter"],
  adjacent: [process.execPath, fileURLToPath(new URL("../../src/main.ts", import.meta.url)), "filter", "--adjacent"]
}

/** From the start of the process to its end, with the file as its input. */
const filter = (path: string) =>
  Effect.callback<{ readonly megabytesPerSecond: number; readonly peakMegabytes: number }>((resume) => {
    const [command = "", ...parameters] = commands[which] ?? []
    const start = performance.now()
    const child = spawn(command, parameters, { stdio: [openSync(path, "r"), "ignore", "inherit"] })
    let peak = 0
    const watch = setInterval(() => {
      try {
        const status = readFileSync(`/proc/${child.pid}/status`, "utf8")
        peak = Math.max(peak, Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1_000)
      } catch {
        // It has ended.
      }
    }, 100)
    child.on("close", () => {
      clearInterval(watch)
      const seconds = (performance.now() - start) / 1_000
      resume(Effect.succeed({ megabytesPerSecond: statSync(path).size / 1e6 / seconds, peakMegabytes: peak }))
    })
  })

const measurement = (): Effect.Effect<unknown, unknown> => {
  switch (what) {
    case "call":
      return call()
    case "repeats":
      return repeats
    case "file":
      return file
    case "generate":
      return Effect.sync(() => generate(Number(rest[0]), rest[1] ?? ""))
    case "filter":
      return filter(rest[0] ?? "")
    default:
      return Effect.fail(new Error(`there is no measurement ${JSON.stringify(what)}`))
  }
}

Effect.runPromise(measurement()).then((found) => process.stdout.write(`${JSON.stringify(found ?? {})}\n`))
