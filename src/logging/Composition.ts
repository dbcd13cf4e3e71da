/**
 * Layers of loggers that were put together so that one of them silently does nothing. Effect keeps one set of loggers in the
 * context: of two layers beside each other the later replaces the earlier. It is noticed by the fiber that goes on with what
 * was built, and where a loop starts, and said once.
 */
import { Context, Effect, type Fiber, Logger, References } from "effect"
import { passAlways } from "./PassAlways.ts"

type AnyLogger = Logger.Logger<unknown, unknown>

/** Left in the context beside the loggers, so that it can be seen that they were replaced. */
export const Built: Context.Reference<AnyLogger | undefined> = Context.Reference("lull/logging/Composition/Built", {
  defaultValue: (): AnyLogger | undefined => undefined
})

// --- deduplicators that write to deduplicators

interface Deduplicator {
  /** The context that it was built in. */
  readonly within: Context.Context<never>
  readonly loggers: ReadonlyArray<AnyLogger>
  /** Hides secrets and writes, without a look at what is a repeat. */
  readonly through: AnyLogger
}

const deduplicators = new WeakMap<AnyLogger, Deduplicator>()

export const register = (logger: AnyLogger, deduplicator: Deduplicator): void =>
  void deduplicators.set(logger, deduplicator)

/**
 * What a deduplicator is to write to: each once, and of another deduplicator only what it hides and where it writes. Two in a row
 * would count each record twice, and hold what the other has let pass.
 */
export const sinksOf = (loggers: Iterable<AnyLogger>): ReadonlyArray<AnyLogger> =>
  [...new Set(loggers)].map((logger) => deduplicators.get(logger)?.through ?? logger)

const reaches = (from: AnyLogger, to: AnyLogger): boolean =>
  from === to || (deduplicators.get(from)?.loggers.some((logger) => reaches(logger, to)) ?? false)

// --- what is said

const right = "DedupLogger.layer().pipe(Layer.provide(Logger.layer([…])))"

const replaced = "DedupLogger deduplicates nothing: a layer of loggers beside it, or within it, has taken its place. " +
  `Give it the loggers that it is to write to: ${right}`

const beside =
  "of two DedupLogger layers beside each other only the later is in effect, and the loggers of the other write " +
  `nothing. Make one, with all loggers: ${right}`

const levelLost = (level: string) =>
  `the minimum log level ${level} holds for nothing, as it was provided to DedupLogger alone. ` +
  "Provide it to the program: Layer.merge(Logging, Layer.succeed(References.MinimumLogLevel, …))"

/** To the default logger, as there is no other. */
export const sayNoLoggers: Effect.Effect<void> = Effect.provideService(
  Effect.logWarning(
    `DedupLogger has no loggers to write to, all that is logged is lost. Give it some: ${right}`
  ),
  Logger.CurrentLoggers,
  new Set([Logger.defaultLogger])
)

// --- what is seen

interface Fault {
  readonly text: string
  /** Those that are in effect. */
  readonly loggers: ReadonlySet<AnyLogger>
}

/** `undefined`: it is well, or nothing can be said by this context. `logger`: of which something is to be said. */
const faultOf = (logger: AnyLogger, context: Context.Context<never>): Fault | undefined => {
  const built = Context.get(context, Built)
  const within = deduplicators.get(logger)?.within
  if (built === undefined || within === undefined) return undefined
  const loggers = Context.get(context, Logger.CurrentLoggers)
  const isInEffect = [...loggers].some((other) => reaches(other, logger))
  if (built !== logger) {
    const isOfAnother = built === Context.get(within, Built) || reaches(logger, built)
    return isInEffect || isOfAnother ? undefined : { text: beside, loggers }
  }
  if (!isInEffect) return { text: replaced, loggers }
  const level = Context.getOrUndefined(within, References.MinimumLogLevel)
  return level === undefined || Context.getOrUndefined(context, References.MinimumLogLevel) !== undefined
    ? undefined
    : { text: levelLost(level), loggers }
}

/** Of these something was said. */
const said = new WeakSet<AnyLogger>()

const say = (logger: AnyLogger, { loggers, text }: Fault) =>
  Effect.suspend(() => {
    if (said.has(logger)) return Effect.void
    said.add(logger)
    // One of them may throw.
    return Effect.asVoid(Effect.exit(
      Effect.provideService(passAlways(Effect.logWarning(text)), Logger.CurrentLoggers, loggers)
    ))
  })

/** Says what is wrong with the loggers that are in effect here. For what runs as long as the program. */
export const check: Effect.Effect<void> = Effect.contextWith((context: Context.Context<never>) => {
  const logger = Context.get(context, Built)
  const fault = logger === undefined ? undefined : faultOf(logger, context)
  return logger === undefined || fault === undefined ? Effect.void : say(logger, fault)
})

/** What a fiber runs with; or what it has built, as for a `ManagedRuntime`. */
const contextOf = (fiber: Fiber.Fiber<unknown, unknown>): Context.Context<never> => {
  const exit = fiber.pollUnsafe()
  return exit?._tag === "Success" && Context.isContext(exit.value) ? exit.value : fiber.context
}

/** Soon, and not for long: a pending timer keeps a process from ending. */
const looks = ["100 millis", "900 millis", "1 second", "3 seconds"] as const

/**
 * Looks what has become of a deduplicator, at the fibers that have built it. Says it when it was seen twice, as a part of a
 * program may log elsewhere for a moment.
 */
export const watch = Effect.fnUntraced(function*(
  logger: AnyLogger,
  builders: ReadonlyArray<Fiber.Fiber<unknown, unknown>>
) {
  let before: string | undefined
  for (const after of looks) {
    yield* Effect.sleep(after)
    let fault: Fault | undefined
    for (const fiber of builders) fault ??= faultOf(logger, contextOf(fiber))
    if (fault !== undefined && fault.text === before) return yield* say(logger, fault)
    before = fault?.text
  }
})
