/**
 * The log of any program without its repeats: bytes in, bytes out. Pure, but for its own state; who calls it brings the time.
 *
 * What passes is byte for byte what came, in its order. A summary stands where it is due, in the format of its record.
 * Records are compared by their masked bytes (`Masking`); of structured ones by the chosen fields, where some are chosen.
 */
import { withoutCorrelations } from "../Correlations.ts"
import * as Deduplication from "../Deduplication.ts"
import { longestOutput, mask } from "../Masking.ts"
import * as Shapes from "../Shapes.ts"
import * as Formats from "./Formats.ts"
import * as Records from "./Records.ts"

export interface Options {
  /** When repeats are told first, in milliseconds; then after twice as long each time, up to 60 times as long. Default 10,000. */
  readonly windowMillis?: number | undefined
  /** Only repeats that follow one another, as `uniq` does it. Default false. */
  readonly adjacent?: boolean | undefined
  /** The time is that of the records, not that of the clock: for logs that were written before. Default false. */
  readonly eventTime?: boolean | undefined
  /** Default: each line is looked at. */
  readonly format?: Formats.Format | "auto" | undefined
  /** Fields that make a structured record the same as another. Default: all of it, masked. */
  readonly keys?: ReadonlyArray<string> | undefined
  /** Instead of the log, what repeats most: see `report`. Default false. */
  readonly stats?: boolean | undefined
}

export interface Filter {
  /** Takes bytes of the log. `now`: of a clock that only goes forward; `at`: of the one that is shown. */
  readonly write: (chunk: Uint8Array, now: number, at: number) => void
  /** After a pause: a record that is complete need not wait for the next line; and what is due is told. */
  readonly tick: (now: number, at: number) => void
  /** The log is at its end: all is told. */
  readonly end: (now: number, at: number) => void
  /** When something is due; `undefined` if nothing is. */
  readonly nextDue: () => number | undefined
  readonly isOpen: () => boolean
  readonly counts: () => Deduplication.Counts
  /** What repeated most, the most frequent first. */
  readonly report: () => ReadonlyArray<Noise>
}

export interface Noise {
  readonly count: number
  readonly bytes: number
  /** The first of the kind. */
  readonly sample: string
}

export interface Output {
  /** What passes. The bytes are the callee's for the time of the call only. */
  readonly pass: (bytes: Uint8Array) => void
  readonly tell: (line: string) => void
}

const newline = 10
const carriageReturn = 13

/** Of a record that is compared: so much of its beginning. What is written is not cut. */
const longestCompared = 4_096

/** Of a record that is kept to be told. */
const longestKept = 8_192

/** Kinds that a report tells apart; the rest is one. */
const reportedKinds = 10_000

const decoder = new TextDecoder()

