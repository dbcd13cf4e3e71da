import { assert, describe, it } from "@effect/vitest"
import * as ListenerVoice from "../../src/database/ListenerVoice.ts"

const failed = (voice: ListenerVoice.ListenerVoice, at: number, text: string, deafSince = at, epoch = 1) =>
  voice.failed({ at, deafSince, epoch, text })

describe("ListenerVoice", () => {
  it("says nothing of a failure that is over soon, however often it comes back", () => {
    const voice = ListenerVoice.make()
    for (let at = 0; at < 100_000; at += 10_000) {
      assert.isUndefined(failed(voice, at, "cut off"))
      assert.isUndefined(failed(voice, at + 4_000, "cut off"))
      assert.isUndefined(voice.well())
    }
  })

  it("says each cause of one that lasts once, whatever is variable in it, and that it is over", () => {
    const voice = ListenerVoice.make()
    assert.isUndefined(failed(voice, 0, "refused by 127.0.0.1:5432"))
    assert.include(failed(voice, 5_000, "refused by 127.0.0.1:5433"), "polling meanwhile: refused by")
    assert.isUndefined(failed(voice, 6_000, "refused by 127.0.0.1:5434"))
    // Which may be an outage that the listener has met first.
    assert.isUndefined(failed(voice, 60_000, "no such role"))
    assert.isUndefined(failed(voice, 64_000, "no such role"))
    assert.include(failed(voice, 65_000, "no such role"), "no such role")
    assert.strictEqual(voice.well(), "notifications of the database arrive again")
    assert.isUndefined(voice.well())
    assert.isUndefined(failed(voice, 80_000, "no such role"))
    assert.include(failed(voice, 85_000, "no such role"), "no such role")
  })

  it("counts from when nothing was heard, so that an address that is silent is said after few attempts", () => {
    const voice = ListenerVoice.make()
    assert.include(failed(voice, 6_000, "silent", 0), "silent")
  })

  it("begins again with each return of the database", () => {
    const voice = ListenerVoice.make()
    assert.isUndefined(failed(voice, 0, "refused"))
    assert.isUndefined(failed(voice, 60_000, "refused", 60_000, 2))
    voice.interrupted()
    assert.isUndefined(failed(voice, 90_000, "refused", 90_000, 2))
    assert.include(failed(voice, 96_000, "refused", 96_000, 2), "refused")
  })

  it("says at once what is known to last", () => {
    const voice = ListenerVoice.make()
    assert.include(voice.failed({ at: 0, deafSince: 0, epoch: 1, text: "unheard", isCertain: true }), "unheard")
  })
})
