import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { canonical, clientAddress, networkOf, readTrusted, trusting } from "../../src/http/ClientAddress.ts"

const trusted = trusting(["127.0.0.1", "::1", "10.0.0.0/8", "2001:db8:1::/48"])

describe("the address of a client", () => {
  const cases: ReadonlyArray<
    readonly [what: string, remote: string | undefined, headers: Record<string, string>, expected: string]
  > = [
    ["is that of the connection", "192.0.2.1", {}, "192.0.2.1"],
    ["is not what somebody says who is not trusted", "192.0.2.1", { "x-forwarded-for": "203.0.113.1" }, "192.0.2.1"],
    ["is what a trusted proxy says", "127.0.0.1", { "x-forwarded-for": "203.0.113.1" }, "203.0.113.1"],
    ["is what the last trusted one of several says", "::1", {
      "x-forwarded-for": "203.0.113.1, 10.1.2.3"
    }, "203.0.113.1"],
    ["is not what the client said before the proxy", "127.0.0.1", {
      "x-forwarded-for": "198.51.100.7, 10.0.0.1, 203.0.113.1"
    }, "203.0.113.1"],
    ["is the first, where all are trusted", "127.0.0.1", { "x-forwarded-for": "10.0.0.2,10.0.0.1" }, "10.0.0.2"],
    ["is that of the proxy, where it says nothing", "127.0.0.1", {}, "127.0.0.1"],
    ["is that of the proxy, where it does not know", "127.0.0.1", {
      "x-forwarded-for": "203.0.113.1, unknown"
    }, "127.0.0.1"],
    ["is that of the proxy, where there is nothing in the header", "127.0.0.1", { "x-forwarded-for": "" }, "127.0.0.1"],
    ["is unknown, where the connection is gone", undefined, { "x-forwarded-for": "203.0.113.1" }, "unknown"],
    ["is that of IPv4, where the socket is of IPv6", "::ffff:127.0.0.1", {
      "x-forwarded-for": "::ffff:203.0.113.1"
    }, "203.0.113.1"],
    ["is without a port", "127.0.0.1", { "x-forwarded-for": "203.0.113.1:4711" }, "203.0.113.1"],
    ["is in brackets, or not", "127.0.0.1", {
      "x-forwarded-for": "[2001:DB8:2::0:1]:4711, 2001:db8:1:0::1"
    }, "2001:db8:2::1"],
    ["is in Forwarded", "127.0.0.1", { forwarded: "for=192.0.2.60;proto=http;by=203.0.113.43" }, "192.0.2.60"],
    ["is in Forwarded with quotes", "127.0.0.1", {
      forwarded: "for=198.51.100.7, For=\"[2001:db8:2::17]:4711\""
    }, "2001:db8:2::17"],
    ["is not what a client says in Forwarded with an open quote", "127.0.0.1", {
      forwarded: "for=198.51.100.7;x=\", for=\"[2001:db8:2::17]:4711\""
    }, "2001:db8:2::17"],
    ["is not what a client says in Forwarded, where the proxy writes X-Forwarded-For", "127.0.0.1", {
      forwarded: "for=198.51.100.7",
      "x-forwarded-for": "203.0.113.1"
    }, "203.0.113.1"],
    ["is that of the proxy, where Forwarded hides it", "127.0.0.1", { forwarded: "for=_hidden" }, "127.0.0.1"]
  ]
  for (const [what, remote, headers, expected] of cases) {
    it(what, () => assert.strictEqual(clientAddress(remote, headers, trusted), expected))
  }

  it("is found in a header of any length, without reading far", () => {
    const long = `${"10.0.0.1, ".repeat(100_000)}10.0.0.2`
    assert.strictEqual(clientAddress("127.0.0.1", { "x-forwarded-for": long }, trusted), "10.0.0.1")
    const nonsense = `a${" ".repeat(1_000_000)}a`
    assert.strictEqual(clientAddress("127.0.0.1", { "x-forwarded-for": nonsense }, trusted), "127.0.0.1")
  })

  it("has one spelling, or none", () => {
    for (
      const [text, expected] of [
        ["1.2.3.4", "1.2.3.4"],
        [" 1.2.3.4 ", "1.2.3.4"],
        ["::FFFF:1.2.3.4", "1.2.3.4"],
        ["0:0:0:0:0:ffff:0102:0304", "1.2.3.4"],
        ["fe80::1%eth0", "fe80::1"],
        ["2001:0db8:0:0:0:0:0:1", "2001:db8::1"],
        ["01.2.3.4", undefined],
        ["1.2.3", undefined],
        ["0x7f000001", undefined],
        ["[1.2.3.4]", undefined],
        ["1.2.3.4:", undefined],
        ["localhost", undefined],
        ["", undefined]
      ] as const
    ) {
      assert.strictEqual(canonical(text), expected, text)
    }
  })

  it("is of a network, where somebody has as many as he likes", () => {
    assert.strictEqual(networkOf("192.0.2.1"), "192.0.2.1")
    for (
      const [address, network] of [
        ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
        ["2001:db8::1", "2001:db8:0:0::/64"],
        ["::1", "0:0:0:0::/64"],
        ["2001:db8:1:2::", "2001:db8:1:2::/64"],
        ["1::3:4:5:6:7:8", "1:0:3:4::/64"]
      ] as const
    ) {
      assert.strictEqual(networkOf(address), network)
    }
  })
})

describe("trusted proxies", () => {
  it("are addresses and networks", () => {
    const right = "127.0.0.1, ::1,10.0.0.0/8 , fd00::/8, ::ffff:192.0.2.0/120"
    const read = trusting(Result.getOrThrow(readTrusted(right)))
    for (const address of ["127.0.0.1", "::1", "10.255.0.1", "fdff::1", "192.0.2.77"]) assert.isTrue(read(address))
    for (const address of ["127.0.0.2", "::2", "11.0.0.1", "fe00::1", "192.0.3.1", "", "x"]) {
      assert.isFalse(read(address))
    }
    assert.deepStrictEqual(Result.getOrThrow(readTrusted("")), [])
  })

  it("are not what is neither", () => {
    for (
      const text of [
        "localhost",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/",
        "/8",
        "10.0.0",
        "10.0.0.1:80",
        "[::1]",
        "*",
        "1 2"
      ]
    ) {
      assert.isTrue(Result.isFailure(readTrusted(text)), text)
    }
  })
})
