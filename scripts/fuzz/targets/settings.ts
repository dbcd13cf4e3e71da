/** Settings: whatever stands in the environment is read, or refused in words that show no secret. In this process. */
import { Result } from "effect"
import { describeSettings, read, secretSettings } from "../../../src/Settings.ts"
import type { Random } from "../Random.ts"
import { holds, type Target } from "../Target.ts"

const names = [...new Set(describeSettings().match(/LULL_[A-Z_]+/g))]

/** What a value might be made of: parts of right ones, and what confuses who takes them apart. */
const parts = [
  "127.0.0.1",
  "[::1]",
  "localhost",
  "0.0.0.0",
  ":7070",
  ":",
  "/",
  "//",
  "http://",
  "https://lull.example",
  "/lull",
  "os=linux",
  ",",
  "=",
  "10 seconds",
  " MB",
  "100",
  "-1",
  "1e9",
  "NaN",
  "true",
  "off",
  "none",
  "json",
  "10.0.0.0/8",
  "::/0",
  "[{\"id\":1,\"name\":\"a\",\"hosts\":[\"b:1\"]}]",
  "{",
  "]",
  "nobody",
  "1000:1000",
  "\n",
  "\t",
  "\u0000",
  "\u202e",
  "💥"
]

const value = (random: Random): string =>
  random.oneIn(4) ? random.text(random.oneIn(50) ? 5_000 : 20) : random.several(5, () => random.pick(parts)).join("")

/** In every value of a secret, so that it is recognised wherever it comes to light. */
const mark = "hush-hush-hush-hush"

const secret = (random: Random, isUrl: boolean): string =>
  isUrl
    ? `postgres${random.oneIn(3) ? "ql" : ""}://${random.pick(["app", "", random.text(3)])}:${mark}${
      random.pick(["", "@", "%40", "#", "?"])
    }@${random.pick(["localhost", "", random.text(5)])}/${random.text(3)}`
    : mark + random.pick(["", " ", ",", "\n", random.text(3)])

const seconds = (since: number) => (performance.now() - since) / 1_000

export const target: Target = {
  meaning: "the settings of a service",
  open: () =>
    Promise.resolve({
      run: (random) => {
        const environment = new Map(
          random.several(6, () => random.pick(names)).map((name) => [
            name,
            secretSettings.includes(name) && !random.oneIn(5)
              ? secret(random, name.includes("URL"))
              : value(random)
          ])
        )
        const files = random.oneIn(2)
          ? () => Result.fail("it is not there")
          : () => Result.succeed(secret(random, false))
        const begun = performance.now()
        const settings = read((name) => environment.get(name), files)
        holds(seconds(begun) < 1, `it took ${seconds(begun)} s: ${JSON.stringify([...environment])}`)
        if (Result.isSuccess(settings)) return
        const { message, problems } = settings.failure
        holds(problems.length > 0 && message.length > 0, "it was refused without a word")
        holds(
          problems.every((problem) => /^LULL_/.test(problem)),
          `a problem names no setting: ${JSON.stringify(problems)} of ${JSON.stringify([...environment])}`
        )
        holds(!message.includes(mark), `a secret is shown: ${message} of ${JSON.stringify([...environment])}`)
      },
      check: () => Promise.resolve(),
      close: () => Promise.resolve()
    })
}
