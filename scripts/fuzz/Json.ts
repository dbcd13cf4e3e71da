/** JSON that is nearly what somebody expects. */
import type { Random } from "./Random.ts"

const odd = [null, true, -1, 0, 1.5, 1e308, 2 ** 53, "", "x", "__proto__", "\u0000", "\ud800", "\u202e", [], {}]

const anything = (random: Random, deep: number): unknown => {
  if (deep > 5 || random.oneIn(2)) return random.oneIn(3) ? random.text(20) : random.pick(odd)
  return random.oneIn(2)
    ? random.several(4, () => anything(random, deep + 1))
    : Object.fromEntries(random.several(4, () => [random.text(5), anything(random, deep + 1)]))
}

/** The value, in which here and there something else stands, is missing, or was added. */
export const mutated = (random: Random, value: unknown): unknown => {
  if (random.oneIn(12)) return anything(random, 0)
  if (Array.isArray(value)) {
    const copy = value.flatMap((each: unknown) => random.oneIn(10) ? [] : [mutated(random, each)])
    return random.oneIn(20) ? [...copy, ...random.several(50, () => random.pick([...copy, 0]))] : copy
  }
  if (typeof value !== "object" || value === null) return value
  const entries = Object.entries(value).filter(() => !random.oneIn(15))
    .map(([key, each]) => [random.oneIn(20) ? random.text(6) : key, mutated(random, each)])
  return Object.fromEntries(
    random.oneIn(8) ? [...entries, [random.pick(["__proto__", "constructor", random.text(5)]), 1]] : entries
  )
}

/** As text, which may be broken. */
export const text = (random: Random, value: unknown): string => {
  const whole = JSON.stringify(mutated(random, value)) ?? "undefined"
  if (!random.oneIn(6)) return whole
  const at = random.below(whole.length + 1)
  return random.pick([
    () => whole.slice(0, at),
    () => whole.slice(0, at) + random.text(3) + whole.slice(at),
    () => "[".repeat(random.below(2_000)) + whole,
    () => random.text(50)
  ])()
}
