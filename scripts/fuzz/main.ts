/**
 * `npm run fuzz`: random cases against one of the targets in `targets/`, bounded and reproducible: a case depends only on the
 * seed and its number.
 *
 *     npm run fuzz -- --target urls [--cases 100000] [--seed 1] [--from 0]
 *
 * Ends with 1 at the first case that finds something, and prints how to run it alone.
 */
import { readdirSync } from "node:fs"
import { parseArgs } from "node:util"
import * as Random from "./Random.ts"
import type { Target } from "./Target.ts"

const folder = new URL("targets/", import.meta.url)
const names = readdirSync(folder).filter((file) => file.endsWith(".ts")).map((file) => file.slice(0, -3)).toSorted()

const { values: flags } = parseArgs({
  options: {
    target: { type: "string" },
    cases: { type: "string", default: "100000" },
    seed: { type: "string", default: "1" },
    from: { type: "string", default: "0" }
  }
})

/** Between two looks at the target, and at the memory. */
const checkEvery = 10_000

/** What the heap may grow by from the first look on, after a collection: no case keeps anything. */
const mostGrowth = 64 * 2 ** 20

const { cases, from, seed, target: name = "" } = flags
const count = Number(cases)
const first = Number(from)
const say = (text: string) => process.stderr.write(`${text}\n`)

if (!names.includes(name) || !(count > 0) || !(first >= 0)) {
  say(`--target is one of ${names.join(", ")}; --cases is a number above 0, --from one from 0 on`)
  process.exit(2)
}

const { target }: { readonly target: Target } = await import(new URL(`${name}.ts`, folder).href)

const used = () => {
  globalThis.gc?.()
  return process.memoryUsage().heapUsed
}

const opened = await target.open()
const startedAt = performance.now()
let slowest = { at: first, millis: 0 }
let before: number | undefined
let at = first
try {
  for (; at < first + count; at++) {
    const begun = performance.now()
    await opened.run(Random.make(`${seed}/${at}`))
    const millis = performance.now() - begun
    if (millis > slowest.millis) slowest = { at, millis }
    if ((at + 1) % checkEvery > 0 && at + 1 < first + count) continue
    await opened.check()
    const now = used()
    before ??= now
    if (now - before > mostGrowth) throw new Error(`the heap has grown by ${Math.round((now - before) / 1e6)} MB`)
  }
  const seconds = (performance.now() - startedAt) / 1_000
  say(
    `${name}: ${count} cases with seed ${seed} found nothing, in ${
      seconds.toFixed(1)
    } s; the slowest was ${slowest.at}, ` +
      `with ${slowest.millis.toFixed(1)} ms`
  )
} catch (error) {
  say(`${name}: case ${at} with seed ${seed} found something: ${error instanceof Error ? error.stack : String(error)}`)
  say(`alone: npm run fuzz -- --target ${name} --seed ${seed} --from ${at} --cases 1`)
  process.exitCode = 1
} finally {
  await opened.close()
}
