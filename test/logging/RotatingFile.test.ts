import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Layer, Logger, Metric, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as DedupLogger from "../../src/logging/DedupLogger.ts"
import { LogDisk } from "../../src/logging/file/LogDisk.ts"
import { passAlways } from "../../src/logging/PassAlways.ts"
import * as RotatingFile from "../../src/logging/RotatingFile.ts"
import * as Outage from "../../src/testing/Outage.ts"
import * as OutageClock from "../../src/testing/OutageClock.ts"
import { makeFakeDisk } from "./file/FakeDisk.ts"

const path = "/log/shop.log"
const format = Logger.make<unknown, string>(({ logLevel, message }) => `${logLevel} ${String(message)}`)

const setUp = Effect.fnUntraced(function*(options: Partial<RotatingFile.Options> = {}, outage = Outage.none) {
  const clock = yield* Clock.Clock
  const fake = makeFakeDisk(() => clock.currentTimeMillisUnsafe())
  const told: Array<string> = []
  const elsewhere = Logger.make(({ message }) => void told.push(String(message)))
  const file = yield* RotatingFile.make({ path, format, ...options }).pipe(
    Effect.provideService(LogDisk, fake.disk),
    Effect.provide(Layer.merge(Logger.layer([elsewhere]), OutageClock.layer(outage)))
  )
  const log = <A>(effect: Effect.Effect<A>) => Effect.provide(effect, Logger.layer([file.logger]))
  return { ...fake, file, log, told }
})

