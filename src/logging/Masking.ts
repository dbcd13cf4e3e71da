/**
 * What is variable in a line of text, replaced by what kind of thing it is, so that records of one kind are equal. Pure, on
 * the bytes of UTF-8, in one pass: the time is linear in the length, whatever the line.
 *
 * | in the line | becomes |
 * | --- | --- |
 * | `0b9f8a52-7a2e-4c31-9d8e-2f3b9c1d7e60` | `<uuid>` |
 * | 8 and more hexadecimal digits with letters and digits among them, `0x7f3a` , `aa:bb:cc:dd:ee:ff` | `<hex>` |
 * | `10.0.0.1`, `fe80::1`, `::1` | `<ip>` |
 * | `2026-01-31T12:00:00.123Z`, `2026/01/31 12:00:00`, `12:00:00,123` | `<time>` |
 * | `42`, `-1.5`, `1.5s`, `3m20s`, `250 ms`, `4.2 MiB`, `97%` | `<n>` |
 *
 * Never masked, as they tell one kind from another:
 *
 * - numbers after `code`, `errno`, `status`, `exit`, `signal`, `SQLSTATE`, `error`, `line`, `level`, also as the end of a name
 *   (`statusCode`, `exit_code`), whatever of ` :=("'#[-` stands between;
 * - a number at the place of an HTTP status: after `HTTP`, or `HTTP/1.1"`, or `GET /path`, or of the form `503 Service …`;
 * - positions in source files: `main.go:42`, `index.js:12:5`;
 * - digits within a word: `sha256`, `57P01`, `eth0`, `v1.2`; `ORA-00942`.
 */

const letter = 1
const digit = 2
const hexLetter = 4

/** What a byte is. Bytes beyond ASCII are parts of letters. */
const kinds = new Uint8Array(256)
for (let byte = 0; byte < 256; byte++) {
  const text = String.fromCharCode(byte)
  if (/[0-9]/.test(text)) kinds[byte] = digit
  else if (/[a-fA-F]/.test(text)) kinds[byte] = letter | hexLetter
  else if (/[g-zG-Z]/.test(text) || byte >= 0x80) kinds[byte] = letter
}

const codeOf = (text: string) => text.charCodeAt(0)
const blank = codeOf(" ")
const dash = codeOf("-")
const dot = codeOf(".")
const colon = codeOf(":")
const comma = codeOf(",")
const slash = codeOf("/")
const percent = codeOf("%")
const plus = codeOf("+")
const upperT = codeOf("T")
const upperZ = codeOf("Z")
const zero = codeOf("0")
const lowerX = codeOf("x")

const bytesOf = (text: string) => Uint8Array.from(text, codeOf)
const uuidMark = bytesOf("<uuid>")
const hexMark = bytesOf("<hex>")
const addressMark = bytesOf("<ip>")
const timeMark = bytesOf("<time>")
const numberMark = bytesOf("<n>")

/** A mark is longer than the shortest thing that it stands for: `7` becomes `<n>`. */
export const longestOutput = (length: number) => 3 * length + 8

/** Words after which a number is a code, in lower case. */
const codeWords = (
  "code errno status exit exited signal sqlstate error line http level " +
  "statuscode exitcode errorcode errcode returncode"
).split(" ")

/** After one of these and a path there is the status of HTTP. */
const methods = new Set("GET HEAD POST PUT PATCH DELETE OPTIONS".split(" "))

/** Units that follow a number at once. */
const units = new Set(
  "ns us µs ms s m h d w b kb mb gb tb kib mib gib tib k g t min sec mins secs hr hrs bps kbps mbps hz khz mhz ghz"
    .split(" ")
)

/** Units that follow a number after a blank; single letters are words there. */
const spacedUnits = new Set(
  ("ns us µs ms b kb mb gb tb kib mib gib tib byte bytes sec secs second seconds min mins minute minutes hour hours " +
    "day days millisecond milliseconds microseconds nanoseconds").split(" ")
)

/** No unit is longer, in bytes. */
const longestUnit = 12

const isLetter = (byte: number) => (kinds[byte]! & letter) !== 0
const isDigit = (byte: number) => kinds[byte] === digit
const isHex = (byte: number) => (kinds[byte]! & (digit | hexLetter)) !== 0
const isWord = (byte: number) => kinds[byte] !== 0

