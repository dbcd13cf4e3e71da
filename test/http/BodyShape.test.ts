import { assert, describe, it } from "@effect/vitest"
import * as BodyShape from "../../src/http/BodyShape.ts"

const bounds: BodyShape.Bounds = { items: 3, entries: 4, fields: 4, parts: 40, depth: 5, layouts: 6 }
const beyond = (text: string) => BodyShape.beyond(Buffer.from(text), bounds)

describe("the shape of a body", () => {
  for (
    const text of [
      "",
      "1",
      "[]",
      "{}",
      "[1,2,3]",
      "[[1,2,3,4]]",
      "{\"a\":1,\"b\":2,\"c\":3,\"d\":4}",
      "[[[[[]]]]]",
      "\",,,,,,[[[[[[[{{{{{{{\"",
      "[\"a,b,c,d\\\",,,,,,\\\\\",\"[[[[[[[\"]",
      "[{\"a\":1,\"b\":{\"a\":1,\"b\":2}},{\"a\":1,\"b\":2,\"c\":3,\"d\":4},{\"a\":{\"b\":{\"c\":1}}}]",
      "{\"a\\\\\":[1],\"\\\"b\":{}}"
    ]
  ) {
    it(`is within its bounds: ${text}`, () => assert.isUndefined(beyond(text)))
  }

  const wrong: ReadonlyArray<readonly [text: string, field: string, problem: RegExp]> = [
    ["[1,2,3,4]", "", /at most 3 jobs/],
    ["[[1,2,3,4,5]]", "[0]", /at most 4 entries/],
    ["{\"input\":{\"command\":[0,0,0,0,0,0]}}", "input.command", /at most 4 entries/],
    ["[{},{\"tags\":{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5}}]", "[1].tags", /at most 4 entries/],
    ["{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5}", "", /at most 4 entries/],
    ["[{\"a\":1,\"b\":1,\"c\":1},{\"b\":1,\"c\":1},{\"c\":1,\"b\":1}]", "", /at most 6 different sequences/],
    ["[{\"k1\":1},{\"k2\":1},{\"k3\":{\"k4\":1,\"k5\":1,\"k6\":1,\"k7\":1}}]", "", /at most 6 different sequences/],
    ["[[[[[[", "[0][0][0][0][0]", /at most 5 deep/],
    ["{\"a\":{\"b\":[{\"c\":{\"d\":{", "a.b[0].c.d", /at most 5 deep/],
    [`[${"[{},{},{},{}],".repeat(3)}`, "", /in all|at most 3 jobs/],
    [`{"a":[${Array.from({ length: 4 }, () => "[[1,2,3],[1,2,3],[1,2,3]]").join()}]}`, "", /at most 40 .* in all/]
  ]
  for (const [text, field, problem] of wrong) {
    it(`is beyond its bounds, and says where: ${text}`, () => {
      const found = beyond(text)
      assert.strictEqual(found?.field, field)
      assert.match(found?.problem ?? "", problem)
    })
  }

  it("is that of the text up to its first fault, which is left to the parser", () => {
    for (const text of ["]]]]", "}", "[1,2", "\"", "\"\\", "{\"a", "[1]] , , , , , ,", "\u0000"]) {
      assert.isUndefined(beyond(text))
    }
  })

  it("is found without keeping names as long as the body", () => {
    const found = beyond(`{"${"n".repeat(100_000)}":[1,2,3,4,5]}`)
    assert.isBelow(found?.field.length ?? Number.NaN, 100)
  })
})
