import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { Time } from "../../src/http/JobDocuments.ts"
import { collectLines } from "../support/replicas.ts"
import { withService } from "./service.ts"

const id = "01890000-0000-7000-8000-000000000000"

const wrong: ReadonlyArray<readonly [query: string, field: string]> = [
  ...["0", "501", "-1", "+5", "0x10", "1e2", "5.0", "05", " 5", "5 ", "", "Infinity", "NaN", "٥", "5n", "9".repeat(400)]
    .map((limit) => [`/api/v1/jobs?limit=${encodeURIComponent(limit)}`, "limit"] as const),
  ["/api/v1/jobs?limit=5&limit=6", "limit"],
  ["/api/v1/jobs?status=pending&status=failed", "status"],
  ["/api/v1/jobs?type=", "type"],
  ["/api/v1/jobs?cursor=0x1", "cursor"],
  [`/api/v1/jobs?${Array.from({ length: 17 }, (_, index) => `tag=k${index}%3Dv`).join("&")}`, "tag"],
  ...[
    "32768:0",
    "99999:0",
    "1",
    "1:",
    ":1",
    "1:2:3",
    "-1:0",
    "1:-1",
    "0x1:0",
    "1:1e3",
    "01:0",
    "1:1000000000000000",
    "",
    "a:b",
    "1 :0"
  ].map((
    after
  ) => [`/api/v1/jobs/${id}/logs?after=${encodeURIComponent(after)}`, "after"] as const),
  [`/api/v1/jobs/${id}/logs?follow=TRUE`, "follow"],
  [`/api/v1/jobs/${id}/logs?follow=`, "follow"]
]

describe("a query", () => {
  it.live("with a value that is none is refused with its name, and nothing is logged", () => {
    const { layer, lines } = collectLines()
    return Effect.andThen(
      withService(async ({ ask }) => {
        for (const [query, field] of wrong) {
          const answer = await ask(query)
          assert.strictEqual(answer.status, 400, query)
          const { errors } = await answer.json() as { errors: ReadonlyArray<{ field: string }> }
          assert.deepStrictEqual(errors.map((error) => error.field), [field], query)
        }
      }),
      Effect.sync(() => assert.deepStrictEqual(lines.filter(({ level }) => level === "Error" || level === "Warn"), []))
    ).pipe(Effect.provide(layer))
  })

  it.live("with the largest and smallest values is taken", () =>
    withService(async ({ ask }) => {
      for (const query of ["limit=1", "limit=500", "", "limit=20&status=failed&type=command&tag=a%3Db"]) {
        assert.strictEqual((await ask(`/api/v1/jobs?${query}`)).status, 200, query)
      }
      const submitted = await ask("/api/v1/jobs", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ input: { command: ["x"] } })
      })
      const job = await submitted.json() as { id: string }
      for (const after of ["0:0", "32767:999999999999999"]) {
        const answer = await ask(`/api/v1/jobs/${job.id}/logs?after=${after}`)
        assert.deepStrictEqual([answer.status, await answer.text()], [200, ""])
      }
    }))
})

describe("a time", () => {
  const isTime = Schema.is(Time)

  for (
    const text of [
      "2028-02-29T00:00:00Z",
      "2026-12-31T23:59:59.999999999+14:00",
      "1970-01-01T00:00Z",
      "2026-01-31T12:00:00-00:00"
    ]
  ) {
    it(`is ${text}`, () => assert.isTrue(isTime(text)))
  }
  for (
    const text of [
      "2026-02-30T12:00:00Z",
      "2026-02-29T12:00:00Z",
      "2100-02-29T12:00:00Z",
      "2026-04-31T12:00:00Z",
      "2026-00-01T12:00:00Z",
      "2026-13-01T12:00:00Z",
      "2026-01-00T12:00:00Z",
      "2026-01-32T12:00:00Z",
      "2026-01-31T24:00:00Z",
      "2026-01-31T12:60:00Z",
      "2026-01-31T12:00:60Z",
      "2026-01-31T12:00:00+24:00",
      "2026-01-31T12:00:00+99:99",
      "2026-01-31T12:00:00",
      "2026-01-31",
      "2026-1-31T12:00:00Z",
      " 2026-01-31T12:00:00Z",
      "2026-01-31T12:00:00Z\n",
      "+002026-01-31T12:00:00Z",
      "9999-12-31T23:59:59-00:01",
      "9999-12-31T23:59:59-00:01",
      "1e9"
    ]
  ) {
    it(`is not ${JSON.stringify(text)}`, () => assert.isFalse(isTime(text)))
  }
})
