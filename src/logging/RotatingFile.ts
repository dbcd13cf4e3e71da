/**
 * A log file that cannot fill a disk: rotated by size and by time, old files compressed, and **everything in its directory
 * together kept below a quota**, files of earlier runs included. The oldest go first.
 *
 * ```ts
 * const File = Logger.layer([RotatingFile.logger({ path: "/var/log/shop/shop.log", quota: 200_000_000 })])
 * const Logging = DedupLogger.layer().pipe(Layer.provide(File))
 * ```
 *
 * It never throws into the program, and keeps no more than 64 kB in memory while writing fails. What it had to drop is
 * counted, and said in the file as soon as writing works again.
 *
 * What a crash loses: nothing of level `Error` and above, which is with the kernel when the logging call returns; of lower
 * levels, what is not written yet, at most 4 kB or 200 ms (`process.exit` and an uncaught exception lose nothing). The kernel
 * writes to the disk when it likes: a power cut loses some seconds.
 *
 * One process writes one log. Give it a directory of its own, as the quota counts whatever is in it.
 */
import { Cause, Clock, Data, Duration, Effect, Latch, Logger, Metric, References, type Scope } from "effect"
import { resolve } from "node:path"
import { errorText } from "./ErrorText.ts"
import { codeOf, type Dropped, FileWriter } from "./file/FileWriter.ts"
import { LogDisk } from "./file/LogDisk.ts"
import { formatJson } from "./JsonLines.ts"
import { passAlways } from "./PassAlways.ts"

export interface Options {
  /** The file that is written. Rotated ones are beside it: `shop-000042-20261123T101500Z.log.gz`. Directories are made. */
  readonly path: string
  /** In bytes, for all that is in the directory. Default 100 MB. */
  readonly quota?: number | undefined
  /** A file that would grow beyond it is rotated, in bytes. Default 10 MB, and never more than a quarter of the quota. */
  readonly maxBytes?: number | undefined
  /** Rotated when a new one begins, counted from midnight UTC. Default 1 day; `Infinity`: by size alone. */
  readonly every?: Duration.Input | undefined
  /** Of rotated files, with gzip. Default true. */
  readonly compress?: boolean | undefined
  /** What a record looks like. Default: as `Logger.formatJson` writes it. */
  readonly format?: Logger.Logger<unknown, string> | undefined
}

/** The file cannot be what it was asked to be: a wrong option, or a place where nothing can be written. */
export class LogFileUnusable extends Data.TaggedError("LogFileUnusable")<{
  readonly path: string
  readonly problem: string
}> {
  override get message() {
    return `the log file ${this.path} cannot be used: ${this.problem}`
  }
}

export interface Counts {
  /** Records in the file. */
  readonly written: number
  /** Records that are lost. */
  readonly dropped: number
}

export interface RotatingFile {
  readonly logger: Logger.Logger<unknown, void>
  /** Writes what is pending. Done by itself 200 ms after a record, and when the scope closes. */
  readonly flush: Effect.Effect<void>
  /** Makes the file anew under its name, for a program that has renamed it. That it was renamed is noticed within a second anyway. */
  readonly reopen: Effect.Effect<void>
  readonly counts: () => Counts
}

const flushAfter = Duration.millis(200)
/** pino's `minLength` in its own examples, and a page. */
const bufferLength = 4_096
const defaultQuota = 100_000_000
const defaultMaxBytes = 10_000_000
const smallestQuota = 64 * 1_024
/** Whoever still has a rotated file open, another process against advice, has noticed by then. */
const compressAfter = Duration.seconds(2)
const compressAgainAfter = Duration.minutes(1)

/** What a start should not go on with. A full disk is no reason not to start. */
const permanent = new Set([
  "EACCES",
  "EEXIST",
  "EPERM",
  "EROFS",
  "ENOTDIR",
  "EISDIR",
  "EINVAL",
  "ELOOP",
  "ENAMETOOLONG",
  "quota"
])

/** For `Logger.layer`. */
export const logger = (
  options: Options
): Effect.Effect<Logger.Logger<unknown, void>, LogFileUnusable, Scope.Scope> =>
  Effect.map(make(options), (file) => file.logger)

