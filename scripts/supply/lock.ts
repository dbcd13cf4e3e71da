/** What is wrong with a lock of npm: pure. */
import { Schema } from "effect"

const Entry = Schema.Struct({
  version: Schema.optionalKey(Schema.String),
  resolved: Schema.optionalKey(Schema.String),
  integrity: Schema.optionalKey(Schema.String),
  license: Schema.optionalKey(Schema.String),
  link: Schema.optionalKey(Schema.Boolean),
  optional: Schema.optionalKey(Schema.Boolean),
  os: Schema.optionalKey(Schema.Array(Schema.String)),
  cpu: Schema.optionalKey(Schema.Array(Schema.String)),
  libc: Schema.optionalKey(Schema.Array(Schema.String)),
  hasInstallScript: Schema.optionalKey(Schema.Boolean)
})
type Entry = typeof Entry.Type

const Lock = Schema.Struct({ lockfileVersion: Schema.Int, packages: Schema.Record(Schema.String, Entry) })
const Manifest = Schema.Struct({ allowScripts: Schema.optionalKey(Schema.Record(Schema.String, Schema.Boolean)) })

const registry = "https://registry.npmjs.org/"

/** None of them asks anything of who uses Lull, whose package holds nothing of these. */
const licences = new Set([
  "MIT",
  "ISC",
  "Apache-2.0",
  "BSD-2-Clause",
  "BSD-3-Clause",
  "0BSD",
  "BlueOak-1.0.0",
  "CC0-1.0",
  "MPL-2.0",
  "Python-2.0"
])

/** SPDX: of several, one has to do; of a list with `AND`, each. */
const isKnown = (licence: string) =>
  licence.replaceAll(/[()]/g, "").split(" OR ").some((choice) =>
    choice.split(" AND ").every((each) => licences.has(each))
  )

/** Where changes are checked. */
const here = { os: "linux", cpu: "x64", libc: "glibc" } as const

const isFor = (wanted: string, given: ReadonlyArray<string> | undefined) =>
  given === undefined || given.includes(wanted)

/**
 * Packages of other platforms that the registry did not offer; `complete-lock.ts` adds them. Nobody here has seen them, so they may
 * not be such as are installed here.
 */
const isUnseen = ({ cpu, integrity, libc, optional, os, resolved }: Entry) =>
  optional === true && resolved === undefined && integrity === undefined &&
  !(isFor(here.os, os) && isFor(here.cpu, cpu) && isFor(here.libc, libc))

const nameOf = (path: string) => path.slice(path.lastIndexOf("node_modules/") + "node_modules/".length)

const problemsOfEntry = (path: string, entry: Entry, decided: ReadonlySet<string>): ReadonlyArray<string> => {
  const { hasInstallScript, integrity, license, link, resolved } = entry
  if (link === true) return ["is a link to a folder: it should come from the registry"]
  const script = hasInstallScript === true && !decided.has(nameOf(path))
    ? ["has a script for its installation, and allowScripts does not say whether it may run"]
    : []
  if (isUnseen(entry)) return script
  return [
    ...script,
    // Without one it is whatever registry npm is set up with, and the hash decides.
    ...(resolved === undefined || resolved.startsWith(registry)
      ? []
      : [`comes from ${resolved}: it should come from ${registry}`]),
    ...(/^sha512-[A-Za-z0-9+/]{86}==$/.test(integrity ?? "") ? [] : ["has no SHA-512 hash"]),
    ...(license !== undefined && isKnown(license)
      ? []
      : [`has the licence ${license ?? "none"}, which is not one of those in scripts/supply/lock.ts`])
  ]
}

export const problemsOf = (lock: unknown, manifest: unknown): ReadonlyArray<string> => {
  const { lockfileVersion, packages } = Schema.decodeUnknownSync(Lock)(lock)
  const { allowScripts } = Schema.decodeUnknownSync(Manifest)(manifest)
  const decided = new Set(Object.keys(allowScripts ?? {}))
  return [
    ...(lockfileVersion === 3 ? [] : [`the lock has version ${lockfileVersion}: it should be 3`]),
    ...Object.entries(packages)
      .filter(([path]) => path !== "")
      .flatMap(([path, entry]) => problemsOfEntry(path, entry, decided).map((problem) => `${path} ${problem}`))
  ]
}
