/** Runs one job for ever and passes its lines on; for a test that kills this process. */
import { Effect, Schema } from "effect"
import { Executor } from "../../src/provisioner/Executor.ts"
import { JobId } from "../../src/provisioner/Job.ts"

const script = "sleep 1000 & echo $!; setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.1; done' & wait"

await Executor.use((executor) =>
  executor.run({
    job: Schema.decodeUnknownSync(JobId)("01900000-0000-7000-8000-00000000dead"),
    token: 1,
    type: "command",
    input: { command: ["sh", "-c", script] },
    tags: {},
    timeout: undefined,
    attempt: 1,
    maxAttempts: 1
  }, { write: (_, lines) => Effect.sync(() => process.stdout.write(lines.map((line) => `${line}\n`).join(""))) })
).pipe(
  Effect.provide(Executor.layerChildProcess({ directory: process.argv[2] ?? "", terminationGrace: "1 second" })),
  Effect.runPromise
)
