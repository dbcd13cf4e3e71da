import { assert, describe, it } from "@effect/vitest"
import { Cause, Data, Effect, Logger } from "effect"
import * as terminalLog from "../../src/cli/terminalLog.ts"
import * as PrettyLines from "../../src/logging/PrettyLines.ts"

/** What a text would forge: a line of its own, in the form of a record. */
const forged = "x\n[00:00:00.000] INFO (#1): all is well\r\n  user: root\u2028\u0085\x1b[2J\x9b2J\u202e"

class Forged extends Data.TaggedError("Forged")<{ readonly message: string; readonly cause?: unknown }> {}

/** All places of a record that others' text may come to. */
const everywhere = Effect.logError(
  forged,
  forged,
  { field: forged },
  new Error(forged),
  Cause.fail(new Forged({ message: forged, cause: new Error(forged) }))
).pipe(
  Effect.annotateLogs({ [forged]: forged, list: [forged], error: new Error(forged) }),
  Effect.withLogSpan(forged)
)

const written = (format: Logger.Logger<unknown, string>, effect: Effect.Effect<void>) => {
  const records: Array<string> = []
  const collector = Logger.make<unknown, void>((record) => void records.push(format.log(record)))
  Effect.runSync(Effect.provide(effect, Logger.layer([collector])))
  return records
}

const controls = /[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/u

describe("the pretty format", () => {
  it("is one line, and below it what belongs to it", () => {
    const [record] = written(
      PrettyLines.make({ colors: false }),
      Effect.logInfo("hello", { a: 1 }).pipe(Effect.annotateLogs({ key: "value" }), Effect.withLogSpan("took"))
    )
    assert.match(
      record ?? "",
      /^\[\d\d:\d\d:\d\d\.\d{3}\] INFO \(#\d+\) took=\d+ms: hello\n {2}\{"a":1\}\n {2}key: value$/
    )
  })

  it("lets no text of a record begin a line that looks like another record, or like an annotation", () => {
    const [record = "", ...more] = written(PrettyLines.make({ colors: false }), everywhere)
    assert.deepStrictEqual(more, [])
    const [first, ...rest] = record.split("\n")
    assert.match(first ?? "", /^\[[^\]]+\] ERROR \(#\d+\)/)
    assert.isAbove(rest.length, 5)
    for (const line of rest) {
      assert.notMatch(line, /^\s*\[\d\d:/)
      assert.notMatch(line, /^\s*user:/)
    }
  })

  it("has no control characters but its own line ends and colors", () => {
    const [plain = ""] = written(PrettyLines.make({ colors: false }), everywhere)
    for (const line of plain.split("\n")) assert.notMatch(line, controls)
    const [colored = ""] = written(PrettyLines.make({ colors: true }), everywhere)
    // oxlint-disable-next-line no-control-regex -- those are the ones.
    for (const line of colored.split("\n")) assert.notMatch(line.replaceAll(/\x1b\[[\d;]+m/g, ""), controls)
  })
})

describe("the other formats of the log", () => {
  it("logfmt is one line without control characters", () => {
    const [record = ""] = written(terminalLog.logfmt, everywhere)
    assert.notMatch(record, controls)
  })

  it("JSON is one line without control characters, and means what it did", () => {
    const [record = ""] = written(terminalLog.json, everywhere)
    assert.notMatch(record, controls)
    assert.strictEqual((JSON.parse(record) as { readonly message: ReadonlyArray<unknown> }).message[0], forged)
  })
})
