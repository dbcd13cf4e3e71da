/** The examples of a page, run as a reader would run them. */
import { assert } from "@effect/vitest"
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

export const root = fileURLToPath(new URL("../..", import.meta.url))

export const readPage = (file: string) => readFileSync(join(root, file), "utf8")

export const examplesOf = (page: string, language: string): ReadonlyArray<string> =>
  [...page.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, "gms"))].map(([, code = ""]) => code)

/** With the sources in the place of the package, in a folder below the project, so that `effect` is found. */
const place = (code: string) => {
  const directory = mkdtempSync(join(root, "test", ".docs-"))
  const file = join(directory, "example.ts")
  writeFileSync(
    file,
    code.replaceAll(/"lull\/(\w+)"/g, (_, name: string) => JSON.stringify(join(root, "src", name, "index.ts")))
  )
  return { file, remove: () => rmSync(directory, { recursive: true, force: true }) }
}

/** Until it ends; its output, by lines. */
export const runExample = (code: string): ReadonlyArray<string> => {
  const { file, remove } = place(code)
  try {
    const { status, stderr, stdout } = spawnSync(process.execPath, [file], { encoding: "utf8", timeout: 60_000 })
    assert.strictEqual(status, 0, stderr)
    return stdout.trim().split("\n")
  } finally {
    remove()
  }
}

/** One that goes on until it is ended. */
export const startExample = (code: string): { readonly child: ChildProcess; readonly output: () => string } => {
  const { file, remove } = place(code)
  const child = spawn(process.execPath, [file], { stdio: ["ignore", "pipe", "pipe"] })
  let output = ""
  child.stdout.on("data", (bytes) => output += String(bytes))
  child.stderr.on("data", (bytes) => output += String(bytes))
  child.on("exit", remove)
  return { child, output: () => output }
}
