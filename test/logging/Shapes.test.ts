import { assert, describe, it } from "@effect/vitest"
import { Effect, Random, Schema } from "effect"
import { longestOutput, mask, sorts } from "../../src/logging/Masking.ts"
import * as Shapes from "../../src/logging/Shapes.ts"
import { templates } from "./corpus.ts"
import { instance } from "./instances.ts"

const masked = (text: string | Buffer) => {
  const bytes = Buffer.from(text)
  const output = Buffer.alloc(longestOutput(bytes.length))
  const variable = new Uint8Array(bytes.length)
  const kind = output.toString("latin1", 0, mask(bytes, 0, bytes.length, output, variable))
  return { bytes, variable, kind }
}

const bytesOfSort = (allowed: number) =>
  Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => (sorts[byte]! & allowed) !== 0)

/** Other bytes where masking says that others may stand. */
const varied = (bytes: Buffer, variable: Uint8Array, choose: (below: number) => number) =>
  bytes.map((byte, at) => {
    const choices = bytesOfSort(variable[at]!)
    return choices.length === 0 ? byte : choices[choose(choices.length)]!
  })

/** As `find` and `add` are used by the filter. */
const kindOf = (shapes: Shapes.Shapes<string>, text: string | Buffer) => {
  const { bytes, kind, variable } = masked(text)
  const found = shapes.find(bytes, 0, bytes.length)
  if (found !== undefined) return { kind: found, isFound: true }
  if (shapes.isWorthAdding()) shapes.add(bytes, 0, bytes.length, variable, kind)
  return { kind, isFound: false }
}

describe("shapes of records", () => {
  it("are known at the third sight, whatever the numbers", () => {
    const shapes = Shapes.make<string>()
    const found = ["job 17 lost after 250 ms", "job 18 lost after 251 ms", "job 99 lost after 377 ms"].map((text) =>
      kindOf(shapes, text)
    )
    assert.deepStrictEqual(found, [
      { kind: "job <n> lost after <n>", isFound: false },
      { kind: "job <n> lost after <n>", isFound: false },
      { kind: "job <n> lost after <n>", isFound: true }
    ])
  })

  it("of identifiers are one, whichever of their digits are letters", () => {
    const shapes = Shapes.make<string>()
    for (let n = 0; n < 2; n++) kindOf(shapes, "job 0b9f8a52-7a2e-4c31-9d8e-2f3b9c1d7e60 failed")
    assert.isTrue(kindOf(shapes, "job f1a0b2c3-1111-4aaa-b0c0-9f8e7d6c5b4a failed").isFound)
  })

  it("do not cover what masking leaves", () => {
    const shapes = Shapes.make<string>()
    for (let n = 0; n < 2; n++) kindOf(shapes, "exit status 1, GET / 500, 503 Service Unavailable")
    for (
      const other of [
        "exit status 2, GET / 500, 503 Service Unavailable",
        "exit status 1, GET / 404, 503 Service Unavailable"
      ]
    ) {
      assert.deepStrictEqual(kindOf(shapes, other), { kind: other, isFound: false })
    }
  })

  it.effect("vary only where the masked text does not: the corpus", () =>
    Effect.gen(function*() {
      for (const template of templates) {
        for (let n = 0; n < 2; n++) {
          const { bytes, kind, variable } = masked(yield* instance(template.text))
          for (let each = 0; each < 5; each++) {
            const numbers = yield* Effect.replicateEffect(Random.next, bytes.length)
            let at = 0
            const other = varied(bytes, variable, (below) => Math.floor(numbers[at++]! * below))
            assert.strictEqual(masked(Buffer.from(other)).kind, kind, `${bytes} as ${Buffer.from(other)}`)
          }
        }
      }
    }), 60_000)

  const pieces = Schema.Literals([
    "0",
    "1",
    "12",
    "345",
    "503",
    "0x",
    "a",
    "be",
    "cafe12ba",
    "DEAD00BEEF",
    "12e3",
    "e",
    "x",
    "Z",
    "T",
    "ms",
    " kB",
    ".",
    ":",
    "::",
    "-",
    "/",
    ",",
    "%",
    "+",
    "=",
    "\"",
    " ",
    "2026-01-31",
    "12:00:00",
    "10.0.0.1",
    "0b9f8a52-7a2e-4c31-9d8e-2f3b9c1d7e60",
    "code ",
    "status=",
    "HTTP/1.1\" ",
    "GET /",
    " Service",
    "ORA",
    ".go:"
  ])

  it.effect.prop(
    "vary only where the masked text does not: whatever comes",
    { parts: Schema.Array(pieces), seed: Schema.Int },
    ({ parts, seed }) =>
      Effect.sync(() => {
        const { bytes, kind, variable } = masked(parts.join(""))
        let state = seed | 1
        const choose = (below: number) => {
          state = Math.imul(state, 1_103_515_245) + 12_345 | 0
          return (state >>> 8) % below
        }
        for (let each = 0; each < 5; each++) {
          const other = Buffer.from(varied(bytes, variable, choose))
          assert.strictEqual(masked(other).kind, kind, `${bytes} as ${other}`)
        }
      }),
    { arbitrary: { runs: 2_000 } }
  )

  it.effect.prop(
    "give what masking gives",
    { texts: Schema.Array(Schema.Array(pieces)) },
    ({ texts }) =>
      Effect.sync(() => {
        const shapes = Shapes.make<string>()
        for (let round = 0; round < 3; round++) {
          for (const parts of texts) {
            const text = parts.join("")
            assert.strictEqual(kindOf(shapes, text).kind, masked(text).kind)
          }
        }
      }),
    { arbitrary: { runs: 500 } }
  )
})
