import { assert, describe, it } from "@effect/vitest"
import { makeVoice } from "../../src/http/FailedTokens.ts"

const minutes = (count: number) => count * 60_000

describe("wrong tokens", () => {
  it("are said once for each address, as long as they go on", () => {
    const voice = makeVoice()
    assert.match(voice.failed("192.0.2.1", 0) ?? "", /^192\.0\.2\.1 gave a token that is not accepted/)
    for (let at = 1; at < 1_000; at++) assert.isUndefined(voice.failed("192.0.2.1", minutes(at)))
    assert.match(voice.failed("192.0.2.2", minutes(1_000)) ?? "", /^192\.0\.2\.2 /)
    assert.isUndefined(voice.failed("192.0.2.2", minutes(1_009)))
    assert.match(voice.failed("192.0.2.2", minutes(1_019)) ?? "", /^192\.0\.2\.2 /)
  })

  it("are said once for all addresses of one network of IPv6", () => {
    const voice = makeVoice()
    assert.isDefined(voice.failed("2001:db8::1", 0))
    for (let at = 2; at < 100; at++) assert.isUndefined(voice.failed(`2001:db8::${at}`, at))
  })

  it("of very many addresses are said in a few lines, and again when it was quiet between", () => {
    const voice = makeVoice()
    const lines = (from: number) =>
      Array.from({ length: 10_000 }, (_, at) => voice.failed(`10.0.${at >> 8}.${at & 255}`, from + at)).filter((line) =>
        line !== undefined
      )
    const first = lines(0)
    assert.lengthOf(first, 17)
    assert.match(first.at(-1) ?? "", /^more than 16 addresses/)
    assert.lengthOf(lines(10_000), 0)
    assert.lengthOf(lines(minutes(60)), 17)
  })
})
