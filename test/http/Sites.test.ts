import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { read } from "../../src/http/PublicUrl.ts"
import * as Sites from "../../src/http/Sites.ts"

const publicUrl = Result.getOrThrow(
  read("https://lull.example,https://lull.example:8443,https://xn--bcher-kva.example")
)
const loopback = ["localhost", "127.0.0.1", "[::1]"]
const { namesOf } = Sites

const isRefused = (headers: Record<string, string>, options: Sites.Options) =>
  Sites.refuse(headers, options) !== undefined

describe("the host of a request", () => {
  const places: ReadonlyArray<readonly [what: string, options: Sites.Options, right: string, wrong: string]> = [
    [
      "on the loopback, is one of the loopback",
      namesOf("127.0.0.1", true, undefined),
      "localhost 127.0.0.1:7070 LOCALHOST:1 [::1]:7070 [::1]",
      "lull.example evil.example 127.0.0.1.evil.example localhost.evil.example localhost. user@localhost ::1 10.0.0.1"
    ],
    [
      "on the loopback behind a proxy, is one of the loopback or of the public addresses",
      namesOf("127.0.0.1", true, publicUrl),
      "localhost:7070 lull.example LULL.EXAMPLE lull.example:8443 lull.example:443 xn--bcher-kva.example",
      "evil.example lull.example.evil.example a.lull.example 10.0.0.1"
    ],
    [
      "beyond the loopback, is any",
      namesOf("0.0.0.0", false, undefined),
      "lull.example evil.example 10.0.0.1:7070 [fd00::1]",
      ""
    ],
    [
      "beyond the loopback behind a proxy, is a public address, the name where it listens, or none that could be made to " +
      "point here",
      namesOf("Inside.example", false, publicUrl),
      "lull.example inside.example:7070 localhost:7070 10.0.0.1:7070 [fd00::1]:7070",
      "evil.example 10.0.0.1.evil.example [evil.example] 10.0.0 0x7f000001"
    ]
  ]
  const words = (text: string) => text.split(" ").filter(Boolean)
  for (const [what, options, right, wrong] of places) {
    it(what, () => {
      for (const host of words(right)) assert.isFalse(isRefused({ host }, options), host)
      for (const host of words(wrong)) assert.isTrue(isRefused({ host }, options), host)
    })
  }

  it("is not what a forwarded header says", () => {
    const forwarded = { "x-forwarded-host": "lull.example", forwarded: "host=lull.example" }
    assert.isTrue(isRefused({ host: "evil.example", ...forwarded }, { hosts: loopback, publicUrl }))
    // Without a host it is a probe by HTTP/1.0, and no browser.
    assert.isFalse(isRefused({}, { hosts: loopback, publicUrl }))
    assert.isTrue(isRefused({ ...forwarded, origin: "https://evil.example" }, { hosts: loopback, publicUrl }))
  })
})

describe("the origin of a request", () => {
  const options: Sites.Options = { hosts: loopback, publicUrl }
  it("is the service's own, or a public address, by its protocol and port, also when a proxy changes the host", () => {
    for (
      const [host, origin] of [
        ["127.0.0.1:7070", "http://127.0.0.1:7070"],
        ["127.0.0.1:7070", "https://lull.example"],
        ["lull.example", "https://lull.example"],
        ["lull.example", "https://lull.example:8443"],
        ["LULL.example", "https://xn--bcher-kva.example"]
      ] as const
    ) {
      assert.isFalse(isRefused({ host, origin }, options), origin)
    }
    for (
      const [host, origin] of [
        ["127.0.0.1:7070", "http://127.0.0.1:7071"],
        ["127.0.0.1:7070", "http://localhost:7070"],
        ["127.0.0.1:7070", "http://lull.example"],
        ["lull.example", "http://lull.example"],
        ["lull.example:8443", "http://lull.example:8443"],
        ["lull.example", "https://evil.example"],
        ["lull.example", "https://lull.example.evil.example"],
        ["lull.example", "https://a.lull.example"],
        ["lull.example", "https://lull.example:9443"],
        ["lull.example", "null"],
        ["lull.example", ""],
        ["lull.example", "lull.example"],
        ["lull.example", "file://"]
      ] as const
    ) {
      assert.isTrue(isRefused({ host, origin }, options), origin)
    }
  })
})

describe("what a browser says of the site of a request", () => {
  it("is the service's own, or that somebody typed its address; nothing is said by what is no browser", () => {
    const host = "127.0.0.1:7070"
    for (const site of ["same-origin", "none"]) {
      assert.isFalse(isRefused({ host, "sec-fetch-site": site }, { hosts: loopback }))
    }
    assert.isFalse(isRefused({ host }, { hosts: loopback }))
    for (const site of ["cross-site", "same-site", "", "nonsense", "none, cross-site", "same-origin, cross-site"]) {
      assert.isTrue(isRefused({ host, "sec-fetch-site": site }, { hosts: loopback }), site)
    }
  })
})
