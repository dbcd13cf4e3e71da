/** The token that a command sends: of two that are accepted while they are changed, the first. */
import { Config, Effect, Option, Redacted, Result } from "effect"
import * as Secrets from "../Secrets.ts"
import { CommandFailed, statuses } from "./Client.ts"

export interface ClientToken {
  readonly token: Redacted.Redacted<string>
  /** It is in a file, and may be another later. */
  readonly mayChange: boolean
  /** What is in its file by now: for who stays while tokens are changed. What cannot be read leaves it as it was. */
  readonly again: Effect.Effect<string>
}

const firstOf = (text: string) => text.split(",")[0] ?? ""

const lookUp = (name: string) => Effect.map(Config.option(Config.String(name)), Option.getOrUndefined)

/** Of the first of these settings that is there. */
export const read = Effect.fnUntraced(function*(names: ReadonlyArray<string>) {
  for (const name of names) {
    const variables = new Map<string, string | undefined>()
    for (const each of [name, Secrets.fileVariable(name)]) variables.set(each, yield* lookUp(each))
    const found = Secrets.find(name, true, (each) => variables.get(each))
    if (Result.isFailure(found)) {
      return yield* new CommandFailed({ message: found.failure, status: statuses.usage })
    }
    if (found.success === undefined) continue
    return clientToken(name, found.success)
  }
  return undefined
})

const clientToken = (name: string, { path, text }: Secrets.Secret): ClientToken => {
  let last = firstOf(text)
  const again = Effect.sync(() => {
    const found = path === undefined ? undefined : Secrets.fromFile(name, path, true)
    if (found !== undefined && Result.isSuccess(found)) last = firstOf(found.success.text)
    return last
  })
  return { token: Redacted.make(last), mayChange: path !== undefined, again }
}
