import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { checkRequests, type JobRequest, request } from "../../src/provisioner/Job.ts"

const problemsOf = (requests: ReadonlyArray<JobRequest>) => {
  const checked = checkRequests(requests)
  return Result.isFailure(checked) ? checked.failure.problems.map(({ field, job }) => `${job} ${field}`) : []
}

const good = { type: "bench", input: 1 }

describe("the check of a submission", () => {
  it("names each job that is wrong, also between others that are alike", () => {
    const asked = [
      good,
      good,
      { ...good, priority: 0.5 },
      { ...good, priority: 0.5 },
      good,
      { ...good, type: "" },
      good
    ]
    assert.deepStrictEqual(problemsOf(asked.map(request)), ["2 priority", "3 priority", "5 type"])
  })

  it("looks at each field of a job, whatever the one before was like", () => {
    const faults: ReadonlyArray<Partial<JobRequest>> = [
      { type: "x".repeat(65) },
      { tags: { "": "x" } },
      { tags: { ["k".repeat(65)]: "x" } },
      { tags: { key: "x".repeat(257) } },
      { priority: Number.NaN },
      { idempotencyKey: "" },
      { notBefore: -1 },
      { timeout: 0 },
      { maxAttempts: 0 },
      { input: 1n }
    ]
    for (const fault of faults) {
      const [field] = Object.keys(fault)
      const problems = problemsOf([good, { ...good, ...fault }, good].map(request))
      assert.lengthOf(problems, 1)
      assert.isTrue(problems[0]?.startsWith(`1 ${field}`), problems[0])
    }
  })

  it("answers with the JSON of each input, in their order", () => {
    const inputs = [1, { a: "ä" }, null, "x"]
    assert.deepStrictEqual(
      checkRequests(inputs.map((input) => request({ type: "bench", input }))),
      Result.succeed(inputs.map((input) => JSON.stringify(input)))
    )
  })

  it("counts bytes, not characters", () => {
    assert.deepStrictEqual(problemsOf([request({ type: "bench", input: "€".repeat(400_000) })]), ["0 input"])
    assert.deepStrictEqual(problemsOf([request({ type: "bench", input: "e".repeat(400_000) })]), [])
  })
})
