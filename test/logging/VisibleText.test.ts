import { assert, describe, it } from "@effect/vitest"
import { makeVisibleBytes, visible, visibleJson } from "../../src/logging/VisibleText.ts"

const rows: ReadonlyArray<readonly [what: string, text: string, shown: string]> = [
  ["ordinary text", "Grüße, 世界 👩‍💻 ok", "Grüße, 世界 👩‍💻 ok"],
  ["a color", "\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"],
  ["a title of a terminal", "\x1b]0;owned\x07", "\\x1b]0;owned\\x07"],
  ["line ends and tabs", "a\r\nb\tc", "a\\r\\nb\\tc"],
  ["backspaces and deletions", "a\b\x7f", "a\\x08\\x7f"],
  ["NUL", "a\0b", "a\\x00b"],
  ["C1 controls", "\x9b31m\x85\x90", "\\x9b31m\\x85\\x90"],
  ["text that runs backwards", "a\u202eb\u2066c\u200fd\u061ce", "a\\u202eb\\u2066c\\u200fd\\u061ce"],
  ["separators of lines", "a\u2028b\u2029c", "a\\u2028b\\u2029c"],
  ["unseen text", "a\u{e0041}\u200b\ufeff", "a\\u{e0041}\\u200b\\ufeff"],
  ["half characters", "a\ud800b", "a\\ud800b"]
]

describe("text for a terminal", () => {
  for (const [what, text, shown] of rows) {
    it(`shows ${what}`, () => assert.strictEqual(visible(text), shown))
  }

  it("has no character left that a terminal obeys", () => {
    const all = Array.from({ length: 0x3000 }, (_, code) => String.fromCharCode(code)).join("")
    assert.notMatch(visible(all), /[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/u)
    assert.notMatch(visible(all, "lines").replaceAll(/[\t\n]/g, ""), /[\p{Cc}\p{Bidi_Control}]/u)
  })

  it("keeps tabs, or tabs and whole line ends, where those are the layout of the text", () => {
    assert.strictEqual(visible("a\tb\nc", "tabs"), "a\tb\\nc")
    assert.strictEqual(visible("a\tb\r\nc\rd\n", "lines"), "a\tb\r\nc\\rd\n")
  })

  it("shows JSON as JSON of the same meaning", () => {
    for (const [, text] of rows) {
      const json = visibleJson(JSON.stringify({ [text]: [text] }))
      assert.notMatch(json, /[\p{Cc}\p{Bidi_Control}\p{Cs}]/u)
      assert.deepStrictEqual(JSON.parse(json), { [text]: [text] })
    }
  })

  it("is the same for bytes, wherever they are cut into pieces", () => {
    const text = "\ufeffü\x1b[1m\r\n\u202eb\x9b\rc\td\r\n"
    const bytes = new TextEncoder().encode(text)
    for (let size = 1; size <= bytes.length; size++) {
      const shown = makeVisibleBytes()
      const parts: Array<Uint8Array> = []
      for (let at = 0; at < bytes.length; at += size) parts.push(shown.next(bytes.subarray(at, at + size)))
      parts.push(shown.end())
      assert.strictEqual(String(Buffer.concat(parts)), visible(text, "lines"), `${size} bytes at a time`)
    }
  })

  it("has no byte of what is no UTF-8, as a terminal may take it for a control", () => {
    const shown = makeVisibleBytes()
    const parts = [shown.next(Uint8Array.of(0x61, 0x9b, 0x33, 0xe2)), shown.end()]
    assert.strictEqual(String(Buffer.concat(parts)), "a\ufffd3\ufffd")
  })
})
