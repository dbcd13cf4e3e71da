/** A process whose clock is set, on a real PostgreSQL. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Outage from "../../src/testing/Outage.ts"
import * as OutageClock from "../../src/testing/OutageClock.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { open, untilAvailable, untilUnavailable } from "../support/realDatabase.ts"

describe("a process whose clock is set", () => {
  it.live(
    "back by an hour notices within ten seconds that a newer version has changed the tables",
    () =>
      Effect.gen(function*() {
        const server = yield* PostgresServer.make()
        const opened = yield* open({ url: server.url }).pipe(
          Effect.provide(OutageClock.layer(Outage.make([{ kind: "clockStep", at: "3 seconds", by: -3_600_000 }])))
        )
        yield* untilAvailable(opened)
        yield* Effect.sleep("4 seconds")
        yield* server.execute("insert into lull.migrations (id, name) values (42, 'far')")
        yield* untilUnavailable(opened)
        const state = yield* opened.state
        assert.strictEqual(state._tag === "Unavailable" ? state.reason : undefined, "Misconfigured")
      }).pipe(Effect.scoped, Effect.provide(SecureRandom.layerWebCrypto)),
    30_000
  )
})
