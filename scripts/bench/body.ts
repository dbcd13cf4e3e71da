/**
 * One measurement of a body, for `npm run bench -- body`: what the largest one of a shape does to a service that has nothing else to
 * do. Its last line is its answer, as JSON.
 *
 *     DATABASE_URL=… node scripts/bench/body.ts SHAPE
 */
import { Effect } from "effect"
import { fork } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Cluster from "../../src/database/embedded/Cluster.ts"
import { largestBody } from "../../src/http/Guard.ts"
import { shapes } from "./body/shapes.ts"

interface Found {
  readonly blockedMillis: number
  readonly kilobytes: number
}

const path = (file: string) => fileURLToPath(new URL(file, import.meta.url))
const pause = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis))

const serve = async (directory: string) => {
  const port = await Effect.runPromise(Cluster.freePort)
  const child = fork(path("../../src/main.ts"), ["serve"], {
    execArgv: ["--expose-gc", "--max-semi-space-size=2", "--import", path("body/probe.ts")],
    env: {
      PATH: process.env["PATH"],
      HOME: process.env["HOME"],
      LULL_DATABASE_URL: process.env["DATABASE_URL"],
      LULL_LISTEN: `127.0.0.1:${port}`,
      LULL_DATA_DIR: directory,
      LULL_LOG_FILE: "none",
      LULL_WORKER_SLOTS: "0"
    },
    stdio: ["ignore", 2, 2, "ipc"]
  })
  const address = `http://127.0.0.1:${port}`
  while ((await fetch(`${address}/readyz`).catch(() => undefined))?.ok !== true) await pause(50)
  const tell = async (message: string) => {
    child.send(message)
    return (await once(child, "message"))[0] as Found
  }
  return { child, address, tell }
}

const send = async (address: string, body: string) => {
  const answer = await fetch(`${address}/api/v1/jobs`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body
  })
  const text = await answer.text()
  return { status: answer.status, answerBytes: text.length }
}

const measure = async (shape: string) => {
  const body = shapes[shape]?.()
  if (body === undefined) throw new Error(`there is no shape ${shape}`)
  const directory = mkdtempSync(join(tmpdir(), "bench-body-"))
  const { address, child, tell } = await serve(directory)
  try {
    // So that what is compiled and opened for the first time is not counted.
    const ordinary = JSON.stringify(
      Array.from({ length: 50 }, (_, job) => ({ input: { command: ["echo", String(job)] } }))
    )
    for (let turn = 0; turn < 5; turn++) await send(address, ordinary)
    await tell("begin")
    const answer = await send(address, body)
    await pause(100)
    const found = await tell("end")
    const bytes = Buffer.byteLength(body)
    return {
      bytes,
      ...answer,
      blockedMillis: found.blockedMillis,
      megabytes: found.kilobytes / 1_000,
      timesTheLargest: found.kilobytes * 1_024 / largestBody
    }
  } finally {
    child.kill("SIGKILL")
    rmSync(directory, { recursive: true, force: true })
  }
}

const wanted = process.argv[2] ?? ""
const found = await measure(wanted)
process.stdout.write(`${JSON.stringify(found)}\n`)
process.exit(0)