export interface Masker {
  /**
   * Masks `bytes[from…to)` into `output` and returns how long the result is. `output` has to be `longestOutput` long. Where
   * `variable` is given, and all zero, it says of each byte, counted from `from`, which others could stand there and the
   * result be the same: a sum of `sorts`.
   */
  readonly mask: (bytes: Uint8Array, from: number, to: number, output: Uint8Array, variable?: Uint8Array) => number
}

/** Sorts of bytes that can take each other's place in something that is masked. */
const anyDigit = 1
/** The first of three digits decides whether they are a status of HTTP. */
const oneToThree = 2
const fourOrFive = 4
const otherDigit = 8
const lowerHex = 16
const upperHex = 32

/** Of each byte, the sorts that it is of. */
export const sorts = new Uint8Array(256)
for (let byte = 0; byte < 256; byte++) {
  const text = String.fromCharCode(byte)
  if (/[0-9]/.test(text)) {
    sorts[byte] = anyDigit | (/[123]/.test(text) ? oneToThree : /[45]/.test(text) ? fourOrFive : otherDigit)
  } else if (/[a-f]/.test(text)) sorts[byte] = lowerHex
  else if (/[A-F]/.test(text)) sorts[byte] = upperHex
}

const whileDigits = (bytes: Uint8Array, at: number, to: number) => {
  while (at < to && isDigit(bytes[at]!)) at++
  return at
}

const areDigits = (bytes: Uint8Array, at: number, count: number, to: number) => {
  if (at + count > to) return false
  for (let i = 0; i < count; i++) if (!isDigit(bytes[at + i]!)) return false
  return true
}

/** The end of the UUID that begins here, or 0. */
const uuidEnd = (bytes: Uint8Array, at: number, to: number) => {
  if (at + 36 > to) return 0
  for (let i = 0; i < 36; i++) {
    const byte = bytes[at + i]!
    if (i === 8 || i === 13 || i === 18 || i === 23 ? byte !== dash : !isHex(byte)) return 0
  }
  return at + 36 < to && isWord(bytes[at + 36]!) ? 0 : at + 36
}

/** `:MM(:SS(.fff)?)?` after hours: the end, or 0. */
const clockEnd = (bytes: Uint8Array, at: number, to: number) => {
  if (!areDigits(bytes, at, 2, to) || bytes[at + 2] !== colon || !areDigits(bytes, at + 3, 2, to)) return 0
  let end = at + 5
  if (bytes[end] !== colon || !areDigits(bytes, end + 1, 2, to)) return 0
  end += 3
  if (end < to && (bytes[end] === dot || bytes[end] === comma) && areDigits(bytes, end + 1, 1, to)) {
    end = whileDigits(bytes, end + 1, to)
  }
  return end
}

/** A zone after a time: the end, which is the beginning if there is none. */
const zoneEnd = (bytes: Uint8Array, at: number, to: number) => {
  if (at < to && bytes[at] === upperZ) return at + 1
  if (at < to && (bytes[at] === plus || bytes[at] === dash) && areDigits(bytes, at + 1, 2, to)) {
    if (areDigits(bytes, at + 3, 2, to)) return at + 5
    if (bytes[at + 3] === colon && areDigits(bytes, at + 4, 2, to)) return at + 6
    return at + 3
  }
  return at
}

/** The end of the date, with or without a time, or of the time alone, that begins here; or 0. */
const timeEnd = (bytes: Uint8Array, at: number, to: number) => {
  const clock = clockEnd(bytes, at, to)
  if (clock > 0) return zoneEnd(bytes, clock, to)
  if (!areDigits(bytes, at, 4, to)) return 0
  const separator = bytes[at + 4]
  if (separator !== dash && separator !== slash) return 0
  if (!areDigits(bytes, at + 5, 2, to) || bytes[at + 7] !== separator || !areDigits(bytes, at + 8, 2, to)) return 0
  const date = at + 10
  if (date < to && (bytes[date] === upperT || bytes[date] === blank)) {
    const withTime = clockEnd(bytes, date + 1, to)
    if (withTime > 0) return zoneEnd(bytes, withTime, to)
  }
  return date < to && isWord(bytes[date]!) ? 0 : date
}

