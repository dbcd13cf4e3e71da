/** Where the log of `lull serve` goes. */
import { Effect, Layer, Logger, References } from "effect"
import { join } from "node:path"
import * as DedupLogger from "../logging/DedupLogger.ts"
import * as RotatingFile from "../logging/RotatingFile.ts"
import type { LogFormat, Settings } from "../Settings.ts"
import * as terminalLog from "./terminalLog.ts"

export interface Surroundings {
  /** Whether stderr is a terminal. */
  readonly isTerminal: boolean
  /** Calls what it is given when the process is to open its log file, and read its tokens, again. */
  readonly onHangup: (reopen: () => void) => void
}

const logLevels = {
  all: "All",
  trace: "Trace",
  debug: "Debug",
  info: "Info",
  warn: "Warn",
  error: "Error",
  fatal: "Fatal",
  none: "None"
} as const

/** Logs go to stderr, as stdout is for results; and to a file, unless that is not wanted. */
export const layer = Effect.fnUntraced(
  function*(settings: Settings, { isTerminal, onHangup }: Surroundings) {
    const format: LogFormat = settings.logFormat ?? (isTerminal ? "pretty" : "logfmt")
    const stderr = terminalLog.logger(format, isTerminal)
    const file = yield* Effect.provide(logFile(settings), Logger.layer([stderr]))
    const runFork = Effect.runForkWith(yield* Effect.context<never>())
    // Also without a file: a service does not end of it.
    if (!isTerminal) onHangup(() => file === undefined ? undefined : runFork(file.reopen))
    return DedupLogger.layer({ loggers: file === undefined ? [stderr] : [stderr, file.logger] })
  },
  (effect, settings) =>
    Layer.unwrap(effect).pipe(Layer.provideMerge(Layer.mergeAll(
      Layer.succeed(Logger.LogToStderr, true),
      Layer.succeed(References.MinimumLogLevel, logLevels[settings.logLevel])
    )))
)

/** Of the quota, for the log of an embedded PostgreSQL, which says little and writes on while the service is in trouble. */
const postgresShare = 0.1

/** In bytes: `LULL_LOG_QUOTA` is for all that is logged. */
export const quotas = ({ databaseUrl, logQuota }: Settings) => {
  const postgres = databaseUrl === undefined ? Math.ceil(logQuota * postgresShare) : 0
  return { service: logQuota - postgres, postgres }
}

const logFile = Effect.fnUntraced(function*(settings: Settings) {
  const { dataDirectory, logFile, logFormat } = settings
  if (logFile === "none") return undefined
  const file = RotatingFile.make({
    path: logFile ?? join(dataDirectory, "log", "lull.log"),
    quota: quotas(settings).service,
    format: logFormat === "json" ? terminalLog.json : terminalLog.logfmt
  })
  if (logFile !== undefined) return yield* file
  // Nobody has asked for it, so nobody should be kept from starting by it.
  return yield* Effect.catch(file, (error) => Effect.as(Effect.logWarning(error.message), undefined))
})
