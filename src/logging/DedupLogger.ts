/**
 * Loggers that cannot storm: the first of each kind is written at once and unchanged; repeats are counted, and told by a timer
 * in one line each, as `repeated 4213 times over 10s: …`. See `Deduplication` for when, and `docs/logging.md` for why.
 *
 * ```ts
 * const Logging = DedupLogger.layer().pipe(Layer.provide(Logger.layer([Logger.consoleJson])))
 * ```
 *
 * Two records are the same if they have the same level, component (log spans and annotations), error tags, message, and
 * place of a defect, after what is variable in them has been masked (`Masking`). Annotations that connect records of one
 * request or one job are no part of it. A summary shows the first and the last value of each annotation that varied.
 *
 * Secrets are removed before anything is compared or written (`Redaction`). A summary has the fields `lull.repeat.count`,
 * `lull.repeat.seconds`, `lull.repeat.first` and `lull.repeat.last`; a record with the first of them is passed by every
 * deduplicator. `Fatal` always passes, and so do records under `passAlways`. A logger that throws is counted, and hurts nobody.
 */
import {
  Cause,
  Clock,
  Console,
  Duration,
  Effect,
  Latch,
  Layer,
  Logger,
  type LogLevel,
  Metric,
  References
} from "effect"
import { correlations } from "./Correlations.ts"
import * as Deduplication from "./Deduplication.ts"
import { errorText } from "./ErrorText.ts"
import { longestOutput, mask, maskText } from "./Masking.ts"
import { PassAlways } from "./PassAlways.ts"
import * as Redaction from "./Redaction.ts"
import * as Shapes from "./Shapes.ts"

export interface Options {
  /** What writes. Default: the loggers that are installed where the layer is built. */
  readonly loggers?: ReadonlyArray<Logger.Logger<unknown, unknown>> | undefined
  /** Of each kind that many pass before repeats are held. Default 1. */
  readonly first?: number | undefined
  /** After them the 2nd, 4th, 8th, … repeat passes. Default false. */
  readonly powersOfTwo?: boolean | undefined
  /** When repeats are told first; then after twice as long each time. Default 10 seconds. */
  readonly shortest?: Duration.Input | undefined
  /** They are told at least so often. Default 10 minutes. */
  readonly longest?: Duration.Input | undefined
  /** Kinds that are remembered; the one that was silent for longest is told and forgotten. Default 1,000. */
  readonly kinds?: number | undefined
  /** Memory for them, in bytes. Default 4 MiB. */
  readonly bytes?: number | undefined
  /** New kinds of one level a second, and ten times as many at once; further ones are told in one line. Default 100. */
  readonly budgetPerSecond?: number | undefined
  /** Annotations that tell apart records of one kind; in addition to `correlations`. */
  readonly correlations?: ReadonlyArray<string> | undefined
  readonly redaction?: Redaction.Options | undefined
}

/** The field by which a summary is known. */
export const repeatCount = "lull.repeat.count"

/** Of a text that is compared or kept: its beginning and its end. What is written is not cut. */
const longestCompared = 4_096
const longestKept = 2_048
const longestValue = 256

/** Texts whose masked form is remembered, and up to which length. */
const rememberedTexts = 512
const longestRemembered = 1_024

interface Remembered {
  readonly masked: string
  annotations: Readonly<Record<string, unknown>> | undefined
  spans: ReadonlyArray<unknown> | undefined
  kind: string
}

/** What is kept of a record, so that it can be told later: bounded, and nothing of its fiber. */
interface Sample {
  readonly message: string
  readonly level: LogLevel.LogLevel
  readonly annotations: Readonly<Record<string, string>>
  readonly console: Console.Console
  readonly toStderr: boolean
}

/** Installs the deduplicating logger in the place of the loggers that it writes to. */
export const layer = (options: Options = {}): Layer.Layer<never> =>
  Layer.effect(
    Logger.CurrentLoggers,
    Effect.gen(function*() {
      const installed = new Set(options.loggers ?? (yield* Logger.CurrentLoggers))
      // Span events are no output, and belong to their span.
      const isTracing = installed.delete(Logger.tracerLogger)
      const { logger } = yield* make({ ...options, loggers: [...installed] })
      return new Set(isTracing ? [logger, Logger.tracerLogger] : [logger])
    })
  )

