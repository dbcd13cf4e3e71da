/** `lull filter`: the log of any program, from standard input to standard output, without its repeats. */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
// By module: all of `effect` takes as long to load as all the rest of a filter.
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Latch from "effect/Latch"
import type * as PlatformError from "effect/PlatformError"
import * as Semaphore from "effect/Semaphore"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import { isatty } from "node:tty"
import * as Filter from "../logging/filter/Filter.ts"
import { makeVisibleBytes, visible } from "../logging/VisibleText.ts"
import { ExitWith } from "./ExitWith.ts"

const unitMillis: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }

const parseWindow = (text: string): number => {
  const [, count, unit = ""] = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text) ?? []
  const millis = Number(count) * (unitMillis[unit] ?? Number.NaN)
  if (!(millis >= 1)) throw new Error(`${JSON.stringify(text)} should be a time, as 10s, 500ms or 2m`)
  return millis
}

/** A record that is complete is not kept from its reader for longer, when no further line comes. */
const patience = 100

/** So many of the noisiest kinds, each with so much of its first record. */
const reported = 20
const reportedLength = 160

/** Who reads our output has had enough. */
const isBrokenPipe = (error: PlatformError.PlatformError) =>
  /EPIPE|ERR_STREAM_DESTROYED/.test(String(error.reason.cause ?? error))

const concatenated = (parts: ReadonlyArray<Uint8Array>) => parts.length === 1 ? parts[0]! : Buffer.concat(parts)

/** Where repeats are told: a stream of ours, or the number of a file descriptor. */
type Summaries = "stdout" | "stderr" | number

const parseSummaries = (text: string): Summaries => {
  if (text === "stdout" || text === "stderr") return text
  const descriptor = /^\d{1,4}$/.test(text) ? Number(text) : Number.NaN
  if (descriptor === 1) return "stdout"
  if (descriptor === 2) return "stderr"
  if (!(descriptor > 2)) throw new Error(`${JSON.stringify(text)} should be stdout, stderr or a file descriptor, as 3`)
  return descriptor
}

/** Byte by byte for a program or a file; what a terminal would obey is shown to it, as the log is anybody's. */
const asIs = { next: (bytes: Uint8Array) => bytes, end: () => new Uint8Array(0) }
const formFor = (isTerminal: boolean) => isTerminal ? makeVisibleBytes() : asIs

const run = Effect.fnUntraced(function*(options: Filter.Options & { readonly summaries: Summaries }) {
  const stdio = yield* Stdio.Stdio
  const ofOutput = formFor(yield* stdio.stdoutIsTerminal)
  const ofSummaries = formFor(
    typeof options.summaries === "number" ? isatty(options.summaries) : yield* stdio.stderrIsTerminal
  )
  const files = yield* FileSystem.FileSystem
  const summaries = typeof options.summaries === "number"
    ? files.sink(`/dev/fd/${options.summaries}`, { flag: "a" })
    : stdio.stderr()
  const clock = yield* Clock.Clock
  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const at = () => clock.currentTimeMillisUnsafe()
  const encoder = new TextEncoder()
  let output: Array<Uint8Array> = []
  let told: Array<Uint8Array> = []
  const filter = Filter.make(options, {
    pass: (bytes) => output.push(bytes.slice()),
    tell: (line) => (options.summaries === "stdout" ? output : told).push(encoder.encode(`${line}\n`))
  })
  const writing = yield* Semaphore.make(1)
  const busy = Latch.makeUnsafe(false)

  // One at a time, and waited for: what the reader does not take is not read either.
  const flush = writing.withPermit(Effect.suspend(() => {
    const parts = output
    const lines = told
    output = []
    told = []
    return Effect.andThen(
      parts.length === 0 ? Effect.void : Stream.run(Stream.make(ofOutput.next(concatenated(parts))), stdio.stdout()),
      lines.length === 0 ? Effect.void : Stream.run(Stream.make(ofSummaries.next(concatenated(lines))), summaries)
    )
  }))

  const flushLast = Effect.andThen(
    flush,
    Effect.suspend(() => {
      const rest = ofOutput.end()
      return rest.length === 0 ? Effect.void : Stream.run(Stream.make(rest), stdio.stdout())
    })
  )

  const keepTime = Effect.forever(Effect.gen(function*() {
    const due = filter.nextDue()
    if (!filter.isOpen() && due === undefined) {
      busy.closeUnsafe()
      yield* busy.await
    }
    yield* Effect.sleep(patience)
    filter.tick(now(), at())
    yield* flush
  }))

  const read = Stream.runForEach(stdio.stdin, (chunk) => {
    filter.write(chunk, now(), at())
    busy.openUnsafe()
    return flush
  })

  const end = Effect.suspend(() => {
    filter.end(now(), at())
    return options.stats === true ? Stream.run(Stream.make(report(filter)), stdio.stdout()) : flushLast
  })

  yield* Effect.raceFirst(read, keepTime).pipe(
    Effect.onInterrupt(() => Effect.ignore(end)),
    Effect.andThen(end),
    // As a program ends that gets SIGPIPE; to leave it to the end of the input could take for ever.
    Effect.catchIf(isBrokenPipe, () => Effect.die(new ExitWith(128 + 13)))
  )
})

