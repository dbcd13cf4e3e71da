/**
 * The buffer between a running job and the store: takes lines without ever waiting, and hands them out in batches that
 * may be sent again until they are acknowledged. One per attempt of a job.
 *
 * Two limits bound it, and a line counts as its UTF-8 bytes and `lineOverhead` against both:
 *
 * - **total**: what one attempt may store. The first line that does not fit ends the output; the rest is counted.
 * - **unsent**: what waits in memory while the database is away or slow. When it is full, the *newest* lines are dropped
 *   and counted, so that the beginning of a trouble is kept, until half of the buffer has been acknowledged: a gap is
 *   then one long one, not every second line.
 *
 * At the place of a gap one line of the stream `lull` says what is missing and why. Such markers count against no limit;
 * they are few, as half a buffer lies between two of them. Indexes have no gaps: dropped lines never had one.
 *
 * Not promised: that the buffer outlives the process. What was not sent when the process dies is lost without a marker.
 */
import { Clock, Effect, Latch } from "effect"
import type { JobOutput } from "./Executor.ts"
import type { OutputLine } from "./Job.ts"
import { toLines, utf8Bytes } from "./OutputLines.ts"

/**
 * What a line costs beside its text: in PostgreSQL a row's header, key and index entry; in memory an object. Without it,
 * a job that prints empty lines would have no limit.
 */
export const lineOverhead = 64

const mebibyte = 1_048_576

/** Enough for the log of a long `terraform apply`; a thousand jobs that reach it take 8 GiB of the database. */
export const defaultTotalBytes = 8 * mebibyte

/** At a chatty 10 kB/s an outage of seven minutes without a gap; a hundred jobs that reach it take 400 MiB of memory. */
export const defaultUnsentBytes = 4 * mebibyte

export interface Options {
  /** Limit of one attempt's stored output. Default 8 MiB. */
  readonly totalBytes?: number | undefined
  /** Limit of what waits to be stored; the line that reaches it is still taken. Default 4 MiB. */
  readonly unsentBytes?: number | undefined
}

export interface OutputBuffer extends JobOutput {
  /**
   * The oldest lines that are not acknowledged, as many as fit in `maxBytes`, but at least one if there is one. They stay
   * in the buffer: without `acknowledge` the next call begins with the same lines and indexes, and may hold more of them.
   */
  readonly take: (maxBytes: number) => Effect.Effect<ReadonlyArray<OutputLine>>
  /** Lines with an index **below** `upTo` are stored. Going back, or beyond what there is, changes nothing. */
  readonly acknowledge: (upTo: number) => Effect.Effect<void>
  /** Lines with an index **below** `upTo` can not be stored, for this reason: they are cut, and the cut is marked. */
  readonly refuse: (upTo: number, reason: string) => Effect.Effect<void>
  /** The job has ended: an open gap gets its marker, and lines written from now on are ignored. May be called again. */
  readonly finish: Effect.Effect<void>
  /**
   * Waits until `take` has something to give, and is then `true`, also for lines that were handed out before. `false`
   * means the end: the job is finished and everything is acknowledged.
   */
  readonly awaitLines: Effect.Effect<boolean>
}

export const make = (options: Options = {}): Effect.Effect<OutputBuffer> =>
  Effect.sync(() => {
    const log = makeLog({
      totalBytes: options.totalBytes ?? defaultTotalBytes,
      unsentBytes: options.unsentBytes ?? defaultUnsentBytes
    })
    // Open as long as a waiting sender has something to do: to send, or to end.
    const due = Latch.makeUnsafe(false)
    const change = (run: (at: number) => void) =>
      Effect.flatMap(Clock.currentTimeMillis, (at) => {
        run(at)
        return Effect.asVoid(log.hasLines() || log.isFinished() ? due.open : due.close)
      })
    // Between the opening and the waiter's turn the lines may have been acknowledged.
    const awaitLines: Effect.Effect<boolean> = Effect.flatMap(
      due.await,
      () => log.hasLines() ? Effect.succeed(true) : log.isFinished() ? Effect.succeed(false) : awaitLines
    )
    return {
      write: (stream, lines) => change((at) => log.write(at, stream, lines)),
      take: (maxBytes) => Effect.sync(() => log.take(maxBytes)),
      acknowledge: (upTo) => change((at) => log.acknowledge(at, upTo)),
      refuse: (upTo, reason) => change((at) => log.refuse(at, upTo, reason)),
      finish: change((at) => log.finish(at)),
      awaitLines
    }
  })

