/**
 * Writes `sbom.cdx.json`, which is in the published package: what it runs on, in CycloneDX, as `npm sbom` has it from the lock.
 * `npm run build` does it.
 *
 * The package itself holds nothing of others and depends on nothing but its peers. So it is the peers that are listed, in the
 * versions that it was tested with, and what those bring; tools that it was only made with are not. What differs from one run to
 * the next, a number and a time, is left out: the same lock makes the same file.
 */
import { spawnSync } from "node:child_process"
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

type Versions = Readonly<Record<string, string>>

interface Manifest {
  readonly name: string
  readonly version: string
  readonly description: string
  readonly license: string
  readonly peerDependencies: Versions
  readonly peerDependenciesMeta: Readonly<Record<string, { readonly optional?: boolean } | undefined>>
  readonly devDependencies: Versions
}

const root = new URL("..", import.meta.url)
const read = (file: string): unknown => JSON.parse(readFileSync(new URL(file, root), "utf8"))

const pick = (versions: Versions, isWanted: (name: string) => boolean): Versions =>
  Object.fromEntries(Object.entries(versions).filter(([name]) => isWanted(name)))

/** The peers as what it depends on: npm knows them as tools of the project, under the versions that it was tested with. */
const asUsed = (
  { description, devDependencies, license, name, peerDependencies, peerDependenciesMeta, version }: Manifest
) => {
  const isPeer = (dependency: string) => dependency in peerDependencies
  const isOptional = (dependency: string) => peerDependenciesMeta[dependency]?.optional === true
  return {
    name,
    version,
    description,
    license,
    dependencies: pick(devDependencies, (dependency) => isPeer(dependency) && !isOptional(dependency)),
    optionalDependencies: pick(devDependencies, (dependency) => isPeer(dependency) && isOptional(dependency)),
    devDependencies: pick(devDependencies, (dependency) => !isPeer(dependency))
  }
}

interface Component {
  readonly "bom-ref": string
  readonly properties: ReadonlyArray<{ readonly name: string }>
}

interface Bom {
  readonly serialNumber: string
  readonly metadata: { readonly timestamp: string; readonly component: Component }
  readonly components: ReadonlyArray<Component>
  readonly dependencies: ReadonlyArray<{ readonly ref: string; readonly dependsOn: ReadonlyArray<string> }>
}

const isTool = ({ properties }: Component) => properties.some(({ name }) => name === "cdx:npm:package:development")

/** `npm sbom --omit dev` would leave out as well what is both a tool and used. */
const withoutTools = ({ serialNumber: _, ...bom }: Bom) => {
  const { timestamp: __, ...metadata } = bom.metadata
  const components = bom.components.filter((component) => !isTool(component))
  const refs = new Set([metadata.component, ...components].map((component) => component["bom-ref"]))
  const dependencies = bom.dependencies.filter(({ ref }) => refs.has(ref))
    .map(({ dependsOn, ref }) => ({ ref, dependsOn: dependsOn.filter((other) => refs.has(other)) }))
  return { ...bom, metadata, components, dependencies }
}

const npmSbom = (directory: string): Bom => {
  const words = ["sbom", "--package-lock-only", "--sbom-format", "cyclonedx", "--sbom-type", "library"]
  const { error, status, stderr, stdout } = spawnSync("npm", words, {
    cwd: directory,
    encoding: "utf8",
    maxBuffer: 64 * 1_048_576
  })
  if (error !== undefined || status !== 0) throw new Error(`npm sbom failed: ${error?.message ?? stderr}`)
  return JSON.parse(stdout) as Bom
}

export const writeSbom = (): void => {
  const manifest = asUsed(read("package.json") as Manifest)
  const folder = mkdtempSync(join(tmpdir(), "lull-sbom-"))
  try {
    // npm names the whole by its folder.
    const directory = join(folder, manifest.name)
    mkdirSync(directory)
    writeFileSync(join(directory, "package.json"), JSON.stringify(manifest))
    // As it is: that it does not fit makes npm find out by itself who is needed by whom.
    copyFileSync(new URL("package-lock.json", root), join(directory, "package-lock.json"))
    writeFileSync(
      new URL("sbom.cdx.json", root),
      `${JSON.stringify(withoutTools(npmSbom(directory)), undefined, 2)}\n`
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
