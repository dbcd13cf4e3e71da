import * as PostgresServer from "/work/main/test/support/PostgresServer.ts"
import { NodeRuntime } from "@effect/platform-node"
import { Effect } from "effect"
import { writeFileSync } from "node:fs"
NodeRuntime.runMain(Effect.scoped(Effect.gen(function*() {
  const server = yield* PostgresServer.make({
    fsync: true,
    configuration: {
      shared_buffers: "512MB",
      jit: "off",
      shared_preload_libraries: "pg_stat_statements,auto_explain",
      max_wal_size: "2GB"
    }
  })
  writeFileSync("/tmp/benchserver.url", server.url)
  console.log(server.url)
  yield* Effect.sleep("70 minutes")
})))
