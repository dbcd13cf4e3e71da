/**
 * Adds to `package-lock.json` the optional packages of other platforms that the registry in use did not offer when the
 * lock was written. Without them `npm ci` refuses the lock as incomplete. They have no integrity hash, as nobody here
 * has seen them, and are never installed on a platform that their name does not fit.
 *
 * Run it after each `npm install` that changed the lock: `node scripts/complete-lock.ts`.
 */
import { readFileSync, writeFileSync } from "node:fs"

interface Entry {
  readonly version?: string
  readonly dev?: boolean
  readonly optionalDependencies?: Readonly<Record<string, string>>
}

const lock = JSON.parse(readFileSync("package-lock.json", "utf8")) as { packages: Record<string, Entry | undefined> }

const systems = ["android", "darwin", "freebsd", "linux", "netbsd", "openbsd", "openharmony", "win32", "aix", "sunos"]
const processors: Readonly<Record<string, string>> = { arm: "arm", gnueabihf: "arm", musleabihf: "arm", eabi: "arm" }

/** `@scope/binding-linux-arm64-musl` says on which platform it runs. */
const platform = (name: string) => {
  const words = name.split("/").at(-1)!.split("-")
  const at = words.findIndex((word) => systems.includes(word))
  const system = words[at]
  const processor = words[at + 1]
  if (system === undefined || processor === undefined) throw new Error(`no platform in the name ${name}`)
  const libc = words.includes("musl") || words.includes("musleabihf")
    ? ["musl"]
    : words.some((word) => word.startsWith("g"))
    ? ["glibc"]
    : undefined
  return {
    os: [system],
    cpu: [processors[processor] ?? processor],
    ...(system === "linux" && libc !== undefined ? { libc } : {})
  }
}

let added = 0
for (const entry of Object.values(lock.packages)) {
  for (const [name, version] of Object.entries(entry?.optionalDependencies ?? {})) {
    const key = `node_modules/${name}`
    if (lock.packages[key] !== undefined) continue
    lock.packages[key] = {
      version,
      ...(entry?.dev === true ? { dev: true } : {}),
      optional: true,
      ...platform(name)
    } as Entry
    added++
  }
}
lock.packages = Object.fromEntries(Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : 1)))
writeFileSync("package-lock.json", `${JSON.stringify(lock, null, 2)}\n`)
process.stdout.write(`${added} packages of other platforms added\n`)