/** The end of the IPv4 address that begins here, or 0. */
const addressEnd = (bytes: Uint8Array, at: number, to: number) => {
  let end = at
  for (let part = 0; part < 4; part++) {
    if (part > 0) {
      if (end >= to || bytes[end] !== dot) return 0
      end++
    }
    const digits = whileDigits(bytes, end, Math.min(to, end + 3))
    if (digits === end) return 0
    end = digits
  }
  if (end < to && isWord(bytes[end]!)) return 0
  return end + 1 < to && bytes[end] === dot && isDigit(bytes[end + 1]!) ? 0 : end
}

/** What of IPv6 and MAC addresses begins here, at a colon or at a hexadecimal digit. */
const colonGroups = (bytes: Uint8Array, at: number, to: number) => {
  let end = at
  let colons = 0
  let digits = 0
  let group = 0
  let isDouble = false
  let arePairs = true
  while (end < to) {
    const byte = bytes[end]!
    if (byte === colon) {
      if (end + 1 < to && bytes[end + 1] === colon) {
        if (isDouble) break
        isDouble = true
      } else if (end + 1 >= to || !isHex(bytes[end + 1]!)) {
        if (bytes[end - 1] !== colon) break
      }
      if (group !== 2) arePairs = false
      // No address has more; and whatever the line, no more than this is looked at twice.
      if (++colons > 7) return undefined
      group = 0
    } else if (isHex(byte)) {
      if (++group > 4) return undefined
      if (isDigit(byte)) digits++
    } else break
    end++
  }
  if (end < to && isWord(bytes[end]!)) return undefined
  if (!isDouble && arePairs && colons === 5 && group === 2) return { end, mark: hexMark }
  if (colons === 7 || (isDouble && colons <= 7 && digits > 0)) return { end, mark: addressMark }
  return undefined
}

/** Those words by their last letter: few end alike, and most words end like none of them. */
const codeWordsByEnd: Array<ReadonlyArray<Uint8Array>> = Array.from({ length: 256 }, () => [])
for (const word of codeWords) {
  const last = word.charCodeAt(word.length - 1)
  for (const end of [last, last & ~0x20]) codeWordsByEnd[end] = [...codeWordsByEnd[end]!, bytesOf(word)]
}

/** Whether the word that ends before `end` is one after which a number is a code. */
const isCodeWord = (bytes: Uint8Array, from: number, end: number) => {
  const words = codeWordsByEnd[bytes[end - 1]!]!
  for (let each = 0; each < words.length; each++) {
    const word = words[each]!
    const at = end - word.length
    if (at < from) continue
    let i = 0
    // ASCII letters differ in case by one bit.
    while (i < word.length && (bytes[at + i]! | 0x20) === word[i]) i++
    if (i < word.length) continue
    // The whole word, or the last one of statusCode, ExitCode.
    if (at === from || !isLetter(bytes[at - 1]!)) return true
    if (bytes[at]! < 0x61 && bytes[at - 1]! >= 0x61) return true
  }
  return false
}

/** What may stand between such a word and its number. */
const between = new Uint8Array(256)
for (const character of " :=(\"'#[-") between[codeOf(character)] = 1

/** Three digits that may be a status of HTTP. */
const isStatus = (bytes: Uint8Array, at: number, end: number) =>
  end - at === 3 && bytes[at]! > zero && bytes[at]! <= zero + 5

/** `ORA-00942` */
const isNamed = (bytes: Uint8Array, from: number, at: number) =>
  at - 3 >= from && bytes[at - 1] === dash && isUpper(bytes[at - 2]!) && isUpper(bytes[at - 3]!)

const isUpper = (byte: number) => byte >= 0x41 && byte <= 0x5a

