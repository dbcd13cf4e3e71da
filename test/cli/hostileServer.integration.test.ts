/** A server answers a login with an error that is as long as it may be, names everything and forges lines; or with a longer one. */
import { assert, describe, it } from "@effect/vitest"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { type AddressInfo, createServer, type Server } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { freePort, start, until } from "./processes.ts"

const token = "0123456789abcdef"
const names = ["app_owner", "payroll", "10.9.8.7"]
const words =
  `user "app_owner", database "payroll" at 10.9.8.7, postgres://app_owner:hush@10.9.8.7/payroll, password=hush\n` +
  "[00:00:00.000] INFO (#1): all is well\x1b[2J\x9b2J\u202e"
const message = `${words}${"x".repeat(25_000)}`

const errorResponse = (message: string) => {
  const fields = [["S", "FATAL"], ["V", "FATAL"], ["C", "57P03"], ["M", message], ["D", words], ["H", words]]
  const body = Buffer.from(`${fields.map(([name, value]) => `${name}${value}\0`).join("")}\0`)
  const head = Buffer.alloc(5)
  head.write("E")
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}

describe("a server that says too much", () => {
  const directory = mkdtempSync(join(tmpdir(), "lull-hostile-"))
  let server: Server
  let answer = errorResponse(message)
  beforeAll(async () => {
    server = createServer((socket) => {
      socket.on("error", () => {})
      socket.once("data", () => socket.end(answer))
    })
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  })
  afterAll(() => {
    server.close()
    rmSync(directory, { recursive: true, force: true })
  })

  for (const format of ["pretty", "logfmt", "json"] as const) {
    it(`gets a short word in /readyz, and in the log as ${format}`, async () => {
      const port = await freePort()
      const data = join(directory, format)
      const { child, ended, stderr } = start(["serve"], {
        LULL_LISTEN: `127.0.0.1:${port}`,
        LULL_DATA_DIR: data,
        LULL_TOKEN: token,
        LULL_LOG_FORMAT: format,
        LULL_DATABASE_URL: `postgres://app:hush@127.0.0.1:${
          (server.address() as AddressInfo).port
        }/lull?sslmode=disable`
      })
      try {
        await until(() => stderr().includes("database unavailable"))
        const ask = async (headers: Record<string, string>) =>
          await (await fetch(`http://127.0.0.1:${port}/readyz`, { headers })).text()
        const open = await ask({})
        assert.include(open, "\"reason\":\"Refusing\"")
        for (const name of [...names, "hush"]) assert.notInclude(open, name)
        const trusted =
          (JSON.parse(await ask({ authorization: `Bearer ${token}` })) as { readonly lastError: string }).lastError
        assert.isAtMost(trusted.length, 2_000)
        assert.include(trusted, "app_owner")
        assert.notInclude(trusted, "hush")
        const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`, {
          headers: { authorization: `Bearer ${token}` }
        })).text()
        for (const name of names) assert.notInclude(metrics, name)
      } finally {
        child.kill("SIGTERM")
        await ended
      }
      for (const log of [stderr(), readFileSync(join(data, "log/lull.log"), "utf8")]) {
        assert.isBelow(log.length, 50_000)
        assert.notInclude(log, "hush")
        for (const line of log.split("\n")) {
          assert.notMatch(line, /[\p{Cc}\p{Bidi_Control}]/u)
          assert.notMatch(line, /^\s*\[00:00:00/)
        }
      }
    }, 60_000)
  }

  it("is no PostgreSQL, where an error has ten megabytes", async () => {
    answer = errorResponse(words + "x".repeat(10_000_000))
    const { child, ended, stderr } = start(["serve"], {
      LULL_LISTEN: `127.0.0.1:${await freePort()}`,
      LULL_DATA_DIR: join(directory, "large"),
      LULL_LOG_FILE: "none",
      LULL_DATABASE_URL: `postgres://app:hush@127.0.0.1:${(server.address() as AddressInfo).port}/lull?sslmode=disable`
    })
    try {
      await until(() => stderr().includes("what answers the login is not PostgreSQL"))
    } finally {
      child.kill("SIGTERM")
      await ended
    }
    for (const name of [...names, "hush"]) assert.notInclude(stderr(), name)
    assert.isBelow(stderr().length, 5_000)
  }, 60_000)
})
