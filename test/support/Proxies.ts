/**
 * Debian's nginx and Caddy in front of a service of a test, each as `docs/proxy.md` shows it: what is changed is named in
 * `replacements`. They end with the scope, and with the test's process however that ends.
 */
import { Effect } from "effect"
import { spawn, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Cluster from "../../src/database/embedded/Cluster.ts"
import { examplesOf } from "./documents.ts"

export type Kind = "nginx" | "caddy"

export interface Options {
  /** The port of the service. */
  readonly target: number
  readonly certificate: string
  readonly key: string
  /** Beside those for ports and files: what the page says in words. */
  readonly replacements?: ReadonlyArray<readonly [from: string, to: string]>
}

const environment = { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` }

/** Each has to be there: a recipe that was changed is not to be passed over. */
const replaced = (text: string, replacements: ReadonlyArray<readonly [from: string, to: string]>) =>
  replacements.reduce((before, [from, to]) => {
    if (!before.includes(from)) throw new Error(`${JSON.stringify(from)} is not in the recipe:\n${before}`)
    return before.replaceAll(from, to)
  }, text)

const recipeOf = (language: string) => {
  const [recipe] = examplesOf("docs/proxy.md", language)
  if (recipe === undefined) throw new Error(`docs/proxy.md has no recipe in ${language}`)
  return recipe.code
}

const files = ({ certificate, key }: Options) =>
  [["/etc/ssl/lull/fullchain.pem", certificate], ["/etc/ssl/lull/key.pem", key]] as const

const configurations: Readonly<Record<Kind, (port: number, directory: string, options: Options) => string>> = {
  nginx: (port, directory, options) => {
    const recipe = replaced(recipeOf("nginx"), [
      ...options.replacements ?? [],
      ["listen 443 ssl", `listen 127.0.0.1:${port} ssl`],
      ["127.0.0.1:7070", `127.0.0.1:${options.target}`],
      ...files(options)
    ])
    const places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
      .map((name) => `${name}_temp_path ${join(directory, name)};`)
    return [
      "daemon off;",
      "master_process off;",
      `pid ${join(directory, "pid")};`,
      "error_log stderr;",
      "events {}",
      "http {",
      "access_log off;",
      ...places,
      recipe,
      "}",
      ""
    ].join("\n")
  },
  // It would ask the world for certificates, and have this machine trust an authority of its own.
  caddy: (port, _, options) =>
    `{\n\tadmin off\n\tauto_https off\n\tskip_install_trust\n\tlog {\n\t\tlevel ERROR\n\t}\n}\n${
      replaced(recipeOf("caddyfile"), [
        ...options.replacements ?? [],
        ["lull.example {", `https://lull.example:${port}, https://localhost:${port} {\n\tbind 127.0.0.1`],
        ["127.0.0.1:7070", `127.0.0.1:${options.target}`],
        ...files(options)
      ])
    }`
}

const commands: Readonly<Record<Kind, (file: string) => readonly [program: string, ...words: ReadonlyArray<string>]>> =
  {
    nginx: (file) => ["nginx", "-e", "stderr", "-c", file],
    caddy: (file) => ["caddy", "run", "--adapter", "caddyfile", "--config", file]
  }

/** Its port, at `localhost` and `lull.example`. */
export const make = Effect.fnUntraced(function*(kind: Kind, options: Options) {
  if (spawnSync(kind, ["-v"], { env: environment }).error !== undefined) {
    return yield* Effect.die(new Error(`${kind} is not installed, and this test needs it: apt-get install ${kind}`))
  }
  const port = yield* Cluster.freePort
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "lull-proxy-"))),
    (made) => Effect.sync(() => rmSync(made, { recursive: true, force: true }))
  )
  const file = join(directory, kind)
  writeFileSync(file, configurations[kind](port, directory, options))
  yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn("setpriv", ["--pdeathsig=KILL", "--", ...commands[kind](file)], {
        cwd: directory,
        stdio: ["ignore", "ignore", "inherit"],
        env: { ...environment, HOME: directory }
      })
    ),
    (child) =>
      Effect.callback<void>((resume) => {
        if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
        child.on("exit", () => resume(Effect.void))
        child.kill("SIGKILL")
      })
  )
  yield* Effect.retry(isListening(port), { times: 500 })
  return port
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
