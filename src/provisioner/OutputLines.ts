/**
 * How bytes and texts become the lines of a job's output: UTF-8 with U+FFFD for what is not UTF-8 and for NUL (which
 * PostgreSQL does not take), one line per `\n`, a `\r` before it removed, long lines cut into pieces. The result depends
 * on the bytes only, never on how they were split into chunks.
 */

/**
 * Characters (UTF-16 units) of one line, marker included. A line is the unit in which output is cut, sent and shown, so
 * it has to be small beside a batch; and a progress bar without line ends must not collect in memory.
 */
export const maxLineLength = 16_384

/** The end of each piece of a long line but the last. */
export const lineGoesOn = " …[line goes on]"

export interface LineSplitter {
  /** The lines that are complete with these bytes. */
  readonly push: (bytes: Uint8Array) => Array<string>
  /** What is left when no more bytes come: a last line without line end, or nothing. */
  readonly end: () => Array<string>
}

export const lineSplitter = (): LineSplitter => {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true })
  let rest = ""
  const push = (decoded: string): Array<string> => {
    const text = rest + withoutNul(decoded)
    const lines = text.split("\n")
    rest = lines.pop() ?? ""
    const complete = pieces(lines.map(withoutReturn))
    // One more than the maximum may wait, as it may be a `\r` that belongs to the line end.
    while (rest.length > maxLineLength + 1) {
      const cut = cutAt(rest)
      complete.push(rest.slice(0, cut) + lineGoesOn)
      rest = rest.slice(cut)
    }
    return complete
  }
  return {
    push: (bytes) => push(decoder.decode(bytes, { stream: true })),
    end: () => {
      const complete = push(decoder.decode())
      const last = rest
      rest = ""
      return last === "" ? complete : [...complete, ...pieces([last])]
    }
  }
}

/** A text of unknown origin as lines that keep all rules of this module. */
export const toLines = (text: string): ReadonlyArray<string> =>
  text.length <= maxLineLength && !unfit.test(text)
    ? [text]
    : pieces(withoutNul(text).replace(/\p{Surrogate}/gu, "\uFFFD").split("\n").map(withoutReturn))

/** Bytes of a text in UTF-8. */
export const utf8Bytes = (text: string): number => {
  // Short lines are what comes by the million, and for them the call into native code costs more than the count.
  if (text.length > 32) return Buffer.byteLength(text)
  for (let index = 0; index < text.length; index++) {
    if (text.charCodeAt(index) > 0x7f) return Buffer.byteLength(text)
  }
  return text.length
}

/** What a line may not hold: a line end, NUL, half of a surrogate pair. */
const unfit = /[\n\0\p{Surrogate}]/u

const withoutNul = (text: string) => text.includes("\0") ? text.replaceAll("\0", "\uFFFD") : text

const withoutReturn = (line: string) => line.charCodeAt(line.length - 1) === 0x0d ? line.slice(0, -1) : line

const pieces = (lines: Array<string>): Array<string> => {
  if (!lines.some((line) => line.length > maxLineLength)) return lines
  return lines.flatMap((line) => {
    const result: Array<string> = []
    let left = line
    while (left.length > maxLineLength) {
      const cut = cutAt(left)
      result.push(left.slice(0, cut) + lineGoesOn)
      left = left.slice(cut)
    }
    result.push(left)
    return result
  })
}

/** Where to cut a line that is too long, so that piece and marker have the maximal length and no pair is broken. */
const cutAt = (line: string): number => {
  const cut = maxLineLength - lineGoesOn.length
  const last = line.charCodeAt(cut - 1)
  return last >= 0xd800 && last <= 0xdbff ? cut - 1 : cut
}
