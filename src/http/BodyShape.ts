/**
 * How much a JSON text would become, found by one pass over its bytes before anything is made of it: pure. `JSON.parse` makes up to twenty
 * times their size of bytes such as `{},{},{}`, and a schema a thousand times; so lists, objects and their entries are counted first.
 */
import { pathText } from "../provisioner/Job.ts"
import type { FieldProblem } from "./Problem.ts"

export interface Bounds {
  /** Entries of the list that is the whole of it. */
  readonly items: number
  /** Entries of any other list. */
  readonly entries: number
  /** Entries of an object. */
  readonly fields: number
  /** Lists, objects, and what separates their entries: all of them together. */
  readonly parts: number
  /** Lists and objects inside each other. */
  readonly depth: number
  /** Sequences of names with which an object begins. Objects with the same names in the same order share them, as they do in memory. */
  readonly layouts: number
}

/** A path is shown down to here. */
const shownDepth = 8

/** Bytes of a name that are shown. */
const shownName = 64

/** Bytes by which names are told apart. Of names that are longer a body has not many. */
const comparedName = 256

const quote = 0x22
const comma = 0x2c
const colon = 0x3a
const openList = 0x5b
const backslash = 0x5c
const closeList = 0x5d
const openObject = 0x7b
const closeObject = 0x7d

/**
 * What is beyond the bounds first, or nothing. Of what is no JSON nothing is said: up to its first fault it is read as a parser
 * reads it, and the parser stops there.
 */
export const beyond = (json: Uint8Array, bounds: Bounds): FieldProblem | undefined => {
  const places = new Places(json, bounds.depth)
  let depth = 0
  let parts = 0
  let text = 0
  let end = 0
  for (let at = 0; at < json.length; at++) {
    const byte = json[at]
    switch (byte) {
      case quote:
        text = at
        at = endOfText(json, at)
        end = at
        break
      case colon:
        parts++
        if (places.name(depth, text, end) > bounds.layouts) {
          return { field: "", problem: `its objects have at most ${bounds.layouts} different sequences of names` }
        }
        break
      case comma: {
        parts++
        const most = !places.isList(depth) ? bounds.fields : depth === 1 ? bounds.items : bounds.entries
        if (places.next(depth) >= most) return tooMany(places, depth, most)
        break
      }
      case openList:
      case openObject:
        parts++
        if (depth === bounds.depth) {
          return { field: places.path(depth), problem: `must be nested at most ${bounds.depth} deep` }
        }
        places.open(++depth, byte === openList)
        break
      case closeList:
      case closeObject:
        if (--depth <= 0) return undefined
    }
    if (parts > bounds.parts) {
      return { field: "", problem: `has at most ${bounds.parts} lists, objects, names and entries in all` }
    }
  }
  return undefined
}

const tooMany = (places: Places, depth: number, most: number): FieldProblem => {
  const field = places.path(depth - 1)
  return {
    field,
    problem: depth === 1 && places.isList(depth)
      ? `at most ${most} jobs in one submission`
      : `has at most ${most} entries`
  }
}

/** The place of the quote that ends a text. */
const endOfText = (json: Uint8Array, from: number) => {
  let at = from + 1
  while (at < json.length && json[at] !== quote) at += json[at] === backslash ? 2 : 1
  return at
}

/** In which entry of which lists and objects the pass is. */
class Places {
  readonly #json: Uint8Array
  readonly #entries: Uint32Array
  readonly #lists: Uint8Array
  /** Where the name of the entry begins; of a list nothing. */
  readonly #names: Uint32Array
  /** Of the names so far. */
  readonly #layout: Uint32Array
  readonly #layouts: Layouts

  constructor(json: Uint8Array, depth: number) {
    this.#json = json
    this.#entries = new Uint32Array(depth + 1)
    this.#lists = new Uint8Array(depth + 1)
    this.#names = new Uint32Array(depth + 1)
    this.#layout = new Uint32Array(depth + 1)
    this.#layouts = new Layouts(json)
  }

  open(depth: number, isList: boolean) {
    this.#entries[depth] = 0
    this.#names[depth] = 0
    this.#layout[depth] = 0
    this.#lists[depth] = isList ? 1 : 0
  }

  isList(depth: number) {
    return this.#lists[depth] === 1
  }

  /** Where it begins and ends. Answers how many layouts there are by now. */
  name(depth: number, from: number, to: number): number {
    this.#names[depth] = from
    this.#layout[depth] = this.#layouts.after(this.#layout[depth] ?? 0, from, to)
    return this.#layouts.count
  }

  /** Which entry it is now, from 0. */
  next(depth: number): number {
    return ++this.#entries[depth]!
  }

  path(depth: number): string {
    return pathText(Array.from({ length: Math.min(depth, shownDepth) }, (_, index) => this.#part(index + 1)))
  }

  #part(depth: number): string | number {
    if (this.isList(depth)) return this.#entries[depth] ?? 0
    const from = this.#names[depth] ?? 0
    const to = endOfText(this.#json, from)
    return Buffer.from(this.#json.subarray(from + 1, Math.min(to, from + 1 + shownName))).toString()
  }
}

/**
 * The sequences of names with which objects begin, each a number; 0 is that of none. V8 describes an object by such a sequence, and one that
 * nobody else has costs it hundreds of bytes and microseconds, and every copy of the object the same again.
 */
class Layouts {
  count = 0
  readonly #json: Uint8Array
  /** Of each, what follows by the next name. */
  readonly #after: Array<Map<string, number> | undefined> = []
  /** The name that followed it last, and what that made: most objects are like the one before. */
  readonly #lastFrom: Array<number> = []
  readonly #lastLength: Array<number> = []
  readonly #last: Array<number> = []

  constructor(json: Uint8Array) {
    this.#json = json
  }

  after(layout: number, from: number, to: number): number {
    const length = to - from
    if (this.#lastLength[layout] === length && this.#isSame(this.#lastFrom[layout] ?? 0, from, length)) {
      return this.#last[layout] ?? 0
    }
    const name = `${length} ${
      Buffer.from(this.#json.subarray(from, from + Math.min(length, comparedName))).toString("latin1")
    }`
    const followers = this.#after[layout] ??= new Map()
    let next = followers.get(name)
    if (next === undefined) followers.set(name, next = ++this.count)
    this.#lastFrom[layout] = from
    this.#lastLength[layout] = length
    this.#last[layout] = next
    return next
  }

  #isSame(one: number, other: number, length: number): boolean {
    for (let at = 0; at < length; at++) if (this.#json[one + at] !== this.#json[other + at]) return false
    return true
  }
}
