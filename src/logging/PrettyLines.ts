/**
 * Records for a person at a terminal: what Effect's pretty logger shows, so that no text in a record can be taken for another
 * record, or move the cursor. A record is one line; what belongs to it follows, indented, and the lines of an error with a bar
 * before each.
 *
 * ```text
 * [09:37:17.579] WARN (#12) probe=3ms: the message, and in it \n where it had a line end
 *   | Error: the cause
 *   |     at here
 *   key: value
 * ```
 */
import { Cause, Formatter, Logger, type LogLevel, References } from "effect"
import { visible } from "./VisibleText.ts"

export interface Options {
  readonly colors: boolean
}

/** "Select Graphic Rendition", ECMA-48. */
const codes = {
  bold: "1",
  red: "31",
  green: "32",
  yellow: "33",
  blue: "34",
  cyan: "36",
  white: "37",
  gray: "90"
} as const
type Color = keyof typeof codes | "black on red"

const ofLevel: Readonly<Record<LogLevel.LogLevel, ReadonlyArray<Color>>> = {
  All: [],
  Trace: ["gray"],
  Debug: ["blue"],
  Info: ["green"],
  Warn: ["yellow"],
  Error: ["red"],
  Fatal: ["black on red"],
  None: []
}

const painted = (text: string, ...colors: ReadonlyArray<Color>) => {
  const begin = colors.map((color) => `\x1b[${color === "black on red" ? "101;30" : codes[color]}m`).join("")
  return begin === "" ? text : `${begin}${text}\x1b[0m`
}

const plain = (text: string) => text

const twoDigits = (number: number) => String(number).padStart(2, "0")

const timeOf = (date: Date) =>
  `${[date.getHours(), date.getMinutes(), date.getSeconds()].map(twoDigits).join(":")}.${
    String(date.getMilliseconds()).padStart(3, "0")
  }`

const textOf = (value: unknown): string => typeof value === "string" ? value : Formatter.format(value, { space: 0 })

const indent = "  "

/** Several lines, as of a stack: none of them can be taken for a record, or for an annotation of one. */
const barred = (text: string) => text.split(/\r?\n/).map((line) => `${indent}| ${visible(line)}`)

const furtherLines = (part: unknown): ReadonlyArray<string> =>
  part instanceof Error ? barred(part.stack ?? String(part)) : [indent + visible(textOf(part))]

export const make = ({ colors }: Options): Logger.Logger<unknown, string> => {
  const paint: typeof painted = colors ? painted : plain
  return Logger.make(({ cause, date, fiber, logLevel, message }) => {
    const parts: ReadonlyArray<unknown> = Array.isArray(message) ? message : [message]
    const [first] = parts
    const isText = typeof first === "string"
    const spans = fiber.getRef(References.CurrentLogSpans)
      .map(([label, startedAt]) => ` ${visible(label)}=${date.getTime() - startedAt}ms`)
    const head = `${paint(`[${timeOf(date)}]`, "white")} ${
      paint(logLevel.toUpperCase(), ...ofLevel[logLevel])
    } (#${fiber.id})${spans.join("")}:`
    const annotations = Object.entries(fiber.getRef(References.CurrentLogAnnotations)).map(([name, value]) =>
      `${indent}${paint(`${visible(name)}:`, "bold", "white")} ${visible(textOf(value))}`
    )
    return [
      isText ? `${head} ${paint(visible(first), "bold", "cyan")}` : head,
      ...cause.reasons.length === 0 ? [] : barred(Cause.pretty(cause)),
      ...parts.slice(isText ? 1 : 0).flatMap(furtherLines),
      ...annotations
    ].join("\n")
  })
}
