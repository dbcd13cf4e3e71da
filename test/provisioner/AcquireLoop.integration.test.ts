import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Redacted, Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { afterAll, beforeAll } from "vitest"
import { Database } from "../../src/database/Database.ts"
import { Notifications } from "../../src/database/Notifications.ts"
import { Replica } from "../../src/database/Replica.ts"
import { Loops } from "../../src/loop/Loops.ts"
import { Executor } from "../../src/provisioner/Executor.ts"
import type { JobId } from "../../src/provisioner/Job.ts"
import { JobStore } from "../../src/provisioner/JobStore.ts"
import * as JobStorePostgres from "../../src/provisioner/JobStorePostgres.ts"
import { Provisioner } from "../../src/provisioner/Provisioner.ts"
import * as Outage from "../../src/testing/Outage.ts"
import * as PostgresServer from "../support/PostgresServer.ts"

describe("a worker on PostgreSQL", () => {
  const scope = Effect.runSync(Scope.make())
  let server: PostgresServer.PostgresServer
  beforeAll(async () => {
    server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const open = (outage: ReadonlyArray<Outage.FaultInput>, starts: Map<JobId, number>) =>
    Layer.build(
      Provisioner.layerStores({
        worker: { slots: 3, heartbeatEvery: "100 millis", pollEvery: "500 millis" },
        reaper: { every: "100 millis" }
      }).pipe(
        Layer.provideMerge(JobStorePostgres.layer),
        Layer.provide(Notifications.layerPostgres),
        Layer.provide(Database.faulty(Outage.make(outage), { url: Redacted.make(server.url) })),
        Layer.provide(Layer.mergeAll(Loops.layer, Replica.layer)),
        Layer.provide(SecureRandom.layerWebCrypto),
        Layer.provide(Executor.layerHandlers({
          talk: (job, output) =>
            Effect.gen(function*() {
              starts.set(job.job, (starts.get(job.job) ?? 0) + 1)
              yield* output.write("stdout", ["first", "last"])
              yield* Effect.sleep("300 millis")
              return job.input
            })
        })),
        Layer.fresh
      )
    )

  for (
    const operation of [
      "JobStore.submit",
      "JobStore.acquire",
      "JobStore.appendOutput",
      "JobStore.heartbeat",
      "JobStore.finish",
      "JobStore.cancel",
      "JobStore.reap",
      "Availability.probe"
    ]
  ) {
    it.live(`loses nothing and runs nothing twice when the acknowledgement of ${operation} is lost`, () =>
      Effect.gen(function*() {
        const starts = new Map<JobId, number>()
        const services = yield* open([{ kind: "ackLost", operation, times: 1 }], starts)
        const provisioner = Context.get(services, Provisioner)
        const store = Context.get(services, JobStore)
        const submit = provisioner.submitAll(Array.from({ length: 7 }, (_, n) => ({ type: "talk", input: { n } })))
        const jobs = yield* Effect.retry(submit, {
          while: (error) => Effect.as(Effect.sleep("50 millis"), error._tag === "DatabaseUnavailable")
        })
        yield* Effect.retry(store.cancel(jobs[6]!.id), {
          while: (error) => Effect.as(Effect.sleep("50 millis"), error._tag === "DatabaseUnavailable")
        })
        for (const [n, { id }] of jobs.entries()) {
          const ended = yield* provisioner.awaitEnd(id)
          if (n === 6) {
            assert.strictEqual(ended.status, "canceled")
            continue
          }
          assert.strictEqual(ended.status, "succeeded")
          assert.deepStrictEqual(ended.result, { n })
          assert.strictEqual(starts.get(id), 1)
          const output = yield* store.readOutput(id, { limit: 10 })
          assert.deepStrictEqual(output.map(({ index, text }) => [index, text]), [[0, "first"], [1, "last"]])
        }
      }).pipe(Effect.scoped))
  }

  it.live("goes on with its jobs through a real outage, and reports them afterwards", () =>
    Effect.gen(function*() {
      const starts = new Map<JobId, number>()
      const services = yield* open([], starts)
      const provisioner = Context.get(services, Provisioner)
      const jobs = yield* Effect.eventually(
        provisioner.submitAll(Array.from({ length: 20 }, (_, n) => ({ type: "talk", input: n })))
      )
      yield* Effect.sleep("400 millis")
      yield* server.kill
      yield* Effect.sleep("1 second")
      yield* server.start
      for (const [n, { id }] of jobs.entries()) {
        const ended = yield* provisioner.awaitEnd(id)
        assert.deepStrictEqual([ended.status, ended.result, starts.get(id)], ["succeeded", n, 1])
      }
    }).pipe(Effect.scoped))
})
