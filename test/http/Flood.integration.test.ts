import { assert, describe, it } from "@effect/vitest"
import { mkdtempSync, readdirSync, rmSync } from "node:fs"
import { Agent, request } from "node:http"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { freePort, main, startProgram, until, untilReady } from "../cli/processes.ts"

/** So few that a flood of connections would leave none for a job. */
const files = 256

const upgrade = [
  "GET /api/v1/tailnet HTTP/1.1",
  "Host: 127.0.0.1",
  "Connection: Upgrade",
  "Upgrade: websocket",
  "",
  ""
].join("\r\n")

/** Over one connection, that was there before the flood. */
const asking = (port: number, headers: Record<string, string>) => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  return (method: string, path: string, body?: unknown) =>
    new Promise<string>((resolve, reject) => {
      const asked = request(
        { port, agent, method, path, headers: { "content-type": "application/json", ...headers } },
        (answer) => {
          let text = ""
          answer.on("data", (data) => text += String(data)).on("end", () => resolve(text))
        }
      )
      asked.on("error", reject)
      asked.end(body === undefined ? undefined : JSON.stringify(body))
    })
}

/** Between a connection that was closed and the next, so that the machine can do something else as well. */
const restMillis = 20

/** Half-open clients, each of them followed by another. */
const flood = (port: number, clients: number) => {
  let made = 0
  let isOver = false
  const one = () => {
    if (isOver) return
    const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true })
    socket.on("error", () => {}).on("end", () => socket.destroy()).on("close", () => setTimeout(one, restMillis))
    socket.write(made++ % 2 === 0 ? "" : upgrade)
  }
  for (let index = 0; index < clients; index++) one()
  return { made: () => made, end: () => isOver = true }
}

describe("a service that is flooded with connections", () => {
  it("runs the jobs that it accepted, answers on, and is as before when the flood is over", async () => {
    const directory = mkdtempSync(join(tmpdir(), "lull-flood-"))
    const port = await freePort()
    const token = "0123456789abcdef"
    const service = startProgram("sh", ["-c", `ulimit -n ${files}; exec "$0" "$@"`, process.execPath, main, "serve"], {
      LULL_LISTEN: `127.0.0.1:${port}`,
      LULL_DATA_DIR: directory,
      LULL_TOKEN: token
    })
    try {
      await untilReady(`http://127.0.0.1:${port}`)
      assert.match(
        service.stderr(),
        /lull takes \d+ connections at a time instead of 16000, as it may have 256 open files/
      )
      const ask = asking(port, { authorization: `Bearer ${token}` })
      await ask("GET", "/healthz")
      const flooding = flood(port, files + 50)
      await until(() => flooding.made() > 1_500)
      const submitted = await ask(
        "POST",
        "/api/v1/jobs",
        Array.from({ length: 20 }, (_, index) => ({ input: { command: ["echo", String(index)], stdin: "x" } }))
      )
      const jobs = JSON.parse(submitted) as ReadonlyArray<{ id: string }>
      const ends = new Set<string>()
      for (const { id } of jobs) {
        await until(async () => {
          const { attempt, status } = JSON.parse(await ask("GET", `/api/v1/jobs/${id}`)) as {
            status: string
            attempt: number
          }
          if (status === "pending" || status === "running") return false
          ends.add(`${status}, attempt ${attempt}`)
          return true
        })
      }
      assert.deepStrictEqual([...ends], ["succeeded, attempt 1"])
      flooding.end()
      await until(() => readdirSync(`/proc/${service.child.pid}/fd`).length < 60)
      await untilReady(`http://127.0.0.1:${port}`)
      // The flood has one line a minute.
      const warnings = service.stderr().split("\n")
        .filter((line) => /level=(WARN|ERROR)/.test(line) && !line.includes("LULL_JOB_USER"))
      assert.isAtLeast(warnings.length, 1)
      for (const warning of warnings) {
        assert.include(warning, "connections are refused, as there are as many as the service takes")
      }
    } finally {
      service.child.kill("SIGTERM")
      await service.ended
      rmSync(directory, { recursive: true, force: true })
    }
  }, 120_000)
})
