import { assert, describe, it } from "@effect/vitest"
import { exitStatus } from "../../src/cli/jobStatus.ts"
import type { JobDocument } from "../../src/http/JobDocuments.ts"

const job = (fields: Partial<JobDocument>): JobDocument => ({
  id: "01a2111c-0b86-7309-9afa-7b5d5a95198f",
  status: "failed",
  type: "command",
  input: {},
  tags: {},
  priority: 0,
  idempotencyKey: null,
  notBefore: null,
  timeoutSeconds: null,
  maxAttempts: 1,
  attempt: 1,
  worker: null,
  workerName: null,
  omitted: [],
  remark: null,
  result: null,
  error: null,
  createdAt: "2026-01-31T12:00:00.000Z",
  startedAt: null,
  finishedAt: null,
  ...fields
})

describe("the exit status for a job", () => {
  it("is as a shell has it", () => {
    for (
      const [status, fields] of [
        [0, { status: "succeeded", result: { exitCode: 0, signal: null } }],
        [3, { result: { exitCode: 3, signal: null }, error: "exit status 3" }],
        [137, { result: { exitCode: null, signal: "SIGKILL" } }],
        [143, { result: { exitCode: null, signal: "SIGTERM" } }],
        [124, { error: "stopped at its time limit of 1s" }],
        [130, { status: "canceled" }],
        [1, { error: "its executor died" }],
        [1, { result: "text" }],
        [1, { result: { exitCode: 0, signal: "SIGNOTHING" } }]
      ] as ReadonlyArray<readonly [number, Partial<JobDocument>]>
    ) assert.strictEqual(exitStatus(job(fields)), status, JSON.stringify(fields))
  })
})
