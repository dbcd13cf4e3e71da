/**
 * What may stand in a query, read by one schema for each kind of value: pure. `Number("0x10")`, `Number("")` and `Number("1e2")` are
 * numbers for JavaScript; here a number has decimal digits and a range, and nothing else.
 */
import { Result, Schema, SchemaIssue } from "effect"
import type { OutputPosition } from "../provisioner/JobStore.ts"
import type { FieldProblem } from "./Problem.ts"

/** Digits of a number; more of them would not be exact. */
const mostDigits = 15

/** A whole number in decimal digits, within its range. */
export const whole = (minimum: number, maximum: number) =>
  Schema.String.check(
    Schema.makeFilter((text: string) =>
      isWhole(text, minimum, maximum) || `must be a whole number from ${minimum} to ${maximum}`
    )
  )

const isWhole = (text: string, minimum: number, maximum: number) =>
  text.length <= mostDigits && /^(?:0|[1-9]\d*)$/.test(text) && Number(text) >= minimum && Number(text) <= maximum

/** An attempt is PostgreSQL's `smallint`. */
const lastAttempt = 32_767

/** The last index that is a number of at most 15 digits. */
const lastIndex = 999_999_999_999_999

/** A line of output, as `attempt:index`. */
export const Position = Schema.String.check(Schema.makeFilter((text: string) => {
  const [attempt, index, ...others] = text.split(":", 3)
  return others.length === 0 && isWhole(attempt ?? "", 0, lastAttempt) && isWhole(index ?? "", 0, lastIndex) ||
    `must be attempt:index, as of a line: whole numbers up to ${lastAttempt} and ${lastIndex}`
}))

export const Switch = Schema.Literals(["true", "false"])

export const toPosition = (text: string): OutputPosition => {
  const [attempt, index] = text.split(":", 2)
  return { attempt: Number(attempt), index: Number(index) }
}

const format = SchemaIssue.makeFormatterStandardSchemaV1()

/** Reads the parameters of one request, and collects what is wrong with them. */
export const reader = (query: URLSearchParams) => {
  const problems: Array<FieldProblem> = []
  /** `undefined`: it is not there, or wrong. `expected` says what would be right, where the schema cannot. */
  const one = <A>(field: string, schema: Schema.Decoder<A>, expected?: string): A | undefined => {
    const [text, ...others] = query.getAll(field)
    if (text === undefined) return undefined
    if (others.length > 0) {
      problems.push({ field, problem: "may be given once" })
      return undefined
    }
    const decoded = Schema.decodeUnknownResult(schema)(text)
    if (Result.isSuccess(decoded)) return decoded.success
    problems.push({ field, problem: expected ?? format(decoded.failure.issue).issues[0]?.message ?? "is not valid" })
    return undefined
  }
  return { one, problems }
}
