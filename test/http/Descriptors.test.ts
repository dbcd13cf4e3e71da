import { assert, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { connectionsWithin, openFiles } from "../../src/http/Descriptors.ts"

const needs = { connections: 13, jobs: 4 }

describe("the limit of connections", () => {
  it("is what is wanted where there are files enough, or where their number is not known", () => {
    assert.strictEqual(connectionsWithin(16_000, 524_288, needs), 16_000)
    assert.strictEqual(connectionsWithin(16_000, undefined, needs), 16_000)
  })

  it("leaves files to jobs, to the database and to the service", () => {
    assert.strictEqual(connectionsWithin(16_000, 1_024, needs), 1_024 - 128 - 13 - 24)
    assert.isBelow(connectionsWithin(16_000, 1_024, { ...needs, jobs: 100 }), connectionsWithin(16_000, 1_024, needs))
  })

  it("lets somebody ask, however few files there are", () => {
    assert.strictEqual(connectionsWithin(16_000, 64, { connections: 13, jobs: 10_000 }), 16)
  })
})

describe("the limit of open files", () => {
  it("is read as Linux says it", () => {
    const text = "Limit                     Soft Limit           Hard Limit           Units\n" +
      "Max processes             127000               127000               processes\n" +
      "Max open files            1024                 524288               files\n"
    assert.strictEqual(openFiles(text), 1_024)
    assert.isUndefined(openFiles(text.replace("1024  ", "unlimited")))
    assert.isUndefined(openFiles(""))
    assert.isAbove(openFiles(readFileSync("/proc/self/limits", "utf8")) ?? Number.POSITIVE_INFINITY, 0)
  })
})
