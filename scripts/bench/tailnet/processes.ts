/** The services and servers that a measurement of the tailnet runs beside itself. */
import { Effect } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Cluster from "../../../src/database/embedded/Cluster.ts"

export const databaseUrl = process.env["DATABASE_URL"] ?? ""
const directory = mkdtempSync(join(tmpdir(), "bench-tailnet-"))
const children: Array<ChildProcess> = []

export const pause = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis))

/** `script`: beside this folder. */
export const start = (script: string, parameters: ReadonlyArray<string>, environment: Record<string, string> = {}) => {
  const child = spawn(process.execPath, [fileURLToPath(new URL(`../${script}`, import.meta.url)), ...parameters], {
    env: {
      PATH: process.env["PATH"] ?? "",
      HOME: process.env["HOME"] ?? "",
      DATABASE_URL: databaseUrl,
      ...environment
    },
    stdio: ["ignore", "pipe", "inherit"]
  })
  children.push(child)
  return child
}

/** Where a process listens that prints its port. */
export const portOf = (child: ChildProcess) =>
  new Promise<string>((resolve) =>
    child.stdout?.once("data", (data) => resolve(`ws://127.0.0.1:${String(data).trim()}`))
  )

/** A service, from when it is ready on. */
export const serve = async (url = databaseUrl) => {
  const port = await Effect.runPromise(Cluster.freePort)
  const child = start("../../src/main.ts", ["serve"], {
    // As `npm start` has it.
    NODE_OPTIONS: "--max-semi-space-size=2",
    LULL_DATABASE_URL: url,
    LULL_LISTEN: `127.0.0.1:${port}`,
    LULL_DATA_DIR: join(directory, String(port)),
    LULL_LOG_FILE: "none",
    LULL_LOG_LEVEL: "none",
    LULL_WORKER_SLOTS: "0"
  })
  for (;;) {
    const answer = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined)
    if (answer?.ok === true) break
    await pause(50)
  }
  return { child, url: `ws://127.0.0.1:${port}/api/v1/tailnet` }
}

export const residentKilobytes = (child: ChildProcess) =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1] ?? 0)

export const endAll = () => {
  for (const child of children) child.kill("SIGKILL")
  rmSync(directory, { recursive: true, force: true })
}
