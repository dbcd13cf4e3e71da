/** A real service on a real PostgreSQL, for targets that attack it from outside. It has to stay ready, quiet, and small. */
import { Effect, Exit, Scope } from "effect"
import { spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as pause } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import * as Cluster from "../../src/database/embedded/Cluster.ts"
import * as PostgresServer from "../../test/support/PostgresServer.ts"
import { holds } from "./Target.ts"

const main = fileURLToPath(new URL("../../src/main.ts", import.meta.url))

/** Of the service, in bytes: it keeps nothing of an attack for long. */
const mostResident = 400 * 2 ** 20

const resident = (pid: number | undefined) =>
  1_024 * Number(/^VmRSS:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? Number.NaN)

export interface Service {
  readonly port: number
  readonly databaseUrl: string
  /** What lasts as long as the service. */
  readonly run: <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) => Promise<A>
  /** That it is well, and has said nothing but what is allowed. */
  readonly check: () => Promise<void>
  readonly close: () => Promise<void>
}

/** `mayBeSaid`: lines that it may write in an attack, each at most as often as is promised. */
export const open = async (
  settings: Readonly<Record<string, string>> = {},
  mayBeSaid: (line: string) => boolean = () => false
): Promise<Service> => {
  const scope = Effect.runSync(Scope.make())
  const run: Service["run"] = (effect) => Effect.runPromise(Scope.provide(effect, scope))
  const directory = mkdtempSync(join(tmpdir(), "lull-fuzz-"))
  const server = await run(PostgresServer.make())
  const port = await Effect.runPromise(Cluster.freePort)
  const service = spawn(process.execPath, [main, "serve"], {
    env: {
      PATH: process.env["PATH"],
      LULL_DATABASE_URL: server.url,
      LULL_LISTEN: `127.0.0.1:${port}`,
      LULL_DATA_DIR: directory,
      LULL_LOG_FILE: "none",
      LULL_LOG_FORMAT: "json",
      LULL_LOG_LEVEL: "warn",
      ...settings
    },
    stdio: ["ignore", "ignore", "pipe"]
  })
  let said = ""
  service.stderr.on("data", (bytes) => said += String(bytes))
  const exited = new Promise<void>((resolve) => service.once("exit", () => resolve()))
  const isReady = async () => (await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined))?.ok === true
  while (!await isReady()) {
    holds(service.exitCode === null, `the service has ended: ${said}`)
    await pause(100)
  }
  said = ""
  return {
    port,
    databaseUrl: server.url,
    run,
    check: async () => {
      await pause(200)
      holds(service.exitCode === null && service.signalCode === null, `the service has ended: ${said}`)
      holds(await isReady(), `the service is not ready: ${said}`)
      const bytes = resident(service.pid)
      holds(bytes < mostResident, `the service has ${Math.round(bytes / 1e6)} MB`)
      const unexpected = said.split("\n").filter((line) => line !== "" && !mayBeSaid(line)).join("\n")
      holds(unexpected === "", `the service said: ${unexpected.slice(0, 2_000)}`)
    },
    close: async () => {
      service.kill("SIGTERM")
      await exited
      await Effect.runPromise(Scope.close(scope, Exit.void))
      rmSync(directory, { recursive: true, force: true })
    }
  }
}
