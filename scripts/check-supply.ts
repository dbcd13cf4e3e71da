/**
 * What the project is made with, checked for each change (`.ci/run`): the lock, the licences, and what the registry knows.
 *
 * - Each package comes from npm's registry, under a hash that `npm ci` compares; and only the packages that `allowScripts` of
 *   package.json names have scripts to run at their installation.
 * - Each licence is one of those below.
 * - `npm audit`: no known vulnerability of a level that counts. `npm audit signatures`: what is installed was signed by the
 *   registry. A registry that does not answer these is said, and is no failure: a mirror may have neither.
 *
 * `node scripts/check-supply.ts`, or with `--offline` without the registry.
 */
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { problemsOf } from "./supply/lock.ts"
import { readAudit, readSignatures, type Verdict } from "./supply/registry.ts"

const read = (file: string): unknown => JSON.parse(readFileSync(new URL(`../${file}`, import.meta.url), "utf8"))

const npm = (...words: ReadonlyArray<string>) => {
  const { status, stderr, stdout } = spawnSync("npm", [...words, "--json", "--fetch-retries", "1"], {
    cwd: new URL("..", import.meta.url),
    encoding: "utf8",
    timeout: registryWithin,
    maxBuffer: 64 * 1_048_576
  })
  return { status, output: stdout.trim() === "" ? stderr : stdout }
}

/** For what the registry is asked. */
const registryWithin = 120_000

const say = (what: string, verdict: Verdict) => {
  process.stdout.write(`${what}: ${verdict.text}\n`)
  return verdict.isWrong
}

/** The second is that of the programs which the benchmarks compare Lull with. */
const lock = ["", "scripts/bench/peers/"].flatMap((folder) =>
  problemsOf(read(`${folder}package-lock.json`), read(`${folder}package.json`)).map((problem) => folder + problem)
)
const checks: Array<boolean> = [say("lock and licences", {
  isWrong: lock.length > 0,
  text: lock.length > 0
    ? `\n  ${lock.join("\n  ")}`
    : "each package has its hash, its source and a licence that is known"
})]
if (!process.argv.includes("--offline")) {
  checks.push(
    say("vulnerabilities", readAudit(npm("audit"))),
    say("signatures", readSignatures(npm("audit", "signatures")))
  )
}
process.exit(checks.includes(true) ? 1 : 0)
