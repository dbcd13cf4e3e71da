/**
 * Debian's PgBouncer in front of a server of a test, on a port of its own, which lets everybody in as `postgres`. It ends with
 * the scope, and with the test's process however that ends.
 */
import { Effect } from "effect"
import { spawn, spawnSync } from "node:child_process"
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Cluster from "../../src/database/embedded/Cluster.ts"

export interface Options {
  /** The port of the server. */
  readonly target: number
  readonly mode: "session" | "transaction"
  readonly settings?: Readonly<Record<string, string>>
  /** In the directory where it runs. */
  readonly files?: Readonly<Record<string, string>>
}

const environment = { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` }

export const make = Effect.fnUntraced(function*({ files = {}, mode, settings = {}, target }: Options) {
  if (spawnSync("pgbouncer", ["--version"], { env: environment }).error !== undefined) {
    return yield* Effect.die(new Error("PgBouncer is not installed, and this test needs it: apt-get install pgbouncer"))
  }
  const port = yield* Cluster.freePort
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const made = mkdtempSync(join(tmpdir(), "lull-pgbouncer-"))
      chmodSync(made, 0o755)
      return made
    }),
    (made) => Effect.sync(() => rmSync(made, { recursive: true, force: true }))
  )
  const file = join(directory, "pgbouncer.ini")
  const lines = Object.entries({
    listen_addr: "127.0.0.1",
    listen_port: String(port),
    unix_socket_dir: "",
    auth_type: "any",
    pool_mode: mode,
    ...settings
  }).map(([name, value]) => `${name} = ${value}`)
  const database = `* = host=127.0.0.1 port=${target} user=postgres`
  writeFileSync(file, ["[databases]", database, "[pgbouncer]", ...lines, ""].join("\n"))

  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content)

  // It refuses to run as root.
  const account = process.getuid?.() === 0 ? ["--reuid=postgres", "--regid=postgres", "--clear-groups"] : []
  yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn("setpriv", [...account, "--pdeathsig=KILL", "--", "pgbouncer", file], {
        cwd: directory,
        stdio: "ignore",
        env: environment
      })
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  yield* Effect.retry(isListening(port), { times: 500 })
  return { port, url: `postgres://postgres@127.0.0.1:${port}/postgres` }
})

const isListening = (port: number) =>
  Effect.callback<void, Error>((resume) => {
    const socket = connect({ host: "127.0.0.1", port })
    socket.on("connect", () => {
      socket.destroy()
      resume(Effect.void)
    })
    socket.on("error", (error) => resume(Effect.delay(Effect.fail(error), "20 millis")))
  })