export interface DedupLogger {
  readonly logger: Logger.Logger<unknown, void>
  /** Tells all that is held. Done by itself when the scope closes. */
  readonly flush: Effect.Effect<void>
  readonly counts: () => Deduplication.Counts & { readonly sinkFailures: number }
}

export const make = Effect.fnUntraced(function*(
  options: Options & { readonly loggers: ReadonlyArray<Logger.Logger<unknown, unknown>> }
) {
  const clock = yield* Clock.Clock
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  const redaction = Redaction.make(options.redaction)
  const correlated = new Set([...correlations, ...options.correlations ?? []])
  const shortest = Duration.toMillis(options.shortest ?? Duration.seconds(10))
  /** Open while anything is remembered. */
  const busy = Latch.makeUnsafe(false)
  let sinkFailures = 0
  let passedAlways = 0

  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6

  const writeAll = (record: Logger.Options<unknown>) => {
    for (const logger of options.loggers) {
      try {
        logger.log(record)
      } catch {
        sinkFailures++
      }
    }
  }

  // --- what is written

  /** In the name of no fiber: that of the first record has ended, or means something else by now. */
  const writeAs = (
    { console, toStderr }: Pick<Sample, "console" | "toStderr">,
    record: Omit<Logger.Options<unknown>, "fiber">,
    annotations: Readonly<Record<string, unknown>>
  ) =>
    runFork(
      Effect.withFiber((fiber) => Effect.sync(() => writeAll({ ...record, fiber }))).pipe(
        Effect.provideService(References.CurrentLogAnnotations, annotations),
        Effect.provideService(References.CurrentLogSpans, []),
        Effect.provideService(Console.Console, console),
        Effect.provideService(Logger.LogToStderr, toStderr)
      )
    )

  /** Annotations are in the context of the fiber, so that another fiber has to stand in for it if they are changed. */
  const write = (record: Logger.Options<unknown>) => {
    const message = redaction.value(record.message)
    const cause = redactCause(record.cause, redaction)
    const annotations = record.fiber.getRef(References.CurrentLogAnnotations)
    const redacted = redaction.value(annotations)
    if (redacted === annotations) return writeAll({ ...record, message, cause })
    runFork(
      Effect.withFiber((fiber) => Effect.sync(() => writeAll({ ...record, message, cause, fiber }))).pipe(
        Effect.provideService(References.CurrentLogAnnotations, isRecord(redacted) ? redacted : {}),
        Effect.provideService(References.CurrentLogSpans, record.fiber.getRef(References.CurrentLogSpans)),
        Effect.provideService(Console.Console, record.fiber.getRef(Console.Console)),
        Effect.provideService(Logger.LogToStderr, record.fiber.getRef(Logger.LogToStderr))
      )
    )
  }

  // --- what is the same

  /** Whoever logs in a loop logs the same text, or one that differs in numbers. */
  const texts = new Map<string, Remembered>()
  const shapes = Shapes.make<Remembered>()
  const input = Buffer.alloc(3 * longestRemembered)
  const output = Buffer.alloc(longestOutput(input.length))
  const variable = new Uint8Array(input.length)

  const unmasked = (masked: string): Remembered => ({ masked, annotations: undefined, spans: undefined, kind: "" })

  const remember = (text: string): Remembered => {
    const known = texts.get(text)
    if (known !== undefined) return known
    if (text.length > longestRemembered) return unmasked(maskText(cut(redaction.text(text), longestCompared)))
    const length = input.write(text)
    // What is found was redacted: a number in the place of another makes no secret, and a kind is not written anyway.
    const shaped = shapes.find(input, 0, length)
    if (shaped !== undefined) return shaped
    const redacted = redaction.text(text)
    if (redacted === text && shapes.isWorthAdding()) {
      variable.fill(0, 0, length)
      const made = unmasked(output.toString("utf8", 0, mask(input, 0, length, output, variable)))
      shapes.add(input, 0, length, variable, made)
      return made
    }
    const made = unmasked(maskText(redacted))
    if (texts.size >= rememberedTexts) texts.clear()
    texts.set(text, made)
    return made
  }

  const componentOf = (
    annotations: Readonly<Record<string, unknown>>,
    spans: ReadonlyArray<readonly [string, number]>
  ) => {
    let component = ""
    for (const [label] of spans) component += part(label)
    component += "|"
    for (const name in annotations) {
      if (correlated.has(name)) continue
      component += part(name) + part(redaction.isSecretName(name) ? "" : remember(textOf(annotations[name])).masked)
    }
    return component
  }

  const kindOf = (record: Logger.Options<unknown>): string => {
    const { cause, fiber, message } = record
    const annotations = fiber.getRef(References.CurrentLogAnnotations)
    const spans = fiber.getRef(References.CurrentLogSpans)
    const parts: ReadonlyArray<unknown> = Array.isArray(message) ? message : [message]
    const [only] = parts
    if (parts.length === 1 && typeof only === "string" && cause.reasons.length === 0) {
      // And under the same annotations.
      const known = remember(only)
      if (known.annotations !== annotations || known.spans !== spans) {
        known.annotations = annotations
        known.spans = spans
        known.kind = part(known.masked) + componentOf(annotations, spans)
      }
      return known.kind
    }
    let kind = ""
    for (const each of parts) kind += part(remember(textOf(each)).masked)
    kind += componentOf(annotations, spans)
    for (const reason of cause.reasons) {
      if (Cause.isInterruptReason(reason)) kind += part("interrupted")
      else {kind += describeError(Cause.isFailReason(reason) ? reason.error : reason.defect, (text) =>
          remember(text).masked)}
    }
    return kind
  }

  const shown = (name: string, value: unknown) =>
    redaction.isSecretName(name) ? Redaction.replacement : cut(redaction.text(textOf(value)), longestValue)

  /** For every record that is held, so that nothing is computed but what could be large. */
  const lastOf = (annotations: Readonly<Record<string, unknown>>) => {
    let last: Record<string, unknown> | undefined
    for (const name in annotations) {
      const value = annotations[name]
      last ??= {}
      last[name] = typeof value === "number" || (typeof value === "string" && value.length <= longestValue)
        ? value
        : shown(name, value)
    }
    return last
  }

  const sampleOf = ({ cause, fiber, logLevel, message }: Logger.Options<unknown>) => {
    const given = fiber.getRef(References.CurrentLogAnnotations)
    const parts: ReadonlyArray<unknown> = Array.isArray(message) ? message : [message]
    const errors = cause.reasons.flatMap((reason) =>
      Cause.isInterruptReason(reason) ? [] : [textOf(Cause.isFailReason(reason) ? reason.error : reason.defect)]
    )
    const text = cut(redaction.text([...parts.map(textOf), ...errors].join(" ")), longestKept)
    const annotations = Object.fromEntries(Object.entries(given).map(([name, value]) => [name, shown(name, value)]))
    const sample: Sample = {
      message: text,
      level: logLevel,
      annotations,
      console: fiber.getRef(Console.Console),
      toStderr: fiber.getRef(Logger.LogToStderr)
    }
    const bytes = 2 * (text.length + JSON.stringify(annotations).length)
    return { sample, bytes }
  }

  // --- what is told

  const tellHeld = (held: Deduplication.Held<Sample, Readonly<Record<string, unknown>>>) => {
    const { annotations, level, message } = held.sample
    const seconds = held.lastedMillis / 1_000
    const ranges = Object.entries(annotations).map(([name, first]) => {
      const last = held.last !== undefined && name in held.last ? shown(name, held.last[name]) : first
      return [name, last === first ? first : `${first} … ${last}`]
    })
    writeAs(
      held.sample,
      {
        message: [`${timesOver(held.count, held.lastedMillis)}: ${message}`],
        logLevel: level,
        cause: Cause.empty,
        date: new Date(clock.currentTimeMillisUnsafe())
      },
      {
        ...Object.fromEntries(ranges),
        [repeatCount]: held.count,
        "lull.repeat.seconds": seconds,
        "lull.repeat.first": new Date(held.firstAt).toISOString(),
        "lull.repeat.last": new Date(held.lastAt).toISOString()
      }
    )
  }

  let lastSeen: Pick<Sample, "console" | "toStderr"> | undefined

  const tellOverflow = (overflow: Deduplication.Overflow) => {
    if (lastSeen === undefined) return
    const { firstAt, kinds, lastAt, lastedMillis, level, records } = overflow
    const many = kinds >= Deduplication.countedKinds ? `${kinds} or more` : String(kinds)
    writeAs(
      lastSeen,
      {
        message: [
          `${records} records of ${many} further kinds held over ${
            Duration.format(Duration.millis(Math.round(lastedMillis)))
          }: ` +
          "too many different ones at a time"
        ],
        logLevel: levelNamed(level),
        cause: Cause.empty,
        date: new Date(clock.currentTimeMillisUnsafe())
      },
      {
        [repeatCount]: records,
        "lull.overflow.kinds": kinds,
        "lull.repeat.seconds": lastedMillis / 1_000,
        "lull.repeat.first": new Date(firstAt).toISOString(),
        "lull.repeat.last": new Date(lastAt).toISOString()
      }
    )
  }

  const deduplication = Deduplication.make<Sample, Readonly<Record<string, unknown>>>(
    {
      ...options,
      shortestMillis: shortest,
      longestMillis: Duration.toMillis(options.longest ?? Duration.minutes(10))
    },
    { held: tellHeld, overflow: tellOverflow }
  )

  const logger = Logger.make((record: Logger.Options<unknown>) => {
    const { date, fiber, logLevel } = record
    const annotations = fiber.getRef(References.CurrentLogAnnotations)
    if (logLevel === "Fatal" || fiber.getRef(PassAlways) || repeatCount in annotations) {
      passedAlways++
      return write(record)
    }
    const isFirst = deduplication.receive(
      { now: now(), at: date.getTime(), kind: kindOf(record), level: orderOf(logLevel) },
      () => sampleOf(record),
      () => lastOf(annotations)
    )
    busy.openUnsafe()
    if (!isFirst) {
      lastSeen ??= { console: fiber.getRef(Console.Console), toStderr: fiber.getRef(Logger.LogToStderr) }
      return
    }
    write(record)
  })

  // --- when

  const counts = () => {
    const counted = deduplication.counts()
    return {
      ...counted,
      received: counted.received + passedAlways,
      passed: counted.passed + passedAlways,
      sinkFailures
    }
  }

  let counted = { passed: 0, held: 0, told: 0, evicted: 0, overflowed: 0, failed: 0 }
  const count = Effect.suspend(() => {
    const { evicted, held, overflowed, passed, told } = counts()
    const before = counted
    counted = { passed, held: held + told, told, evicted, overflowed, failed: sinkFailures }
    return Effect.all([
      Metric.update(passedRecords, passed - before.passed),
      Metric.update(heldRecords, counted.held - before.held),
      Metric.update(toldRecords, told - before.told),
      Metric.update(evictedKinds, evicted - before.evicted),
      Metric.update(overflowedRecords, overflowed - before.overflowed),
      Metric.update(failedRecords, sinkFailures - before.failed)
    ], { discard: true })
  })

  const flush = Effect.andThen(Effect.sync(() => deduplication.flush(now())), count)
  yield* Effect.addFinalizer(() => flush)

  yield* Effect.forkScoped(Effect.forever(Effect.gen(function*() {
    const due = deduplication.nextDue()
    if (due === undefined) {
      busy.closeUnsafe()
      yield* busy.await
    }
    // What comes meanwhile is due no earlier than after the shortest interval.
    yield* Effect.sleep(Duration.millis(Math.max(1, Math.min(shortest, (due ?? Infinity) - now()))))
    deduplication.tick(now())
    yield* count
  })))

  const made: DedupLogger = { logger, flush, counts }
  return made
})