/** What goes wrong with the file is told to the loggers that are installed where it is made: once, and once when it is over. */
export const make = Effect.fnUntraced(function*(
  options: Options
): Effect.fn.Return<RotatingFile, LogFileUnusable, Scope.Scope> {
  const path = resolve(options.path)
  const quota = options.quota ?? defaultQuota
  const refuse = (problem: string) => new LogFileUnusable({ path, problem })
  if (!(quota >= smallestQuota)) {
    return yield* refuse(`a quota of ${quota} bytes is too small; at least ${smallestQuota}`)
  }
  const every = Duration.toMillis(options.every ?? Duration.days(1))
  if (!(every > 0)) return yield* refuse("it has to be rotated less often than all the time (every)")
  const maxBytes = Math.min(options.maxBytes ?? defaultMaxBytes, Math.floor(quota / 4))
  if (!(maxBytes >= bufferLength)) {
    return yield* refuse(`files of ${maxBytes} bytes are too small; at least ${bufferLength}`)
  }

  const clock = yield* Clock.Clock
  const monotonicMillis = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const disk = yield* LogDisk
  const format = options.format ?? formatJson
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  /** Open while something is to be written. */
  const busy = Latch.makeUnsafe(false)
  /** Open while something is to be compressed; an earlier run may have left something. */
  const archived = Latch.makeUnsafe(true)

  /** In the name of no fiber, as what was dropped was nobody's. */
  const formatDropped = (dropped: Dropped): string => {
    let formatted = ""
    runFork(
      Effect.withFiber((fiber) =>
        Effect.sync(() => {
          formatted = format.log({
            message: [describeDropped(dropped)],
            logLevel: "Warn",
            cause: Cause.empty,
            fiber,
            date: new Date(clock.currentTimeMillisUnsafe())
          })
        })
      ).pipe(
        Effect.provideService(References.CurrentLogAnnotations, {
          "lull.dropped.count": dropped.records,
          "lull.dropped.first": new Date(dropped.firstAt).toISOString(),
          "lull.dropped.last": new Date(dropped.lastAt).toISOString(),
          "lull.dropped.reason": dropped.reason
        }),
        Effect.provideService(References.CurrentLogSpans, [])
      )
    )
    return formatted
  }

  const writer = new FileWriter(
    disk,
    { path, quota, maxBytes, everyMillis: Number.isFinite(every) ? every : undefined, bufferLength },
    {
      wallMillis: () => clock.currentTimeMillisUnsafe(),
      monotonicMillis,
      formatDropped,
      onArchived: () => void archived.openUnsafe()
    }
  )
  try {
    writer.open()
  } catch (error) {
    const code = codeOf(error)
    if (permanent.has(code)) {
      return yield* refuse(
        code === "quota"
          ? `other files in ${writer.directory} take its quota of ${quota} bytes; give it a directory of its own or a larger quota`
          : errorText(error)
      )
    }
  }
  const stopWatching = disk.onExit(() => writer.close())
  const writers = writersOf(disk)
  writers.set(path, (writers.get(path) ?? 0) + 1)
  if (writers.get(path) === 2) {
    yield* passAlways(Effect.logWarning(
      `the log file ${path} is written by two RotatingFiles of this process, which share a quota that neither sees in full. ` +
        "Make one, and give its logger to both"
    ))
  }
  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => {
      stopWatching()
      writers.set(path, (writers.get(path) ?? 1) - 1)
      writer.close()
      return report
    })
  )

  // --- what is told of it elsewhere

  let failingSince: number | undefined
  let counted = { written: 0, dropped: 0 }
  const report = Effect.suspend(() => {
    const { droppedRecords: dropped, failure, writtenRecords: written } = writer
    const before = counted
    counted = { written, dropped }
    const metrics = Effect.all([
      Metric.update(writtenRecords, written - before.written),
      Metric.update(droppedRecords, dropped - before.dropped)
    ], { discard: true })
    const now = monotonicMillis()
    if (failure !== undefined && failingSince === undefined) {
      failingSince = now
      return Effect.andThen(
        metrics,
        passAlways(Effect.logWarning(`the log file ${path} cannot be written: ${failure}`))
      )
    }
    if (failure === undefined && failingSince !== undefined) {
      const lasted = Duration.format(Duration.millis(Math.round(now - failingSince)))
      failingSince = undefined
      return Effect.andThen(
        metrics,
        passAlways(
          Effect.logInfo(`the log file ${path} is written again after ${lasted}; ${dropped} records lost so far`)
        )
      )
    }
    return metrics
  })

  const flush = Effect.suspend(() => {
    writer.flush()
    return report
  })

  yield* Effect.forkScoped(Effect.forever(Effect.gen(function*() {
    if (!writer.isUnsettled) {
      busy.closeUnsafe()
      yield* busy.await
    }
    yield* Effect.sleep(flushAfter)
    yield* flush
  })))

  // --- compression

  const compressOne = Effect.suspend(() => {
    const source = writer.startCompression()
    if (source === undefined) return Effect.succeed(false)
    return Effect.tryPromise(async () => {
      for await (const bytes of disk.compressed(source)) if (!writer.addCompressed(bytes)) return false
      return writer.endCompression()
    }).pipe(
      Effect.orElseSucceed(() => false),
      Effect.ensuring(Effect.sync(() => writer.abortCompression()))
    )
  })

  if (options.compress !== false) {
    yield* Effect.forkScoped(Effect.forever(Effect.gen(function*() {
      yield* archived.await
      yield* Effect.sleep(compressAfter)
      archived.closeUnsafe()
      while (yield* compressOne);
      // For want of room, or of readable files.
      if (!writer.hasUncompressed) return
      yield* Effect.sleep(compressAgainAfter)
      archived.openUnsafe()
    })))
  }

  const made: RotatingFile = {
    logger: Logger.make((record) => {
      writer.append(format.log(record), record.logLevel === "Error" || record.logLevel === "Fatal")
      busy.openUnsafe()
    }),
    flush,
    reopen: Effect.suspend(() => {
      writer.reopen()
      return report
    }),
    counts: () => ({ written: writer.writtenRecords, dropped: writer.droppedRecords })
  }
  return made
})

/** How many write each file of a disk. */
const filesOfDisks = new WeakMap<LogDisk, Map<string, number>>()
const writersOf = (disk: LogDisk): Map<string, number> => {
  const files = filesOfDisks.get(disk) ?? new Map<string, number>()
  filesOfDisks.set(disk, files)
  return files
}

const describeDropped = ({ lastedMillis, reason, records }: Dropped) => {
  const many = records === 1 ? "1 log record was" : `${records} log records were`
  const lasted = lastedMillis > 0 ? ` over ${Duration.format(Duration.millis(Math.round(lastedMillis)))}` : ""
  return `${many} dropped${lasted}: ${reason}`
}

const records = Metric.counter("lull_log_file_records_total", {
  description: "Records for the log file, by what became of them",
  incremental: true
})
const writtenRecords = Metric.withAttributes(records, { outcome: "written" })
const droppedRecords = Metric.withAttributes(records, { outcome: "dropped" })
