import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as Records from "../../../src/logging/filter/Records.ts"

const encoder = new TextEncoder()
const decoder = new TextDecoder()

/** The records of a text that comes in chunks. */
const recordsOf = (chunks: ReadonlyArray<Uint8Array>) => {
  const found: Array<string> = []
  const records = Records.make({ record: (bytes, from, to) => found.push(decoder.decode(bytes.subarray(from, to))) })
  for (const chunk of chunks) records.write(chunk)
  records.close(true)
  return found
}
const split = (text: string) => recordsOf([encoder.encode(text)])

const node = `[error] request failed Error: boom
    at handler (/app/index.js:12:5)
    at next (/app/router.js:3:1) {
  code: 'ECONNREFUSED'
}
`
const java = `ERROR o.e.Main - failed
java.lang.IllegalStateException: outer
\tat org.example.Main.run(Main.java:42)
Caused by: java.io.IOException: inner
\tat org.example.Io.read(Io.java:7)
\t... 12 more
`
const python = `ERROR:root:failed
Traceback (most recent call last):
  File "app.py", line 7, in <module>
    run()
ValueError: boom
`
const go = `panic: runtime error: index out of range [5]

goroutine 1 [running]:
main.run(0x1, 0x2)
\t/app/main.go:42 +0x1d
main.main()
\t/app/main.go:7 +0x20
exit status 2
`

describe("records of a log", () => {
  it("are lines, with the traces that belong to them", () => {
    const lines = [
      "INFO one\n",
      node,
      "INFO two\n",
      python,
      go,
      "2026-01-31T12:00:00Z INFO three\n",
      "{\"a\":1}\n",
      "{\"a\":2}\n"
    ]
    assert.deepStrictEqual(split(lines.join("")), lines)
  })

  it("keep a Java trace with the line that it was logged under, but for the name of the exception", () => {
    assert.deepStrictEqual(split(java), [java.slice(0, 24), java.slice(24)])
  })

  it("keep every byte: CRLF, NUL, what is not UTF-8, a last line without an end", () => {
    const bytes = Uint8Array.from([97, 13, 10, 0, 255, 254, 10, 10, 32, 98, 10, 99])
    const found: Array<number> = []
    let count = 0
    const records = Records.make({
      record: (given, from, to) => {
        count++
        found.push(...given.subarray(from, to))
      }
    })
    records.write(bytes)
    records.close(true)
    assert.deepStrictEqual(found, [...bytes])
    assert.strictEqual(count, 4)
  })

  it("are given after a pause, without waiting for the next", () => {
    const found: Array<string> = []
    const records = Records.make({ record: (bytes, from, to) => found.push(decoder.decode(bytes.subarray(from, to))) })
    records.write(encoder.encode("one\n  more\nhal"))
    assert.isTrue(records.isOpen())
    records.close(false)
    assert.deepStrictEqual(found, ["one\n  more\n"])
    assert.isFalse(records.isOpen())
    records.write(encoder.encode("f\nnext\n"))
    records.close(true)
    assert.deepStrictEqual(found, ["one\n  more\n", "half\n", "next\n"])
  })

  it("take a line of ten megabytes, in small chunks", () => {
    const chunk = encoder.encode("x".repeat(10_000))
    const found: Array<number> = []
    const records = Records.make({ record: (_, from, to) => found.push(to - from) })
    for (let at = 0; at < 1_000; at++) records.write(chunk)
    records.write(encoder.encode("\nshort\n"))
    records.close(true)
    assert.deepStrictEqual(found, [10_000_001, 6])
  })

  it("give a trace without an end in parts", () => {
    const found: Array<number> = []
    const records = Records.make({ record: (_, from, to) => found.push(to - from), longestTrace: 100 })
    records.write(encoder.encode(`head\n${"  frame\n".repeat(100)}`))
    records.close(true)
    assert.strictEqual(found.reduce((sum, length) => sum + length, 0), 805)
    assert.isTrue(found.every((length) => length < 120))
  })

  const pieces = ["INFO one\n", node, java, python, go, "\n", "{\"a\":1}\n", "last", "  indented\n", "}\n", "\r\n"]
  it.effect.prop(
    "do not depend on the chunks",
    {
      text: Schema.Array(Schema.Literals(pieces)),
      cuts: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 40 })))
    },
    ({ cuts, text }) =>
      Effect.sync(() => {
        const bytes = encoder.encode(text.join(""))
        const chunks: Array<Uint8Array> = []
        let at = 0
        for (const cut of cuts) {
          chunks.push(bytes.subarray(at, at + cut))
          at += cut
        }
        chunks.push(bytes.subarray(at))
        const found = recordsOf(chunks)
        assert.deepStrictEqual(found, split(text.join("")))
        assert.strictEqual(found.join(""), text.join(""))
      }),
    { arbitrary: { runs: 500 } }
  )
})