const isCode = (bytes: Uint8Array, from: number, at: number, end: number, to: number) => {
  let back = at
  let skipped = 0
  while (back > from && skipped < 5 && between[bytes[back - 1]!] === 1) {
    back--
    skipped++
  }
  if (skipped > 0 && back > from && isLetter(bytes[back - 1]!) && isCodeWord(bytes, from, back)) return true
  if (isPosition(bytes, from, at) || isNamed(bytes, from, at)) return true
  if (!isStatus(bytes, at, end)) return false
  // HTTP/1.1" 503
  if (
    skipped > 0 && back >= from + 6 && isDigit(bytes[back - 1]!) &&
    (isProtocol(bytes, from, back - 1) || (bytes[back - 2] === dot && isProtocol(bytes, from, back - 3)))
  ) {
    return true
  }
  // 503 Service Unavailable
  return bytes[at]! >= zero + 4 && end + 2 < to && bytes[end] === blank && isUpper(bytes[end + 1]!) &&
    bytes[end + 2]! >= 0x61 && bytes[end + 2]! <= 0x7a
}

/** `HTTP/` before a digit of the version. */
const isProtocol = (bytes: Uint8Array, from: number, at: number) =>
  at - 5 >= from && bytes[at - 1] === slash && isCodeWord(bytes, from, at - 1)

/** `.go:42`, `.js:12:5`: a number after a colon, after the extension of a file, or after another position. */
const isPosition = (bytes: Uint8Array, from: number, at: number) => {
  let back = at
  for (let numbers = 0; numbers < 2; numbers++) {
    if (back <= from || bytes[back - 1] !== colon) return false
    back--
    let start = back
    while (start > from && isDigit(bytes[start - 1]!) && back - start < 8) start--
    if (start === back) break
    back = start
  }
  let start = back
  while (start > from && isLetter(bytes[start - 1]!) && back - start < 8) start--
  return start < back && start > from && bytes[start - 1] === dot
}

/** Units by their length and first letter, so that a word that is none is seen at once. */
const byStart = (names: ReadonlySet<string>) => {
  const table: Array<ReadonlyArray<Uint8Array>> = Array.from({ length: 16 * 256 }, () => [])
  const encoder = new TextEncoder()
  for (const name of names) {
    const bytes = encoder.encode(name)
    for (const first of new Set([bytes[0]!, bytes[0]! < 0x80 ? bytes[0]! & ~0x20 : bytes[0]!])) {
      const place = bytes.length * 256 + first
      table[place] = [...table[place]!, bytes]
    }
  }
  return table
}
const unitsByStart = byStart(units)
const spacedUnitsByStart = byStart(spacedUnits)

/** The end of the unit that begins here, or the beginning. */
const unitEnd = (bytes: Uint8Array, at: number, to: number, known: typeof unitsByStart) => {
  let end = at
  while (end < to && end - at <= longestUnit && isLetter(bytes[end]!)) end++
  if (end === at || end - at > longestUnit) return at
  const names = known[(end - at) * 256 + bytes[at]!]!
  for (let each = 0; each < names.length; each++) {
    const name = names[each]!
    let i = 0
    while (i < name.length && (bytes[at + i] === name[i] || (bytes[at + i]! | 0x20) === name[i])) i++
    if (i === name.length) return end
  }
  return at
}

/**
 * The end of the number that begins here, with its unit; or, negative, the end of what begins with digits and is a word:
 * `57P01`, `2xx`, `1.2.3-rc1`.
 */
const numberEnd = (bytes: Uint8Array, at: number, to: number): number => {
  let end = at
  for (let part = 0;; part++) {
    end = whileDigits(bytes, end, to)
    while (end + 1 < to && (bytes[end] === dot || bytes[end] === comma) && isDigit(bytes[end + 1]!)) {
      end = whileDigits(bytes, end + 1, to)
    }
    if (end >= to) return end
    // 1e9, 2.5e-3
    if ((bytes[end]! | 0x20) === 0x65) {
      const sign = bytes[end + 1] === dash || bytes[end + 1] === plus ? 1 : 0
      const exponent = whileDigits(bytes, end + 1 + sign, to)
      if (exponent > end + 1 + sign && (exponent >= to || !isWord(bytes[exponent]!))) return exponent
    }
    if (bytes[end] === percent) return end + 1
    if (!isLetter(bytes[end]!)) {
      if (part > 0 || bytes[end] !== blank || end + 1 >= to) return end
      const unit = unitEnd(bytes, end + 1, to, spacedUnitsByStart)
      return unit > end + 1 && (unit >= to || !isWord(bytes[unit]!)) ? unit : end
    }
    const unit = unitEnd(bytes, end, to, unitsByStart)
    if (unit === end) {
      while (end < to && isWord(bytes[end]!)) end++
      return -end
    }
    end = unit
    if (end >= to || !isDigit(bytes[end]!)) return end
  }
}