/** `repeated 4213 times over 10s` */
export const timesOver = (count: number, lastedMillis: number): string =>
  `repeated ${count === 1 ? "once" : `${count} times`} over ${
    Duration.format(Duration.millis(Math.round(lastedMillis)))
  }`

/** With its length before it, so that no two lists of parts are the same text. */
const part = (text: string) => `${text.length}:${text}`

/** The beginning and the end of what is too long. */
const cut = (text: string, longest: number) =>
  text.length <= longest ? text : `${text.slice(0, longest - 129)}…${text.slice(-128)}`

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null

const textOf = (value: unknown): string => {
  switch (typeof value) {
    case "string":
      return value
    case "object":
      if (value === null) return "null"
      try {
        return value instanceof Error ? errorText(value) : JSON.stringify(value, plain) ?? "undefined"
      } catch {
        // A circle, or a getter that throws.
        return errorText(value)
      }
    default:
      return String(value)
  }
}

const plain = (_: string, value: unknown) => typeof value === "bigint" ? String(value) : value

const nameOf = (error: unknown) =>
  typeof error !== "object" || error === null
    ? typeof error
    : "_tag" in error && typeof error._tag === "string"
    ? error._tag
    : error instanceof Error
    ? error.name
    : "Object"

/** Frames that tell one place from another; those of libraries and of Node are the same for many. */
const comparedFrames = 2

