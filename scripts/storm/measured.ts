/** A process under observation: its lines with their times, its connection attempts, its CPU. */
import { Effect, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { appendFileSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

export interface Line {
  readonly at: number
  readonly text: string
}

export interface Measured {
  readonly child: ChildProcess
  readonly lines: ReadonlyArray<Line>
  /** Times of the attempts to connect to the database. */
  readonly connects: () => ReadonlyArray<number>
  /** CPU seconds used so far, or `undefined` when it has ended. */
  readonly cpuSeconds: () => number | undefined
  readonly isAlive: () => boolean
}

export interface Options {
  readonly name: string
  readonly directory: string
  readonly script: string
  readonly parameters?: ReadonlyArray<string>
  readonly environment: Readonly<Record<string, string>>
  readonly databasePort: number
}

/** Started with the scope, and ended with it: asked first, and killed after five seconds. */
export const start = (options: Options): Effect.Effect<Measured, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const connectsFile = join(options.directory, `${options.name}.connects`)
      const logFile = join(options.directory, `${options.name}.log`)
      writeFileSync(connectsFile, "")
      const child = spawn(
        process.execPath,
        ["--import", new URL("./countConnects.ts", import.meta.url).href, options.script, ...options.parameters ?? []],
        {
          cwd: fileURLToPath(new URL("../..", import.meta.url)),
          env: {
            PATH: process.env["PATH"] ?? "",
            HOME: process.env["HOME"] ?? "",
            ...options.environment,
            STORM_CONNECTS: connectsFile,
            STORM_PORT: String(options.databasePort)
          },
          stdio: ["ignore", "pipe", "pipe"],
          // Ctrl-C in the terminal is ours to pass on.
          detached: true
        }
      )
      const lines: Array<Line> = []
      for (const stream of [child.stdout, child.stderr]) {
        createInterface({ input: stream }).on("line", (text) => {
          lines.push({ at: Date.now(), text })
          // The naive loops write gigabytes; the beginning of the log shows what they say.
          if (lines.length <= 20_000) appendFileSync(logFile, `${text}\n`)
        })
      }
      return {
        child,
        lines,
        connects: () => readFileSync(connectsFile, "utf8").split("\n").filter(Boolean).map(Number),
        cpuSeconds: () => cpuSeconds(child.pid),
        isAlive: () => child.exitCode === null && child.signalCode === null
      }
    }),
    ({ child }) =>
      Effect.callback<void>((resume) => {
        if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
        child.once("exit", () => resume(Effect.void))
        child.kill("SIGTERM")
        const killing = setTimeout(() => child.kill("SIGKILL"), 20_000)
        child.once("exit", () => clearTimeout(killing))
      })
  )

/** User and system time of a process, from the fields 14 and 15 of `proc(5)`; a tick is 10 ms on Linux. */
const cpuSeconds = (pid: number | undefined): number | undefined => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8")
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    return (Number(fields[11]) + Number(fields[12])) / 100
  } catch {
    return undefined
  }
}

/** The most that happened within one second, counted in whole seconds from `from`. */
export const worstSecond = (times: ReadonlyArray<number>, from: number): number => {
  const bySecond = new Map<number, number>()
  for (const at of times) {
    const second = Math.floor((at - from) / 1000)
    bySecond.set(second, (bySecond.get(second) ?? 0) + 1)
  }
  return Math.max(0, ...bySecond.values())
}
