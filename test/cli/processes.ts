/** The command as a process, as a person or a unit would start it. */
import { Effect } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import * as Cluster from "../../src/database/embedded/Cluster.ts"

export const root = fileURLToPath(new URL("../..", import.meta.url))
export const main = fileURLToPath(new URL("../../src/main.ts", import.meta.url))

export interface Ended {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface Started {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  readonly stdout: () => string
  readonly stderr: () => string
}

export const startProgram = (
  program: string,
  parameters: ReadonlyArray<string>,
  environment: Record<string, string>,
  directory: string = root
): Started => {
  const child = spawn(program, parameters, {
    cwd: directory,
    env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", ...environment },
    stdio: ["ignore", "pipe", "pipe"]
  })
  let stdout = ""
  let stderr = ""
  child.stdout.on("data", (bytes) => stdout += String(bytes))
  child.stderr.on("data", (bytes) => stderr += String(bytes))
  const ended = new Promise<Ended>((resolve) => child.on("close", (status) => resolve({ status, stdout, stderr })))
  return { child, ended, stdout: () => stdout, stderr: () => stderr }
}

export const start = (parameters: ReadonlyArray<string>, environment: Record<string, string>) =>
  startProgram(process.execPath, [main, ...parameters], environment)

export const pause = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis))

export const until = async (isSo: () => boolean | Promise<boolean>) => {
  while (!(await isSo())) await pause(30)
}

export const isReady = async (address: string) => (await fetch(`${address}/readyz`).catch(() => undefined))?.ok === true

export const untilReady = (address: string) => until(() => isReady(address))

export const freePort = () => Effect.runPromise(Cluster.freePort)

/** The services that were started with this address, whoever their parent is by now. */
export const servicesAt = (listen: string): ReadonlyArray<number> =>
  readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map(Number).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/environ`, "utf8").includes(`LULL_LISTEN=${listen}\0`) &&
        /main\.ts\0serve/.test(readFileSync(`/proc/${pid}/cmdline`, "utf8"))
    } catch {
      return false
    }
  })
