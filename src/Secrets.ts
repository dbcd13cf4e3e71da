/**
 * Settings that are secret: each is in a variable, or in a file that a second variable names, `LULL_TOKEN_FILE` for
 * `LULL_TOKEN`. No message shows what either holds.
 */
import { Redacted, Result } from "effect"
import * as SecretFile from "./SecretFile.ts"

/** The name of the variable that names the file. */
export const fileVariable = (name: string) => `${name}_FILE`

/** An empty secret is one that went missing on the way here. Without it the service would be open, or on another database. */
export const emptySecret = (name: string) => `${name} is set, and empty: give it its value, or do not set it at all`

const isBlank = (text: string) => text.trim() === ""

export interface Secret {
  readonly text: string
  /** Where it was found, for messages. */
  readonly from: string
  /** `undefined`: in the variable. */
  readonly path: string | undefined
}

export type ReadFile = (path: string) => Result.Result<string, string>

/** The lines of a file; what ends the last one is no part of the secret. */
const linesOf = (content: string) => content.split(/\r?\n/).filter((line) => line !== "")

/** From a file; of a list each value has a line, and they are joined as they would be in the variable. */
export const fromFile = (
  name: string,
  path: string,
  isList: boolean,
  readFile: ReadFile = SecretFile.read
): Result.Result<Secret, string> => {
  const from = `${fileVariable(name)}=${JSON.stringify(path)}`
  const content = readFile(path)
  if (Result.isFailure(content)) return Result.fail(`${from} cannot be read: ${content.failure}`)
  if (isBlank(content.success)) return Result.fail(`${from} is an empty file: write the value of ${name} into it`)
  const lines = linesOf(content.success)
  if (!isList && lines.length > 1) return Result.fail(`${from} has more than one line: it should have ${name} alone`)
  return Result.succeed({ text: lines.join(separator), from, path })
}

/** Of the two variables the one that is set. `undefined`: neither is. */
export const find = (
  name: string,
  isList: boolean,
  lookUp: (name: string) => string | undefined,
  readFile: ReadFile = SecretFile.read
): Result.Result<Secret | undefined, string> => {
  const text = lookUp(name)
  const path = lookUp(fileVariable(name))
  if (text !== undefined && path !== undefined) {
    return Result.fail(`${name} and ${fileVariable(name)} are both set: it should be one of them`)
  }
  if (path !== undefined) {
    return isBlank(path) ? Result.fail(emptySecret(fileVariable(name))) : fromFile(name, path, isList, readFile)
  }
  if (text === undefined) return Result.succeed(undefined)
  return isBlank(text) ? Result.fail(emptySecret(name)) : Result.succeed({ text, from: name, path: undefined })
}

/** The tokens that are accepted, or the one that is sent, which is the first. */
export type Tokens = Redacted.Redacted<readonly [string, ...ReadonlyArray<string>]>

/** No character of a token, by the grammar of `Authorization: Bearer`. */
const separator = ","

/** The old one and the new one, while they are changed. */
const mostTokens = 2

const isToken = (text: string) => /^[\x21-\x7e]{16,}$/.test(text)

const expected = "at least 16 printable characters without blanks; or two such tokens, " +
  "separated by a comma or, in a file, on a line each"

/** The tokens of a text, or what would be right. */
export const readTokens = (text: string): Result.Result<Tokens, string> => {
  const [first = "", ...others] = text.split(separator)
  return others.length < mostTokens && [first, ...others].every(isToken)
    ? Result.succeed(Redacted.make([first, ...others] as const))
    : Result.fail(expected)
}

/** The tokens of a file, or a sentence that says what is wrong with it. */
export const tokensFromFile = (name: string, path: string, readFile: ReadFile = SecretFile.read) =>
  Result.flatMap(
    fromFile(name, path, true, readFile),
    ({ from, text }) => Result.mapError(readTokens(text), (right) => wrongSecret(from, right))
  )

export const wrongSecret = (from: string, right: string) => `${from} is wrong: it should be ${right}`
