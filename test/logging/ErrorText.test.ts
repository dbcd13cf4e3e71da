import { assert, describe, it } from "@effect/vitest"
import { Cause, Data, Duration, Effect, Exit, Option, Redacted, Schema } from "effect"
import { errorText } from "../../src/logging/ErrorText.ts"

class BrokerGone extends Data.TaggedError("BrokerGone")<{
  readonly broker?: unknown
  readonly port?: number
  readonly cause?: unknown
}> {}
class BrokerFull extends Data.TaggedError("BrokerFull") {}
class Left extends Data.TaggedError("Left")<{ readonly message: string; readonly cause?: unknown }> {}
class PeerUnreachable extends Schema.TaggedError<PeerUnreachable>()("PeerUnreachable", { peer: Schema.String }) {}
class OutOfPaper extends Error {}

describe("ErrorText", () => {
  const withCode = Object.assign(new Error("it broke"), { code: "EBROKE" })
  const aggregate = Object.assign(
    new AggregateError([new Error("connect ECONNREFUSED ::1:1"), new Error("connect ECONNREFUSED 127.0.0.1:1")], ""),
    { code: "ECONNREFUSED" }
  )
  const circle = new BrokerGone({ broker: "b1" })
  Object.assign(circle, { cause: circle, self: circle })

  const rows: ReadonlyArray<readonly [string, unknown, string]> = [
    ["a message", new Error("refused"), "refused"],
    ["a message of several lines", new Error("refused\n  at \tonce\u0007"), "refused at once"],
    ["a kind of error", new TypeError("x is no function"), "TypeError: x is no function"],
    ["a class without a name of its own", new OutOfPaper("empty tray"), "OutOfPaper: empty tray"],
    ["a tag and a message", new Left({ message: "it left" }), "Left: it left"],
    ["a message that holds the tag", new Left({ message: "(Left) for good" }), "(Left) for good"],
    ["a code that the message does not hold", withCode, "it broke (code: EBROKE)"],
    ["a tag alone", new BrokerFull(), "BrokerFull"],
    ["a tag of a schema, and fields", new PeerUnreachable({ peer: "p 1" }), "PeerUnreachable (peer: \"p 1\")"],
    ["fields", new BrokerGone({ broker: "b1", port: 3 }), "BrokerGone (broker: b1, port: 3)"],
    ["a time of Effect's that has run out", new Cause.TimeoutError(), "TimeoutError"],
    ["an error without anything", new Error(), "an error without a message"],
    ["an object that was made a message", new Error(String({})), "an error without a message"],
    ["a cause", new BrokerGone({ cause: new Error("reset") }), "BrokerGone, caused by reset"],
    [
      "a cause that the message quotes",
      new Error("it failed: reset", { cause: new Error("reset") }),
      "it failed: reset"
    ],
    [
      "a chain of causes",
      new Left({ message: "gone", cause: new BrokerGone({ port: 1, cause: new Error("reset") }) }),
      "Left: gone, caused by BrokerGone (port: 1), caused by reset"
    ],
    [
      "several causes",
      aggregate,
      "AggregateError (code: ECONNREFUSED), caused by connect ECONNREFUSED ::1:1, " +
      "caused by connect ECONNREFUSED 127.0.0.1:1"
    ],
    ["a circle", circle, "BrokerGone (broker: b1, self: <circular>)"],
    ["a secret", new BrokerGone({ broker: Redacted.make("hush") }), "BrokerGone (broker: <redacted>)"],
    [
      "a secret with a label",
      new BrokerGone({ broker: Redacted.make("hush", { label: "key" }) }),
      "BrokerGone (broker: <redacted:key>)"
    ],
    [
      "a field that is named like a secret",
      new BrokerGone({ broker: { password: "hush" } }),
      "BrokerGone (broker: {password: <redacted>})"
    ],
    ["a secret in a URL", new BrokerGone({ broker: "redis://a:hush@b" }), "BrokerGone (broker: redis://<redacted>@b)"],
    ["a list", new BrokerGone({ broker: [1, 2, 3, 4, 5, 6, 7] }), "BrokerGone (broker: [1, 2, 3, 4, 5, and 2 more])"],
    ["a length of time", new BrokerGone({ broker: Duration.seconds(90) }), "BrokerGone (broker: 1m 30s)"],
    ["an error in a field", new BrokerGone({ broker: new Error("reset") }), "BrokerGone (broker: reset)"],
    [
      "a failure in a field",
      new BrokerGone({ broker: Cause.fail(new BrokerFull()) }),
      "BrokerGone (broker: [BrokerFull])"
    ],
    ["a text", "broken", "broken"],
    ["an empty text", " ", "an empty text"],
    ["nothing", undefined, "undefined"],
    ["null", null, "null"],
    ["a number", 7, "7"],
    ["a symbol", Symbol("x"), "Symbol(x)"],
    ["a function", () => 1, "a function"],
    ["an object", { a: 1, b: { c: "d" } }, "{a: 1, b: {c: d}}"],
    ["an object with a tag", { _tag: "Lost", at: 1 }, "Lost (at: 1)"],
    ["an object with a message", { message: "refused" }, "refused"],
    ["an object without a prototype", Object.assign(Object.create(null), { a: 1 }), "{a: 1}"],
    ["a URL", new URL("http://a/b"), "http://a/b"],
    ["a map", new Map([[1, 2]]), "a Map of 1"],
    ["bytes", new Uint8Array(1_000_000), "1000000 bytes"],
    [
      "several failures",
      Cause.fromReasons([Cause.makeFailReason("a"), Cause.makeDieReason(new BrokerFull())]),
      "a; BrokerFull"
    ],
    [
      "a failure and an interruption",
      Cause.fromReasons([Cause.makeInterruptReason(1), Cause.makeFailReason("a")]),
      "a"
    ],
    ["an interruption", Cause.interrupt(1), "it was interrupted"],
    ["no reason", Cause.empty, "no reason was given"]
  ]
  for (const [what, error, text] of rows) {
    it(`says of ${what}: ${text}`, () => assert.strictEqual(errorText(error), text))
  }

  it("names what an error of Effect's own modules was caused by", () => {
    const exit = Effect.runSyncExit(
      Effect.try({ try: () => JSON.parse("{"), catch: (cause) => new Cause.UnknownError(cause) })
    )
    const text = errorText(Exit.isFailure(exit) ? exit.cause : undefined)
    assert.match(text, /^UnknownError.*caused by SyntaxError: .*JSON/)
  })

  it("is bounded, whatever is large", () => {
    const long = "x".repeat(1_000_000)
    const wide = Object.fromEntries(Array.from({ length: 10_000 }, (_, at) => [`field${at}`, long]))
    let deep: unknown = "bottom"
    for (let level = 0; level < 10_000; level++) deep = { deep }
    let chain = new Error("first")
    for (let link = 0; link < 10_000; link++) chain = new Error(`link ${link}`, { cause: chain })
    const many = Cause.fromReasons(Array.from({ length: 10_000 }, (_, at) => Cause.makeFailReason(`reason ${at}`)))
    for (
      const error of [new Error(long), new BrokerGone({ broker: long }), wide, deep, chain, many, long, {
        message: long
      }]
    ) {
      const text = errorText(error)
      assert.isAtMost(text.length, 2_000)
      assert.isAbove(text.length, 0)
    }
    assert.match(errorText(many), /^reason 0; reason 1; reason 2; reason 3; and 9996 more$/)
    assert.match(errorText(wide), /and 9992 more/)
    assert.include(errorText(chain), "link 9999, caused by link 9998")
  })

  it("tells long messages apart that differ at the end only", () => {
    assert.notStrictEqual(errorText(new Error(`${"x".repeat(5_000)}a`)), errorText(new Error(`${"x".repeat(5_000)}b`)))
  })

  it("never throws, and is never empty, whatever it is given", () => {
    const trap = () => {
      throw new Error("trap")
    }
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    const hostile = new Proxy({}, {
      get: trap,
      getPrototypeOf: trap,
      has: trap,
      ownKeys: trap,
      getOwnPropertyDescriptor: trap
    })
    const getters = Object.defineProperties(new Error(), {
      message: { get: trap },
      name: { get: trap },
      cause: { get: trap },
      broker: { get: trap, enumerable: true },
      code: { get: trap }
    })
    const wrong = Object.assign(new Error(), {
      message: { a: 1 },
      name: 7,
      _tag: Symbol("t"),
      cause: 0,
      errors: 7,
      reason: null
    })
    const causedByItself = new BrokerGone({})
    const cause = Cause.fail(causedByItself)
    Object.assign(causedByItself, { cause, broker: cause })
    const left = new BrokerGone({})
    const right = new BrokerGone({ broker: left })
    Object.assign(left, { broker: right })
    const endless: Record<string, unknown> = {}
    Object.defineProperty(endless, "cause", { get: () => Object.assign(new Error(`${Math.PI}`), { cause: endless }) })
    const values = [
      proxy,
      hostile,
      getters,
      wrong,
      causedByItself,
      cause,
      left,
      endless,
      new Date(Number.NaN),
      Object.create(null),
      { toString: trap },
      { toString: () => 7 },
      { toJSON: trap },
      { [Symbol.toPrimitive]: trap },
      { message: "" },
      [],
      [[]],
      {},
      Number.NaN,
      -0,
      10n,
      "",
      "\u0000",
      "\ud800",
      "[object Object]",
      new Error("[object Object]"),
      { a: "[object Object]" },
      Option.none(),
      Exit.fail(1),
      new BrokerGone({ broker: proxy }),
      new BrokerGone({ broker: hostile, cause: hostile }),
      Promise.resolve(1),
      new (class Empty {
        readonly nothing = undefined
      })(),
      new (class extends Error {
        override name = ""
      })(),
      Cause.die(proxy),
      Cause.fail(hostile)
    ]
    for (const value of values) {
      const text = errorText(value)
      assert.isAbove(text.trim().length, 0)
      assert.notInclude(text, "[object")
      assert.isTrue(text.isWellFormed())
      assert.notMatch(text, /[\n\r]/)
    }
    assert.include(errorText(getters), "broker: <unreadable>")
    assert.include(errorText(wrong), "message: {a: 1}")
  })
})