export const make = (options: Options, output: Output): Filter => {
  const window = Math.max(1, options.windowMillis ?? 10_000)
  const masked = Buffer.alloc(longestOutput(longestCompared))
  const variable = new Uint8Array(longestCompared)
  const shapes = Shapes.make<string>()
  const noise = new Map<string, { count: number; bytes: number; readonly sample: string }>()
  let now = 0
  let at = 0
  /** By the records, where their time is the clock. */
  let eventNow: number | undefined

  // --- what passes, in runs of bytes that stand together

  let run: { readonly bytes: Uint8Array; readonly from: number; to: number } | undefined
  let isLineOpen = false
  const passRun = () => {
    if (run === undefined) return
    isLineOpen = run.bytes[run.to - 1] !== newline
    output.pass(run.bytes.subarray(run.from, run.to))
    run = undefined
  }
  const pass = (bytes: Uint8Array, from: number, to: number) => {
    if (run?.bytes === bytes && run.to === from) run.to = to
    else {
      passRun()
      run = { bytes, from, to }
    }
  }
  const tell = (line: string) => {
    passRun()
    // Only the last line of a log may have no end.
    output.tell(isLineOpen ? `\n${line}` : line)
    isLineOpen = false
  }

  const tellHeld = (
    held: Pick<Deduplication.Held<string, never>, "sample" | "count" | "firstAt" | "lastAt" | "lastedMillis">
  ) => tell(Formats.summary(held.sample, held))

  const deduplication = Deduplication.make<string>(
    {
      shortestMillis: window,
      longestMillis: 60 * window,
      kinds: 10_000,
      bytes: 32 * 1_048_576,
      budgetPerSecond: 10_000
    },
    {
      held: tellHeld,
      overflow: ({ kinds, lastedMillis, records }) =>
        tell(
          `lull: ${records} records of ${kinds} further kinds held over ${
            Math.round(lastedMillis / 1_000)
          }s: too many different ones`
        )
    }
  )

  // --- what is the same

  const kindFrom = (maskedLength: number) => withoutCorrelations(masked.toString("latin1", 0, maskedLength))

  const kindOf = (bytes: Uint8Array, from: number, to: number): string => {
    let end = Math.min(to, from + longestCompared)
    // How a line ends makes no kind.
    while (end > from && (bytes[end - 1] === newline || bytes[end - 1] === carriageReturn)) end--
    if (options.keys !== undefined && options.keys.length > 0) {
      const line = decoder.decode(bytes.subarray(from, to)).trimEnd()
      const format = formatFor(line)
      if (format !== "text") {
        const fields = Formats.fieldsOf(line, format)
        return options.keys.map((name) => {
          const value = JSON.stringify(fields[name]) ?? ""
          return `${value.length}:${value}`
        }).join("")
      }
    }
    const known = shapes.find(bytes, from, end)
    if (known !== undefined) return known
    if (!shapes.isWorthAdding()) return kindFrom(mask(bytes, from, end, masked))
    variable.fill(0, 0, end - from)
    const kind = kindFrom(mask(bytes, from, end, masked, variable))
    shapes.add(bytes, from, end, variable, kind)
    return kind
  }

  const formatFor = (line: string): Formats.Format =>
    options.format === undefined || options.format === "auto" ? Formats.formatOf(line) : options.format

  const sampleOf = (bytes: Uint8Array, from: number, to: number) =>
    decoder.decode(bytes.subarray(from, Math.min(to, from + longestKept)))

  // --- adjacent repeats only

  let last: {
    readonly kind: string
    readonly sample: string
    held: number
    firstAt: number
    lastAt: number
    since: number
  } | undefined
  let received = 0
  let passed = 0
  let told = 0
  const tellLast = () => {
    if (last === undefined || last.held === 0) return
    const { firstAt, held: count, lastAt, sample, since } = last
    told += count
    last.held = 0
    last.since = now
    tellHeld({ sample, count, firstAt, lastAt, lastedMillis: now - since })
  }
  const receiveAdjacent = (kind: string, sample: () => string) => {
    received++
    if (last?.kind === kind) {
      if (last.held++ === 0) last.firstAt = at
      last.lastAt = at
      return false
    }
    tellLast()
    last = { kind, sample: sample(), held: 0, firstAt: at, lastAt: at, since: now }
    passed++
    return true
  }

  // --- records

  const count = (kind: string, bytes: Uint8Array, from: number, to: number) => {
    const known = noise.get(kind) ?? (noise.size < reportedKinds ? undefined : noise.get(""))
    if (known !== undefined) {
      known.count++
      known.bytes += to - from
      return
    }
    const isRest = noise.size >= reportedKinds
    noise.set(isRest ? "" : kind, {
      count: 1,
      bytes: to - from,
      sample: isRest ? "(all further kinds)" : sampleOf(bytes, from, to)
    })
  }

  const records = Records.make({
    record: (bytes, from, to) => {
      const kind = kindOf(bytes, from, to)
      if (options.stats === true) {
        received++
        return count(kind, bytes, from, to)
      }
      if (options.eventTime === true) goTo(bytes, from, to)
      const isPassing = options.adjacent === true
        ? receiveAdjacent(kind, () => sampleOf(bytes, from, to))
        : deduplication.receive({ now, at, kind, level: 0 }, () => {
          const sample = sampleOf(bytes, from, to)
          return { sample, bytes: 2 * sample.length }
        })
      if (isPassing) pass(bytes, from, to)
    }
  })

  /** The clock is the record's own time; it does not go back, and what became due is told before the record. */
  const goTo = (bytes: Uint8Array, from: number, to: number) => {
    const end = bytes.indexOf(newline, from)
    const line = decoder.decode(bytes.subarray(from, end < 0 ? to : Math.min(end, to)))
    const time = Formats.timeOf(line, formatFor(line), new Date(at).getUTCFullYear())
    if (time === undefined) return
    at = time
    eventNow = Math.max(eventNow ?? time, time)
    advance(eventNow)
  }

  /** Tells everything at the time at which it was due. */
  const advance = (to: number) => {
    for (;;) {
      const due = nextDue()
      if (due === undefined || due > to) break
      now = Math.max(now, due)
      if (options.adjacent === true) tellLast()
      else deduplication.tick(now)
    }
    now = Math.max(now, to)
  }

  const nextDue = () =>
    options.adjacent === true
      ? last === undefined || last.held === 0 ? undefined : last.since + window
      : deduplication.nextDue()

  const setTime = (given: number, shown: number) => {
    if (options.eventTime === true && eventNow !== undefined) return
    now = given
    if (options.eventTime !== true) at = shown
  }

  return {
    write: (chunk, given, shown) => {
      if (options.eventTime !== true) {
        at = shown
        advance(given)
      }
      records.write(chunk)
      passRun()
    },
    tick: (given, shown) => {
      setTime(given, shown)
      records.close(false)
      if (options.eventTime !== true) advance(given)
      passRun()
    },
    end: (given, shown) => {
      setTime(given, shown)
      records.close(true)
      if (options.adjacent === true) tellLast()
      else deduplication.flush(now)
      passRun()
    },
    nextDue,
    isOpen: records.isOpen,
    counts: () => {
      if (options.adjacent !== true && options.stats !== true) return deduplication.counts()
      const held = last?.held ?? 0
      return { received, passed, told, held, evicted: 0, overflowed: 0, kinds: noise.size, bytes: 0 }
    },
    report: () => [...noise.values()].sort((a, b) => b.count - a.count)
  }
}
