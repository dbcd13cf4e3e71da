/**
 * One sentence of any error or `Cause`, for a line of a log: pure, bounded, never empty, and it never throws.
 *
 * | what | becomes |
 * | --- | --- |
 * | `new Error("refused")` | `refused` |
 * | `new TypeError("x is no function")` | `TypeError: x is no function` |
 * | `new BrokerGone({ broker: "b1" })`, without a message | `BrokerGone (broker: b1)` |
 * | `new BrokerGone({ message: "it left", cause })` | `BrokerGone: it left, caused by socket hang up` |
 * | a `Cause` of several failures | `refused; reset` |
 * | `undefined`, `{ a: 1 }` | `undefined`, `{a: 1}` |
 *
 * A tag, or the name of the class, stands in front unless the message holds it: two errors with the same message and different
 * tags are two errors. Fields are named where there is no message to say what they mean. `Redacted` values, and fields that
 * are named like secrets, say `<redacted>`. The messages are left as they are.
 */
import { Cause, Duration, Redacted } from "effect"
import * as Redaction from "./Redaction.ts"

/** Of the whole sentence, of a message, and of the value of a field, in UTF-16 units. */
const longestText = 2_000
const longestMessage = 1_000
const longestValue = 200
/** What is looked at of a text: enough that no secret is cut in two where it is shown. */
const longestRead = 8_192

/** Beyond these the rest is counted: of a cause, of an error, of a list. */
const mostReasons = 4
const mostFields = 8
const mostItems = 5
/** Errors that are named of one chain of causes, and that are looked at. */
const mostLinks = 5
const mostLooked = 20
/** Of objects within objects. */
const deepest = 3

const unreadable = "<unreadable>"
const redaction = Redaction.make()

/** One sentence of any error, of a `Cause`, or of whatever else was thrown. */
export const errorText = (error: unknown): string => {
  const seen = new Set<unknown>()
  const text = attempt(() => isCause(error) ? ofCause(error, seen) : ofChain(error, seen), "")
  return tidy(text) || "an error that cannot be read"
}

const ofCause = (cause: Cause.Cause<unknown>, seen: Set<unknown>): string => {
  const errors = errorsOf(cause)
  if (errors.length === 0) return cause.reasons.length === 0 ? "no reason was given" : "it was interrupted"
  const texts = errors.slice(0, mostReasons).map((error) => ofChain(error, seen)).filter((text) => text !== "")
  const more = errors.length - mostReasons
  return [...new Set(texts)].join("; ") + (more > 0 ? `; and ${more} more` : "")
}

const errorsOf = (cause: Cause.Cause<unknown>) =>
  cause.reasons.flatMap((reason) =>
    Cause.isFailReason(reason) ? [reason.error] : Cause.isDieReason(reason) ? [reason.defect] : []
  )

/** The error, and those that caused it, each once. Empty if all of it is in `seen`. */
const ofChain = (error: unknown, seen: Set<unknown>): string => {
  const texts: Array<string> = []
  const waiting: Array<unknown> = [error]
  for (let next = 0; next < waiting.length && texts.length < mostLinks && next < mostLooked; next++) {
    const link = waiting[next]
    if (seen.has(link)) continue
    seen.add(link)
    const text = attempt(() => isCause(link) ? ofCause(link, seen) : headOf(link, 0, new Set()), unreadable)
    if (text !== "" && !texts.some((before) => isQuoted(text, before))) texts.push(text)
    waiting.push(...causesOf(link))
  }
  return texts.join(", caused by ")
}

/** Many messages quote the error that they were caused by. */
const isQuoted = (text: string, before: string) => before === text || (text.length > 3 && before.includes(text))

/** `reason`: the errors of Effect's own modules keep there what happened. `errors`: of an `AggregateError`. */
const causesOf = (error: unknown): ReadonlyArray<unknown> => {
  if (!isObject(error)) return []
  const errors = read(error, "errors")
  return [
    read(error, "cause"),
    ...[read(error, "reason")].filter(isObject),
    ...attempt(() => Array.isArray(errors) ? errors.slice(0, mostReasons).filter(isObject) : [], [])
  ].filter((cause) => cause !== undefined && cause !== null && cause !== unreadable)
}

