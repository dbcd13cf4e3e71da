import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Random, Schema } from "effect"
import { TestClock } from "effect/testing"
import type { OutputLine } from "../../src/provisioner/Job.ts"
import * as OutputBuffer from "../../src/provisioner/OutputBuffer.ts"
import { lineGoesOn, lineSplitter, maxLineLength, toLines, utf8Bytes } from "../../src/provisioner/OutputLines.ts"

const texts = (lines: ReadonlyArray<OutputLine>) => lines.map(({ text }) => text)

const mebibyte = 1_048_576

/** Takes and acknowledges everything. */
const drain = Effect.fnUntraced(function*(buffer: OutputBuffer.OutputBuffer, maxBytes = Infinity) {
  const all: Array<OutputLine> = []
  while (true) {
    const lines = yield* buffer.take(maxBytes)
    const last = lines.at(-1)
    if (last === undefined) return all
    all.push(...lines)
    yield* buffer.acknowledge(last.index + 1)
  }
})

describe("OutputBuffer", () => {
  it.effect("hands lines out with indexes without gaps, their stream and the time at which they came", () =>
    Effect.gen(function*() {
      const buffer = yield* OutputBuffer.make()
      yield* buffer.write("stdout", ["a", "b"])
      yield* TestClock.adjust("3 seconds")
      yield* buffer.write("stderr", ["c"])
      assert.deepStrictEqual(yield* buffer.take(Infinity), [
        { index: 0, stream: "stdout", at: 0, text: "a" },
        { index: 1, stream: "stdout", at: 0, text: "b" },
        { index: 2, stream: "stderr", at: 3000, text: "c" }
      ])
    }))

  it.effect("hands lines out again until they are acknowledged", () =>
    Effect.gen(function*() {
      const buffer = yield* OutputBuffer.make()
      yield* buffer.write("stdout", ["a", "b", "c"])
      const first = yield* buffer.take(Infinity)
      assert.deepStrictEqual(yield* buffer.take(Infinity), first)
      yield* buffer.acknowledge(2)
      assert.deepStrictEqual(yield* buffer.take(Infinity), first.slice(2))
      yield* buffer.acknowledge(1)
      yield* buffer.acknowledge(9)
      assert.deepStrictEqual(yield* buffer.take(Infinity), first.slice(2))
      yield* buffer.acknowledge(3)
      assert.deepStrictEqual(yield* buffer.take(Infinity), [])
    }))

  it.effect("fills a batch up to its bytes, and gives one line even if that alone is larger", () =>
    Effect.gen(function*() {
      const buffer = yield* OutputBuffer.make()
      const size = 10 + OutputBuffer.lineOverhead
      yield* buffer.write("stdout", Array.from({ length: 5 }, () => "0123456789"))
      assert.lengthOf(yield* buffer.take(3 * size), 3)
      assert.lengthOf(yield* buffer.take(3 * size - 1), 2)
      assert.lengthOf(yield* buffer.take(1), 1)
    }))

  it.effect("keeps the oldest lines while nobody takes them, and marks the gap when there is space again", () =>
    Effect.gen(function*() {
      const buffer = yield* OutputBuffer.make({ unsentBytes: mebibyte })
      const line = "x".repeat(1024 - OutputBuffer.lineOverhead)
      yield* buffer.write("stdout", Array.from({ length: 1024 + 10 }, () => line))
      yield* buffer.write("stdout", ["lost as well"])
      const kept = yield* buffer.take(Infinity)
      assert.lengthOf(kept, 1024)
      yield* buffer.acknowledge(100)
      yield* buffer.write("stdout", ["still lost: less than half is free"])
      yield* buffer.acknowledge(512)
      yield* buffer.write("stdout", ["kept again"])
      const bytes = 10 * (line.length + 1) + "lost as well ".length + "still lost: less than half is free ".length
      assert.deepStrictEqual(texts((yield* buffer.take(Infinity)).slice(512)), [
        `[lull: 12 lines (${bytes} bytes) were cut here: the database was away or too slow, and the buffer of 1 MiB was full]`,
        "kept again"
      ])
      const all = [...kept.slice(0, 512), ...(yield* buffer.take(Infinity))]
      assert.deepStrictEqual(all.map(({ index }) => index), Array.from({ length: 1026 }, (_, index) => index))
    }))

  it.effect("ends the output of an attempt at the total limit, however fast it is stored, and says so at the end", () =>
    Effect.gen(function*() {
      const buffer = yield* OutputBuffer.make({ totalBytes: 2 * mebibyte })
      const line = "x".repeat(1024 - OutputBuffer.lineOverhead)
      const stored: Array<OutputLine> = []
      for (let round = 0; round < 100; round++) {
        yield* buffer.write("stdout", Array.from({ length: 100 }, () => line))
        stored.push(...(yield* drain(buffer)))
      }
      assert.lengthOf(stored, 2048)
      yield* buffer.finish
      assert.deepStrictEqual(yield* drain(buffer), [{
        index: 2048,
        stream: "lull",
        at: 0,
        text: `[lull: 7952 lines (${7952 * 961} bytes) were cut here: the limit of 2 MiB of output was reached]`
      }])
    }))

  it.effect("limits empty lines, too", () =>
    Effect.gen(function*() {
      const buffer = yield* OutputBuffer.make({ totalBytes: 6400, unsentBytes: mebibyte })
      yield* buffer.write("stdout", Array.from({ length: 101 }, () => ""))
      yield* buffer.finish
      const lines = yield* buffer.take(Infinity)
      assert.lengthOf(lines, 101)
      assert.strictEqual(
        lines[100]?.text,
        "[lull: 1 line (1 bytes) was cut here: the limit of 6400 bytes of output was reached]"
      )
    }))

  it.effect("marks an open gap when the job ends, once, and takes nothing after", () =>
    Effect.gen(function*() {
      const buffer = yield* OutputBuffer.make({ unsentBytes: 1 })
      yield* buffer.write("stdout", ["kept", "lost"])
      yield* buffer.finish
      yield* buffer.finish
      yield* buffer.write("stdout", ["late"])
      assert.deepStrictEqual(texts(yield* buffer.take(Infinity)), [
        "kept",
        "[lull: 1 line (5 bytes) was cut here: the database was away or too slow, and the buffer of 1 bytes was full]"
      ])
    }))

  it.effect("makes whatever a handler writes fit to be stored as lines", () =>
    Effect.gen(function*() {
      const buffer = yield* OutputBuffer.make()
      yield* buffer.write("stdout", ["a\r\nb", "nul \0", "half \uD800 pair", "😀"])
      assert.deepStrictEqual(texts(yield* buffer.take(Infinity)), ["a", "b", "nul \uFFFD", "half \uFFFD pair", "😀"])
    }))

  it.effect("wakes a sender when there is something to send, and tells it when there will never be more", () =>
    Effect.gen(function*() {
      const buffer = yield* OutputBuffer.make()
      const sent: Array<string> = []
      const sender = yield* Effect.forkChild(Effect.gen(function*() {
        while (yield* buffer.awaitLines) sent.push(...texts(yield* drain(buffer)))
      }))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(sent, [])
      yield* buffer.write("stdout", ["a", "b"])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(sent, ["a", "b"])
      yield* buffer.write("stdout", ["c"])
      yield* buffer.finish
      yield* Fiber.join(sender)
      assert.deepStrictEqual(sent, ["a", "b", "c"])
      assert.isFalse(yield* buffer.awaitLines)
    }))

  it.effect("does not wake a sender for lines that somebody else has sent", () =>
    Effect.gen(function*() {
      const buffer = yield* OutputBuffer.make()
      const waiting = yield* Effect.forkChild(buffer.awaitLines)
      yield* TestClock.adjust("1 second")
      yield* buffer.write("stdout", ["a"])
      yield* buffer.acknowledge(1)
      yield* TestClock.adjust("1 second")
      assert.isUndefined(waiting.pollUnsafe())
      yield* buffer.finish
      assert.isFalse(yield* Fiber.join(waiting))
    }))

  it.effect.prop("accounts for every line under any order of writing, sending and failing to send", {
    seed: Schema.Int
  }, ({ seed }) =>
    Effect.gen(function*() {
      const totalBytes = yield* Random.nextIntBetween(100, 30_000)
      const unsentBytes = yield* Random.nextIntBetween(1, 5000)
      const buffer = yield* OutputBuffer.make({ totalBytes, unsentBytes })
      const stored: Array<OutputLine> = []
      const written: Array<string> = []
      for (let step = 0; step < 60; step++) {
        const count = yield* Random.nextIntBetween(0, 20)
        const lines = Array.from({ length: count }, (_, index) => `${written.length + index}`.padEnd(step * 3, "ä"))
        yield* buffer.write("stdout", lines)
        written.push(...lines)
        const batch = yield* buffer.take(yield* Random.nextIntBetween(1, 3000))
        const acknowledged = yield* Random.nextIntBetween(0, batch.length)
        stored.push(...batch.slice(0, acknowledged))
        yield* buffer.acknowledge(stored.length)
        const unsent = (yield* buffer.take(Infinity)).reduce((sum, { text }) => sum + utf8Bytes(text) + 64, 0)
        assert.isBelow(unsent, unsentBytes + 1000)
      }
      yield* buffer.finish
      stored.push(...(yield* drain(buffer, 500)))

      assert.deepStrictEqual(stored.map(({ index }) => index), stored.map((_, index) => index))
      const kept = stored.filter(({ stream }) => stream === "stdout")
      assert.isAtMost(kept.reduce((sum, { text }) => sum + utf8Bytes(text) + 64, 0), totalBytes)
      // Read in order, each line is the next that was written, and each marker stands for exactly what is missing.
      let position = 0
      for (const { stream, text } of stored) {
        if (stream === "stdout") {
          assert.strictEqual(text, written[position++])
          continue
        }
        const [, lines = "", bytes = ""] = /^\[lull: (\d+) lines? \((\d+) bytes\)/.exec(text) ?? []
        const missing = written.slice(position, position += Number(lines))
        assert.strictEqual(missing.reduce((sum, line) => sum + utf8Bytes(line) + 1, 0), Number(bytes))
      }
      assert.strictEqual(position, written.length)
    }).pipe(Random.withSeed(seed)), { arbitrary: { runs: 100 } })

  it.effect("counts a hundred megabytes beyond the limit without keeping them", () =>
    Effect.gen(function*() {
      const buffer = yield* OutputBuffer.make()
      const chunk = Array.from({ length: 1000 }, (_, index) => `${index} `.padEnd(99, "x"))
      for (let round = 0; round < 1000; round++) yield* buffer.write("stdout", chunk)
      yield* buffer.finish
      const lines = yield* buffer.take(Infinity)
      assert.isBelow(lines.length, OutputBuffer.defaultUnsentBytes / 160)
      assert.include(lines.at(-1)?.text, `[lull: ${1_000_000 - lines.length + 1} lines`)
    }))
})

describe("lines of bytes", () => {
  const split = (...parts: ReadonlyArray<string | Uint8Array>) => {
    const splitter = lineSplitter()
    return [...parts.flatMap((part) => splitter.push(Buffer.from(part))), ...splitter.end()]
  }
  const pieceLength = maxLineLength - lineGoesOn.length
  const table: ReadonlyArray<readonly [string, ReadonlyArray<string | Uint8Array>, ReadonlyArray<string>]> = [
    ["nothing is no line", [], []],
    ["a line end makes a line", ["\n"], [""]],
    ["a last line needs no line end", ["a\nb"], ["a", "b"]],
    ["a line end at the very end adds none", ["a\n"], ["a"]],
    ["CRLF is one line end", ["a\r\nb\r", "\nc\rd\r\r\n"], ["a", "b", "c\rd\r"]],
    ["a lone CR at the end stays", ["a\r"], ["a\r"]],
    ["a character across chunks is one character", [Buffer.from("€").subarray(0, 1), Buffer.from("€").subarray(1)], [
      "€"
    ]],
    ["bytes that are not UTF-8 are replaced", [Uint8Array.of(0x61, 0xff, 0xc3, 0x0a, 0xe2, 0x82)], [
      "a\uFFFD\uFFFD",
      "\uFFFD"
    ]],
    ["NUL is replaced", ["a\0b\n\0"], ["a\uFFFDb", "\uFFFD"]],
    ["a byte order mark is a character like others", ["\uFEFFa"], ["\uFEFFa"]],
    ["a line of the maximal length is whole", ["x".repeat(maxLineLength) + "\r\n"], ["x".repeat(maxLineLength)]],
    ["a longer line is cut and marked", ["x".repeat(maxLineLength + 1) + "\ny"], [
      "x".repeat(pieceLength) + lineGoesOn,
      "x".repeat(1 + lineGoesOn.length),
      "y"
    ]],
    ["a pair is not cut", ["x".repeat(pieceLength - 1) + "😀".repeat(20)], [
      "x".repeat(pieceLength - 1) + lineGoesOn,
      "😀".repeat(20)
    ]]
  ]
  for (const [name, parts, lines] of table) it(name, () => assert.deepStrictEqual(split(...parts), lines))

  it("cuts ten megabytes without line end into pieces that add up to them", () => {
    const lines = split(...Array.from({ length: 160 }, () => "0123456789abcdef".repeat(4096)))
    assert.isTrue(lines.every((line) => line.length <= maxLineLength))
    const whole = lines.map((line) => line.endsWith(lineGoesOn) ? line.slice(0, -lineGoesOn.length) : line).join("")
    assert.strictEqual(whole, "0123456789abcdef".repeat(4096 * 160))
  })

  it.effect.prop(
    "do not depend on how the bytes were chunked",
    { seed: Schema.Int },
    ({ seed }) =>
      Effect.gen(function*() {
        const alphabet = [
          "a",
          "\n",
          "\r",
          "\r\n",
          "€",
          "😀",
          "\0",
          "x".repeat(maxLineLength - 3),
          Uint8Array.of(0xf0, 0x9f)
        ]
        const parts: Array<Uint8Array> = []
        for (let index = 0; index < 40; index++) {
          parts.push(Buffer.from(alphabet[yield* Random.nextIntBetween(0, alphabet.length - 1)] ?? ""))
        }
        const bytes = Buffer.concat(parts)
        const chunks: Array<Uint8Array> = []
        for (let from = 0; from < bytes.length;) {
          const size = yield* Random.choice([1, 2, 3, 1000, maxLineLength, 65_536])
          chunks.push(bytes.subarray(from, from += size))
        }
        const whole = split(bytes)
        assert.deepStrictEqual(split(...chunks), whole)
        assert.deepStrictEqual(whole.flatMap((line) => toLines(line)), whole)
      }).pipe(Random.withSeed(seed)),
    { arbitrary: { runs: 200 } }
  )
})
