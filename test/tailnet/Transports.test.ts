import { assert, describe, it } from "@effect/vitest"
import { webSocketUrl } from "../../src/tailnet/Transports.ts"

describe("the address of the tailnet", () => {
  it("is below that of the service, which may have a prefix", () => {
    for (
      const [address, expected] of [
        ["http://one:7070", "ws://one:7070/api/v1/tailnet"],
        ["http://one:7070/", "ws://one:7070/api/v1/tailnet"],
        ["https://example.com/lull", "wss://example.com/lull/api/v1/tailnet"],
        ["https://example.com/a/lull//", "wss://example.com/a/lull/api/v1/tailnet"],
        ["ws://one:7070/api/v1/tailnet", "ws://one:7070/api/v1/tailnet"],
        ["wss://example.com/lull/api/v1/tailnet/", "wss://example.com/lull/api/v1/tailnet"],
        ["ftp://one", undefined],
        ["one", undefined]
      ] as const
    ) {
      assert.strictEqual(webSocketUrl(address), expected, address)
    }
  })
})
