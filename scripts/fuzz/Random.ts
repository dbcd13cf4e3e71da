/** A source of numbers that a seed fixes, so that what a fuzz finds can be found again: sfc32, with FNV-1a for its seed. */
export interface Random {
  /** From 0, below `bound`. */
  readonly below: (bound: number) => number
  /** True once in so many. */
  readonly oneIn: (many: number) => boolean
  readonly pick: <A>(values: readonly [A, ...ReadonlyArray<A>] | ReadonlyArray<A>) => A
  /** From 0 to `most` of what `make` gives. */
  readonly several: <A>(most: number, make: () => A) => ReadonlyArray<A>
  /** Any code points, surrogates and control characters among them. */
  readonly text: (most: number) => string
  readonly bytes: (most: number) => Uint8Array
}

const mostCodePoints = 0x110000

export const make = (seed: string): Random => {
  let hash = 0x811c9dc5
  for (const unit of seed) hash = Math.imul(hash ^ (unit.codePointAt(0) ?? 0), 0x01000193)
  let [a, b, c, d] = [hash, hash ^ 0x9e3779b9, Math.imul(hash, 0x85ebca6b), 1]
  const next = () => {
    const sum = (a + b + d) | 0
    d = (d + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = ((c << 21) | (c >>> 11)) + sum | 0
    return (sum >>> 0) / 2 ** 32
  }
  // The first numbers are near to the seed.
  for (let round = 0; round < 12; round++) next()
  const below = (bound: number) => Math.floor(next() * bound)
  const several = <A>(most: number, each: () => A) => Array.from({ length: below(most + 1) }, each)
  return {
    below,
    oneIn: (many) => below(many) === 0,
    pick: (values) => {
      const value = values[below(values.length)]
      if (value === undefined) throw new Error("there is nothing to pick from")
      return value
    },
    several,
    text: (most) => several(most, () => String.fromCodePoint(below(below(3) === 0 ? mostCodePoints : 128))).join(""),
    bytes: (most) => Uint8Array.from(several(most, () => below(256)))
  }
}
