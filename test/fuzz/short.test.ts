import { assert, describe, it } from "@effect/vitest"
import * as Random from "../../scripts/fuzz/Random.ts"
import { target as filter } from "../../scripts/fuzz/targets/filter.ts"
import { target as settings } from "../../scripts/fuzz/targets/settings.ts"
import { target as urls } from "../../scripts/fuzz/targets/urls.ts"

describe("the fuzz", () => {
  it("has the same cases for the same seed, and others for another", () => {
    const numbers = (seed: string) => {
      const random = Random.make(seed)
      return Array.from({ length: 20 }, () => random.below(1_000))
    }
    assert.deepStrictEqual(numbers("1/7"), numbers("1/7"))
    const all = new Set(Array.from({ length: 1_000 }, (_, at) => numbers(`1/${at}`).join()))
    assert.strictEqual(all.size, 1_000)
  })

  for (
    const [name, target, cases] of [
      ["connection URLs", urls, 10_000],
      ["settings", settings, 10_000],
      ["the log of a program", filter, 500]
    ] as const
  ) {
    it(`finds nothing in ${name}, in a short run`, async () => {
      const opened = await target.open()
      for (let at = 0; at < cases; at++) await opened.run(Random.make(`short/${at}`))
      await opened.close()
    }, 60_000)
  }
})
