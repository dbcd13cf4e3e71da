/**
 * NOTIFY: every role of the database may notify the channel that a service listens to. A real PostgreSQL and a real
 * service, which has to stay ready, and quiet.
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import * as Pg from "@effect/sql-pg/PgClient"
import { Context, Effect, Exit, Layer, Redacted, Scope } from "effect"
import { spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as pause } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import * as Cluster from "../../../src/database/embedded/Cluster.ts"
import { channel } from "../../../src/database/Notifications.ts"
import * as PostgresServer from "../../../test/support/PostgresServer.ts"
import type { Random } from "../Random.ts"
import { holds, type Target } from "../Target.ts"

/** Of the server, in bytes, with some room for the topic. */
const longest = 7_900

/** Of the service: it keeps nothing of a notification for long. */
const mostResident = 400 * 2 ** 20

const resident = (pid: number | undefined) =>
  1_024 * Number(/^VmRSS:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? Number.NaN)

const topics = ["posted", "canceling", "peers", "tunnels", "ready", "listener-test", "", "__proto__", "lull"]

const uuid = "00000000-0000-4000-8000-000000000001"

const json = (random: Random, deep = 0): unknown =>
  random.pick([
    () => random.text(10),
    () => random.below(1e9),
    () => null,
    () => deep > 30 ? [] : random.several(3, () => json(random, deep + 1)),
    () =>
      Object.fromEntries(random.several(3, () => [random.pick(["__proto__", "os", random.text(3)]), random.text(3)]))
  ])()

const payload = (random: Random): string =>
  random.pick([
    () => random.text(random.oneIn(20) ? 2_000 : 20),
    () => "*",
    () => `["command",${JSON.stringify(json(random))}]`,
    () => JSON.stringify(json(random)),
    () => "[".repeat(random.below(5_000)),
    () => uuid,
    () => random.several(50, () => random.pick([uuid, `${uuid}/${uuid}`, "/", "//", random.text(5)])).join(" ")
  ])()

/** What a client can send as text, and the server takes. */
const sendable = (text: string) => {
  let sent = text.replaceAll("\0", "").toWellFormed()
  while (Buffer.byteLength(sent) > longest) sent = sent.slice(0, sent.length / 2)
  return sent.toWellFormed()
}

export const target: Target = {
  meaning: "NOTIFY payloads, at a real service",
  open: async () => {
    const scope = Effect.runSync(Scope.make())
    const run = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) => Effect.runPromise(Scope.provide(effect, scope))
    const directory = mkdtempSync(join(tmpdir(), "lull-fuzz-"))
    const server = await run(PostgresServer.make())
    const port = await Effect.runPromise(Cluster.freePort)
    const address = `http://127.0.0.1:${port}`
    const service = spawn(
      process.execPath,
      [fileURLToPath(new URL("../../../src/main.ts", import.meta.url)), "serve"],
      {
        env: {
          PATH: process.env["PATH"],
          LULL_DATABASE_URL: server.url,
          LULL_LISTEN: `127.0.0.1:${port}`,
          LULL_DATA_DIR: directory,
          LULL_LOG_FILE: "none",
          LULL_LOG_FORMAT: "json",
          LULL_LOG_LEVEL: "warn"
        },
        stdio: ["ignore", "ignore", "pipe"]
      }
    )
    let said = ""
    service.stderr.on("data", (bytes) => said += String(bytes))
    const exited = new Promise<void>((resolve) => service.once("exit", () => resolve()))
    const isReady = async () => (await fetch(`${address}/readyz`).catch(() => undefined))?.ok === true
    while (!await isReady()) {
      holds(service.exitCode === null, `the service has ended: ${said}`)
      await pause(100)
    }
    said = ""
    const services = await run(Layer.build(Pg.layer({ url: Redacted.make(server.url), maxConnections: 1 })))
    const client = Context.get(services, PgClient)
    return {
      run: async (random) => {
        const topic = random.oneIn(10) ? random.text(10) : random.pick(topics)
        const text = sendable(random.oneIn(10) ? random.text(20) : `${topic} ${payload(random)}`)
        await Effect.runPromise(client`select pg_notify(${channel}, ${text})`)
      },
      check: async () => {
        await pause(200)
        holds(service.exitCode === null && service.signalCode === null, `the service has ended: ${said}`)
        holds(await isReady(), `the service is not ready: ${said}`)
        const bytes = resident(service.pid)
        holds(bytes < mostResident, `the service has ${Math.round(bytes / 1e6)} MB`)
        holds(said === "", `the service said: ${said.slice(0, 2_000)}`)
      },
      close: async () => {
        service.kill("SIGTERM")
        await exited
        await Effect.runPromise(Scope.close(scope, Exit.void))
        rmSync(directory, { recursive: true, force: true })
      }
    }
  }
}
