/**
 * `lull filter`: whatever bytes a program writes, in whatever pieces. What passes is what came, in its order, without what is
 * counted; and nothing is lost of what does not repeat. In this process.
 */
import * as Filter from "../../../src/logging/filter/Filter.ts"
import type { Random } from "../Random.ts"
import { holds, type Target } from "../Target.ts"

const lines = [
  "INFO started",
  "2026-11-25T10:00:00.123Z ERROR connection to 10.0.0.1:5432 failed",
  "{\"level\":\"error\",\"msg\":\"broken\",\"n\":12}",
  "level=warn msg=\"it is \\\"slow\\\"\" took=12ms",
  "\tat Object.<anonymous> (/app/main.js:1:1)",
  "Caused by: java.lang.Error: no",
  "{\"",
  "{}",
  "=",
  "",
  "\r",
  "\u001b[31mERROR\u001b[0m red"
]

const piece = (random: Random): Uint8Array => {
  if (random.oneIn(3)) return random.bytes(random.oneIn(50) ? 20_000 : 40)
  const line = random.pick([...lines, random.text(30)])
  return Buffer.from(line + random.pick(["\n", "\n", "\r\n", ""]))
}

const options = (random: Random): Filter.Options => ({
  windowMillis: random.pick([1, 1_000, 60_000]),
  adjacent: random.oneIn(3),
  eventTime: random.oneIn(3),
  format: random.pick(["auto", "text", "json", "logfmt"] as const),
  stats: random.oneIn(8),
  keys: random.oneIn(4) ? ["level", "msg", "__proto__"] : undefined
})

const newline = 10

const linesIn = (bytes: Uint8Array) => bytes.reduce((count, byte) => count + (byte === newline ? 1 : 0), 0)

/** Whether `part` is `whole` without some of it. */
const isRestOf = (part: Uint8Array, whole: Uint8Array) => {
  let at = 0
  for (const byte of whole) if (at < part.length && part[at] === byte) at++
  return at === part.length
}

export const target: Target = {
  meaning: "the log of a program, for lull filter",
  open: () =>
    Promise.resolve({
      run: (random) => {
        const given = options(random)
        const passed: Array<Uint8Array> = []
        const told: Array<string> = []
        const filter = Filter.make(given, {
          pass: (bytes) => passed.push(Uint8Array.from(bytes)),
          tell: (line) => told.push(line)
        })
        const pieces = random.several(30, () => piece(random))
        const whole = Buffer.concat(pieces)
        let now = 0
        for (let from = 0; from < whole.length;) {
          const to = Math.min(whole.length, from + 1 + random.below(random.oneIn(3) ? 5 : 2_000))
          filter.write(whole.subarray(from, to), now, now)
          now += random.below(3_000)
          if (random.oneIn(3)) filter.tick(now, now)
          from = to
        }
        filter.end(now, now)
        const out = Buffer.concat(passed)
        holds(given.stats === true || isRestOf(out, whole), "what passed is not what came")
        if (given.stats === true) {
          const counted = filter.report().reduce((sum, { count }) => sum + count, 0)
          holds(counted <= linesIn(whole) + 1, `${counted} records in ${linesIn(whole)} lines`)
        } else {
          holds(told.length > 0 || out.length === whole.length, "something was left out, and nobody was told")
        }
      },
      check: () => Promise.resolve(),
      close: () => Promise.resolve()
    })
}
