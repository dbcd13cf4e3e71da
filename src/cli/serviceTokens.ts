/** The tokens that the service accepts. Those that are in files are read again on SIGHUP, so that they can be changed while it runs. */
import { Effect, Redacted, Result } from "effect"
import { passAlways } from "../logging/PassAlways.ts"
import * as Secrets from "../Secrets.ts"
import type { Settings } from "../Settings.ts"

const names = { token: "LULL_TOKEN", peerToken: "LULL_PEER_TOKEN" } as const

const values = (tokens: Secrets.Tokens | undefined): ReadonlyArray<string> =>
  tokens === undefined ? [] : Redacted.value(tokens)

const isSame = (a: ReadonlyArray<string>, b: ReadonlyArray<string>) =>
  a.length === b.length && b.every((token, at) => token === a[at])

const count = (tokens: ReadonlyArray<string>) => tokens.length === 1 ? "1 token is" : `${tokens.length} tokens are`

export const make = (
  settings: Pick<Settings, "token" | "peerToken" | "tokenFiles">,
  readFile?: Secrets.ReadFile
) => {
  const current = { token: values(settings.token), peerToken: values(settings.peerToken) }

  /** A file that cannot be read changes nothing: neither is the service open then, nor is everybody locked out. */
  const readAgain = (which: keyof typeof names, path: string) => {
    const tokens = Result.map(Secrets.tokensFromFile(names[which], path, readFile), Redacted.value)
    if (Result.isFailure(tokens)) {
      return Effect.logWarning(`${tokens.failure}; the tokens that were read before go on being accepted`)
    }
    const isChanged = !isSame(current[which], tokens.success)
    current[which] = tokens.success
    const file = `${Secrets.fileVariable(names[which])} was read again`
    return Effect.logInfo(
      isChanged ? `${file}: ${count(tokens.success)} accepted from now on` : `${file}, and has not changed`
    )
  }

  return {
    token: () => current.token,
    peerToken: () => current.peerToken,
    /** Somebody waits for what is said, each time. */
    reload: passAlways(Effect.suspend(() =>
      Effect.forEach(
        ["token", "peerToken"] as const,
        (which) => {
          const path = settings.tokenFiles[which]
          return path === undefined ? Effect.void : readAgain(which, path)
        },
        { discard: true }
      )
    ))
  }
}

export type ServiceTokens = ReturnType<typeof make>
