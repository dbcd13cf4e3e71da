/**
 * What `Logger.formatJson` writes, character for character, in a fraction of the time: most records are a text with a few
 * names and numbers, and need nothing that walks through objects. Others are left to it.
 */
import { Logger, References } from "effect"

/** What JSON has to escape, and half characters, which `JSON.stringify` escapes too. */
// oxlint-disable-next-line no-control-regex -- those are the ones.
const escaped = /[\u0000-\u001f"\\\ud800-\udfff]/

const quoted = (text: string) => escaped.test(text) ? JSON.stringify(text) : `"${text}"`

/** Names are few. */
const names = new Map<string, string>()
const mostNames = 1_000

const quotedName = (name: string) => {
  let known = names.get(name)
  if (known === undefined) {
    known = `${quoted(name)}:`
    if (names.size >= mostNames) names.clear()
    names.set(name, known)
  }
  return known
}

/** `undefined`: it takes more than this. */
const ofValue = (value: unknown): string | undefined => {
  switch (typeof value) {
    case "string":
      return quoted(value)
    case "number":
      return Number.isFinite(value) ? String(value) : undefined
    case "boolean":
      return value ? "true" : "false"
    default:
      return undefined
  }
}

const ofFields = (fields: Readonly<Record<string, unknown>>): string | undefined => {
  let text = "{"
  for (const name of Object.keys(fields)) {
    const written = ofValue(fields[name])
    if (written === undefined) return undefined
    text += text === "{" ? quotedName(name) + written : "," + quotedName(name) + written
  }
  return text + "}"
}

const isPlain = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype

/** A text, or an object of nothing but texts, numbers and truths. */
const ofPart = (part: unknown): string | undefined => {
  const simple = ofValue(part)
  if (simple !== undefined) return simple
  return isPlain(part) ? ofFields(part) : undefined
}

const ofMessage = (message: unknown): string | undefined => {
  if (!Array.isArray(message)) return ofPart(message)
  const parts: ReadonlyArray<unknown> = message
  if (parts.length === 1) return ofPart(parts[0])
  let text = ""
  for (const part of parts) {
    const written = ofPart(part)
    if (written === undefined) return undefined
    text += `${text === "" ? "" : ","}${written}`
  }
  return `[${text}]`
}

const ofSpans = (spans: ReadonlyArray<readonly [string, number]>, now: number) =>
  // Of two with one name the last counts; that is rare.
  spans.length > 1 ? undefined : spans.length === 0 ? "{}" : `{${quotedName(spans[0]![0])}${now - spans[0]![1]}}`

let second = Number.NaN
let secondText = ""
/** A time costs more than all the rest, and most have their second in common. */
const ofTime = (date: Date) => {
  const millis = date.getTime()
  const whole = Math.floor(millis / 1_000)
  if (whole !== second) {
    secondText = date.toISOString().slice(0, -4)
    second = whole
  }
  return `${secondText}${String(millis - whole * 1_000).padStart(3, "0")}Z`
}

export const formatJson: Logger.Logger<unknown, string> = Logger.make((record) => {
  const { cause, date, fiber, logLevel } = record
  if (cause.reasons.length === 0) {
    const message = ofMessage(record.message)
    const annotations = message === undefined ? undefined : ofFields(fiber.getRef(References.CurrentLogAnnotations))
    const spans = ofSpans(fiber.getRef(References.CurrentLogSpans), date.getTime())
    if (annotations !== undefined && spans !== undefined) {
      return `{"message":${message},"level":"${logLevel.toUpperCase()}","timestamp":"${
        ofTime(date)
      }","annotations":${annotations},"spans":${spans},"fiberId":"#${fiber.id}"}`
    }
  }
  return Logger.formatJson.log(record)
})
