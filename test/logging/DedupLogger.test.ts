import { assert, describe, it } from "@effect/vitest"
import { Cause, Data, Effect, Exit, Layer, Logger, Metric, Redacted, References, Schema, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as DedupLogger from "../../src/logging/DedupLogger.ts"
import { passAlways } from "../../src/logging/PassAlways.ts"

interface Written {
  readonly at: number
  readonly level: string
  readonly text: string
  readonly annotations: Readonly<Record<string, unknown>>
  readonly cause: string
}

/** A logger that keeps what it is given, as a formatter would show it. */
const collector = () => {
  const written: Array<Written> = []
  const logger = Logger.make<unknown, void>(({ cause, date, fiber, logLevel, message }) => {
    const parts: ReadonlyArray<unknown> = Array.isArray(message) ? message : [message]
    written.push({
      at: date.getTime(),
      level: logLevel,
      text: parts.map((part) => typeof part === "string" ? part : JSON.stringify(part)).join(" "),
      annotations: fiber.getRef(References.CurrentLogAnnotations),
      cause: cause.reasons.length === 0 ? "" : Cause.pretty(cause)
    })
  })
  return { written, logger }
}

const logging = (options: DedupLogger.Options = {}) => {
  const { logger, written } = collector()
  const layer = DedupLogger.layer(options).pipe(Layer.provide(Logger.layer([logger])))
  return { written, layer, texts: () => written.map(({ text }) => text) }
}

const times = (count: number, effect: Effect.Effect<void>) =>
  Effect.forEach(Array.from({ length: count }), () => effect, { discard: true })

class Lost extends Data.TaggedError("Lost")<{ readonly message: string; readonly cause?: unknown }> {}
class Gone extends Data.TaggedError("Gone")<{ readonly broker: string; readonly cause?: unknown }> {}
class Full extends Data.TaggedError("Full")<{ readonly broker: string }> {}
class Secretive extends Data.TaggedError("Secretive")<{ readonly password: string; readonly place: string }> {}
class Refused extends Data.TaggedError("Refused")<{ readonly message: string }> {}

describe("DedupLogger", () => {
  it.effect("writes the first at once and unchanged, and tells the repeats by the clock", () => {
    const { layer, written } = logging()
    return Effect.gen(function*() {
      yield* Effect.logWarning("connect ECONNREFUSED 10.0.0.1:5432", { port: 5432 }).pipe(
        Effect.annotateLogs({ loop: "tailnet", jobId: "a" })
      )
      assert.deepStrictEqual(written, [{
        at: 0,
        level: "Warn",
        text: "connect ECONNREFUSED 10.0.0.1:5432 {\"port\":5432}",
        annotations: { loop: "tailnet", jobId: "a" },
        cause: ""
      }])
      yield* TestClock.adjust("1 second")
      yield* Effect.logWarning("connect ECONNREFUSED 10.0.0.2:5432", { port: 5432 }).pipe(
        Effect.annotateLogs({ loop: "tailnet", jobId: "b" })
      )
      yield* TestClock.adjust("1 second")
      yield* Effect.logWarning("connect ECONNREFUSED 10.0.0.3:5432", { port: 5432 }).pipe(
        Effect.annotateLogs({ loop: "tailnet", jobId: "c" })
      )
      assert.lengthOf(written, 1)
      yield* TestClock.adjust("8 seconds")
      assert.deepStrictEqual(written[1], {
        at: 10_000,
        level: "Warn",
        text: "repeated 2 times over 10s: connect ECONNREFUSED 10.0.0.1:5432 {\"port\":5432}",
        annotations: {
          loop: "tailnet",
          jobId: "a … c",
          "lull.repeat.count": 2,
          "lull.repeat.seconds": 10,
          "lull.repeat.first": "1970-01-01T00:00:01.000Z",
          "lull.repeat.last": "1970-01-01T00:00:02.000Z"
        },
        cause: ""
      })
      assert.lengthOf(written, 2)
    }).pipe(Effect.provide(layer))
  })

  it.effect("tells kinds apart by level, component, error tag, place of a defect, and code", () => {
    const { layer, written } = logging()
    const here = () => Effect.logError("failed", Cause.die(new Error("boom")))
    const there = () => Effect.logError("failed", Cause.die(new Error("boom")))
    return Effect.gen(function*() {
      const kinds: ReadonlyArray<Effect.Effect<void>> = [
        Effect.logInfo("failed"),
        Effect.logWarning("failed"),
        Effect.logInfo("failed").pipe(Effect.annotateLogs("loop", "a")),
        Effect.logInfo("failed").pipe(Effect.annotateLogs("loop", "b")),
        Effect.logInfo("failed").pipe(Effect.withLogSpan("a")),
        Effect.logInfo("failed", "failed"),
        Effect.logInfo("failedfailed"),
        Effect.logInfo({ failed: true }),
        Effect.logError("failed", Cause.fail(new Lost({ message: "x" }))),
        Effect.logError("failed", Cause.fail(new Refused({ message: "x" }))),
        Effect.logError("failed", Cause.fail(new Refused({ message: "y" }))),
        Effect.logError("failed", Cause.die("x")),
        Effect.logError("failed", Cause.interrupt(1)),
        Effect.suspend(here),
        Effect.suspend(there),
        Effect.logError("failed", Cause.fail(new Gone({ broker: "east" }))),
        Effect.logError("failed", Cause.fail(new Gone({ broker: "west" }))),
        Effect.logError("failed", Cause.fail(new Full({ broker: "east" }))),
        Effect.logError("failed", Cause.fail(new Gone({ broker: "east", cause: new Gone({ broker: "west" }) }))),
        Effect.logError(
          "failed",
          Cause.fail(new Lost({ message: "z", cause: new Lost({ message: "x", cause: "y" }) }))
        ),
        Effect.logError(
          "failed",
          Cause.fail(new Lost({ message: "z", cause: new Lost({ message: "x", cause: "x" }) }))
        ),
        Effect.logError("failed", new Gone({ broker: "east" })),
        Effect.logError("failed", new Gone({ broker: "west" })),
        Effect.logInfo("exit status 1"),
        Effect.logInfo("exit status 2")
      ]
      for (let round = 0; round < 3; round++) yield* Effect.all(kinds, { discard: true })
      assert.lengthOf(written, kinds.length)
    }).pipe(Effect.provide(layer))
  })

  it.effect("takes for the same what differs in ids, addresses, numbers and correlations only", () => {
    const { layer, written } = logging({ correlations: ["tenant"] })
    return Effect.gen(function*() {
      for (let n = 0; n < 5; n++) {
        yield* Effect.logError(
          `job 0b9f8a52-7a2e-4c31-9d8e-00000000000${n} took ${n} ms`,
          new Lost({ message: `peer ${n}` })
        ).pipe(
          Effect.annotateLogs({ requestId: n, tenant: `tenant ${n}`, attempt: n })
        )
      }
      assert.lengthOf(written, 1)
    }).pipe(Effect.provide(layer))
  })

  it.effect("tells what is held when the scope closes", () => {
    const { logger, texts } = { ...collector(), texts: () => written.map(({ text }) => text) }
    const written: Array<Written> = []
    const kept = Logger.make<unknown, void>((options) => {
      written.push({ at: 0, level: options.logLevel, text: String(options.message), annotations: {}, cause: "" })
      logger.log(options)
    })
    return Effect.gen(function*() {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(
        DedupLogger.layer().pipe(Layer.provide(Logger.layer([kept]))),
        scope
      )
      yield* times(5, Effect.logInfo("tick")).pipe(Effect.provide(context))
      assert.deepStrictEqual(texts(), ["tick"])
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(texts(), ["tick", "repeated 4 times over 0: tick"])
    })
  })

  it.effect("always passes Fatal, summaries of another deduplicator, and what is said under passAlways", () => {
    const { layer, texts } = logging()
    return Effect.gen(function*() {
      yield* times(3, Effect.logFatal("gone"))
      yield* times(3, Effect.annotateLogs(Effect.logInfo("repeated"), DedupLogger.repeatCount, 3))
      yield* passAlways(times(3, Effect.logInfo("said already")))
      assert.lengthOf(texts(), 9)
    }).pipe(Effect.provide(layer))
  })

  it.effect("tells a lower level at once when a graver one comes", () => {
    const { layer, texts } = logging()
    return Effect.gen(function*() {
      yield* times(3, Effect.logWarning("lost"))
      yield* TestClock.adjust("3 seconds")
      yield* Effect.logError("lost")
      assert.deepStrictEqual(texts(), ["lost", "repeated 2 times over 3s: lost", "lost"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("says how many kinds were held in a flood of different ones", () => {
    const { layer, written } = logging({ budgetPerSecond: 10 })
    return Effect.gen(function*() {
      const words = "abcdefghijklmnopqrstuvwxyz".split("")
      for (const one of words) for (const other of words) yield* Effect.logInfo(`word ${one}${other}`)
      assert.lengthOf(written, 100)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(
        written.at(-1)?.text,
        "576 records of 576 further kinds held over 10s: too many different ones at a time"
      )
      assert.strictEqual(written.at(-1)?.annotations["lull.overflow.kinds"], 576)
    }).pipe(Effect.provide(layer))
  })

  it.effect("removes secrets before it compares, keeps or writes", () => {
    const { layer, written } = logging({ redaction: { names: ["pin"], patterns: [/sk_live_\w+/] } })
    const secret = "hush"
    return Effect.gen(function*() {
      const records: ReadonlyArray<Effect.Effect<void>> = [
        Effect.logInfo(`password=${secret} rest`),
        Effect.logInfo(`{"apiKey": "${secret}"}`),
        Effect.logInfo(`Authorization: Bearer ${secret}`),
        Effect.logInfo(`GET /?token=${secret}&x=1`),
        Effect.logInfo(`postgres://user:${secret}@host/db is away`),
        Effect.logInfo({ user: "me", session: { accessToken: secret, list: [`secret: ${secret}`] } }),
        Effect.logInfo("known", Redacted.make(secret)),
        Effect.annotateLogs(Effect.logInfo("annotated"), { clientSecret: secret, url: `http://a:${secret}@b` }),
        Effect.annotateLogs(Effect.logInfo("correlated"), { requestId: `token=${secret}` }),
        Effect.logError("cause", Cause.fail(new Error(`cannot reach redis://:${secret}@cache`))),
        Effect.logError("cause", Cause.die(new Error("outer", { cause: new Error(`pin=${secret}`) }))),
        Effect.logInfo(`key sk_live_${secret}`),
        Effect.logError("failed", new Secretive({ password: secret, place: `redis://u:${secret}@cache` })),
        Effect.logError("failed", Cause.fail(new Secretive({ password: secret, place: "here" })))
      ]
      yield* Effect.all([...records, ...records], { discard: true })
      yield* TestClock.adjust("10 seconds")
      assert.isAtLeast(written.length, records.length * 2)
      assert.notInclude(JSON.stringify(written), secret)
      assert.include(written[0]?.text, "password=<redacted> rest")
      assert.include(written[4]?.text, "postgres://<redacted>@host/db is away")
      assert.include(JSON.stringify(written), "Secretive (password: <redacted>, place: redis://<redacted>@cache)")
    }).pipe(Effect.provide(layer))
  })

  it.effect.prop(
    "no secret appears in a summary that appears in no passed record",
    {
      records: Schema.Array(Schema.Struct({
        form: Schema.Literals(["password", "bearer", "url", "field", "annotation", "correlation", "cause", "none"]),
        secret: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3 })),
        number: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 99 }))
      }))
    },
    ({ records }) => {
      const { layer, written } = logging()
      const secrets = ["hush7f3a", "s3cr3t-word", "12345678", "deadbeef01"]
      return Effect.gen(function*() {
        for (const { form, number, secret: index } of records) {
          const secret = secrets[index] ?? ""
          switch (form) {
            case "password":
              yield* Effect.logInfo(`login ${number} with password=${secret} failed`)
              break
            case "bearer":
              yield* Effect.logInfo(`Authorization: Bearer ${secret} of ${number}`)
              break
            case "url":
              yield* Effect.logInfo(`postgres://user:${secret}@10.0.0.${number}/db is away`)
              break
            case "field":
              yield* Effect.logInfo("field", { token: secret, number })
              break
            case "annotation":
              yield* Effect.annotateLogs(Effect.logInfo("annotated"), { apiKey: secret, number })
              break
            case "correlation":
              yield* Effect.annotateLogs(Effect.logInfo("correlated"), { requestId: `token=${secret}`, number })
              break
            case "cause":
              yield* Effect.logError("cause", Cause.fail(new Error(`http://user:${secret}@host:${number}/`)))
              break
            case "none":
              yield* Effect.logInfo(`nothing to hide in ${number}`)
          }
        }
        yield* TestClock.adjust("10 seconds")
        const text = JSON.stringify(written)
        for (const secret of secrets) assert.notInclude(text, secret)
      }).pipe(Effect.provide(layer))
    },
    { arbitrary: { runs: 200 } }
  )

  it.effect("survives loggers that throw, circles, getters that throw, and very long records", () => {
    const { logger, written } = collector()
    const broken = Logger.make<unknown, void>(() => {
      throw new Error("disk on fire")
    })
    return Effect.gen(function*() {
      const made = yield* DedupLogger.make({ loggers: [broken, logger] })
      const circle: Record<string, unknown> = {}
      circle["self"] = circle
      const trap = {
        get value() {
          throw new Error("trap")
        }
      }
      const long = "x".repeat(1_000_000)
      const { proxy, revoke } = Proxy.revocable({}, {})
      revoke()
      const hostile = Object.defineProperty(new Error(), "message", {
        get: () => {
          throw new Error("trap")
        }
      })
      yield* Effect.logInfo(hostile, Cause.fail(proxy), Cause.die(hostile)).pipe(
        Effect.annotateLogs({ proxy, hostile }),
        Effect.provide(Logger.layer([made.logger]))
      )
      yield* Effect.logInfo(circle, trap, long, 10n, undefined, null).pipe(
        Effect.provide(Logger.layer([made.logger])),
        Effect.exit
      )
      yield* times(3, Effect.logInfo(long)).pipe(Effect.provide(Logger.layer([made.logger])))
      assert.isAtLeast(made.counts().sinkFailures, 2)
      assert.include(written.map(({ text }) => text.length), 1_000_000)
      assert.isBelow(made.counts().bytes, 30_000)
    })
  })

  it.effect("counts what it did, without a label for each kind", () => {
    const { layer } = logging()
    const counter = (outcome: string) =>
      Metric.value(Metric.withAttributes(
        Metric.counter("lull_log_records_total", {
          incremental: true,
          description: "Log records, by what became of them; those held are told in summaries"
        }),
        { outcome }
      ))
    return Effect.gen(function*() {
      const before = (yield* counter("held")).count
      yield* times(8, Effect.logInfo("counted"))
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(Number((yield* counter("held")).count) - Number(before), 7)
    }).pipe(Effect.provide(layer))
  })

  it.effect("leaves span events to their spans", () => {
    const { layer } = { layer: DedupLogger.layer({ loggers: [Logger.tracerLogger, Logger.consoleLogFmt] }) }
    return Effect.gen(function*() {
      const loggers = yield* Logger.CurrentLoggers
      assert.isTrue(loggers.has(Logger.tracerLogger))
      assert.strictEqual(loggers.size, 2)
    }).pipe(Effect.provide(layer))
  })

  it.effect.prop(
    "passed + told = received, and the first of each kind comes before what is told of it",
    {
      steps: Schema.Array(Schema.Union([
        Schema.Tuple([Schema.Literals(["a", "b", "c 1", "c 2"]), Schema.Literals(["Info", "Warn", "Error"])]),
        Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 30 }))
      ]))
    },
    ({ steps }) => {
      const { layer, written } = logging({ kinds: 3 })
      let received = 0
      return Effect.gen(function*() {
        for (const step of steps) {
          if (typeof step === "number") yield* TestClock.adjust(`${step} seconds`)
          else {
            yield* Effect.logWithLevel(step[1])(step[0])
            received++
          }
        }
      }).pipe(
        Effect.provide(layer),
        Effect.andThen(Effect.sync(() => {
          const seen = new Set<string>()
          let sum = 0
          for (const { annotations, level, text } of written) {
            const count = annotations[DedupLogger.repeatCount]
            const kind = `${level} ${text.replace(/^repeated .*?: /, "").slice(0, 1)}`
            if (typeof count === "number") assert.isTrue(seen.has(kind))
            else seen.add(kind)
            sum += typeof count === "number" ? count : 1
          }
          assert.strictEqual(sum, received)
        }))
      )
    },
    { arbitrary: { runs: 100 } }
  )
})
