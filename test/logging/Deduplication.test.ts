import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as Deduplication from "../../src/logging/Deduplication.ts"

type Told =
  | {
    readonly _tag: "Passed"
    readonly at: number
    readonly kind: string
    readonly level: number
    readonly number: number
  }
  | {
    readonly _tag: "Held"
    readonly at: number
    readonly kind: string
    readonly level: number
    readonly count: number
    readonly why: string
  }
  | {
    readonly _tag: "Overflow"
    readonly at: number
    readonly level: number
    readonly count: number
    readonly kinds: number
  }

/** A deduplication, its clock, and what it let out. */
const start = (options: Deduplication.Options = {}) => {
  const told: Array<Told> = []
  let at = 0
  let number = 0
  const made = Deduplication.make<string>(options, {
    held: ({ count, level, sample, why }) => told.push({ _tag: "Held", at, kind: sample, level, count, why }),
    overflow: ({ kinds, level, records }) => told.push({ _tag: "Overflow", at, level, count: records, kinds })
  })
  const receive = (kind: string, level = 1) => {
    const isPassed = made.receive({ now: at, at, kind, level }, () => ({ sample: kind, bytes: kind.length }))
    if (isPassed) told.push({ _tag: "Passed", at, kind, level, number })
    number++
    return isPassed
  }
  /** Lets time go on, with a tick whenever something is due, as the layer does it. */
  const pass = (millis: number) => {
    const end = at + millis
    for (;;) {
      const due = made.nextDue()
      if (due === undefined || due > end) break
      at = Math.max(at, due)
      made.tick(at)
    }
    at = end
  }
  const flush = () => made.flush(at)
  return { told, receive, pass, flush, counts: made.counts, now: () => at }
}

const counted = (told: ReadonlyArray<Told>) =>
  told.reduce((sum, one) => sum + (one._tag === "Passed" ? 1 : one.count), 0)

