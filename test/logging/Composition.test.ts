import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Layer, Logger, ManagedRuntime, Metric, References } from "effect"
import { TestClock, TestConsole } from "effect/testing"
import * as DedupLogger from "../../src/logging/DedupLogger.ts"
import * as StateLog from "../../src/logging/StateLog.ts"
import { Loops } from "../../src/loop/Loops.ts"

const collector = () => {
  const texts: Array<string> = []
  const logger = Logger.make<unknown, void>(({ message }) => void texts.push([message].flat().join(" ")))
  return { texts, logger, layer: Logger.layer([logger]) }
}

const repeats = Effect.repeat(Effect.logInfo("again"), { times: 9 })

const right = "DedupLogger.layer().pipe(Layer.provide(Logger.layer([…])))"

describe("layers of loggers", () => {
  it.effect("deduplicate, and say nothing of it, if they are put together as they should be", () => {
    const { layer, texts } = collector()
    const Logging = Layer.merge(
      DedupLogger.layer().pipe(Layer.provide(layer)),
      Layer.succeed(References.MinimumLogLevel, "Info")
    )
    return Effect.gen(function*() {
      yield* repeats
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(texts, ["again", "repeated 9 times over 10s: again"])
    }).pipe(Effect.provide(Logging))
  })

  for (const how of ["merged", "within"] as const) {
    it.effect(`say once, through the loggers in effect, that one ${how} has replaced the deduplicator`, () => {
      const { layer, texts } = collector()
      const program = Effect.gen(function*() {
        yield* repeats
        yield* TestClock.adjust("1 hour")
        assert.lengthOf(texts, 11)
        assert.match(texts[10]!, /^DedupLogger deduplicates nothing: a layer of loggers .* has taken its place/)
        assert.include(texts[10], right)
      })
      return how === "merged"
        ? Effect.provide(program, Layer.merge(DedupLogger.layer(), layer))
        : program.pipe(Effect.provide(layer), Effect.provide(DedupLogger.layer()))
    })
  }

  it.effect("say it where a runtime was made of them, too", () => {
    const { layer, texts } = collector()
    return Effect.gen(function*() {
      const Logging = Layer.mergeAll(DedupLogger.layer(), layer, Layer.empty)
      const runtime = ManagedRuntime.make(Layer.provide(Logging, Layer.succeed(Clock.Clock, yield* Clock.Clock)))
      yield* Effect.promise(() => runtime.runPromise(Effect.void))
      yield* TestClock.adjust("1 minute")
      assert.lengthOf(texts, 1)
      yield* Effect.promise(() => runtime.dispose())
    })
  })

  it.effect("say it where a loop starts, however deep they were put together", () => {
    const { layer, texts } = collector()
    const Sink = Logger.layer([Logger.make(() => {})])
    const Logging = Layer.merge(DedupLogger.layer().pipe(Layer.provide(Sink)), layer)
    const App = Layer.effectDiscard(Loops.use((loops) => loops.fork("work", Effect.never)))
    return Effect.gen(function*() {
      yield* Layer.build(Layer.mergeAll(App, App, Layer.empty).pipe(Layer.provide(Loops.layer), Layer.provide(Logging)))
      assert.lengthOf(texts, 1)
      assert.include(texts[0], right)
    })
  })

  it.effect("do not mind a part of the program that logs elsewhere for a moment, or always beside the deduplicator", () => {
    const { layer, logger, texts } = collector()
    const elsewhere = collector()
    return Effect.gen(function*() {
      yield* Effect.provide(TestClock.adjust("500 millis"), elsewhere.layer)
      yield* Effect.forkChild(Effect.provide(Effect.never, elsewhere.layer))
      yield* Effect.withLogger(TestClock.adjust("1 hour"), logger)
      assert.deepStrictEqual([...texts, ...elsewhere.texts], [])
    }).pipe(Effect.provide(DedupLogger.layer().pipe(Layer.provide(layer))))
  })

  it.effect("deduplicate once if two deduplicators stand in a row, and hide what either hides", () => {
    const { layer, texts } = collector()
    const Inner = DedupLogger.layer({ redaction: { names: ["pin"] } }).pipe(Layer.provide(layer))
    const Logging = DedupLogger.layer({ redaction: { patterns: [/sk_\w+/] } }).pipe(Layer.provide(Inner))
    const passed = Metric.value(Metric.withAttributes(
      Metric.counter("lull_log_records_total", {
        incremental: true,
        description: "Log records, by what became of them; those held are told in summaries"
      }),
      { outcome: "passed" }
    ))
    return Effect.gen(function*() {
      const before = (yield* passed).count
      for (let round = 0; round < 3; round++) {
        yield* Effect.logInfo("pin=1234 of sk_abc")
        yield* TestClock.adjust("11 seconds")
        yield* repeats
        yield* TestClock.adjust("2 minutes")
      }
      const once = ["pin=<redacted> of <redacted>", "again", "repeated 9 times over 10s: again"]
      assert.deepStrictEqual(texts, [...once, ...once, ...once])
      assert.strictEqual(Number((yield* passed).count) - Number(before), 6)
    }).pipe(Effect.provide(Logging))
  })

  it.effect("say once that of two deduplicators beside each other one writes nothing", () => {
    const one = collector()
    const other = collector()
    const Logging = Layer.merge(
      DedupLogger.layer({ loggers: [one.logger] }),
      DedupLogger.layer({ loggers: [other.logger] })
    )
    return Effect.gen(function*() {
      yield* repeats
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(one.texts, [])
      assert.lengthOf(other.texts, 3)
      assert.match(
        other.texts.find((text) => text.includes("Layer.provide"))!,
        /^of two DedupLogger layers beside each other/
      )
    }).pipe(Effect.provide(Logging))
  })

  it.effect("say that a deduplicator has no loggers to write to", () =>
    Effect.gen(function*() {
      for (
        const Logging of [
          DedupLogger.layer({ loggers: [] }),
          DedupLogger.layer().pipe(Layer.provide(Logger.layer([])))
        ]
      ) {
        const before = (yield* TestConsole.logLines).length
        yield* Effect.provide(repeats, Logging)
        const said = (yield* TestConsole.logLines).slice(before)
        assert.lengthOf(said, 2)
        assert.include(String(said[1]), "DedupLogger has no loggers to write to")
      }
    }))

  it.effect("say once that a minimum log level was provided to the deduplicator alone", () => {
    const { layer, texts } = collector()
    const Logging = DedupLogger.layer().pipe(
      Layer.provide(Layer.merge(layer, Layer.succeed(References.MinimumLogLevel, "Debug")))
    )
    return Effect.gen(function*() {
      yield* Effect.logDebug("not written")
      yield* TestClock.adjust("1 hour")
      assert.lengthOf(texts, 1)
      assert.match(texts[0]!, /^the minimum log level Debug holds for nothing/)
    }).pipe(Effect.provide(Logging))
  })

  it.effect("let pass what a StateLog says, and what is logged after the deduplicator has ended", () => {
    const { layer, texts } = collector()
    return Effect.gen(function*() {
      const loggers = yield* Effect.scoped(Effect.gen(function*() {
        const context = yield* Layer.build(DedupLogger.layer().pipe(Layer.provide(layer)))
        const push = yield* StateLog.make("push")
        yield* Effect.provide(
          Effect.repeat(Effect.andThen(Effect.ignore(push.watch(Effect.fail("full"))), push.ok), { times: 2 }),
          context
        )
        assert.lengthOf(texts, 6)
        return yield* Effect.provide(Logger.CurrentLoggers, context)
      }))
      yield* Effect.provideService(repeats, Logger.CurrentLoggers, loggers)
      assert.lengthOf(texts, 16)
    })
  })
})
