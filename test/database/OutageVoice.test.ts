import { assert, describe, it } from "@effect/vitest"
import * as OutageVoice from "../../src/database/OutageVoice.ts"

type Step = readonly [
  at: number,
  what: "down" | "degraded" | "up" | "settled",
  reason?: "Unreachable" | "ReadOnly" | "Refusing" | "Full" | "Locked" | "Hung"
]

const tell = (steps: Iterable<Step>) => {
  let voice = OutageVoice.silent
  const told: Array<{ at: number; text: string }> = []
  for (const [at, what, reason = "Unreachable"] of steps) {
    const [next, lines] = what === "down"
      ? OutageVoice.unavailable(voice, { at, reason, detail: "because" })
      : what === "degraded"
      ? OutageVoice.degraded(voice, { at, reason, detail: "because" })
      : what === "up"
      ? OutageVoice.available(voice, at, 7)
      : OutageVoice.settled(voice, at)
    voice = next
    for (const { text } of lines) told.push({ at, text })
  }
  return told
}

const every = function*(from: number, to: number, step: number, what: Step[1]): Generator<Step> {
  for (let at = from; at < to; at += step) yield [at, what]
}

const degradedFor = function*(millis: number, reason: "Full"): Generator<Step> {
  for (let at = 0; at < millis; at += 1_000) yield [at, "degraded", reason]
}

describe("OutageVoice", () => {
  it("tells a minute's outage in four lines: begin, two of progress, end", () => {
    const told = tell([...every(0, 60_000, 1_000, "down"), [60_000, "up"], ...every(62_000, 90_000, 2_000, "up"), [
      90_000,
      "settled"
    ]])
    assert.deepStrictEqual(told.map(({ at }) => at), [0, 10_000, 30_000, 60_000])
    assert.include(told[0]!.text, "unavailable (Unreachable: because)")
    assert.include(told[1]!.text, "11 attempts over 10s")
    assert.strictEqual(told.at(-1)!.text, "database available again after 1m: 60 attempts, 7 calls refused")
  })

  it("tells a day's outage in at most 40 lines, one at least every hour", () => {
    const day = 86_400_000
    const told = tell([...every(0, day, 5_000, "down"), [day, "up"]])
    assert.isAtMost(told.length, 40)
    for (let index = 1; index < told.length; index++) assert.isAtMost(told[index]!.at - told[index - 1]!.at, 3_605_000)
  })

  it("tells each other reason once", () => {
    const told = tell([[0, "down"], [1, "down", "ReadOnly"], [2, "down"], [3, "down", "ReadOnly"], [4, "up"]])
    assert.strictEqual(told.length, 3)
    assert.include(told[1]!.text, "another reason (ReadOnly")
  })

  it("tells of a degradation as of an outage, in its own words", () => {
    const told = tell([...degradedFor(60_000, "Full"), [60_000, "up"], [90_000, "settled"]])
    assert.deepStrictEqual(told.map(({ at }) => at), [0, 10_000, 30_000, 60_000])
    assert.strictEqual(told[0]!.text, "database degraded (Full: because)")
    assert.match(told[1]!.text, /^database still degraded: 11 attempts over 10s/)
    assert.strictEqual(told.at(-1)!.text, "database no longer degraded after 1m: 60 attempts, 7 calls refused")
  })

  it("tells of an outage that becomes a degradation as one episode with one end", () => {
    const told = tell([[0, "down"], [2_000, "degraded", "Refusing"], [4_000, "degraded", "Refusing"], [6_000, "up"]])
    assert.deepStrictEqual(told.map(({ text }) => text), [
      "database unavailable (Unreachable: because)",
      "database degraded (Refusing: because)",
      "database available again after 6s: 3 attempts, 7 calls refused"
    ])
  })

  it("has eight lines in a minute and three in a second at most, whatever changes into whatever", () => {
    const conditions = ["down", "degraded", "up"] as const
    const reasons = ["Unreachable", "ReadOnly", "Refusing", "Full", "Locked", "Hung"] as const
    for (const pace of [50, 333, 1_100, 7_000]) {
      const steps = Array.from({ length: 2_000 }, (_, index): Step => [
        index * pace,
        conditions[(index * 7 + (index >> 2)) % 3]!,
        reasons[(index * 5 + (index >> 3)) % 6]!
      ])
      const told = tell(steps)
      for (const { at } of told) {
        assert.isAtMost(told.filter((other) => other.at >= at && other.at < at + 60_000).length, 8)
        assert.isAtMost(told.filter((other) => other.at >= at && other.at < at + 1_000).length, 3)
      }
    }
  })

  it("names a reason later that could not be named in time", () => {
    const told = tell([
      [0, "down"],
      [100, "down", "ReadOnly"],
      [200, "down", "Full"],
      [1_300, "down", "Full"]
    ])
    assert.deepStrictEqual(told.map(({ at }) => at), [0, 100, 1_300])
  })

  it("tells of a database that comes and goes without a line for each time", () => {
    const flaps = Array.from({ length: 40 }, (_, index): ReadonlyArray<Step> => [
      [index * 1_500, "down"],
      [index * 1_500 + 500, "up"]
    ]).flat()
    const told = tell([...flaps, [95_000, "settled"]])
    assert.isAtMost(told.length, 8)
    assert.isTrue(told.some(({ text }) => text.includes("again") && text.includes("comes and goes")))
    assert.strictEqual(
      told.at(-1)!.text,
      "database has settled: 40 interruptions over 1m 35s, away for 20s of it, 40 attempts, 280 calls refused"
    )
    const perSecond = told.map(({ at }) => told.filter((other) => other.at >= at && other.at < at + 1_000).length)
    assert.isAtMost(Math.max(...perSecond), 3)
  })

  it("forgets an episode that has settled", () => {
    const told = tell([[0, "down"], [1_000, "up"], [40_000, "settled"], [50_000, "down"], [51_000, "up"]])
    assert.strictEqual(told.length, 4)
    assert.include(told[2]!.text, "database unavailable (")
  })

  it("says nothing while all is well", () => {
    assert.deepStrictEqual(tell([[0, "up"], [2_000, "up"], [40_000, "settled"]]), [])
  })
})
