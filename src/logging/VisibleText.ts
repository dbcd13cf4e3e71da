/**
 * Text of others, as a terminal may show it: pure. What a terminal would obey, or what would change the place, the order or the
 * sight of other text, is written as an escape.
 *
 * | what | becomes |
 * | --- | --- |
 * | C0, DEL and C1 controls, as ESC, BEL, a newline, CSI | `\x1b`, `\x07`, `\n`, `\x9b` |
 * | marks that change the direction of text (bidi), separators of lines and paragraphs | `\u202e`, `\u2028` |
 * | characters of no width that carry text unseen: tags, word joiners, annotations, U+FEFF | `\u{e0041}`, `\ufeff` |
 * | half characters | `\ud800` |
 *
 * A backslash stays as it is: nothing is read back from this. The joiners of scripts and of emoji (U+200C, U+200D) stay, too.
 */

/** `tabs`: of a line that has a layout of its own. `lines`: also its line ends, `\n` and `\r\n`. */
export type Kept = "tabs" | "lines"

const hidden = String.raw`\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_Control}` +
  String.raw`\u{200b}\u{2060}-\u{2064}\u{feff}\u{fff9}-\u{fffb}\u{e0000}-\u{e007f}`

/** What is looked for; of these, what stands in `keeps` is let through. */
const patterns = {
  none: new RegExp(`[${hidden}]`, "gu"),
  tabs: new RegExp(String.raw`(?!\t)[${hidden}]`, "gu"),
  lines: new RegExp(String.raw`(?!\t|\n|\r\n)[${hidden}]`, "gu")
}

const short: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }

const hex = (code: number, digits: number) => code.toString(16).padStart(digits, "0")

const escape = (character: string): string => {
  const code = character.codePointAt(0) ?? 0
  if (code > 0xffff) return `\\u{${hex(code, 5)}}`
  return short[character] ?? (code > 0xff ? `\\u${hex(code, 4)}` : `\\x${hex(code, 2)}`)
}

export const visible = (text: string, kept?: Kept): string => text.replace(patterns[kept ?? "none"], escape)

const escapeInJson = (characters: string): string => {
  let escaped = ""
  for (let at = 0; at < characters.length; at++) escaped += `\\u${hex(characters.charCodeAt(at), 4)}`
  return escaped
}

/** The same JSON, in one line, for whoever reads it as such: in its texts `\u009b` is what it was. */
export const visibleJson = (json: string): string => json.replace(patterns.none, escapeInJson)

/** Bytes that come in pieces, as they are for a terminal; what is no UTF-8 becomes U+FFFD. */
export interface VisibleBytes {
  readonly next: (bytes: Uint8Array) => Uint8Array
  /** What the last piece had left open. */
  readonly end: () => Uint8Array
}

export const makeVisibleBytes = (): VisibleBytes => {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true })
  const encoder = new TextEncoder()
  /** A carriage return at the end of a piece may be the first half of a line end. */
  let open = ""
  const show = (decoded: string, isLast: boolean) => {
    const text = open + decoded
    open = !isLast && text.endsWith("\r") ? "\r" : ""
    return encoder.encode(visible(open === "" ? text : text.slice(0, -1), "lines"))
  }
  return {
    next: (bytes) => show(decoder.decode(bytes, { stream: true }), false),
    end: () => show(decoder.decode(), true)
  }
}
