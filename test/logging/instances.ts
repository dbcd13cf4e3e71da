/** Instances of the corpus' templates. */
import { Effect, Random } from "effect"
import type { Variable } from "./corpus.ts"

const int = (below: number) => Random.nextIntBetween(0, below, { halfOpen: true })

const hexDigits = Effect.fnUntraced(function*(count: number) {
  let text = "a1"
  while (text.length < count) text += (yield* int(16)).toString(16)
  return text
})

const one = <A>(effects: ReadonlyArray<Effect.Effect<A>>) =>
  Effect.flatMap(int(effects.length), (at) => effects[at] ?? Effect.die("nothing to choose from"))

const time = Effect.map(int(10_000_000), (seconds) => new Date(1_700_000_000_000 + seconds * 1_013).toISOString())

const variables: Readonly<Record<Variable, Effect.Effect<string>>> = {
  uuid: Effect.map(
    Effect.all([hexDigits(8), hexDigits(4), hexDigits(4), hexDigits(4), hexDigits(12)]),
    (parts) => parts.join("-")
  ),
  hex: Effect.flatMap(int(57), (more) => hexDigits(8 + more)),
  ip: Effect.map(Effect.all([int(256), int(256), int(256), int(256)]), (parts) => parts.join(".")),
  ipv6: one([
    Effect.map(int(9_999), (last) => `2001:db8::${last}`),
    Effect.succeed("::1"),
    Effect.map(hexDigits(4), (part) => `fe80:0:0:0:${part}:0:0:1`)
  ]),
  number: one([Effect.map(int(10), String), Effect.map(int(1_000_000), String)]),
  duration: one([
    Effect.map(int(100_000), (millis) => `${millis / 1_000 + 0.001}s`),
    Effect.map(int(1_000), (millis) => `${millis}ms`),
    Effect.map(int(60), (seconds) => `3m${seconds}s`)
  ]),
  bytes: one([
    Effect.map(int(100), (count) => `${count}.5 MiB`),
    Effect.map(int(1_000), (count) => `${count} kB`),
    Effect.map(int(100_000), (count) => `${count} bytes`)
  ]),
  timestamp: one([time, Effect.map(time, (text) => text.replace("T", " ").slice(0, 23))])
}

const isVariable = (name: string): name is Variable => Object.hasOwn(variables, name)

export const instance = Effect.fnUntraced(function*(template: string) {
  let text = ""
  let at = 0
  for (const found of template.matchAll(/\{(\w+)\}/g)) {
    const [whole, name = ""] = found
    text += template.slice(at, found.index) + (isVariable(name) ? yield* variables[name] : whole)
    at = found.index + whole.length
  }
  return text + template.slice(at)
})
