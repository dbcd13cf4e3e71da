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

  it("tell with which error the server closes, however the bytes come, and in whatever language", () => {
    const error = (fields: string) => {
      const text = Buffer.from(`${fields}\0\0`)
      const bytes = message("E", text.length)
      bytes.set(text, 5)
      return bytes
    }
    for (const size of [1, 3, 1_000]) {
      const answers = makeAnswers()
      const read = (bytes: Uint8Array) => {
        for (let at = 0; at < bytes.length; at += size) answers.read(bytes.subarray(at, at + size))
      }
      read(error("SFEHLER\0VERROR\0C57014\0MAnfrage wird abgebrochen"))
      assert.deepStrictEqual([answers.canceled(), answers.fatal()], [1, undefined])
      read(error("SERROR\0VERROR\0C23505\0Mduplicate VFATAL"))
      assert.deepStrictEqual([answers.canceled(), answers.fatal(), answers.hasBeenReady()], [1, undefined, false])
      read(message("Z", 1))
      read(error("SFATAL\0VFATAL\0C57P01\0Mterminating"))
      assert.deepStrictEqual([answers.canceled(), answers.fatal(), answers.hasBeenReady()], [1, "57P01", true])
    }
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