/** The error itself, without what caused it. `within`: what it is a part of. */
const headOf = (error: unknown, level: number, within: ReadonlySet<unknown>): string => {
  if (typeof error === "string") return isBlank(error) ? "an empty text" : cut(error, longestMessage)
  if (!isObject(error)) return ofValue(error, level, within)
  const message = messageOf(error)
  const isError = attempt(() => error instanceof Error, false)
  if (message === undefined && !isError && tagOf(error) === undefined) return ofValue(error, level, within)
  const name = nameOf(error)
  if (message !== undefined) return withCode(error, named(name, message))
  const fields = level >= deepest ? "" : fieldsOf(error, level, new Set([...within, error]), notFields)
  if (fields === "") return name ?? "an error without a message"
  return `${name ?? "Error"} (${fields})`
}

const named = (name: string | undefined, message: string) =>
  name === undefined || message.split(/[\s:;,()"']+/).includes(name) ? message : `${name}: ${message}`

/** What people look for in a manual: `ECONNREFUSED`, a SQLSTATE. */
const withCode = (error: object, text: string) => {
  const code = read(error, "code")
  const isNone = (typeof code !== "string" && typeof code !== "number") || code === "" || code === unreadable
  if (isNone || text.includes(String(code))) return text
  return `${text} (code: ${cut(String(code), longestValue)})`
}

const textIn = (from: object, name: string) => {
  const text = read(from, name)
  return typeof text === "string" && text !== unreadable && !isBlank(text) ? text : undefined
}

const messageOf = (error: object) => {
  const message = textIn(error, "message")
  return message === undefined ? undefined : cut(message, longestMessage)
}

const tagOf = (error: object) => {
  const tag = textIn(error, "_tag")
  return tag === undefined ? undefined : cut(tag, longestValue)
}

/** The tag, or what else tells it from other errors. */
const nameOf = (error: object) => {
  const tag = tagOf(error)
  if (tag !== undefined) return tag
  const name = textIn(error, "name")
  if (name !== undefined && name !== "Error") return cut(name, longestValue)
  const made = classOf(error)
  return made === "Error" ? undefined : made
}

const classOf = (value: object) => {
  const made = read(value, "constructor")
  if (typeof made !== "function" || made === Object) return undefined
  const name = textIn(made, "name")
  return name === undefined ? undefined : cut(name, longestValue)
}

/** What another program said in its own words: without secrets, and of what is long the beginning and the end. */
export const wordsOf = (text: string): string => cut(redaction.text(cut(text, longestRead)), longestText).toWellFormed()

// --- fields and values

/** Of an error, those that are told elsewhere. */
const notFields = new Set(["name", "stack", "cause", "errors"])
const none: ReadonlySet<string> = new Set()

const fieldsOf = (
  value: object,
  level: number,
  within: ReadonlySet<unknown>,
  except: ReadonlySet<string>
): string => {
  const fields: Array<string> = []
  let more = 0
  for (const key of attempt(() => Object.keys(value), [])) {
    // `~`: marks of Effect's own types.
    if (key === "_tag" || key.startsWith("~") || except.has(key)) continue
    if (fields.length >= mostFields) {
      more++
      continue
    }
    const member = read(value, key)
    if (member === undefined) continue
    const isSecret = redaction.isSecretName(key) && member !== null && !isRedacted(member)
    const shown = isSecret ? Redaction.replacement : ofValue(member, level + 1, within)
    fields.push(`${cut(key, longestValue)}: ${shown}`)
  }
  if (more > 0) fields.push(`and ${more} more`)
  return fields.join(", ")
}

/** What needs no quotes to be told from what stands around it. */
const isWord = /^[\w.:/@+<>-]+$/

const ofText = (text: string) => {
  const shown = cut(redaction.text(cut(text, longestRead)), longestValue)
  return isWord.test(shown) ? shown : JSON.stringify(shown)
}

const ofValue = (value: unknown, level: number, within: ReadonlySet<unknown>): string => {
  switch (typeof value) {
    case "string":
      return ofText(value)
    case "bigint":
    case "symbol":
      return cut(String(value), longestValue)
    case "function":
      return "a function"
    case "object":
      return value === null ? "null" : attempt(() => ofObject(value, level, within), unreadable)
    default:
      return String(value)
  }
}

const ofObject = (value: object, level: number, within: ReadonlySet<unknown>): string => {
  if (Redacted.isRedacted(value)) return String(value)
  if (within.has(value)) return "<circular>"
  const inner = new Set([...within, value])
  const written = ofKnown(value, level, inner) ?? writtenBy(value)
  if (written !== undefined) return written
  const name = tagOf(value) ?? classOf(value)
  if (level >= deepest) return name ?? "{…}"
  const fields = fieldsOf(value, level, inner, none)
  return name === undefined ? `{${fields}}` : fields === "" ? name : `${name} {${fields}}`
}

const ofKnown = (value: object, level: number, within: ReadonlySet<unknown>): string | undefined => {
  if (Array.isArray(value)) return level >= deepest ? `a list of ${value.length}` : ofList(value, level, within)
  if (isCause(value)) return ofList(errorsOf(value), level, within)
  if (value instanceof Error) return headOf(value, level, within)
  if (value instanceof Date) return value.toISOString()
  if (Duration.isDuration(value)) return Duration.format(value)
  if (ArrayBuffer.isView(value)) return `${value.byteLength} bytes`
  if (value instanceof Map || value instanceof Set) return `a ${classOf(value) ?? "Map"} of ${value.size}`
  return undefined
}

const ofList = (list: ReadonlyArray<unknown>, level: number, within: ReadonlySet<unknown>) => {
  const items = list.slice(0, mostItems).map((item) => ofValue(item, level + 1, within))
  if (list.length > mostItems) items.push(`and ${list.length - mostItems} more`)
  return `[${items.join(", ")}]`
}

/** As it writes itself, if its class knows how: a `URL`. */
const writtenBy = (value: object): string | undefined => {
  const toString = read(value, "toString")
  if (typeof toString !== "function" || toString === Object.prototype.toString) return undefined
  const written = attempt(() => String(value), "")
  return isBlank(written) || written.startsWith("[object ") ? undefined : ofText(written)
}

// --- what can go wrong with what others have made

const attempt = <A>(run: () => A, otherwise: A): A => {
  try {
    return run()
  } catch {
    return otherwise
  }
}

const read = (from: object, name: string): unknown => {
  try {
    return Reflect.get(from, name)
  } catch {
    return unreadable
  }
}

const isObject = (value: unknown): value is object => typeof value === "object" && value !== null

const isRedacted = (value: unknown) => attempt(() => Redacted.isRedacted(value), false)

const isCause = (value: unknown): value is Cause.Cause<unknown> => attempt(() => Cause.isCause(value), false)

/** `[object Object]`: somebody made a text of what is none. */
const isBlank = (text: string) => text.trim() === "" || /^\s*\[object \w+\]\s*$/.test(text)

/** The beginning and the end: what is long differs in either. */
const cut = (text: string, longest: number) => {
  if (text.length <= longest) return text
  const end = Math.floor(longest / 4)
  return `${text.slice(0, longest - end - 1)}…${text.slice(-end)}`
}

/** One line, without what a terminal would obey. */
const tidy = (text: string) =>
  cut(
    text
      // oxlint-disable-next-line no-control-regex -- those are the ones.
      .replaceAll(/[\s\u0000-\u001f\u007f-\u009f]+/g, " ")
      .replaceAll(/\[object \w+\]/g, "{…}")
      .trim(),
    longestText
  ).toWellFormed()
