import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { parse } from "../../src/database/ConnectionUrl.ts"

const hosts = (text: string) => Result.getOrThrow(parse(text)).map(({ host, port, url }) => ({ host, port, url }))

describe("ConnectionUrl", () => {
  it("reads one host", () => {
    assert.deepStrictEqual(hosts("postgres://u:p@db.example:6543/app?sslmode=require"), [
      { host: "db.example", port: 6543, url: "postgres://u:p@db.example:6543/app?sslmode=require" }
    ])
  })

  it("reads several hosts, each with a URL of its own", () => {
    assert.deepStrictEqual(hosts("postgresql://u@a:1,b,[::1]:3/app"), [
      { host: "a", port: 1, url: "postgresql://u@a:1/app" },
      { host: "b", port: 5432, url: "postgresql://u@b:5432/app" },
      { host: "::1", port: 3, url: "postgresql://u@[::1]:3/app" }
    ])
  })

  for (
    const text of [
      "",
      "mysql://u@h/db",
      "postgres://u:secret@/db",
      "postgres://u:secret@h",
      "postgres://u:secret@h:0/db",
      "postgres://u:secret@h:99999/db",
      "postgres://u:secret@a,,b/db",
      "postgres://u:secret@a b/db",
      "h:5432/db"
    ]
  ) {
    it(`refuses ${JSON.stringify(text)}, and keeps the password to itself`, () => {
      const result = parse(text)
      assert.isTrue(Result.isFailure(result))
      if (Result.isFailure(result)) assert.notInclude(result.failure.message, "secret")
    })
  }
})
