import { assert, describe, it } from "@effect/vitest"
import { Data } from "effect"
import { describeError } from "../../src/cli/errorText.ts"

class BrokerGone extends Data.TaggedError("BrokerGone")<{ readonly broker?: string; readonly cause?: unknown }> {}

describe("the text of an error", () => {
  it("is its message, with that of its cause", () => {
    assert.strictEqual(describeError(new Error("it broke")), "it broke")
    assert.strictEqual(describeError(new Error("it broke", { cause: new Error("no disk") })), "it broke: no disk")
    assert.strictEqual(
      describeError(new Error("it broke: no disk", { cause: new Error("no disk") })),
      "it broke: no disk"
    )
  })

  it("is its tag, its fields and its cause, where there is no message", () => {
    assert.strictEqual(describeError(new BrokerGone({})), "BrokerGone")
    assert.strictEqual(describeError(new BrokerGone({ broker: "b1" })), "BrokerGone (broker=b1)")
    assert.strictEqual(
      describeError(new BrokerGone({ broker: "b1", cause: new Error("no route") })),
      "BrokerGone (broker=b1): no route"
    )
    assert.strictEqual(describeError({ _tag: "Lost", at: 3 }), "Lost (at=3)")
    assert.strictEqual(describeError(new TypeError("")), "TypeError")
  })

  it("is never empty, whatever was thrown", () => {
    const round: { self?: unknown; cause?: unknown } = {}
    round.self = round
    round.cause = round
    for (const error of [undefined, null, "", 0, {}, [], new Error(""), new Error(" "), Symbol("x"), 1n, round]) {
      assert.match(describeError(error), /\S/)
    }
  })
})