/** What repeated most. */
const report = (filter: Filter.Filter): string => {
  const noise = filter.report()
  const records = noise.reduce((sum, { count }) => sum + count, 0)
  const bytes = noise.reduce((sum, each) => sum + each.bytes, 0)
  const rows = noise.slice(0, reported).map(({ bytes: size, count, sample }) => {
    // A kind is a line of the report, wherever that goes.
    const head = visible((sample.split("\n")[0] ?? "").replace(/\r$/, ""))
    const shown = head.length > reportedLength ? `${head.slice(0, reportedLength)}…` : head
    return `${String(count).padStart(10)}  ${percent(count, records).padStart(6)}  ${
      percent(size, bytes).padStart(6)
    }  ${shown}`
  })
  const title = `${"records".padStart(10)}  ${"share".padStart(6)}  ${"bytes".padStart(6)}  first of the kind`
  const more = noise.length > reported ? [`and ${noise.length - reported} further kinds`] : []
  const kinds = noise.length === 1 ? "1 kind" : `${noise.length} kinds`
  return [`${records} records of ${kinds}, ${bytes} bytes`, title, ...rows, ...more].map((line) => `${line}\n`).join("")
}

const percent = (part: number, whole: number) => `${whole === 0 ? 0 : Math.round(1_000 * part / whole) / 10}%`

export const filter = Command.make(
  "filter",
  {
    window: Flag.String("window").pipe(
      Flag.withDescription("When repeats are told first, as 10s; then after twice as long each time"),
      Flag.withDefault("10s"),
      Flag.mapTryCatch(parseWindow, (error) => error instanceof Error ? error.message : String(error))
    ),
    adjacent: Flag.Boolean("adjacent").pipe(
      Flag.withDescription("Hold only repeats that follow one another"),
      Flag.withDefault(false)
    ),
    eventTime: Flag.Boolean("event-time").pipe(
      Flag.withDescription("Go by the times in the log: for logs that were written before"),
      Flag.withDefault(false)
    ),
    format: Flag.Literals("format", ["auto", "text", "json", "logfmt"]).pipe(
      Flag.withDescription("How the records are written; auto looks at each"),
      Flag.withDefault("auto" as const)
    ),
    key: Flag.String("key").pipe(
      Flag.withDescription("Fields that make a JSON or logfmt record the same as another, as level,msg"),
      Flag.withDefault("")
    ),
    summaries: Flag.String("summaries").pipe(
      Flag.withDescription("Where repeats are told: stdout, stderr, or the number of a file descriptor"),
      Flag.withDefault("stdout"),
      Flag.mapTryCatch(parseSummaries, (error) => error instanceof Error ? error.message : String(error))
    ),
    stats: Flag.Boolean("stats").pipe(
      Flag.withDescription("Print what repeats most, instead of the log"),
      Flag.withDefault(false)
    )
  },
  ({ adjacent, eventTime, format, key, stats, summaries, window }) =>
    run({
      windowMillis: window,
      adjacent,
      eventTime,
      format,
      keys: key.split(",").map((name) => name.trim()).filter(Boolean),
      stats,
      summaries
    })
).pipe(
  Command.withDescription("Take the repeats out of any program's log: program 2>&1 | lull filter"),
  Command.withShortDescription("Take the repeats out of a log")
)
