import { assert, describe, it } from "@effect/vitest"
import * as Breakers from "../../src/database/Breakers.ts"
import type { Reason } from "../../src/database/Unavailable.ts"

type Event =
  | readonly [at: number, operation: string, event: "call", expected: Breakers.Admission["_tag"]]
  | readonly [at: number, operation: string, event: Reason, expected: "Counted" | "Opened" | "StillOpen"]
  | readonly [at: number, operation: string, event: "success", wasOpen: boolean]
  | readonly [at: number, operation: string, event: "nothing"]
  | readonly [at: number, operation: "", event: "pace", next: number]
  | readonly [at: number, operation: "", event: "forget" | "forget: has space", wasOpen: boolean]

const table: Readonly<Record<string, ReadonlyArray<Event>>> = {
  "lets an operation pass that has failed once, and refuses one that failed twice": [
    [0, "a", "call", "Pass"],
    [1, "a", "Locked", "Counted"],
    [2, "a", "call", "Pass"],
    [3, "a", "Locked", "Opened"],
    [3, "", "pace", 50],
    [4, "a", "call", "Refused"],
    [4, "b", "call", "Pass"]
  ],
  "counts failures in a row only: a success in between, or another reason, begins again": [
    [0, "a", "Slow", "Counted"],
    [1, "a", "success", false],
    [2, "a", "Slow", "Counted"],
    [3, "a", "Full", "Counted"],
    [4, "a", "Full", "Opened"]
  ],
  "waits for a third failure of a kind that it does not know": [
    [0, "a", "Failing", "Counted"],
    [1, "a", "Failing", "Counted"],
    [2, "a", "Failing", "Opened"]
  ],
  "makes one trial at each step, and not two at a time": [
    [0, "a", "Full", "Counted"],
    [0, "a", "Full", "Opened"],
    [0, "", "pace", 100],
    [99, "a", "call", "Refused"],
    [100, "a", "call", "Trial"],
    [101, "a", "call", "Refused"],
    [2_000, "a", "call", "Refused"],
    [2_001, "a", "Full", "StillOpen"],
    [2_001, "", "pace", 2_200],
    [2_199, "a", "call", "Refused"],
    [2_200, "a", "call", "Trial"]
  ],
  "closes with a success, whosever it was": [
    [0, "a", "call", "Pass"],
    [1, "a", "Full", "Counted"],
    [1, "a", "Full", "Opened"],
    [1, "", "pace", 1_000],
    [2, "a", "success", true],
    [3, "a", "call", "Pass"]
  ],
  "lets others that failed for the same reason try at once when one succeeds": [
    [0, "a", "Locked", "Counted"],
    [0, "a", "Locked", "Opened"],
    [0, "b", "Locked", "Counted"],
    [0, "b", "Locked", "Opened"],
    [0, "c", "Full", "Counted"],
    [0, "c", "Full", "Opened"],
    [0, "", "pace", 5_000],
    [1, "a", "success", true],
    [2, "b", "call", "Trial"],
    [2, "c", "call", "Refused"]
  ],
  "gives each open operation its turn, however often the others call": [
    [0, "a", "Full", "Counted"],
    [0, "a", "Full", "Opened"],
    [1, "b", "Full", "Counted"],
    [1, "b", "Full", "Opened"],
    [1, "", "pace", 100],
    [100, "a", "call", "Trial"],
    [101, "a", "Full", "StillOpen"],
    [101, "", "pace", 200],
    [200, "a", "call", "Refused"],
    [201, "b", "call", "Trial"],
    [202, "b", "Full", "StillOpen"],
    [202, "", "pace", 300],
    [300, "a", "call", "Trial"]
  ],
  "waits for nobody whose turn it is and who does not come": [
    [0, "a", "Full", "Counted"],
    [0, "a", "Full", "Opened"],
    [1, "b", "Full", "Counted"],
    [1, "b", "Full", "Opened"],
    [1, "", "pace", 100],
    [100, "b", "call", "Refused"],
    [350, "b", "call", "Trial"]
  ],
  "lets another try when a trial ended without evidence": [
    [0, "a", "Slow", "Counted"],
    [0, "a", "Slow", "Opened"],
    [0, "", "pace", 100],
    [100, "a", "call", "Trial"],
    [101, "a", "nothing"],
    [1_100, "a", "call", "Trial"]
  ],
  "lets another try when a trial has had no answer for ten seconds": [
    [0, "a", "Slow", "Counted"],
    [0, "a", "Slow", "Opened"],
    [0, "", "pace", 100],
    [100, "a", "call", "Trial"],
    [10_099, "a", "call", "Refused"],
    [10_100, "a", "call", "Trial"]
  ],
  "forgets what nobody calls, though its last trial had no answer": [
    [0, "a", "Slow", "Counted"],
    [0, "a", "Slow", "Opened"],
    [0, "", "pace", 100],
    [100, "a", "call", "Trial"],
    [10_099, "", "forget", false],
    [10_100, "", "forget", true],
    [10_101, "a", "call", "Pass"]
  ],
  "forgets what nobody calls for five seconds": [
    [0, "a", "Locked", "Counted"],
    [0, "a", "Locked", "Opened"],
    [0, "", "pace", 60_000],
    [3_000, "a", "call", "Refused"],
    [7_999, "", "forget", false],
    [8_000, "", "forget", true],
    [8_001, "a", "call", "Pass"]
  ],
  "does not forget that a disk was full until something that needs space has been written": [
    [0, "a", "Full", "Counted"],
    [0, "a", "Full", "Opened"],
    [0, "", "pace", 60_000],
    [20_000, "", "forget", false],
    [20_001, "a", "call", "Refused"],
    [20_002, "", "forget: has space", false],
    [26_000, "", "forget: has space", true],
    [26_001, "a", "call", "Pass"]
  ]
}

describe("Breakers", () => {
  for (const [name, events] of Object.entries(table)) {
    it(name, () => {
      const breakers = Breakers.make()
      const answers = events.map((event) => {
        const [at, operation, what] = event
        switch (what) {
          case "call":
            return breakers.call(operation, at)._tag
          case "success":
            return breakers.succeeded(operation)
          case "nothing":
            return breakers.withoutEvidence(operation)
          case "pace":
            breakers.pace(event[3])
            return event[3]
          case "forget":
          case "forget: has space":
            return breakers.forget(at, what === "forget: has space")
          default:
            return breakers.failed(operation, { at, reason: what, detail: "because" })
        }
      })
      assert.deepStrictEqual(answers, events.map((event) => event[3]))
    })
  }

  it("says of the operation that is open for longest why and since when", () => {
    const breakers = Breakers.make()
    breakers.failed("a", { at: 0, reason: "Slow", detail: "one" })
    for (const at of [1, 2]) breakers.failed("b", { at, reason: "Full", detail: "other" })
    breakers.failed("a", { at: 3, reason: "Slow", detail: "one" })
    breakers.pace(90)
    assert.deepStrictEqual(breakers.worst(), {
      operation: "b",
      reason: "Full",
      detail: "other",
      since: 2,
      nextTrial: 90
    })
    breakers.clear()
    assert.isUndefined(breakers.worst())
    assert.isTrue(breakers.isEmpty())
  })

  it("wants space to be tested when nobody writes who would notice", () => {
    const breakers = Breakers.make()
    for (const at of [0, 0]) breakers.failed("a", { at, reason: "Full", detail: "disk" })
    assert.isFalse(breakers.needsSpaceTest(4_999))
    assert.isTrue(breakers.needsSpaceTest(5_000))
  })
})
