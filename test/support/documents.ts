/** The examples of the pages and of doc comments: found, type-checked, and run as a reader would run them. */
import { assert } from "@effect/vitest"
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

export const root = fileURLToPath(new URL("../..", import.meta.url))

/** All pages that show examples to users. */
export const pages: ReadonlyArray<string> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
  .concat(globSync("docs/*.md", { cwd: root }).toSorted())

export const readPage = (file: string) => readFileSync(join(root, file), "utf8")

export interface Example {
  /** `docs/logging.md, ts 2`: the second of its language on its page. */
  readonly name: string
  readonly language: string
  readonly code: string
  /** What the page shows as its output: the block of text that follows, before the next code. */
  readonly output: string | undefined
}

const blocks = /^```(\w+)\n(.*?)^```$/gms

/** All but the blocks of text. */
export const examplesIn = (page: string): ReadonlyArray<Example> => {
  const found = [...readPage(page).matchAll(blocks)].map(([, language = "", code = ""]) => ({ language, code }))
  const numbers = new Map<string, number>()
  return found.flatMap(({ code, language }, at) => {
    if (language === "text") return []
    const number = (numbers.get(language) ?? 0) + 1
    numbers.set(language, number)
    const next = found[at + 1]
    return [{
      name: `${page}, ${language} ${number}`,
      language,
      code,
      output: next?.language === "text" ? next.code : undefined
    }]
  })
}

export const examplesOf = (page: string, language: string): ReadonlyArray<Example> =>
  examplesIn(page).filter((example) => example.language === language)

/** The blocks of text: what a page shows and nobody types. */
export const textsOf = (page: string): ReadonlyArray<string> =>
  [...readPage(page).matchAll(blocks)].flatMap(([, language, code = ""]) => language === "text" ? [code] : [])

/** TypeScript in the doc comments of the sources. */
export const commentExamples = (): ReadonlyArray<{ readonly name: string; readonly code: string }> =>
  globSync("src/**/*.ts", { cwd: root }).toSorted().flatMap((file) =>
    [...readFileSync(join(root, file), "utf8").matchAll(/^ *\* ```ts\n(.*?)^ *\* ```$/gms)].map((
      [, lines = ""],
      at
    ) => ({
      name: `${file}, ${at + 1}`,
      code: lines.replaceAll(/^ *\* ?/gm, "")
    }))
  )

/** A folder below the project, so that `effect` is found. */
const makeFolder = () => {
  const directory = mkdtempSync(join(root, "test", ".docs-"))
  return { directory, remove: () => rmSync(directory, { recursive: true, force: true }) }
}

/** What a strict compiler says of these, each a module of its own. */
export const typeErrors = (examples: ReadonlyArray<{ readonly name: string; readonly code: string }>): string => {
  const { directory, remove } = makeFolder()
  try {
    for (const { code, name } of examples) {
      writeFileSync(join(directory, `${name.replaceAll(/\W+/g, "-")}.ts`), `${code}\nexport {}\n`)
    }
    writeFileSync(
      join(directory, "tsconfig.json"),
      JSON.stringify({
        compilerOptions: {
          module: "NodeNext",
          target: "ES2024",
          lib: ["ES2024"],
          types: ["node"],
          strict: true,
          exactOptionalPropertyTypes: true,
          skipLibCheck: true,
          noEmit: true,
          allowImportingTsExtensions: true,
          paths: { lull: ["../../src/index.ts"], "lull/*": ["../../src/*/index.ts"] }
        },
        include: ["*.ts"]
      })
    )
    const compiler = join(root, "node_modules/typescript/bin/tsc")
    return spawnSync(process.execPath, [compiler, "-p", directory], { encoding: "utf8" }).stdout
  } finally {
    remove()
  }
}

/** The sources in the place of the package. */
const withSources = (code: string) =>
  code.replaceAll(
    /from "lull(?:\/(\w+))?"/g,
    (_, entry: string | undefined) => `from ${JSON.stringify(join(root, "src", entry ?? "", "index.ts"))}`
  )

const place = (code: string) => {
  const { directory, remove } = makeFolder()
  const file = join(directory, "example.ts")
  writeFileSync(file, withSources(code))
  return { file, remove }
}

/** Until it ends; what it printed. */
export const runExample = (code: string, cwd: string = root): string => {
  const { file, remove } = place(code)
  try {
    const { status, stderr, stdout } = spawnSync(process.execPath, [file], { cwd, encoding: "utf8", timeout: 60_000 })
    assert.strictEqual(status, 0, `${stdout}${stderr}`)
    return stdout
  } finally {
    remove()
  }
}

export interface Started {
  readonly child: ChildProcess
  /** Of both streams, so far. */
  readonly output: () => string
}

const collect = (child: ChildProcess): Started => {
  let output = ""
  child.stdout?.on("data", (bytes) => output += String(bytes))
  child.stderr?.on("data", (bytes) => output += String(bytes))
  return { child, output: () => output }
}

/** One that goes on until it is ended. */
export const startExample = (code: string): Started => {
  const { file, remove } = place(code)
  const child = spawn(process.execPath, [file], { stdio: ["ignore", "pipe", "pipe"] })
  child.on("exit", remove)
  return collect(child)
}

/** A line of a shell, in a process group of its own. */
export const startShell = (command: string, cwd: string, environment: Readonly<Record<string, string>>): Started =>
  collect(spawn("sh", ["-c", command], {
    cwd,
    env: { ...process.env, ...environment },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true
  }))

/**
 * That each line which the page shows was printed, in this order; between them may be others. `…` stands for anything, and a
 * time or the number of a fiber for another.
 */
export const assertPrinted = (printed: string, shown: string): void => {
  let rest = printed.split("\n")
  for (const line of shown.trim().split("\n")) {
    const pattern = new RegExp(
      `^${
        line.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")
          .replaceAll("…", ".*")
          .replaceAll(/\b\d+m?s\b/g, "(?:\\d+m?s ?)+")
          .replaceAll(/fiber=#\d+/g, "fiber=#\\d+")
      }$`
    )
    const at = rest.findIndex((candidate) => pattern.test(candidate))
    assert.isAtLeast(at, 0, `not printed: ${line}\nbut:\n${printed}`)
    rest = rest.slice(at + 1)
  }
}
