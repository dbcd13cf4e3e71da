import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as PublicUrl from "../../src/http/PublicUrl.ts"

describe("a public URL", () => {
  const right: ReadonlyArray<readonly [text: string, PublicUrl.PublicUrl]> = [
    ["https://lull.example", { origins: ["https://lull.example"], hosts: ["lull.example"], prefix: "" }],
    ["HTTPS://Lull.Example:443/", { origins: ["https://lull.example"], hosts: ["lull.example"], prefix: "" }],
    ["http://localhost:8080/a/b-c/", {
      origins: ["http://localhost:8080"],
      hosts: ["localhost:8080"],
      prefix: "/a/b-c"
    }],
    ["https://[2001:db8::1]/lull", { origins: ["https://[2001:db8::1]"], hosts: ["[2001:db8::1]"], prefix: "/lull" }],
    ["https://a.example/lull, https://b.example/lull/", {
      origins: ["https://a.example", "https://b.example"],
      hosts: ["a.example", "b.example"],
      prefix: "/lull"
    }]
  ]
  for (const [text, expected] of right) {
    it(`is read from ${text}`, () => assert.deepStrictEqual(Result.getOrThrow(PublicUrl.read(text)), expected))
  }

  const wrong = [
    "lull.example",
    "lull.example:443",
    "https:lull.example",
    "https://",
    "https://a b",
    "https://lull.example\\lull",
    "ftp://lull.example",
    "wss://lull.example",
    "https://user@lull.example",
    "https://user:password@lull.example",
    "https://lull.example?",
    "https://lull.example#x",
    "https://lull.example/a//b",
    "https://lull.example/a%2fb",
    "https://lull.example/a;b",
    "https://a.example/x,https://b.example/y",
    "https://a.example,",
    "https://lull.example/api",
    "https://lull.example/api/v1",
    "https://lull.example/metrics/x"
  ]
  for (const text of wrong) it(`is not read from ${text}`, () => assert.isTrue(Result.isFailure(PublicUrl.read(text))))

  it("has a prefix that is taken off once, where it is whole", () => {
    const cases: ReadonlyArray<readonly [target: string, expected: string]> = [
      ["/lull/api/v1/jobs?limit=1", "/api/v1/jobs?limit=1"],
      ["/lull", "/"],
      ["/lull/", "/"],
      ["/lull?x", "/?x"],
      ["/lull/lull/healthz", "/lull/healthz"],
      ["/lullaby", "/lullaby"],
      ["/LULL/healthz", "/LULL/healthz"],
      ["//lull/healthz", "//lull/healthz"],
      ["/lull//healthz", "//healthz"],
      ["/%6cull/healthz", "/%6cull/healthz"],
      ["/api/v1/jobs", "/api/v1/jobs"],
      ["*", "*"]
    ]
    for (const [target, expected] of cases) {
      assert.strictEqual(PublicUrl.withoutPrefix(target, "/lull"), expected, target)
      assert.strictEqual(PublicUrl.withoutPrefix(target, ""), target)
    }
  })
})
