import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as Filter from "../../../src/logging/filter/Filter.ts"

const encoder = new TextEncoder()
const decoder = new TextDecoder()

type Out = { readonly _tag: "Passed" | "Told"; readonly text: string }

const start = (options: Filter.Options = {}) => {
  const out: Array<Out> = []
  const filter = Filter.make(options, {
    pass: (bytes) => out.push({ _tag: "Passed", text: decoder.decode(bytes) }),
    tell: (text) => out.push({ _tag: "Told", text })
  })
  let at = 0
  return {
    out,
    filter,
    write: (text: string) => filter.write(encoder.encode(text), at, at),
    pass: (millis: number) => {
      at += millis
      filter.tick(at, at)
    },
    end: () => {
      filter.end(at, at)
      return out.map(({ text }) => text)
    },
    passed: () => out.filter(({ _tag }) => _tag === "Passed").map(({ text }) => text).join("")
  }
}

const at = (millis: number) => new Date(millis).toISOString()

describe("the filter", () => {
  it("passes the first of each kind as it is, and tells the rest", () => {
    const { end, write } = start()
    write("ERROR peer 10.0.0.1 lost\nINFO ok\nERROR peer 10.0.0.2 lost\nERROR peer 10.0.0.3 lost\r\n")
    assert.deepStrictEqual(end(), [
      "ERROR peer 10.0.0.1 lost\nINFO ok\n",
      `repeated 2 times over 0ms, first ${at(0)}, last ${at(0)}: ERROR peer 10.0.0.1 lost`
    ])
  })

  it("takes records for one kind that differ in the names of requests and jobs alone, as fields", () => {
    const { end, write } = start()
    write(`{"level":50,"reqId":"abc","msg":"lost"}\n{"level":50,"reqId":"x\\"yz","msg":"lost"}\n`)
    write("level=error jobId=one msg=lost\nlevel=error jobId=\"the other\" msg=lost\n")
    write("job: lost\njob: found\n")
    assert.lengthOf(end().join("").match(/repeated once/g) ?? [], 2)
  })

  it("does not keep the first of a kind waiting for the next line", () => {
    const { out, pass, write } = start()
    write("ERROR one\n  at frame\n")
    assert.lengthOf(out, 0)
    pass(100)
    assert.deepStrictEqual(out, [{ _tag: "Passed", text: "ERROR one\n  at frame\n" }])
  })

  it("tells while the input is quiet", () => {
    const { out, pass, write } = start({ windowMillis: 1_000 })
    write("tick 1\ntick 2\ntick 3\n")
    pass(100)
    pass(900)
    assert.deepStrictEqual(out.at(-1), {
      _tag: "Told",
      text: `repeated 2 times over 1s, first ${at(0)}, last ${at(100)}: tick 1`
    })
  })

  it("tells two traces apart, also under the same line", () => {
    const { end, write } = start()
    const trace = (file: string) => `ERROR failed\n    at run (/app/${file}.js:12:5)\n`
    write(trace("a") + trace("b") + trace("a"))
    const lines = end()
    assert.strictEqual(lines[0], trace("a") + trace("b"))
    assert.include(lines[1], "repeated once")
  })

  it("holds only neighbours, where that is wanted", () => {
    const { end, write } = start({ adjacent: true })
    write("a 1\na 2\nb\na 3\na 4\na 5\n")
    assert.deepStrictEqual(end().map((text) => text.replace(/, first.*?: /, ": ")), [
      "a 1\n",
      "repeated once over 0ms: a 1",
      "b\na 3\n",
      "repeated 2 times over 0ms: a 3"
    ])
  })

  it("goes by the times of the log, where that is wanted", () => {
    const { end, write } = start({ eventTime: true, windowMillis: 10_000 })
    const line = (second: number, text: string) => `${at(1_769_860_800_000 + second * 1_000)} ${text}\n`
    for (let second = 0; second < 60; second++) write(line(second, "lost"))
    write(line(60, "found"))
    assert.deepStrictEqual(end().map((text) => /repeated (\d+) times over (\d+)s/.exec(text)?.slice(1)), [
      undefined,
      ["9", "10"],
      ["20", "20"],
      undefined,
      ["30", "30"]
    ])
  })

  it("compares only the chosen fields of structured records", () => {
    const { end, passed, write } = start({ keys: ["level", "code"] })
    write(
      `{"level":50,"code":"A","msg":"one"}\n{"level":50,"code":"A","msg":"two"}\nlevel=50 code=A msg=three\n{"level":50,"code":"B"}\n`
    )
    const told = end().at(-1)
    assert.strictEqual(
      passed(),
      `{"level":50,"code":"A","msg":"one"}\nlevel=50 code=A msg=three\n{"level":50,"code":"B"}\n`
    )
    assert.include(told, "\"lull.repeat.count\":1")
  })

  it("reports what repeats most", () => {
    const { filter, out, write } = start({ stats: true })
    write(`${"lost 1\n".repeat(70)}${"found 2\n".repeat(30)}`)
    filter.end(0, 0)
    assert.lengthOf(out, 0)
    assert.deepStrictEqual(filter.report(), [
      { count: 70, bytes: 490, sample: "lost 1\n" },
      { count: 30, bytes: 240, sample: "found 2\n" }
    ])
  })

  const lines = [
    "lost 1\n",
    "lost 2\n",
    "found\n",
    "ERROR x\n  at y\n",
    "{\"a\":1}\n",
    "{\"b\":1}\n",
    "\n",
    "wörter 7\r\n",
    "exit status 1\n",
    "exit status 2\n"
  ]
  const log = Schema.Array(Schema.Literals(lines))

  const countOf = (text: string) => {
    const [, count] = /repeated (once|\d+ times)/.exec(text) ?? []
    return count === "once" ? 1 : Number.parseInt(count ?? "0", 10)
  }

  for (const options of [{}, { adjacent: true }]) {
    it.effect.prop(
      `accounts for every record, in order, whatever the chunks, ${JSON.stringify(options)}`,
      { log, cut: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 30 })) },
      ({ cut, log }) =>
        Effect.sync(() => {
          const bytes = encoder.encode(log.join(""))
          const whole = start(options)
          whole.filter.write(bytes, 0, 0)
          const parts = start(options)
          for (let from = 0; from < bytes.length; from += cut) {
            parts.filter.write(bytes.subarray(from, from + cut), 0, 0)
          }
          whole.end()
          parts.end()
          assert.strictEqual(
            parts.out.map(({ text }) => text).join("|").replaceAll("\n|", "\n"),
            whole.out.map(({ text }) => text).join("|").replaceAll("\n|", "\n")
          )
          const { held, passed, received, told } = whole.filter.counts()
          assert.strictEqual(held, 0)
          assert.strictEqual(passed + told, received)
          assert.strictEqual(
            whole.out.reduce((sum, one) => sum + (one._tag === "Told" ? countOf(one.text) : 0), 0),
            told
          )
          // What passed is what came, with parts left out.
          let position = 0
          const input = log.join("")
          for (const line of whole.passed().split(/(?<=\n)/)) {
            const found = input.indexOf(line, position)
            assert.isAtLeast(found, position)
            position = found + line.length
          }
        }),
      { arbitrary: { runs: 300 } }
    )
  }

  it("passes what is all different", () => {
    const { end, passed, write } = start()
    const text = Array.from({ length: 26 * 26 }, (_, n) => `${String.fromCharCode(97 + n % 26, 97 + n / 26)}\n`).join(
      ""
    )
    write(text)
    end()
    assert.strictEqual(passed(), text)
  })
})
