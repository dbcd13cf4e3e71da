import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Effect } from "effect"
import { writeFileSync } from "node:fs"
import * as PostgresServer from "../../test/support/PostgresServer.ts"
NodeRuntime.runMain(Effect.scoped(Effect.gen(function*() {
  const server = yield* PostgresServer.make({ fsync: true, configuration: { shared_buffers: "512MB" } })
  writeFileSync("/tmp/b/url", server.url)
  console.log(server.url)
  yield* Effect.never
})))
