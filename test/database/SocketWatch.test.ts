import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { makeAnswers } from "../../src/database/SocketWatch.ts"

const message = (type: string, length: number) => {
  const bytes = new Uint8Array(5 + length)
  bytes[0] = type.charCodeAt(0)
  new DataView(bytes.buffer).setInt32(1, 4 + length)
  // What is in a message may look like the beginning of one.
  return bytes.fill(0x5a, 5)
}

const joined = (...parts: ReadonlyArray<Uint8Array>) => new Uint8Array(parts.flatMap((part) => [...part]))

describe("Answers of a server", () => {
  it("are whole with ReadyForQuery, and not with a part of it", () => {
    const answers = makeAnswers()
    assert.isTrue(answers.isWhole())
    answers.asked()
    answers.read(joined(message("1", 0), message("D", 100), message("C", 9)))
    assert.isFalse(answers.isWhole())
    const ready = message("Z", 1)
    answers.read(ready.subarray(0, 5))
    assert.isFalse(answers.isWhole())
    answers.read(ready.subarray(5))
    assert.isTrue(answers.isWhole())
  })

  it("are not owed for a notification that comes by itself, nor given by one", () => {
    const answers = makeAnswers()
    answers.read(message("A", 30))
    assert.isTrue(answers.isWhole())
    answers.asked()
    answers.read(message("A", 30))
    assert.isFalse(answers.isWhole())
  })

  it.prop(
    "are whole at the same place, however the bytes come",
    [
      Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 40 }))).check(Schema.isMaxLength(20)),
      Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 12 }))
    ],
    ([lengths, chunk]) => {
      const bytes = joined(...lengths.map((length) => message("D", length)), message("Z", 1))
      const answers = makeAnswers()
      answers.asked()
      for (let at = 0; at < bytes.length; at += chunk) {
        assert.isFalse(answers.isWhole())
        answers.read(bytes.subarray(at, at + chunk))
      }
      assert.isTrue(answers.isWhole())
    }
  )
})
