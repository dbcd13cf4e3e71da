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
      assert.deepStrictEqual(lines.map(({ level, text }) => [level, text]), [["Fatal", "broken has died: a bug"]])
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

  const untyped = (effect: unknown) => effect as Effect.Effect<never>
  for (
    const [how, end, text] of [
      ["dies", Effect.die(new Error("a bug")), "a bug"],
      ["returns", untyped(Effect.void), "it returned, and a loop runs for ever"],
      ["is interrupted by somebody else than its scope", Effect.interrupt, "it was interrupted, and not by its scope"],
      [
        "comes upon what is no effect",
        Effect.suspend(() => untyped(undefined)),
        "Fiber.runLoop: Not a valid effect: undefined"
      ]
    ] as const
  ) {
    it.effect(`say so twice, the second time what to write, when one ${how} and nobody joins them`, () => {
      const { layer, lines } = collectLines()
      return Effect.gen(function*() {
        const loops = yield* Loops
        yield* loops.fork("broken", end)
        yield* TestClock.adjust("1 second")
        yield* loops.fork("broken too", end)
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(lines.map(({ level, text }) => `${level} ${text}`), [
          `Fatal broken has died: ${text}`,
          `Fatal broken too has died: ${text}`,
          "Fatal nobody joins Loops: the program goes on without broken, which has died; " +
          "end the main effect with `yield* Loops.join`, so that the program ends with the cause"
        ])
        // Who comes late still learns of it.
        assert.isTrue(Exit.isFailure(yield* Effect.exit(Loops.join)))
      }).pipe(Effect.provide(Loops.layer), Effect.provide(layer))
    })
  }

  it.effect("say nothing more when they are joined after one has died", () => {
    const { layer, lines } = collectLines()
    return Effect.gen(function*() {
      const loops = yield* Loops
      yield* loops.fork("broken", Effect.die(new Error("a bug")))
      yield* TestClock.adjust("1 second")
      const joined = yield* Effect.forkChild(Effect.exit(loops.join))
      yield* TestClock.adjust("1 hour")
      assert.isTrue(Exit.isFailure(yield* Fiber.join(joined)))
      assert.deepStrictEqual(lines.map(({ text }) => text), ["broken has died: a bug"])
    }).pipe(Effect.provide(Loops.layer), Effect.provide(layer))
  })
})
