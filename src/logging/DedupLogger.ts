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
 * deduplicator; of several in a row only the outermost deduplicates. `Fatal` always passes, and so do records under
 * `passAlways`. A logger that throws is counted, and hurts nobody.
 */
import {
  Cause,
  Clock,
  Console,
  Context,
  Duration,
  Effect,
  Fiber,
  Latch,
  Layer,
  Logger,
  type LogLevel,
  References
} from "effect"
import * as Composition from "./Composition.ts"
import { correlations } from "./Correlations.ts"
import * as Deduplication from "./Deduplication.ts"
import { errorText } from "./ErrorText.ts"
import { longestOutput, mask, maskText } from "./Masking.ts"
import { PassAlways } from "./PassAlways.ts"
import * as RecordMetrics from "./RecordMetrics.ts"
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

/** Between two looks at what is due, in milliseconds, however short the intervals are made. */
const shortestTick = 10

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

/**
 * Installs the deduplicating logger in the place of the loggers that it writes to. Those are provided to it; a `Logger.layer`
 * merged with it would replace it, which is said (`Composition`).
 */
export const layer = (options: Options = {}): Layer.Layer<never> => {
  /** Goes on with what was built, where the layer is merged with others: those are built in fibers of their own. */
  let caller: Fiber.Fiber<unknown, unknown> | undefined
  const built = Layer.effectContext(Effect.withFiber((builder) =>
    Effect.gen(function*() {
      const installed = new Set(options.loggers ?? (yield* Logger.CurrentLoggers))
      // Span events are no output, and belong to their span.
      const isTracing = installed.delete(Logger.tracerLogger)
      if (installed.size === 0 && !isTracing) yield* Composition.sayNoLoggers
      const { logger } = yield* make({ ...options, loggers: [...installed] })
      yield* Effect.forkScoped(Composition.watch(logger, caller === undefined ? [builder] : [builder, caller]))
      return Context.make(Composition.Built, logger).pipe(
        Context.add(Logger.CurrentLoggers, new Set(isTracing ? [logger, Logger.tracerLogger] : [logger]))
      )
    })
  ))
  return Layer.fromBuild((memoMap, scope) => {
    caller = Fiber.getCurrent()
    return Layer.buildWithMemoMap(built, memoMap, scope)
  })
}

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
  const context = yield* Effect.context<never>()
  const runFork = Effect.runForkWith(context)
  const count = RecordMetrics.make(context)
  const loggers = Composition.sinksOf(options.loggers)
  const redaction = Redaction.make(options.redaction)
  const correlated = new Set([...correlations, ...options.correlations ?? []])
  const shortest = Duration.toMillis(options.shortest ?? Duration.seconds(10))
  /** Open while anything is remembered. */
  const busy = Latch.makeUnsafe(false)
  let sinkFailures = 0
  let passedAlways = 0
  let isClosed = false

  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6

  const fail = () => {
    sinkFailures++
    count("failed", 1)
  }

  const writeAll = (record: Logger.Options<unknown>) => {
    for (const logger of loggers) {
      try {
        logger.log(record)
      } catch {
        fail()
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
    count("summaries", 1)
    count("told", held.count)
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
    count("summaries", 1)
    count("told", overflow.records)
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

  const pass = (record: Logger.Options<unknown>) => {
    count("passed", 1)
    write(record)
  }

  const logger = Logger.make((record: Logger.Options<unknown>) => {
    const { date, fiber, logLevel } = record
    const annotations = fiber.getRef(References.CurrentLogAnnotations)
    if (logLevel === "Fatal" || isClosed || fiber.getRef(PassAlways) || repeatCount in annotations) {
      passedAlways++
      return pass(record)
    }
    const isFirst = deduplication.receive(
      { now: now(), at: date.getTime(), kind: kindOf(record), level: orderOf(logLevel) },
      () => sampleOf(record),
      () => lastOf(annotations)
    )
    busy.openUnsafe()
    if (isFirst) return pass(record)
    lastSeen ??= { console: fiber.getRef(Console.Console), toStderr: fiber.getRef(Logger.LogToStderr) }
  })
  Composition.register(logger, { within: context, loggers: options.loggers, through: Logger.make(write) })

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

  let counted = { held: 0, evicted: 0, overflowed: 0 }
  /** Of what is held nothing is done for each record that could be done for many. */
  const countHeld = () => {
    const { evicted, held, overflowed, told } = deduplication.counts()
    count("held", held + told - counted.held)
    count("evicted", evicted - counted.evicted)
    count("overflowed", overflowed - counted.overflowed)
    counted = { held: held + told, evicted, overflowed }
  }

  const flush = Effect.sync(() => {
    deduplication.flush(now())
    countHeld()
  })
  yield* Effect.addFinalizer(() =>
    Effect.andThen(
      flush,
      Effect.sync(() => {
        // Nobody would tell what is held from now on.
        isClosed = true
      })
    )
  )

  yield* Effect.forkScoped(Effect.forever(Effect.gen(function*() {
    const due = deduplication.nextDue()
    if (due === undefined) {
      busy.closeUnsafe()
      yield* busy.await
    }
    // What comes meanwhile is due no earlier than after the shortest interval.
    yield* Effect.sleep(Duration.millis(Math.max(shortestTick, Math.min(shortest, (due ?? Infinity) - now()))))
    try {
      deduplication.tick(now())
      countHeld()
    } catch {
      // What cannot be told is lost, and not all that comes after it.
      fail()
    }
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
