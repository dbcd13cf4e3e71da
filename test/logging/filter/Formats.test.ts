import { assert, describe, it } from "@effect/vitest"
import * as Formats from "../../../src/logging/filter/Formats.ts"

const pino = `{"level":50,"time":1769860800000,"pid":7,"msg":"connect ECONNREFUSED"}`
const zap = `{"level":"error","ts":1769860800.5,"logger":"db","msg":"connect refused","error":"timeout"}`
const slog = `{"time":"2026-01-31T12:00:00.5Z","level":"ERROR","msg":"connect refused"}`
const bunyan = `{"name":"app","level":50,"msg":"failed","time":"2026-01-31T12:00:00.000Z","v":0}`
const logfmt = `time=2026-01-31T12:00:00Z level=error msg="connect refused" peer=10.0.0.1`
const rfc3339 = "2026-01-31T12:00:00.500+01:00 ERROR connect refused"
const bracketed = "[2026/01/31 12:00:00] [erro] connect refused"
const syslog = "Jan 31 12:00:00 host app[7]: connect refused"
const klog = "E0131 12:00:00.500000       7 main.go:42] connect refused"
const plain = "connect refused a=b"

const noon = Date.UTC(2026, 0, 31, 12)

describe("formats", () => {
  for (
    const [name, line, format, time] of [
      ["pino", pino, "json", noon],
      ["zap", zap, "json", noon + 500],
      ["slog", slog, "json", noon + 500],
      ["bunyan", bunyan, "json", noon],
      ["logfmt", logfmt, "logfmt", noon],
      ["RFC 3339", rfc3339, "text", noon - 3_600_000 + 500],
      ["bracketed", bracketed, "text", noon],
      ["syslog", syslog, "text", noon],
      ["klog", klog, "text", noon + 500],
      ["plain text", plain, "text", undefined],
      ["a broken object", "{\"level\":50,", "text", undefined],
      ["an array", "[1,2]", "text", undefined]
    ] as const
  ) {
    it(`knows ${name}, and its time`, () => {
      assert.strictEqual(Formats.formatOf(line), format)
      assert.strictEqual(Formats.timeOf(line, format, 2026), time)
    })
  }

  const repeats = { count: 4_213, firstAt: noon + 1_000, lastAt: noon + 9_000, lastedMillis: 10_000 }

  it("tells of a JSON record as a JSON record, with its kind of time", () => {
    assert.deepStrictEqual(JSON.parse(Formats.summary(`${pino}\n`, repeats)), {
      level: 50,
      time: noon + 9_000,
      pid: 7,
      msg: "repeated 4213 times over 10s: connect ECONNREFUSED",
      "lull.repeat.count": 4_213,
      "lull.repeat.seconds": 10,
      "lull.repeat.first": "2026-01-31T12:00:01.000Z",
      "lull.repeat.last": "2026-01-31T12:00:09.000Z"
    })
    assert.strictEqual(JSON.parse(Formats.summary(zap, repeats)).ts, noon / 1_000 + 9)
    assert.strictEqual(JSON.parse(Formats.summary(slog, repeats)).time, "2026-01-31T12:00:09.000Z")
  })

  it("tells of logfmt as logfmt", () => {
    assert.strictEqual(
      Formats.summary(logfmt, repeats),
      "time=2026-01-31T12:00:09.000Z level=error msg=\"repeated 4213 times over 10s: connect refused\" peer=10.0.0.1 " +
        "lull.repeat.count=4213 lull.repeat.seconds=10 lull.repeat.first=2026-01-31T12:00:01.000Z " +
        "lull.repeat.last=2026-01-31T12:00:09.000Z"
    )
  })

  it("tells of text by its first line", () => {
    assert.strictEqual(
      Formats.summary(`${rfc3339}\r\n  at frame\n`, repeats),
      `repeated 4213 times over 10s, first 2026-01-31T12:00:01.000Z, last 2026-01-31T12:00:09.000Z: ${rfc3339}`
    )
  })

  it("is not held up by hostile lines", () => {
    for (const hostile of ["a=", "a=\"", "a=b ", "\\\"", "=", "a=b\" "]) {
      const line = hostile.repeat(1_000_000 / hostile.length)
      assert.include(["text", "logfmt"], Formats.formatOf(line))
    }
    assert.include(["text", "logfmt"], Formats.formatOf(`${"a=\"".repeat(2_000)}x`))
  })
})
