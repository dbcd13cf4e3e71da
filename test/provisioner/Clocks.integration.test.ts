/** Commands of a service whose clock is set while they run. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Layer } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Executor, type JobOutput } from "../../src/provisioner/Executor.ts"
import { JobId } from "../../src/provisioner/Job.ts"
import { uuid } from "../support/TailnetWorld.ts"

const directory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "lull-clocks-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

const hour = 3_600_000

/** The real clock, but for the time of day. */
const wrongBy = (live: Clock.Clock, millis: () => number): Clock.Clock => {
  const currentTimeMillisUnsafe = () => live.currentTimeMillisUnsafe() + millis()
  const currentTimeNanosUnsafe = () => live.currentTimeNanosUnsafe() + BigInt(millis()) * 1_000_000n
  return {
    currentTimeMillisUnsafe,
    currentTimeMillis: Effect.sync(currentTimeMillisUnsafe),
    currentTimeNanosUnsafe,
    currentTimeNanos: Effect.sync(currentTimeNanosUnsafe),
    monotonicTimeNanosUnsafe: () => live.monotonicTimeNanosUnsafe(),
    monotonicTimeNanos: live.monotonicTimeNanos,
    sleep: (duration) => live.sleep(duration)
  }
}

describe("a command that writes much while the clock is set", () => {
  for (const by of [hour, -hour]) {
    it.live(`by ${by} ms with each line is read to its end, without a rest that never ends`, () =>
      Effect.gen(function*() {
        let millis = 0
        let lines = 0
        const clock = wrongBy(yield* Clock.Clock, () => millis)
        const executor = Executor.layerChildProcess({ directory: yield* directory }).pipe(
          Layer.provideMerge(Layer.succeed(Clock.Clock, clock))
        )
        const job = {
          job: JobId.make(uuid(1)),
          token: 1,
          type: "command",
          input: { command: ["seq", "200000"] },
          tags: {},
          timeout: undefined,
          attempt: 1,
          maxAttempts: 1
        }
        const output: JobOutput = {
          write: (_, texts) =>
            Effect.sync(() => {
              lines += texts.length
              millis += by
            })
        }
        const exit = yield* Effect.exit(Executor.use(({ run }) => run(job, output))).pipe(Effect.provide(executor))
        assert.isTrue(Exit.isSuccess(exit))
        assert.strictEqual(lines, 200_000)
      }).pipe(Effect.scoped))
  }
})
