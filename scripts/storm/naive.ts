// The two loops that made the storm, as small models (coder/coder#17045): run by `npm run storm` against the same
// database and the same outage as Lull.
//
// - The tailnet loop dials in memory, which succeeds, so its backoff is reset; only then does it ask the database. Each
//   turn writes three lines.
// - The acquire loop has no backoff at all. Each turn writes one.
//
// A query that fails at once costs about 2 ms, so that a few loops of each kind make the 4,000 lines a second.
import { NodeRuntime } from "@effect/platform-node"
import * as PgClient from "@effect/sql-pg/PgClient"
import { Effect, Layer, Logger, Redacted } from "effect"
import { DedupLogger } from "../../src/logging/index.ts"

const url = process.env["LULL_DATABASE_URL"] ?? ""
const loopsOfEachKind = 8
const isDeduplicated = process.env["STORM_DEDUPLICATED"] !== undefined
const Loggers = Logger.layer([Logger.consoleLogFmt])

const tailnetLoop = (peer: number) =>
  Effect.gen(function*() {
    const sql = yield* PgClient.PgClient
    let delay = 50
    while (true) {
      yield* Effect.logInfo(`tailnet: dialing coordinator`).pipe(Effect.annotateLogs({ peer }))
      delay = 50 // The dial succeeded, and so the backoff is reset: this line is the storm.
      yield* Effect.logInfo(`tailnet: connected, sending node`).pipe(Effect.annotateLogs({ peer }))
      yield* sql`select pg_sleep(1)`.pipe(Effect.catch((error) =>
        Effect.logError(`tailnet: connection lost: ${String(error.reason.cause)}`).pipe(Effect.annotateLogs({ peer }))
      ))
      if (delay > 50) {
        yield* Effect.sleep(delay)
      }
      delay = Math.min(delay * 2, 10_000)
    }
  })

const acquireLoop = (worker: number) =>
  Effect.gen(function*() {
    const sql = yield* PgClient.PgClient
    while (true) {
      yield* sql`select pg_sleep(1)`.pipe(Effect.catch((error) =>
        Effect.logError(`provisioner: acquire job failed: ${String(error.reason.cause)}`).pipe(
          Effect.annotateLogs({ worker })
        )
      ))
    }
  })

Effect.all(
  Array.from({ length: loopsOfEachKind }, (_, index) => [tailnetLoop(index), acquireLoop(index)]).flat(),
  { concurrency: "unbounded" }
).pipe(
  Effect.provide(PgClient.layer({ url: Redacted.make(url), maxConnections: 2 * loopsOfEachKind })),
  // The only difference that `lull/logging` makes in a program.
  Effect.provide(isDeduplicated ? DedupLogger.layer().pipe(Layer.provide(Loggers)) : Loggers),
  NodeRuntime.runMain
)
