import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { Loops } from "../../src/loop/Loops.ts"
import { collectLines } from "../support/replicas.ts"

describe("Loops", () => {
  it.effect("end the program with the cause of the loop that died, and say so", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      const loops = yield* Loops
      yield* loops.fork("steady", Effect.never)
      yield* loops.fork("broken", Effect.andThen(Effect.sleep("1 second"), Effect.die(new Error("a bug"))))
      const joined = yield* Effect.forkChild(Effect.exit(loops.join))
      yield* TestClock.adjust("999 millis")
      assert.isUndefined(joined.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      const exit = yield* Fiber.join(joined)
      assert.isTrue(Exit.isFailure(exit) && String(Cause.squash(exit.cause)).includes("a bug"))
      assert.deepStrictEqual(lines.map(({ level, text }) => [level, text]), [["Fatal", "broken has died"]])
    }).pipe(Effect.provide(Loops.layer), Effect.provide(layer))
  })

  it.effect("are not dead when their scope has ended them", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      const loops = yield* Loops
      yield* Effect.scoped(loops.fork("short", Effect.never))
      const joined = yield* Effect.forkChild(loops.join)
      yield* TestClock.adjust("1 hour")
      assert.isUndefined(joined.pollUnsafe())
      assert.deepStrictEqual(lines, [])
    }).pipe(Effect.provide(Loops.layer), Effect.provide(layer))
  })
})
