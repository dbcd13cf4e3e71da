import { assert, describe, it } from "@effect/vitest"
import * as ServerHistory from "../../src/database/ServerHistory.ts"

const server = (systemIdentifier: string, timeline = 1) => ({ systemIdentifier, timeline })

describe("ServerHistory", () => {
  it("says nothing of the same server that answers again, and its rows go on", () => {
    const history = ServerHistory.make()
    assert.isUndefined(history.connected(server("a"), 0))
    const before = history.count()
    assert.isUndefined(history.connected(server("a"), 1))
    assert.isFalse(history.heard(server("a"), 2))
    assert.strictEqual(history.count(), before)
  })

  it("tells of another server, of a promotion and of a way back, in a line each, and believes nothing of before", () => {
    const cases = [
      [server("b"), "Warn", /another database server.*identifier b, before a/],
      [server("a", 5), "Info", /promoted: timeline 5 answers, before 4/],
      [server("a", 3), "Warn", /went back from timeline 4 to 3/]
    ] as const
    for (const [next, level, text] of cases) {
      const history = ServerHistory.make()
      history.connected(server("a", 4), 0)
      const before = history.count()
      assert.isTrue(history.heard(next, 1))
      const line = history.connected(next, 1)
      assert.strictEqual(line?.level, level)
      assert.match(line?.text ?? "", text)
      assert.isAbove(history.count(), before)
      assert.deepStrictEqual(history.last(), next)
    }
  })

  it("takes a server that does not say who it is for another one with each connection, and every five minutes", () => {
    const history = ServerHistory.make()
    history.connected(server("a"), 0)
    const counts = [history.count()]
    for (const at of [1_000, 2_000]) {
      assert.isUndefined(history.connected(undefined, at))
      counts.push(history.count())
    }
    assert.isFalse(history.heard(undefined, 2_000 + ServerHistory.unknownLasts - 1))
    counts.push(history.count())
    history.heard(undefined, 2_000 + ServerHistory.unknownLasts)
    counts.push(history.count())
    history.heard(undefined, 2_001 + ServerHistory.unknownLasts)
    counts.push(history.count())
    assert.deepStrictEqual(counts.map((count) => count - (counts[0] ?? 0)), [0, 1, 2, 2, 3, 3])
  })
})
