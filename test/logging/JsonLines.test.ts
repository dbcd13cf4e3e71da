import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Logger, Schema } from "effect"
import { formatJson } from "../../src/logging/JsonLines.ts"

/** Both formats of one record. */
const both = (log: Effect.Effect<void>) => {
  const written: Array<readonly [string, string]> = []
  const logger = Logger.make((record) => void written.push([formatJson.log(record), Logger.formatJson.log(record)]))
  return Effect.as(Effect.provide(log, Logger.layer([logger])), written)
}

const same = (log: Effect.Effect<void>) =>
  Effect.map(both(log), (written) => {
    assert.isNotEmpty(written)
    for (const [ours, effects] of written) assert.strictEqual(ours, effects)
  })

describe("JSON lines", () => {
  it.effect("are those of Effect", () =>
    Effect.gen(function*() {
      yield* same(Effect.logInfo("plain"))
      yield* same(Effect.logWarning("quoted \"x\" \\ \n \u0000 \ud800 wörter €"))
      yield* same(Effect.logError("with", { a: 1, b: "x", c: true }, "more"))
      yield* same(Effect.logError("nested", { a: { b: [1, 2] } }, null, undefined, 12n, Symbol("s"), new Date(0)))
      yield* same(Effect.logError(new Error("boom")))
      yield* same(Effect.logError("cause", Cause.fail("x")))
      yield* same(Effect.log())
      yield* same(Effect.log(1, Number.NaN))
      yield* same(
        Effect.logInfo("annotated").pipe(
          Effect.annotateLogs({ text: "x", number: 1.5, truth: false, 7: "first", "a\"b": "c" }),
          Effect.withLogSpan("outer")
        )
      )
      yield* same(
        Effect.logInfo("spans").pipe(
          Effect.annotateLogs({ object: { a: 1 }, nothing: undefined, __proto__: "x" }),
          Effect.withLogSpan("inner"),
          Effect.withLogSpan("outer")
        )
      )
    }))

  it.effect.prop(
    "are those of Effect, whatever is logged",
    {
      message: Schema.String,
      fields: Schema.Record(
        Schema.String,
        Schema.Union([Schema.String, Schema.Number, Schema.Boolean, Schema.Null, Schema.Undefined])
      ),
      annotations: Schema.Record(
        Schema.String,
        Schema.Union([Schema.String, Schema.Number, Schema.Array(Schema.String)])
      )
    },
    ({ annotations, fields, message }) => same(Effect.logInfo(message, fields).pipe(Effect.annotateLogs(annotations))),
    { arbitrary: { runs: 500 } }
  )
})