/** The end of a word that begins with a letter, with the version or number that belongs to it: `v1.27.3`, `log4j`. */
const wordEnd = (bytes: Uint8Array, at: number, to: number) => {
  let end = at
  let hasDigit = false
  while (end < to && isWord(bytes[end]!)) {
    if (isDigit(bytes[end]!)) hasDigit = true
    end++
  }
  if (hasDigit && isDigit(bytes[end - 1]!)) {
    while (end + 1 < to && bytes[end] === dot && isDigit(bytes[end + 1]!)) end = whileDigits(bytes, end + 1, to)
  }
  return end
}

/** Whether `at…end` is a long hexadecimal number: at least 8 digits, not all of one sort. */
const isLongHex = (bytes: Uint8Array, at: number, end: number) => {
  if (end - at < 8) return false
  let digits = 0
  for (let i = at; i < end; i++) {
    const byte = bytes[i]!
    if (!isHex(byte)) return false
    if (isDigit(byte)) digits++
  }
  return digits > 0 && digits < end - at
}

/** Shorter than a call of `set` takes. */
const put = (mark: Uint8Array, output: Uint8Array, length: number) => {
  for (let i = 0; i < mark.length; i++) output[length + i] = mark[i]!
  return length + mark.length
}

/** `GET /` or `GET http://` */
const isMethod = (bytes: Uint8Array, at: number, end: number, to: number) => {
  if (end - at < 3 || end - at > 7 || end + 1 >= to || bytes[end] !== blank) return false
  if (bytes[end + 1] !== slash && bytes[end + 1] !== codeOf("h")) return false
  let word = ""
  for (let i = at; i < end; i++) word += String.fromCharCode(bytes[i]!)
  return methods.has(word)
}

const isSign = (byte: number) => byte === dash || byte === plus || byte === colon || byte === comma || byte === slash

/** What may stand in the place of `bytes[at…end)`, which has become `mark`: never more than what becomes the same for sure. */
const allow = (
  bytes: Uint8Array,
  at: number,
  end: number,
  to: number,
  mark: Uint8Array,
  from: number,
  variable: Uint8Array
) => {
  // In the middle of a word it may be part of that, if it is other than it is.
  if (at > from && isWord(bytes[at - 1]!)) return
  const isNumber = mark === numberMark || mark === timeMark
  for (let i = at; i < end; i++) {
    const sort = sorts[bytes[i]!]!
    variable[i - from] = sort & (isNumber ? anyDigit : anyDigit | lowerHex | upperHex)
  }
  if (mark === numberMark && whileDigits(bytes, at, end) === at + 3) {
    variable[at - from] = sorts[bytes[at]!]! & (oneToThree | fourOrFive | otherDigit)
  }
  if (mark !== uuidMark && mark !== hexMark) return
  const isPrefixed = bytes[at + 1] === lowerX
  if (isPrefixed) variable[at - from] = 0
  // Digits before a point are part of a version, capitals before a dash name what comes after it.
  if (mark === hexMark && end < to && bytes[end] === dot) return variable.fill(0, at - from, end - from)
  // What follows a point may be more of a number before it, and after another sign part of a time or its zone.
  if (at > from && bytes[at - 1] === dot) return
  if (at - 2 >= from && isWord(bytes[at - 2]!) && isSign(bytes[at - 1]!)) return
  for (let i = at; i < end; i++) if (isUpper(bytes[i]!)) return
  if (mark === hexMark) {
    for (let i = isPrefixed ? at + 2 : at; i < end; i++) {
      if (bytes[i] === colon) return
      if (!isHex(bytes[i]!)) return variable.fill(0, at - from, end - from)
    }
  }
  let firstDigit = isPrefixed ? at : -1
  let firstLetter = -1
  for (let i = at; i < end; i++) {
    if (sorts[bytes[i]!] === 0 || i === firstDigit) continue
    if (firstDigit < 0 && isDigit(bytes[i]!)) firstDigit = i
    else if (firstLetter < 0 && !isDigit(bytes[i]!)) firstLetter = i
    // A long number is hexadecimal only with digits and letters among them.
    else variable[i - from] = anyDigit | lowerHex
  }
  if (mark === uuidMark) {
    if (firstDigit >= 0) variable[firstDigit - from] = anyDigit | lowerHex
    if (firstLetter >= 0) variable[firstLetter - from] = anyDigit | lowerHex
  }
}

