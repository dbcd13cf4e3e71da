/**
 * What a record of any program is like, as far as a filter has to know: its format, its time, the text that it is about, and a
 * summary of its repeats in the same format. Pure. Asked for once a kind, or once a record where its time decides; the rest is
 * done on its bytes.
 *
 * | format | known by |
 * | --- | --- |
 * | `json` | an object in one line: pino, bunyan, zap, slog |
 * | `logfmt` | only `name=value`, two and more |
 * | `text` | everything else; a time at its beginning as RFC 3339, syslog, klog or `[2026/01/31 12:00:00]` |
 */
export type Format = "json" | "logfmt" | "text"

export interface Repeats {
  readonly count: number
  /** Milliseconds of the Unix epoch. */
  readonly firstAt: number
  readonly lastAt: number
  readonly lastedMillis: number
}

/** Names of fields, in the order in which they are looked for. */
const messageNames = ["msg", "message", "error", "err"]
const timeNames = ["time", "timestamp", "ts", "@timestamp", "t"]

const pairs = /^(?:[\w.@/-]+=(?:"(?:[^"\\]|\\.)*"|[^\s"=]*)(?:\s+|$)){2,}$/

/** Beyond this a line is text: nobody writes so many pairs. */
const longestPairs = 8_192

export const formatOf = (line: string): Format => {
  if (line.startsWith("{") && readObject(line) !== undefined) return "json"
  return line.length <= longestPairs && line.includes("=") && pairs.test(line) ? "logfmt" : "text"
}

const readObject = (line: string): Record<string, unknown> | undefined => {
  try {
    const value: unknown = JSON.parse(line)
    return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : undefined
  } catch {
    return undefined
  }
}

const readPairs = (line: string): Record<string, string> => {
  const fields: Record<string, string> = {}
  for (const [, name = "", quoted, plain = ""] of line.matchAll(/([\w.@/-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s"=]*))/g)) {
    fields[name] = quoted === undefined ? plain : unquoted(quoted)
  }
  return fields
}

const unquoted = (text: string): string => {
  try {
    return String(JSON.parse(`"${text}"`))
  } catch {
    return text
  }
}

/** The fields of a structured record. */
export const fieldsOf = (line: string, format: Format): Readonly<Record<string, unknown>> =>
  format === "json" ? readObject(line) ?? {} : format === "logfmt" ? readPairs(line) : {}

const syslog = /^(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d \d\d:\d\d:\d\d/
const klog = /^[IWEF](\d\d)(\d\d) (\d\d:\d\d:\d\d\.\d+)/
const dated = /(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d:\d\d:\d\d(?:[.,]\d+)?)(Z|[+-]\d\d:?\d\d)?/

/** Seconds, milliseconds, microseconds or nanoseconds of the epoch, by their size. */
const ofNumber = (value: number) => {
  const digits = Math.floor(Math.log10(Math.max(1, value))) + 1
  return digits <= 11 ? value * 1_000 : digits <= 14 ? value : digits <= 17 ? value / 1_000 : value / 1_000_000
}

/**
 * The time that a record has of its own, in milliseconds of the epoch. A time without a zone is taken for UTC, and one without
 * a year for one of `year`.
 */
export const timeOf = (line: string, format: Format, year: number): number | undefined => {
  if (format !== "text") {
    const fields = fieldsOf(line, format)
    for (const name of timeNames) {
      const value = fields[name]
      if (typeof value === "number") return ofNumber(value)
      if (typeof value !== "string" || value === "") continue
      if (/^\d+(\.\d+)?$/.test(value)) return ofNumber(Number(value))
      const found = ofText(value, year)
      if (found !== undefined) return found
    }
    return undefined
  }
  return ofText(line.slice(0, 64), year)
}

const ofText = (text: string, year: number): number | undefined => {
  const full = dated.exec(text)
  if (full !== null) {
    const [, y, month, day, clock = "", zone = "Z"] = full
    return known(Date.parse(`${y}-${month}-${day}T${clock.replace(",", ".")}${withColon(zone)}`))
  }
  const month = syslog.exec(text)
  if (month !== null) return known(Date.parse(`${month[0].replace(/ (\d\d:)/, ` ${year} $1`)} UTC`))
  const short = klog.exec(text)
  return short === null ? undefined : known(Date.parse(`${year}-${short[1]}-${short[2]}T${short[3]}Z`))
}

const withColon = (zone: string) => zone.length === 5 ? `${zone.slice(0, 3)}:${zone.slice(3)}` : zone

const known = (time: number) => Number.isNaN(time) ? undefined : time

const times = (count: number) => count === 1 ? "once" : `${count} times`

const lasted = (millis: number) =>
  millis < 1_000
    ? `${Math.round(millis)}ms`
    : millis < 60_000
    ? `${Math.round(millis / 100) / 10}s`
    : `${Math.floor(millis / 60_000)}m${Math.round(millis / 1_000) % 60}s`

/** The same kind of time as the one that stood there. */
const alike = (value: unknown, at: number): unknown => {
  if (typeof value !== "number") return new Date(at).toISOString()
  const scale = ofNumber(value) / value
  return scale === 0 || !Number.isFinite(scale) ? at : Number.isInteger(value) ? Math.round(at / scale) : at / scale
}

/** The first line of a record without its end. */
const headOf = (record: string) => {
  const end = record.indexOf("\n")
  return (end < 0 ? record : record.slice(0, end)).replace(/\r$/, "")
}

/** One line, without its end, that tells of the repeats of a record, in the record's own format. */
export const summary = (record: string, repeats: Repeats): string => {
  const head = headOf(record)
  const format = formatOf(head)
  const text = `repeated ${times(repeats.count)} over ${lasted(repeats.lastedMillis)}`
  const first = new Date(repeats.firstAt).toISOString()
  const last = new Date(repeats.lastAt).toISOString()
  const fields = {
    "lull.repeat.count": repeats.count,
    "lull.repeat.seconds": Math.round(repeats.lastedMillis) / 1_000,
    "lull.repeat.first": first,
    "lull.repeat.last": last
  }
  if (format === "text") return `${text}, first ${first}, last ${last}: ${head}`
  const given = { ...fieldsOf(head, format) }
  const message = messageNames.find((name) => typeof given[name] === "string") ?? "msg"
  const time = timeNames.find((name) => given[name] !== undefined)
  const before = given[message]
  const told: Record<string, unknown> = {
    ...given,
    ...(time === undefined ? {} : { [time]: alike(given[time], repeats.lastAt) }),
    [message]: typeof before === "string" && before !== "" ? `${text}: ${before}` : text,
    ...fields
  }
  return format === "json"
    ? JSON.stringify(told)
    : Object.entries(told).map(([name, value]) => `${name}=${quotedIfNeeded(String(value))}`).join(" ")
}

const quotedIfNeeded = (value: string) => /[\s"=]/.test(value) || value === "" ? JSON.stringify(value) : value
