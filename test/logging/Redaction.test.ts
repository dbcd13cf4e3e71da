import { assert, describe, it } from "@effect/vitest"
import { Data } from "effect"
import { errorText, wordsOf } from "../../src/logging/ErrorText.ts"
import * as Redaction from "../../src/logging/Redaction.ts"

const redaction = Redaction.make()

class Failed extends Data.TaggedError("Failed")<{ readonly detail: string; readonly cause: unknown }> {}

describe("redaction of URLs", () => {
  const rows: ReadonlyArray<readonly [text: string, shown: string]> = [
    ["postgres://app:s3cret@db/lull is away", "postgres://<redacted>@db/lull is away"],
    ["postgres://app:s3@cret@db/lull", "postgres://<redacted>@db/lull"],
    ["postgres://app:s3/cr:et@db/lull", "postgres://<redacted>@db/lull"],
    ["see http://host:8080/users/@me", "see http://host:8080/users/@me"],
    ["see https://example.org/@me", "see https://example.org/@me"]
  ]
  for (const [text, shown] of rows) {
    it(`${text} becomes ${shown}`, () => assert.strictEqual(redaction.text(text), shown))
  }
})

describe("errors with texts that have no end", () => {
  const long = "x".repeat(10_000_000)
  const server = Object.assign(new Error(long), { where: long, code: "XX000" })
  const error = new Failed({ detail: long, cause: new Error("PgConnection: it failed", { cause: server }) })

  it("are cut in a record, with all that they were caused by", () => {
    const shown = redaction.value(error)
    assert.instanceOf(shown, Error)
    let texts = 0
    for (let link: unknown = shown; link instanceof Error; link = link.cause) {
      for (const text of [link.message, link.stack ?? "", ...Object.values(link)]) {
        if (typeof text !== "string") continue
        texts++
        assert.isBelow(text.length, 20_000)
      }
    }
    assert.isAbove(texts, 8)
  })

  it("are left as they are, if they are short", () => {
    const short = new Failed({ detail: "gone", cause: new Error("reset") })
    assert.strictEqual(redaction.value(short), short)
  })

  it("end also where they are caused by each other", () => {
    const one = new Error(long)
    one.cause = Object.assign(new Error(long, { cause: one }), { self: one })
    assert.instanceOf(redaction.value(one), Error)
  })

  it("are a sentence of 2,000 characters", () => {
    assert.isAtMost(errorText(error).length, 2_000)
    assert.isAtMost(wordsOf(long).length, 2_000)
    assert.strictEqual(wordsOf(`no login for ${"password=hush"}`), "no login for password=<redacted>")
  })
})