describe("RotatingFile", () => {
  it.effect("says once that a file has two writers in this process, and nothing when the first has ended", () =>
    Effect.gen(function*() {
      const fake = makeFakeDisk(() => 0)
      const told: Array<string> = []
      const make = RotatingFile.make({ path, format }).pipe(
        Effect.provideService(LogDisk, fake.disk),
        Effect.provide(Logger.layer([Logger.make(({ message }) => void told.push(String(message)))]))
      )
      yield* Effect.scoped(make)
      yield* Effect.scoped(make)
      assert.deepStrictEqual(told, [])
      yield* make
      yield* make
      yield* make
      assert.lengthOf(told, 1)
      assert.include(told[0], "the log file /log/shop.log is written by two RotatingFiles of this process")
    }))

  it.effect("has as many lines as the metrics say: the records that passed, and the summaries", () =>
    Effect.gen(function*() {
      const counted = Effect.gen(function*() {
        const all = (yield* Metric.snapshot).filter(({ id }) => id.startsWith("lull_log"))
        return (id: string, outcome?: string) => {
          const found = all.find((metric) => metric.id === id && metric.attributes?.["outcome"] === outcome)
          return found?.type === "Counter" ? Number(found.state.count) : Number.NaN
        }
      })
      const fake = makeFakeDisk(() => 0)
      const File = Logger.layer([RotatingFile.logger({ path, format })]).pipe(
        Layer.provide(Layer.succeed(LogDisk, fake.disk))
      )
      // Two in a row count each record once.
      const Logging = DedupLogger.layer().pipe(Layer.provide(DedupLogger.layer().pipe(Layer.provide(File))))
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(Logging, scope)
      const before = yield* counted
      const agree = Effect.fnUntraced(function*(lines: number) {
        const now = yield* counted
        const grown = (id: string, outcome?: string) => now(id, outcome) - before(id, outcome)
        assert.strictEqual(fake.text(path)?.split("\n").length, lines + 1)
        assert.strictEqual(grown("lull_log_records_total", "passed") + grown("lull_log_summaries_total"), lines)
        assert.strictEqual(grown("lull_log_file_records_total", "written"), lines)
        assert.strictEqual(grown("lull_log_records_total", "failed"), 0)
        return grown
      })
      yield* Effect.gen(function*() {
        yield* passAlways(Effect.logWarning("its own voice"))
        yield* TestClock.adjust("1 second")
        yield* agree(1)
        yield* Effect.repeat(Effect.logInfo("again"), { times: 9 })
        yield* Effect.logFatal("gone")
        yield* TestClock.adjust("1 second")
        yield* agree(3)
        yield* TestClock.adjust("1 minute")
        const grown = yield* agree(4)
        assert.strictEqual(grown("lull_log_records_total", "held"), 9)
        assert.strictEqual(grown("lull_log_records_total", "told"), 9)
        yield* Effect.repeat(Effect.logInfo("at the end"), { times: 9 })
      }).pipe(Effect.provide(context))
      yield* Scope.close(scope, Exit.void)
      yield* agree(6)
    }))

  it.effect("errors are in the file at once, the rest 200 ms later", () =>
    Effect.gen(function*() {
      const { log, text } = yield* setUp()
      yield* log(Effect.logInfo("one"))
      assert.strictEqual(text(path), "")
      yield* TestClock.adjust("200 millis")
      assert.strictEqual(text(path), "Info one\n")
      yield* log(Effect.logInfo("two"))
      yield* log(Effect.logError("three"))
      assert.strictEqual(text(path), "Info one\nInfo two\nError three\n")
      yield* log(Effect.logFatal("four"))
      assert.include(text(path), "Fatal four")
    }))

  it.effect("the end of the scope writes what is pending, after a deduplicator has told what it held", () =>
    Effect.gen(function*() {
      const fake = makeFakeDisk(() => 0)
      const scope = yield* Scope.make()
      const File = Logger.layer([RotatingFile.logger({ path, format })]).pipe(
        Layer.provide(Layer.succeed(LogDisk, fake.disk))
      )
      const context = yield* Layer.buildWithScope(DedupLogger.layer().pipe(Layer.provide(File)), scope)
      yield* Effect.provide(Effect.repeat(Effect.logInfo("again"), { times: 3 }), context)
      yield* Scope.close(scope, Exit.void)
      assert.match(fake.text(path) ?? "", /^Info again\nInfo repeated 3 times over .*: again\n$/)
      assert.strictEqual(fake.openDescriptors(), 0)
    }))

  it.effect("a disk that fails: told elsewhere once, and once when it is over; in the file, how much is lost", () =>
    Effect.gen(function*() {
      const { faults, file, log, text, told } = yield* setUp()
      faults.set("write", "EIO")
      yield* log(Effect.forEach(Array.from({ length: 10_000 }), () => Effect.logError("trouble"), { discard: true }))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(told, ["the log file /log/shop.log cannot be written: EIO"])
      faults.clear()
      yield* TestClock.adjust("2 seconds")
      const { dropped, written } = file.counts()
      assert.isAbove(dropped, 0)
      assert.strictEqual(written + dropped, 10_000)
      assert.include(text(path)?.slice(-100), `Warn ${dropped} log records were dropped: EIO`)
      assert.deepStrictEqual(told.slice(1), [
        `the log file /log/shop.log is written again after 1m 800ms; ${dropped} records lost so far`
      ])
      const counters = (yield* Metric.snapshot).filter(({ id }) => id === "lull_log_file_records_total")
      assert.lengthOf(counters, 2)
    }))

  for (const by of [-3_600_000, 3_600_000]) {
    it.effect(`a disk that fails while the clock is set by ${by / 1_000} s: for how long is said as it was`, () =>
      Effect.gen(function*() {
        const { faults, log, told } = yield* setUp({}, Outage.make([{ kind: "clockStep", at: "30 seconds", by }]))
        faults.set("write", "EIO")
        yield* log(Effect.logError("trouble"))
        yield* TestClock.adjust("1 minute")
        faults.clear()
        yield* TestClock.adjust("2 seconds")
        assert.deepStrictEqual(told.slice(1), [
          "the log file /log/shop.log is written again after 1m 800ms; 0 records lost so far"
        ])
      }))
  }

  it.effect("rotated files are compressed two seconds later, also those of an earlier run", () =>
    Effect.gen(function*() {
      const { files, log } = yield* setUp({ maxBytes: 5_000 })
      const line = "x".repeat(3_000)
      yield* log(Effect.andThen(Effect.logError(line), Effect.logError(line)))
      const names = () => [...files.keys()].sort()
      assert.deepStrictEqual(names(), ["/log/shop-000001-19700101T000000Z.log", path])
      yield* TestClock.adjust("2 seconds")
      // The disk answers when it likes.
      yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
      assert.deepStrictEqual(names(), ["/log/shop-000001-19700101T000000Z.log.gz", path])
    }))

  it.effect("what cannot work is refused when it is made, with what would be right", () =>
    Effect.gen(function*() {
      const fake = makeFakeDisk(() => 0)
      const problem = (options: Partial<RotatingFile.Options>) =>
        RotatingFile.make({ path, ...options }).pipe(
          Effect.provideService(LogDisk, fake.disk),
          Effect.scoped,
          Effect.flip,
          Effect.map(({ message }) => message)
        )
      assert.include(yield* problem({ quota: 1_000 }), "a quota of 1000 bytes is too small; at least 65536")
      assert.include(yield* problem({ maxBytes: 100 }), "files of 100 bytes are too small; at least 4096")
      assert.include(yield* problem({ every: 0 }), "every")
      fake.put("/log/core", "x".repeat(100_000))
      assert.include(
        yield* problem({ quota: 70_000 }),
        "other files in /log take its quota of 70000 bytes; give it a directory of its own or a larger quota"
      )
      fake.faults.set("open", "EACCES")
      assert.include(yield* problem({}), "the log file /log/shop.log cannot be used: EACCES")
    }))

  it.effect("a full disk does not prevent a start", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const fake = makeFakeDisk(() => clock.currentTimeMillisUnsafe())
      fake.faults.set("open", "ENOSPC")
      const file = yield* Effect.provideService(RotatingFile.make({ path, format }), LogDisk, fake.disk)
      yield* Effect.provide(Effect.logError("kept"), Logger.layer([file.logger]))
      fake.faults.clear()
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(fake.text(path), "Error kept\n")
    }))
})