export const mask: Masker["mask"] = (bytes, from, to, output, variable) => {
  let at = from
  let length = 0
  /** A method of HTTP has been seen, and not yet a status. */
  let expectsStatus = false
  while (at < to) {
    const byte = bytes[at]!
    const kind = kinds[byte]!
    if (kind === 0) {
      if (byte === colon && at + 1 < to && bytes[at + 1] === colon) {
        const groups = colonGroups(bytes, at, to)
        if (groups !== undefined) {
          if (variable !== undefined) allow(bytes, at, groups.end, to, groups.mark, from, variable)
          length = put(groups.mark, output, length)
          at = groups.end
          continue
        }
        output[length++] = byte
        at++
      }
      output[length++] = byte
      at++
      continue
    }
    let end = 0
    let mark: Uint8Array | undefined
    if (kind !== letter && (end = uuidEnd(bytes, at, to)) > 0) mark = uuidMark
    else if (kind === digit) {
      if ((end = timeEnd(bytes, at, to)) > 0) mark = timeMark
      else if ((end = addressEnd(bytes, at, to)) > 0) mark = addressMark
      else if (byte === zero && at + 2 < to && (bytes[at + 1]! | 0x20) === lowerX && isHex(bytes[at + 2]!)) {
        end = wordEnd(bytes, at, to)
        mark = isCode(bytes, from, at, end, to) ? undefined : hexMark
      } else {
        const groups = colonGroups(bytes, at, to)
        if (groups !== undefined) {
          end = groups.end
          mark = groups.mark
        } else {
          end = numberEnd(bytes, at, to)
          const word = wordEnd(bytes, at, to)
          // 12e34567 is no number.
          if (isLongHex(bytes, at, word)) end = -word
          if (end < 0) {
            end = -end
            mark = isLongHex(bytes, at, end) ? hexMark : undefined
          } else {
            const digits = whileDigits(bytes, at, to)
            const isExpected = expectsStatus && at > from && bytes[at - 1] === blank && isStatus(bytes, at, digits) &&
              (digits >= to || !isWord(bytes[digits]!))
            if (isExpected) expectsStatus = false
            mark = isExpected || isCode(bytes, from, at, digits, to) ? undefined : numberMark
            // A code has no unit: what follows it is looked at for itself.
            if (mark === undefined) end = digits
          }
        }
      }
    } else {
      const groups = kind !== letter ? colonGroups(bytes, at, to) : undefined
      if (groups !== undefined) {
        end = groups.end
        mark = groups.mark
      } else {
        end = wordEnd(bytes, at, to)
        if (kind !== letter && isLongHex(bytes, at, end)) mark = hexMark
        else if (isUpper(byte) && isMethod(bytes, at, end, to)) expectsStatus = true
      }
    }
    if (mark !== undefined) {
      if (variable !== undefined) allow(bytes, at, end, to, mark, from, variable)
      length = put(mark, output, length)
      at = end
    } else {
      while (at < end) output[length++] = bytes[at++]!
    }
  }
  return length
}

let scratchInput = new Uint8Array(4_096)
let scratchOutput = new Uint8Array(longestOutput(4_096))
const encoder = new TextEncoder()
const decoder = new TextDecoder()

/** The same of a text. */
export const maskText = (text: string): string => {
  // A character of UTF-16 is three bytes of UTF-8 at most.
  if (text.length * 3 > scratchInput.length) {
    scratchInput = new Uint8Array(text.length * 3)
    scratchOutput = new Uint8Array(longestOutput(scratchInput.length))
  }
  const { written } = encoder.encodeInto(text, scratchInput)
  return decoder.decode(scratchOutput.subarray(0, mask(scratchInput, 0, written, scratchOutput)))
}