describe("deduplication", () => {
  it("passes the first at once, and tells the others after 10 s, 20 s, 40 s, … at least every 10 min", () => {
    const { pass, receive, told } = start()
    for (let second = 0; second < 3_600; second++) {
      receive("a")
      pass(1_000)
    }
    const times = told.map(({ at }) => at / 1_000)
    assert.deepStrictEqual(times, [0, 10, 30, 70, 150, 310, 630, 1_230, 1_830, 2_430, 3_030])
    assert.strictEqual(told.filter(({ _tag }) => _tag === "Passed").length, 1)
  })

  it("tells by the timer, not by the next record", () => {
    const { pass, receive, told } = start()
    for (let count = 0; count < 4_214; count++) receive("a")
    pass(10_000)
    assert.deepStrictEqual(told.at(-1), {
      _tag: "Held",
      at: 10_000,
      kind: "a",
      level: 1,
      count: 4_213,
      why: "interval"
    })
  })

  it("forgets a kind that was silent for its interval: the next is a first one", () => {
    const { counts, pass, receive, told } = start()
    receive("a")
    pass(10_001)
    assert.strictEqual(counts().kinds, 0)
    assert.isTrue(receive("a"))
    receive("a")
    pass(30_001)
    assert.deepStrictEqual(told.map(({ _tag }) => _tag), ["Passed", "Passed", "Held"])
    assert.isTrue(receive("a"))
  })

  it("passes the first of others in a million repeats", () => {
    const { receive, told } = start()
    for (let count = 0; count < 1_000_000; count++) {
      receive("noise")
      if (count === 500_000) assert.isTrue(receive("signal"))
    }
    assert.strictEqual(told.length, 2)
  })

  it("passes the first N, and then every power of two, where that is wanted", () => {
    const { receive } = start({ first: 3, powersOfTwo: true })
    const passed = Array.from({ length: 40 }, (_, at) => receive("a") ? at + 1 : 0).filter(Boolean)
    assert.deepStrictEqual(passed, [1, 2, 3, 5, 7, 11, 19, 35])
  })

  it("takes a graver level for another kind, and tells the lower one at once", () => {
    const { receive, told } = start()
    receive("a", 1)
    receive("a", 1)
    assert.isTrue(receive("a", 2))
    assert.deepStrictEqual(told[1], { _tag: "Held", at: 0, kind: "a", level: 1, count: 1, why: "escalation" })
    assert.isFalse(receive("a", 1))
  })

  it("forgets the kind that was silent for longest when there are too many, and tells it", () => {
    const { counts, pass, receive, told } = start({ kinds: 3 })
    for (const kind of ["a", "a", "b", "b", "c", "a"]) {
      receive(kind)
      pass(1)
    }
    receive("d")
    assert.deepStrictEqual(told.at(-2), { _tag: "Held", at: 6, kind: "b", level: 1, count: 1, why: "eviction" })
    assert.strictEqual(counts().evicted, 1)
    assert.isFalse(receive("a"))
  })

  it("holds kinds beyond the budget, and says of how many", () => {
    const { pass, receive, told } = start({ budgetPerSecond: 10 })
    for (let at = 0; at < 150; at++) receive(`kind ${at}`)
    receive("kind 149")
    // Another level has a budget of its own.
    assert.isTrue(receive("grave", 4))
    assert.strictEqual(told.filter(({ _tag }) => _tag === "Passed").length, 101)
    pass(10_000)
    assert.deepInclude(told, { _tag: "Overflow", at: 10_000, level: 1, count: 51, kinds: 50 })
    assert.isTrue(receive("new"))
  })

  const steps = Schema.Array(Schema.Union([
    Schema.Tuple([
      Schema.Literal("receive"),
      Schema.Literals(["a", "b", "c", "d", "e", "f"]),
      Schema.Literals([1, 2, 3])
    ]),
    Schema.Tuple([Schema.Literal("pass"), Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 40_000 }))]),
    Schema.Tuple([Schema.Literal("flush")])
  ]))

  const run = (given: typeof steps.Type, options: Deduplication.Options) => {
    const made = start(options)
    let received = 0
    for (const step of given) {
      switch (step[0]) {
        case "receive":
          made.receive(step[1], step[2])
          received++
          break
        case "pass":
          made.pass(step[1])
          break
        case "flush":
          made.flush()
          assert.strictEqual(counted(made.told), received)
          assert.strictEqual(made.counts().held, 0)
      }
      const { held, passed, told } = made.counts()
      assert.strictEqual(passed + told + held, received)
    }
    return made
  }

  for (
    const [name, options] of [
      ["by default", {}],
      ["with two kinds", { kinds: 2 }],
      ["with a small budget", { budgetPerSecond: 1, kinds: 4 }],
      ["with samples", { first: 2, powersOfTwo: true }],
      ["with little memory", { bytes: 600 }]
    ] as const
  ) {
    it.effect.prop(`passed + told = received at every flush, ${name}`, { steps }, ({ steps }) =>
      Effect.sync(() => {
        const { told } = run(steps, options)
        // What passes is a part of what came, in its order.
        const numbers = told.flatMap((one) => one._tag === "Passed" ? [one.number] : [])
        assert.deepStrictEqual(numbers, numbers.toSorted((a, b) => a - b))
        // The first of a kind comes before what is told of it.
        const seen = new Set<string>()
        for (const one of told) {
          if (one._tag === "Passed") seen.add(`${one.kind} ${one.level}`)
          if (one._tag === "Held") assert.isTrue(seen.has(`${one.kind} ${one.level}`))
        }
      }), { arbitrary: { runs: 300 } })
  }

  it.effect.prop(
    "is never silent for longer than the interval while repeats go on",
    { gaps: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9_000 }))) },
    ({ gaps }) =>
      Effect.sync(() => {
        const { now, pass, receive, told } = start({ longestMillis: 40_000 })
        for (const gap of gaps) {
          receive("a")
          pass(gap)
        }
        const times = [...told.map(({ at }) => at), now()]
        for (const [at, time] of times.entries()) {
          assert.isAtMost(time - (times[at - 1] ?? 0), 40_000)
        }
      }),
    { arbitrary: { runs: 300 } }
  )

  it.effect.prop(
    "passes what is all different, within the budget",
    { count: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000 })) },
    ({ count }) =>
      Effect.sync(() => {
        const { counts, receive } = start()
        for (let at = 0; at < count; at++) assert.isTrue(receive(`kind ${at}`))
        assert.strictEqual(counts().passed, count)
      })
  )

  it.effect.prop(
    "stays below its memory, whatever comes",
    { kinds: Schema.Array(Schema.String) },
    ({ kinds }) =>
      Effect.sync(() => {
        const { counts, receive } = start({ bytes: 2_000, budgetPerSecond: 1_000_000 })
        for (const kind of kinds) {
          receive(kind)
          // One that alone is too large is kept until the next comes.
          if (counts().kinds > 1) assert.isAtMost(counts().bytes, 2_000)
        }
      }),
    { arbitrary: { runs: 300 } }
  )
})
