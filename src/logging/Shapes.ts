/**
 * What the kind of a record was the last time that one of the same shape came: the same bytes but for digits and hexadecimal
 * numbers where those are masked. Looking that up takes a fraction of the time that masking takes, and gives the same
 * result, as a shape is only what masking itself says may vary (`Masking`).
 *
 * Shapes of the second sight only, so that a log of which no two records are alike costs no more than a look.
 */
import { sorts } from "./Masking.ts"

export interface Shapes<Kind> {
  /** The kind of `bytes[from…to)`, if its shape is known. */
  readonly find: (bytes: Uint8Array, from: number, to: number) => Kind | undefined
  /** To be asked after `find` found none: whether this shape is worth being added. */
  readonly isWorthAdding: () => boolean
  /** `variable`: what masking said of `bytes[from…to)`. */
  readonly add: (bytes: Uint8Array, from: number, to: number, variable: Uint8Array, kind: Kind) => void
}

interface Shape<Kind> {
  readonly length: number
  /** Four bytes each, and of each bit whether it has to be the same. */
  readonly words: Int32Array
  readonly fixed: Int32Array
  /** Of each place the sorts that may stand there instead. */
  readonly variable: Uint8Array
  readonly kind: Kind
  readonly next: Shape<Kind> | undefined
}

/** A power of two. */
const buckets = 16_384
const mostShapes = 8_192
/** And so many bytes of them, twice. */
const mostBytes = 4 * 1_048_576
/** The beginning of a record is looked at byte by byte, the rest at some. */
const closely = 16
const stride = 8

/** Equal for bytes that can take each other's place: digits and small hexadecimal letters, and capital ones. */
const normal = new Uint8Array(256)
for (let byte = 0; byte < 256; byte++) normal[byte] = (sorts[byte]! & 17) > 0 ? 1 : sorts[byte]! > 0 ? 2 : byte

/** Where a word begins; the last one overlaps the one before. */
const placeOf = (word: number, lastPlace: number) => 4 * word < lastPlace ? 4 * word : lastPlace

/** Four bytes at a time: most are the same, and only where they are not it is asked whether they may differ. */
const matches = (shape: Shape<unknown>, view: DataView, bytes: Uint8Array, from: number, length: number) => {
  if (shape.length !== length) return false
  const { fixed, variable, words } = shape
  const lastPlace = length - 4
  for (let word = 0; word < words.length; word++) {
    const place = placeOf(word, lastPlace)
    const at = from + place
    const different = view.getInt32(at, true) ^ words[word]!
    if (different === 0) continue
    if ((different & fixed[word]!) !== 0) return false
    if (
      (different & 0xff) !== 0 && (sorts[bytes[at]!]! & variable[place]!) === 0 ||
      (different & 0xff00) !== 0 && (sorts[bytes[at + 1]!]! & variable[place + 1]!) === 0 ||
      (different & 0xff0000) !== 0 && (sorts[bytes[at + 2]!]! & variable[place + 2]!) === 0 ||
      (different & 0xff000000) !== 0 && (sorts[bytes[at + 3]!]! & variable[place + 3]!) === 0
    ) return false
  }
  return true
}

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)

export const make = <Kind>(): Shapes<Kind> => {
  let table: Array<Shape<Kind> | undefined> = Array.from({ length: buckets })
  let count = 0
  let size = 0
  let last: Shape<Kind> | undefined
  let hash = 0
  /** Of the last shape that was looked for in each bucket. */
  const sighted = new Int32Array(buckets)
  let viewed: Uint8Array = new Uint8Array(0)
  let view = viewOf(viewed)

  return {
    find: (bytes, from, to) => {
      const length = to - from
      if (viewed !== bytes) {
        viewed = bytes
        view = viewOf(bytes)
      }
      // Repeats often follow one another.
      if (last !== undefined && matches(last, view, bytes, from, length)) return last.kind
      hash = length
      const close = Math.min(to, from + closely)
      for (let i = from; i < close; i++) hash = Math.imul(hash, 31) + normal[bytes[i]!]! | 0
      for (let i = close; i < to; i += stride) hash = Math.imul(hash, 31) + normal[bytes[i]!]! | 0
      hash ^= hash >>> 15
      let shape = table[hash & (buckets - 1)]
      while (shape !== undefined && !matches(shape, view, bytes, from, length)) shape = shape.next
      if (shape === undefined) return undefined
      last = shape
      return shape.kind
    },
    isWorthAdding: () => {
      const bucket = hash & (buckets - 1)
      if (sighted[bucket] === hash) return true
      sighted[bucket] = hash
      return false
    },
    add: (bytes, from, to, variable, kind) => {
      const length = to - from
      if (length < 4) return
      if (count >= mostShapes || size >= mostBytes) {
        table = Array.from({ length: buckets })
        count = 0
        size = 0
      }
      const bucket = hash & (buckets - 1)
      const kept = variable.slice(0, length)
      const allowed = viewOf(kept.map((sort) => sort === 0 ? 0xff : 0))
      const sample = viewOf(bytes.slice(from, to))
      const places = Array.from({ length: Math.ceil(length / 4) }, (_, word) => placeOf(word, length - 4))
      const words = Int32Array.from(places, (place) => sample.getInt32(place, true))
      const fixed = Int32Array.from(places, (place) => allowed.getInt32(place, true))
      last = { length, words, fixed, variable: kept, kind, next: table[bucket] }
      table[bucket] = last
      count++
      size += length
    }
  }
}
