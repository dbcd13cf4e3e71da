import { assert, describe, it } from "@effect/vitest"
import * as Addresses from "../../src/http/Addresses.ts"

const trusted = (address: string) => address.startsWith("10.") || address.startsWith("2001:db8:ffff:")
const owner = (address: string | undefined) => Addresses.ofConnection(address, trusted).owner
const forwarded = (list: string | undefined) => Addresses.ofRequest("10.9.9.9", { "x-forwarded-for": list }, trusted)

describe("the address of a connection", () => {
  it("is not counted on the loopback", () => {
    for (const address of ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", undefined, ""]) {
      assert.isUndefined(owner(address))
    }
  })

  it("is the same in both notations of IPv4", () => {
    assert.strictEqual(owner("::ffff:192.0.2.1"), "192.0.2.1")
    assert.strictEqual(owner("192.0.2.1"), "192.0.2.1")
  })

  it("is a network of IPv6, as whoever has one address has all of it", () => {
    assert.strictEqual(owner("2001:db8:1:2:3:4:5:6"), owner("2001:DB8:1:2::1"))
    assert.strictEqual(owner("2001:db8::1"), owner("2001:0db8:0000::ffff:1"))
    assert.notStrictEqual(owner("2001:db8:1:2::1"), owner("2001:db8:1:3::1"))
    assert.strictEqual(owner("fe80::1%eth0"), "fe80:0:0:0::/64")
  })

  it("is not that of a trusted proxy", () => {
    for (const address of ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8:ffff::1"]) {
      assert.deepStrictEqual(Addresses.ofConnection(address, trusted), { owner: undefined, isProxy: true })
    }
  })
})

describe("a forwarded address", () => {
  it("is the last that is no trusted proxy, whatever stands before it", () => {
    assert.strictEqual(forwarded("198.51.100.1"), "198.51.100.1")
    assert.strictEqual(forwarded("203.0.113.1, 198.51.100.1, 10.0.0.1"), "198.51.100.1")
    assert.strictEqual(forwarded("198.51.100.1:4711"), "198.51.100.1")
    assert.strictEqual(forwarded("[2001:db8::1]:4711,10.0.0.2"), "2001:db8:0:0::/64")
  })

  it("is unknown where nobody says it, or what is said is none", () => {
    for (const list of [undefined, "", "unknown", "10.0.0.1", "198.51.100.1, somebody"]) {
      assert.isUndefined(forwarded(list))
    }
  })
})