/**
 * Tag and message; fields, and what it was caused by, as far as they are part of its text; of what has no tag, and so is no
 * expected error, the own frames on top of its stack too.
 */
const describeError = (error: unknown, masked: (text: string) => string): string => {
  try {
    if (!(error instanceof Error)) return part(nameOf(error)) + part(masked(textOf(error)))
    const described = part(nameOf(error)) + part(masked(error.message)) + part(masked(errorText(error)))
    return "_tag" in error ? described : described + part(ownFrames(error.stack ?? ""))
  } catch {
    // A getter that throws, a proxy that was revoked.
    return part(masked(errorText(error)))
  }
}

const ownFrames = (stack: string) => {
  const frames: Array<string> = []
  for (let at = stack.indexOf("\n    at "); at >= 0 && frames.length < comparedFrames;) {
    const end = stack.indexOf("\n", at + 1)
    const frame = stack.slice(at + 8, end < 0 ? undefined : end)
    if (!frame.includes("node:") && !frame.includes("/node_modules/")) frames.push(frame.slice(0, longestValue))
    at = end < 0 ? -1 : stack.indexOf("\n    at ", end)
  }
  return frames.join("|")
}

const redactCause = (cause: Cause.Cause<unknown>, redaction: Redaction.Redaction): Cause.Cause<unknown> => {
  if (cause.reasons.length === 0) return cause
  let isChanged = false
  const reasons = cause.reasons.map((reason): Cause.Reason<unknown> => {
    if (Cause.isInterruptReason(reason)) return reason
    const given = Cause.isFailReason(reason) ? reason.error : reason.defect
    const redacted = redaction.value(given)
    if (redacted === given) return reason
    isChanged = true
    return Cause.isFailReason(reason) ? Cause.makeFailReason(redacted) : Cause.makeDieReason(redacted)
  })
  return isChanged ? Cause.fromReasons(reasons) : cause
}

const levels: ReadonlyArray<LogLevel.LogLevel> = ["Trace", "Debug", "Info", "Warn", "Error", "Fatal"]
const orderOf = (level: LogLevel.LogLevel) => levels.indexOf(level)
const levelNamed = (order: number): LogLevel.LogLevel => levels[order] ?? "Info"

const records = Metric.counter("lull_log_records_total", {
  description: "Log records, by what became of them; those held are told in summaries",
  incremental: true
})
const passedRecords = Metric.withAttributes(records, { outcome: "passed" })
const heldRecords = Metric.withAttributes(records, { outcome: "held" })
const toldRecords = Metric.withAttributes(records, { outcome: "told" })
const overflowedRecords = Metric.withAttributes(records, { outcome: "overflowed" })
const failedRecords = Metric.withAttributes(records, { outcome: "failed" })
const evictedKinds = Metric.counter("lull_log_kinds_evicted_total", {
  description: "Kinds of log records that were forgotten to make room",
  incremental: true
})
