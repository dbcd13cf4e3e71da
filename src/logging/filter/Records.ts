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

/** For what is read at once; of a longer line, for as long as it lasts. */
const ordinaryLength = 2 * 1_048_576

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

/** The bytes with which a line begins that is looked at more closely: most are not. */
const isSpecial = new Uint8Array(256)
for (const [first] of [...continuations, traceback, goroutine, ...panics, ..." \t\r\n}])".split("").map(bytesOf)]) {
  isSpecial[first ?? 0] = 1
}

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
  /** The log since the record that is open: read into the same memory over and over. */
  let buffer = new Uint8Array(ordinaryLength)
  /** Where that record begins, where its last complete line ends, and where the bytes end. */
  let from = 0
  let end = 0
  let filled = 0
  let mode: Mode = "plain"

  /** Whether the line `bytes[at…to)` belongs to the record before it; decides what the next may be. */
  const continues = (bytes: Uint8Array, at: number, to: number): boolean => {
    const first = bytes[at]!
    if (mode === "plain" && isSpecial[first] === 0) return false
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
    if (isSpecial[bytes[at]!] === 0) return
    for (const prefix of panics) if (startsWith(bytes, at, to, prefix)) mode = "go"
    if (startsWith(bytes, at, to, traceback)) mode = "python"
  }

  const take = (chunk: Uint8Array) => {
    if (filled + chunk.length > buffer.length) {
      const needed = filled - from + chunk.length
      // Twice as much, so that a line of many chunks is not copied for each; and no longer than it is needed.
      const fitting = needed > ordinaryLength ? 2 * needed : ordinaryLength
      const next = needed > buffer.length || buffer.length > 4 * fitting ? new Uint8Array(fitting) : buffer
      next.set(buffer.subarray(from, filled))
      buffer = next
      end -= from
      filled -= from
      from = 0
    }
    buffer.set(chunk, filled)
    filled += chunk.length
  }

  const write = (chunk: Uint8Array) => {
    const seen = filled - from
    take(chunk)
    // What was there has no further end of a line.
    // Buffer finds a byte in half the time that Uint8Array takes.
    const bytes = Buffer.from(buffer.buffer, 0, filled)
    let next = bytes.indexOf(newline, from + seen)
    while (next >= 0) {
      const lineEnd = next + 1
      if (end === from) begin(buffer, end, lineEnd)
      else if (buffer[end] === brace || end - from > longestTrace || !continues(buffer, end, lineEnd)) {
        options.record(buffer, from, end)
        from = end
        begin(buffer, end, lineEnd)
      }
      end = lineEnd
      next = bytes.indexOf(newline, end)
    }
  }

  const give = (to: number) => {
    if (to > from) options.record(buffer, from, to)
    from = to
    end = to
  }

  return {
    write,
    close: (atEnd) => {
      if (!atEnd) return give(end)
      // The last line may have no end.
      if (end > from && filled > end && (buffer[end] === brace || !continues(buffer, end, filled))) give(end)
      give(filled)
    },
    isOpen: () => end > from
  }
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
