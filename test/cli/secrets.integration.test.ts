import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as LoginServer from "../support/LoginServer.ts"
import { freePort, start, until } from "./processes.ts"

const main = { LULL_LISTEN: "127.0.0.1:0", LULL_LOG_FILE: "none" }

/** As they are written by hand: a password or a user with characters that mean something in a URL. */
const wrong = [
  "postgres://app:p@hush@localhost/app",
  "postgres://app:p/hush:1#?%@localhost/app",
  "postgres://localhost?user=app&password=p@hush",
  "postgres://localhost/app?user=app&password=p&hush=1"
]

describe("a password in the environment of lull", () => {
  it("is not shown where the URL is wrong, by any command", async () => {
    for (const url of wrong) {
      const runs = [
        start(["serve"], { ...main, LULL_DATABASE_URL: url }),
        start(["migrate"], { ...main, LULL_DATABASE_URL: url }),
        start(["serve"], {
          ...main,
          LULL_DATABASE_URL: "postgres://app@127.0.0.1:1/app",
          LULL_DATABASE_LISTEN_URL: url
        })
      ]
      for (const { status, stderr, stdout } of await Promise.all(runs.map(({ ended }) => ended))) {
        assert.strictEqual(status, 64, stderr)
        assert.match(stderr, /LULL_DATABASE_(LISTEN_)?URL is wrong/)
        assert.notMatch(stderr + stdout, /hush/, url)
      }
    }
  }, 120_000)

  it("is not shown where it stands in the address of a service, which has none", async () => {
    for (const address of ["http://app:p/hush@127.0.0.1:1", "http://app:hush@127.0.0.1:1", "postgres://a:p@hush@b"]) {
      const runs = [
        start(["job", "list"], { LULL_URL: address }),
        start(["peer", "join", "--name", "x", "--url", address], {})
      ]
      for (const { status, stderr, stdout } of await Promise.all(runs.map(({ ended }) => ended))) {
        assert.strictEqual(status, 64, stderr)
        assert.notInclude(stderr + stdout, "hush", address)
      }
    }
  }, 60_000)

  it("is not shown while the service runs: in its first lines, its log, its state and its metrics", async () => {
    const directory = mkdtempSync(join(tmpdir(), "lull-secrets-"))
    const log = join(directory, "log", "lull.log")
    const address = `127.0.0.1:${await freePort()}`
    try {
      await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
        const thief = yield* LoginServer.make({ answers: () => LoginServer.says.cleartext })
        const url = `postgres://app:p%40hush%2Fhush%3A%23%3F%25%20hush@127.0.0.1:${thief.port}/app`
        yield* Effect.promise(async () => {
          const service = start(["serve"], {
            LULL_LISTEN: address,
            LULL_DATA_DIR: directory,
            LULL_LOG_FILE: log,
            LULL_DATABASE_URL: url,
            LULL_DATABASE_LISTEN_URL: url
          })
          const ask = async (path: string) => {
            const response = await fetch(`http://${address}${path}`).catch(() => undefined)
            return await response?.text() ?? ""
          }
          try {
            await until(async () => (await ask("/readyz")).includes("Misconfigured"))
            await until(() => service.stderr().includes("in clear"))
            const shown = [await ask("/readyz"), await ask("/metrics"), await ask("/api/v1/jobs")]
            service.child.kill("SIGTERM")
            const { stderr, stdout } = await service.ended
            const all = [...shown, stderr, stdout, readFileSync(log, "utf8"), thief.heard()].join("\n")
            assert.notInclude(all, "hush")
            assert.include(all, "in clear")
          } finally {
            service.child.kill("SIGKILL")
          }
        })
      })))
    } finally {
      rmSync(directory, { recursive: true })
    }
  }, 60_000)
})