/** Why lines are being dropped, and how many were. */
interface Cut {
  readonly reason: "total" | "unsent"
  lines: number
  bytes: number
}

/** The buffer without Effect: mutable, but every change is a function of its arguments. */
const makeLog = (limits: { readonly totalBytes: number; readonly unsentBytes: number }) => {
  let entries: Array<{ readonly line: OutputLine; readonly size: number }> = []
  let next = 0
  let total = 0
  let unsent = 0
  let cut: Cut | undefined
  let finished = false

  const append = (at: number, stream: OutputLine["stream"], text: string, size: number) => {
    entries.push({ line: { index: next++, stream, at, text }, size })
    total += size
    unsent += size
  }

  const mark = (at: number) => {
    if (cut === undefined) return
    append(at, "lull", describeCut(cut, limits), 0)
    cut = undefined
  }

  const write = (at: number, stream: OutputLine["stream"], lines: ReadonlyArray<string>) => {
    if (finished) return
    for (const given of lines) {
      if (cut !== undefined) {
        count(cut, given)
        continue
      }
      for (const text of toLines(given)) {
        const size = utf8Bytes(text) + lineOverhead
        if (cut === undefined && total + size > limits.totalBytes) cut = { reason: "total", lines: 0, bytes: 0 }
        else if (cut === undefined && unsent >= limits.unsentBytes) cut = { reason: "unsent", lines: 0, bytes: 0 }
        if (cut === undefined) append(at, stream, text, size)
        else count(cut, text)
      }
    }
  }

  const take = (maxBytes: number): ReadonlyArray<OutputLine> => {
    let bytes = 0
    let end = 0
    for (const { size } of entries) {
      bytes += size
      if (bytes > maxBytes && end > 0) break
      end++
    }
    return entries.slice(0, end).map(({ line }) => line)
  }

  const acknowledge = (at: number, upTo: number) => {
    const first = next - entries.length
    if (upTo <= first || upTo > next) return
    for (const { size } of entries.slice(0, upTo - first)) unsent -= size
    entries = entries.slice(upTo - first)
    if (cut?.reason === "unsent" && unsent <= limits.unsentBytes / 2) mark(at)
  }

  /** The marker has the place of the first: indexes have no gaps. */
  const refuse = (at: number, upTo: number, reason: string) => {
    const first = next - entries.length
    const count = upTo - first
    const [refused] = entries
    if (count <= 0 || upTo > next || refused === undefined) return
    for (const { size } of entries.slice(0, count)) unsent -= size
    const what = count === 1 ? "1 line was" : `${count} lines were`
    const text = toLines(`[lull: ${what} cut here: ${reason}]`)[0] ?? ""
    const marker = { line: { index: upTo - 1, stream: "lull" as const, at, text }, size: 0 }
    entries = [marker, ...entries.slice(count)]
  }

  const finish = (at: number) => {
    mark(at)
    finished = true
  }

  return { write, take, acknowledge, refuse, finish, hasLines: () => entries.length > 0, isFinished: () => finished }
}

const count = (cut: Cut, text: string) => {
  cut.lines++
  cut.bytes += utf8Bytes(text) + 1
}

const describeCut = (cut: Cut, limits: { readonly totalBytes: number; readonly unsentBytes: number }) => {
  const what = cut.lines === 1 ? `1 line (${cut.bytes} bytes) was` : `${cut.lines} lines (${cut.bytes} bytes) were`
  const why = cut.reason === "total"
    ? `the limit of ${inUnits(limits.totalBytes)} of output was reached`
    : `the database was away or too slow, and the buffer of ${inUnits(limits.unsentBytes)} was full`
  return `[lull: ${what} cut here: ${why}]`
}

const inUnits = (bytes: number): string =>
  bytes % mebibyte === 0 ? `${bytes / mebibyte} MiB` : bytes % 1024 === 0 ? `${bytes / 1024} KiB` : `${bytes} bytes`
