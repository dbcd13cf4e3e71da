import { describe, it } from "@effect/vitest"
import * as Random from "../../scripts/fuzz/Random.ts"
import { target as frames } from "../../scripts/fuzz/targets/frames.ts"
import { target as http } from "../../scripts/fuzz/targets/http.ts"
import { target as notifications } from "../../scripts/fuzz/targets/notifications.ts"

/** `npm run fuzz` goes on for longer. */
describe("the fuzz of a service", () => {
  for (
    const [name, target, cases] of [
      ["HTTP requests", http, 1_000],
      ["WebSocket frames", frames, 500],
      ["notifications", notifications, 1_000]
    ] as const
  ) {
    it(`finds nothing in ${name}, in a short run`, async () => {
      const opened = await target.open()
      try {
        for (let at = 0; at < cases; at++) await opened.run(Random.make(`short/${at}`))
        await opened.check()
      } finally {
        await opened.close()
      }
    }, 120_000)
  }
})
