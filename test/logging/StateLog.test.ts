import { assert, describe, it } from "@effect/vitest"
import { Cause, Data, Effect, Logger } from "effect"
import { TestClock } from "effect/testing"
import * as StateLog from "../../src/logging/StateLog.ts"

const collected = () => {
  const lines: Array<string> = []
  const logger = Logger.make<unknown, void>(({ logLevel, message }) => {
    lines.push(`${logLevel} ${String(message)}`)
  })
  return { lines, layer: Logger.layer([logger]) }
}

describe("StateLog", () => {
  it.effect("says when a thing begins to fail, and when it is well again, and nothing between", () => {
    const { layer, lines } = collected()
    return Effect.gen(function*() {
      const push = yield* StateLog.make("push")
      yield* push.ok
      for (let n = 0; n < 20; n++) {
        yield* push.failing(Cause.fail(new Error(`refused ${n}`)))
        yield* TestClock.adjust("10 seconds")
      }
      yield* push.ok
      yield* push.ok
      yield* push.failing(Cause.die("again"))
      assert.deepStrictEqual(lines, [
        "Warn push is failing: refused 0",
        "Info push is well again after 3m 20s: 20 failures",
        "Warn push is failing: again"
      ])
    }).pipe(Effect.provide(layer))
  })

  it.effect("names a failure without a message by its tag, its fields and its cause", () => {
    const { layer, lines } = collected()
    class BrokerGone extends Data.TaggedError("BrokerGone")<{ readonly broker: string; readonly cause?: unknown }> {}
    return Effect.gen(function*() {
      const mail = yield* StateLog.make("mail")
      yield* mail.failing(Cause.fail(new BrokerGone({ broker: "b1", cause: new Error("reset") })))
      yield* mail.ok
      yield* mail.failing(Cause.empty)
      assert.deepStrictEqual(lines, [
        "Warn mail is failing: BrokerGone (broker: b1), caused by reset",
        "Info mail is well again after 0: 1 failure",
        "Warn mail is failing: no reason was given"
      ])
    }).pipe(Effect.provide(layer))
  })

  it.effect("watches an effect, which it does not change", () => {
    const { layer, lines } = collected()
    return Effect.gen(function*() {
      const state = yield* StateLog.make("backup", { failingLevel: "Error", okLevel: "Debug" })
      assert.strictEqual(yield* state.watch(Effect.succeed(7)), 7)
      assert.strictEqual(yield* Effect.flip(state.watch(Effect.fail("full"))), "full")
      yield* Effect.exit(state.watch(Effect.interrupt))
      yield* Effect.exit(state.watch(Effect.die(new Error("worse"))))
      assert.deepStrictEqual(lines, ["Error backup is failing: full"])
    }).pipe(Effect.provide(layer))
  })
})
