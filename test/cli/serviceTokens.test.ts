import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted, Result } from "effect"
import * as serviceTokens from "../../src/cli/serviceTokens.ts"
import { collectLines } from "../support/replicas.ts"

const first = "first-token-0123456789"
const second = "second-token-0123456789"

describe("the tokens of a service", () => {
  it.effect("are read again from their files; what cannot be used leaves the old ones, and is said each time", () => {
    const { layer, lines } = collectLines()
    let content: Result.Result<string, string> = Result.succeed(`${first}\n`)
    return Effect.gen(function*() {
      const tokens = serviceTokens.make({
        token: Redacted.make([first] as const),
        peerToken: Redacted.make(["a-token-of-a-variable"] as const),
        tokenFiles: { token: "/run/token", peerToken: undefined }
      }, () => content)
      const reload = Effect.fnUntraced(function*(next: Result.Result<string, string>) {
        content = next
        lines.length = 0
        yield* tokens.reload
        return [tokens.token(), lines.map(({ text }) => text)] as const
      })
      const file = "LULL_TOKEN_FILE=\"/run/token\""
      const goOn = "the tokens that were read before go on being accepted"
      const readAgain = "LULL_TOKEN_FILE was read again"
      assert.deepStrictEqual(yield* reload(content), [[first], [`${readAgain}, and has not changed`]])
      assert.deepStrictEqual(yield* reload(Result.succeed(`${second}\n${first}\n`)), [[second, first], [
        `${readAgain}: 2 tokens are accepted from now on`
      ]])
      for (let time = 0; time < 2; time++) {
        assert.deepStrictEqual(yield* reload(Result.fail("there is no such file")), [[second, first], [
          `${file} cannot be read: there is no such file; ${goOn}`
        ]])
      }
      for (
        const [nonsense, pattern] of [["", /is an empty file.*; the tokens that/], [
          "hush",
          /is wrong: .*; the tokens/
        ]] as const
      ) {
        const [kept, [line = ""]] = yield* reload(Result.succeed(nonsense))
        assert.deepStrictEqual(kept, [second, first])
        assert.match(line, pattern)
        assert.notInclude(line, "hush")
      }
      assert.deepStrictEqual(yield* reload(Result.succeed(second)), [[second], [
        `${readAgain}: 1 token is accepted from now on`
      ]])
      assert.deepStrictEqual(tokens.peerToken(), ["a-token-of-a-variable"])
    }).pipe(Effect.provide(layer))
  })
})
