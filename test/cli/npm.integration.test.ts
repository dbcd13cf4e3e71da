import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import * as PostgresServer from "../support/PostgresServer.ts"
import { freePort, main, pause, root, servicesAt, type Started, startProgram, until, untilReady } from "./processes.ts"

/** The parent of a process. */
const parentOf = (pid: number) => {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8")
  return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1])
}

describe("a service that was started by npm", () => {
  const scope = Effect.runSync(Scope.make())
  const directory = mkdtempSync(join(tmpdir(), "lull-npm-"))
  const listens: Array<string> = []
  let server: PostgresServer.PostgresServer

  beforeAll(async () => {
    server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
  })
  afterAll(async () => {
    for (const pid of listens.flatMap(servicesAt)) process.kill(pid, "SIGKILL")
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(directory, { recursive: true, force: true })
  })

  const settings = async () => {
    const listen = `127.0.0.1:${await freePort()}`
    listens.push(listen)
    return {
      LULL_LISTEN: listen,
      LULL_DATABASE_URL: server.url,
      LULL_DATA_DIR: join(directory, listen.replace(":", "-")),
      npm_config_update_notifier: "false"
    }
  }

  /** Another project, whose script has a shell between npm and the service. */
  const project = (name: string, script: string) => {
    const folder = mkdtempSync(join(directory, `${name}-`))
    writeFileSync(join(folder, "package.json"), JSON.stringify({ name, version: "1.0.0", scripts: { start: script } }))
    return folder
  }

  const starting = async (folder: string, words: ReadonlyArray<string> = ["start"]) => {
    const environment = await settings()
    const npm = startProgram("npm", words, environment, folder)
    await untilReady(`http://${environment.LULL_LISTEN}`)
    const [service] = servicesAt(environment.LULL_LISTEN)
    if (service === undefined) throw new Error("no service was started")
    return { npm, service, gone: () => servicesAt(environment.LULL_LISTEN).length === 0 }
  }

  const ended = async ({ gone, npm }: { readonly npm: Started; readonly gone: () => boolean }) => {
    await until(gone)
    return await npm.ended
  }

  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"] as const) {
    it(`ends when npm start gets ${signal}`, async () => {
      const started = await starting(root)
      started.npm.child.kill(signal)
      const { stderr } = await ended(started)
      assert.match(stderr, /lull stops: (SIGTERM|SIGINT|its parent has gone \(npm start, process \d+\)); no job runs/)
      assert.match(stderr, /lull has stopped/)
    }, 60_000)
  }

  it("is waited for by npm, which passes signals on, and ends with 0", async () => {
    const started = await starting(root)
    started.npm.child.kill("SIGTERM")
    assert.strictEqual((await ended(started)).status, 0)
  }, 60_000)

  it("ends when npm run lull is killed", async () => {
    const started = await starting(root, ["run", "lull", "--", "serve"])
    started.npm.child.kill("SIGKILL")
    assert.match((await ended(started)).stderr, /lull has stopped/)
  }, 60_000)

  for (const victim of ["npm", "the shell between"] as const) {
    it(`ends when ${victim} is killed, in a script of somebody else`, async () => {
      const started = await starting(project("other", `${process.execPath} ${main} serve`))
      const shell = parentOf(started.service)
      assert.notStrictEqual(shell, started.npm.child.pid)
      process.kill(victim === "npm" ? started.npm.child.pid ?? 0 : shell, "SIGKILL")
      assert.match((await ended(started)).stderr, /lull has stopped/)
    }, 60_000)
  }

  it("stays when its script put it into the background", async () => {
    const started = await starting(
      project("background", `nohup ${process.execPath} ${main} serve >/dev/null 2>&1 &`)
    )
    await started.npm.ended
    await pause(2_000)
    assert.isFalse(started.gone())
    process.kill(started.service, "SIGTERM")
    await until(started.gone)
  }, 60_000)

  it("stays without its parent when it was not started by npm", async () => {
    const environment = await settings()
    const shell = startProgram("sh", ["-c", `${process.execPath} ${main} serve >/dev/null 2>&1; true`], environment)
    await untilReady(`http://${environment.LULL_LISTEN}`)
    shell.child.kill("SIGKILL")
    await shell.ended
    await pause(2_000)
    const [service] = servicesAt(environment.LULL_LISTEN)
    assert.isDefined(service)
    if (service !== undefined) process.kill(service, "SIGTERM")
    await until(() => servicesAt(environment.LULL_LISTEN).length === 0)
  }, 60_000)
})
