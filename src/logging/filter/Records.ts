/**
 * A log of any program as records: a line, and the lines that belong to it. Pure, on bytes; nothing is decoded, changed or
 * copied but what is still incomplete.
 *
 * To the record before belong: lines that begin with a blank or a tab, empty lines within a trace, `Caused by:` and `… more`
 * of Java, closing brackets of a printed object, the frames of a Go trace up to its end, and after a `Traceback` of Python its
 * last line. A JSON line is a record by itself.
 *
 * A record is complete when the next one begins, or when its reader says so after a pause (`close`): a first record must
 * not wait for a second.
 */

const newline = 10
const bytesOf = (text: string) => new TextEncoder().encode(text)

const startsWith = (bytes: Uint8Array, at: number, to: number, prefix: Uint8Array) => {
  if (at + prefix.length > to) return false
  for (let i = 0; i < prefix.length; i++) if (bytes[at + i] !== prefix[i]) return false
  return true
}

const continuations = ["Caused by:", "Suppressed:", "... ", "During handling of the above", "The above exception"].map(
  bytesOf
)
const traceback = bytesOf("Traceback (most recent call last)")
const goroutine = bytesOf("goroutine ")
const panics = ["panic: ", "fatal error: ", "SIGSEGV: ", "SIGABRT: "].map(bytesOf)
const brace = 0x7b

/** What the lines after this one may be. */
type Mode = "plain" | "python" | "go"

export interface Records {
  /** Takes bytes; calls back for each record that is complete, with its place in the bytes of this call. */
  readonly write: (chunk: Uint8Array) => void
  /** What there is without an end of line, or without a following record, is a record now. `atEnd`: nothing comes after it. */
  readonly close: (atEnd: boolean) => void
  /** Whether something waits to be completed. */
  readonly isOpen: () => boolean
}

export interface Options {
  /** Called with each record: `bytes[from…to)`, line ends included. The bytes are the callee's for the time of the call only. */
  readonly record: (bytes: Uint8Array, from: number, to: number) => void
  /** A record of several lines is given in parts when it is longer. Default 64 KiB. */
  readonly longestTrace?: number | undefined
}

export const make = (options: Options): Records => {
  const longestTrace = options.longestTrace ?? 65_536
  /** Bytes of the record that is open, from calls before, and how much of them are complete lines. */
  let kept: Uint8Array = new Uint8Array(0)
  let keptLines = 0
  let mode: Mode = "plain"

  /** Whether the line `bytes[at…to)` belongs to the record before it; decides what the next may be. */
  const continues = (bytes: Uint8Array, at: number, to: number): boolean => {
    const first = bytes[at]
    const isEmpty = first === newline || (first === 13 && bytes[at + 1] === newline)
    if (mode === "go") {
      if (isEmpty || first === 0x20 || first === 0x09) return true
      if (startsWith(bytes, at, to, goroutine)) return true
      // A frame: `main.run(…)`, `created by main.main`, `exit status 2`.
      if (isFrame(bytes, at, to)) return true
      mode = "plain"
    }
    if (isEmpty) return mode !== "plain"
    if (first === 0x20 || first === 0x09) return true
    if (mode === "python") {
      // The line after the frames says what was raised; only notes to it come later.
      mode = "plain"
      return true
    }
    if (first === 0x7d || first === 0x5d || first === 0x29) return true
    if (startsWith(bytes, at, to, traceback)) {
      mode = "python"
      return true
    }
    if (startsWith(bytes, at, to, goroutine)) {
      mode = "go"
      return true
    }
    for (const prefix of continuations) if (startsWith(bytes, at, to, prefix)) return true
    return false
  }

  const begin = (bytes: Uint8Array, at: number, to: number) => {
    mode = "plain"
    for (const prefix of panics) if (startsWith(bytes, at, to, prefix)) mode = "go"
    if (startsWith(bytes, at, to, traceback)) mode = "python"
  }

  /** Chunks of a line whose end has not come: joined when it does, as a line may be longer than many of them. */
  let pieces: Array<Uint8Array> = []

  const write = (chunk: Uint8Array) => {
    if (chunk.length === 0) return
    const firstEnd = chunk.indexOf(newline)
    if (firstEnd < 0) {
      pieces.push(chunk)
      return
    }
    const before = joined([kept, ...pieces])
    const bytes = before.length === 0 ? chunk : joined([before, chunk])
    pieces = []
    // Where the open record begins, where its last complete line ends, and where the search for the next end goes on.
    let from = 0
    let end = keptLines
    let at = keptLines
    let next = before.length + firstEnd
    while (next >= 0) {
      const lineEnd = next + 1
      if (end === from) begin(bytes, at, lineEnd)
      else if (bytes[at] === brace || end - from > longestTrace || !continues(bytes, at, lineEnd)) {
        options.record(bytes, from, end)
        from = end
        begin(bytes, at, lineEnd)
      }
      end = lineEnd
      at = lineEnd
      next = bytes.indexOf(newline, at)
    }
    keptLines = end - from
    kept = bytes.slice(from)
  }

  return {
    write,
    close: (atEnd) => {
      if (atEnd) {
        // The last line may have no end.
        const bytes = joined([kept, ...pieces])
        const rest = bytes.length > keptLines
        if (keptLines > 0 && rest && (bytes[keptLines] === brace || !continues(bytes, keptLines, bytes.length))) {
          options.record(bytes, 0, keptLines)
          options.record(bytes, keptLines, bytes.length)
        } else if (bytes.length > 0) options.record(bytes, 0, bytes.length)
        kept = new Uint8Array(0)
        pieces = []
      } else if (keptLines > 0) {
        options.record(kept, 0, keptLines)
        kept = kept.slice(keptLines)
      }
      keptLines = 0
    },
    isOpen: () => keptLines > 0
  }
}

const joined = (parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const filled = parts.filter((part) => part.length > 0)
  if (filled.length <= 1) return filled[0] ?? new Uint8Array(0)
  const whole = new Uint8Array(filled.reduce((length, part) => length + part.length, 0))
  let at = 0
  for (const part of filled) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

/** A line of a Go trace that is not indented: a call, `created by …`, a register, `[signal …`. */
const isFrame = (bytes: Uint8Array, at: number, to: number) => {
  if (startsWith(bytes, at, to, createdBy) || startsWith(bytes, at, to, exitStatus) || bytes[at] === 0x5b) return true
  let hasDot = false
  for (let i = at; i < to && i - at < 512; i++) {
    const byte = bytes[i]!
    if (byte === 0x28) return hasDot
    if (byte === 0x20) return false
    if (byte === 0x2e) hasDot = true
  }
  return false
}
const createdBy = bytesOf("created by ")
const exitStatus = bytesOf("exit status ")
