/**
 * Runs the embedded PostgreSQL in the directory of the first argument until a signal ends it, and prints its process id
 * and URL; for tests that kill this process. The second SIGINT ends it without finalizers, with status 131.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Effect, Redacted } from "effect"
import { EmbeddedPostgres } from "../../src/database/EmbeddedPostgres.ts"

let interrupts = 0
process.on("SIGINT", () => {
  if (++interrupts === 2) process.exit(131)
})

EmbeddedPostgres.use((server) =>
  Effect.andThen(Console.log(`${server.pid} ${Redacted.value(server.url)}`), Effect.never)
).pipe(
  Effect.provide(EmbeddedPostgres.layer({ directory: process.argv[2] ?? "" })),
  NodeRuntime.runMain
)
