/**
 * What a job store has to do, whichever it is. `test/provisioner/JobStore.test.ts` runs it against the memory model,
 * `JobStore.integration.test.ts` against a real PostgreSQL: the model is only worth having while both pass.
 */
import { assert, it } from "@effect/vitest"
import { Clock, Duration, Effect, type Layer } from "effect"
import type { SecureRandom } from "effect/crypto/SecureRandom"
import { JobId, type Lease, type LeasedJob, limits, type OutputLine, tagKey } from "../../src/provisioner/Job.ts"
import { JobStore } from "../../src/provisioner/JobStore.ts"
import { newJobs } from "./replicas.ts"

const lease = Duration.seconds(30)
const line = (index: number, text: string): OutputLine => ({ index, stream: "stdout", at: 1_000 + index, text })

/** Workers are UUIDs, as the column is. */
const workerA = "0197a000-0000-7000-8000-00000000000a"
const workerB = "0197a000-0000-7000-8000-00000000000b"

export interface Setting<Services> {
  /** A fresh, empty store for each test. */
  readonly layer: Layer.Layer<JobStore | SecureRandom | Services, unknown>
  /** On which clock. */
  readonly clock: "effect" | "live"
  /** Lets time pass, for the store too. */
  readonly pass: (duration: Duration.Input) => Effect.Effect<void>
  /** A replica of this id has just written its heartbeat. */
  readonly live: (replica: string) => Effect.Effect<unknown, unknown, JobStore | Services>
}

export const conformance = <Services>(setting: Setting<Services>) => {
  const test = (name: string, body: Effect.Effect<void, unknown, JobStore | SecureRandom | Services>) =>
    it[setting.clock](name, () => body.pipe(Effect.provide(setting.layer)))

  const acquire = (
    limit: number,
    tags = {},
    id = workerA,
    reclaim?: ReadonlyArray<Lease>,
    types?: ReadonlyArray<string>
  ) => Effect.flatMap(JobStore, (store) => store.acquire({ worker: { id, tags, types }, limit, lease, reclaim }))

  const ids = (jobs: ReadonlyArray<LeasedJob>) => jobs.map((job) => job.job)

  test(
    "answers a submission with the stored jobs, in its order",
    Effect.gen(function*() {
      const store = yield* JobStore
      const jobs = yield* newJobs([{ input: { a: [1, null, "ü\u0000".slice(0, 1)] } }, {
        priority: 3,
        tags: { os: "linux" }
      }])
      const answer = yield* store.submit(jobs)
      assert.deepStrictEqual(answer.map((job) => job.id), jobs.map((job) => job.id))
      for (const [at, job] of answer.entries()) {
        const stored = yield* store.get(job.id)
        assert.deepStrictEqual(stored, job)
        assert.deepStrictEqual(stored.input, jobs[at]?.input)
        assert.strictEqual(stored.status, "pending")
      }
    })
  )

  /** What quoting has to get right, on the way there and back. */
  const texts = [
    "plain",
    "null",
    "NULL",
    "",
    "{}",
    "a,b",
    `"quoted"`,
    "back\\slash",
    "line\nend\ttab",
    "ü€𝄞\u2028",
    "'; --"
  ]

  test(
    "keeps what it is given, in submissions of one, of many alike, and of many that differ",
    Effect.gen(function*() {
      const store = yield* JobStore
      const different = texts.map((text, at) => ({
        type: `type ${text}`,
        input: { [text]: [text, at, null, { deep: text }] },
        tags: at % 2 === 0 ? {} : { [`k${text}`]: text },
        priority: at - 5,
        idempotencyKey: at % 3 === 0 ? `key ${text}` : undefined,
        notBefore: at % 3 === 1 ? 1_700_000_000_123 : undefined,
        timeout: at % 3 === 2 ? 1_500 : undefined,
        maxAttempts: 1 + at % 4
      }))
      const alike = different[5]!
      for (
        const requests of [
          ...different.map((one) => [one]),
          [alike, alike, alike].map((one) => ({ ...one, idempotencyKey: undefined })),
          different.map((one, at) => ({ ...one, idempotencyKey: at % 3 === 0 ? `other ${at}` : undefined })),
          different.map((one) => ({ ...one, idempotencyKey: undefined }))
        ]
      ) {
        const jobs = yield* newJobs(requests)
        const answers = yield* store.submit(jobs)
        for (const [at, answer] of answers.entries()) {
          assert.deepStrictEqual({ ...answer, ...jobs[at] }, answer)
          assert.deepStrictEqual(yield* store.get(answer.id), answer)
        }
      }
    })
  )

  test(
    "keeps the results and errors that it is given",
    Effect.gen(function*() {
      const store = yield* JobStore
      yield* store.submit(yield* newJobs(texts.map(() => ({}))))
      const { jobs } = yield* acquire(100)
      const outcomes = texts.map((text, at) =>
        at % 2 === 0
          ? { status: "succeeded" as const, result: { [text]: [text] } }
          : { status: "failed" as const, result: text, error: text }
      )
      const answers = yield* store.finish(jobs.map((job, at) => ({ ...job, outcome: outcomes[at]! })))
      assert.deepStrictEqual(answers, texts.map(() => "stored"))
      for (const [at, { job }] of jobs.entries()) {
        const { error, result, status } = yield* store.get(job)
        assert.deepStrictEqual({ status, result, error: error ?? "" }, { error: "", ...outcomes[at]! })
      }
    })
  )

  test(
    "stores a submission once, however often it is repeated",
    Effect.gen(function*() {
      const store = yield* JobStore
      const jobs = yield* newJobs([{}, {}])
      const first = yield* store.submit(jobs)
      assert.deepStrictEqual(yield* store.submit(jobs), first)
      assert.strictEqual((yield* store.list({ limit: 10 })).length, 2)
    })
  )

  test(
    "answers a known idempotency key with the job that has it",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [first, second] = yield* newJobs([
        { idempotencyKey: "build-7", input: { a: 1, b: 2 } },
        { idempotencyKey: "build-7", input: { b: 2, a: 1 } }
      ])
      yield* store.submit([first!])
      const [answer] = yield* store.submit([second!])
      assert.strictEqual(answer?.id, first!.id)
      assert.strictEqual((yield* store.list({ limit: 10 })).length, 1)
    })
  )

  test(
    "refuses a known idempotency key with other values, and stores nothing of that submission",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [first, other, innocent] = yield* newJobs([
        { idempotencyKey: "deploy", input: 1 },
        { idempotencyKey: "deploy", input: 2 },
        {}
      ])
      yield* store.submit([first!])
      const error = yield* Effect.flip(store.submit([innocent!, other!]))
      assert.strictEqual(error._tag, "IdempotencyConflict")
      assert.strictEqual((yield* store.list({ limit: 10 })).length, 1)
    })
  )

  test(
    "has no job that was not submitted",
    Effect.gen(function*() {
      const store = yield* JobStore
      const id = JobId.make("01890000-0000-7000-8000-000000000000")
      assert.strictEqual((yield* Effect.flip(store.get(id)))._tag, "JobNotFound")
      assert.strictEqual((yield* Effect.flip(store.cancel(id)))._tag, "JobNotFound")
    })
  )

  test(
    "gives the oldest job of the highest priority first",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [low, old, young] = yield* newJobs([{ priority: -1 }, { priority: 5 }, { priority: 5 }])
      yield* store.submit([young!, low!, old!])
      assert.deepStrictEqual(ids((yield* acquire(2)).jobs), [old!.id, young!.id])
      assert.deepStrictEqual(ids((yield* acquire(2)).jobs), [low!.id])
      assert.deepStrictEqual(ids((yield* acquire(2)).jobs), [])
    })
  )

  test(
    "gives a job only to a worker whose tags cover it, and an untagged one only to an untagged worker",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [untagged, linux, large] = yield* newJobs([
        {},
        { tags: { os: "linux" } },
        { tags: { size: "large", os: "linux" } }
      ])
      yield* store.submit([untagged!, linux!, large!])
      assert.deepStrictEqual(ids((yield* acquire(9, { os: "windows" })).jobs), [])
      assert.deepStrictEqual(ids((yield* acquire(9, { os: "linux" })).jobs), [linux!.id])
      assert.deepStrictEqual(ids((yield* acquire(9, { os: "linux", size: "large", gpu: "no" })).jobs), [large!.id])
      assert.deepStrictEqual(ids((yield* acquire(9)).jobs), [untagged!.id])
    })
  )

  test(
    "orders by priority and age across sets of tags",
    Effect.gen(function*() {
      const store = yield* JobStore
      const jobs = yield* newJobs([{ tags: { a: "1" } }, { tags: { b: "2" }, priority: 1 }, {
        tags: { a: "1", b: "2" }
      }])
      yield* store.submit(jobs)
      const { jobs: taken } = yield* acquire(2, { a: "1", b: "2" })
      assert.deepStrictEqual(ids(taken), [jobs[1]!.id, jobs[0]!.id])
    })
  )

  test(
    "does not give a job before its time, and says when that is",
    Effect.gen(function*() {
      const store = yield* JobStore
      const now = yield* Clock.currentTimeMillis
      const [job] = yield* newJobs([{ notBefore: now + 1_500 }])
      yield* store.submit([job!])
      const early = yield* acquire(1)
      assert.deepStrictEqual(early.jobs, [])
      const due = Duration.toMillis(early.nextDue ?? Duration.zero)
      assert.isTrue(due > 0 && due <= 1_500, `${due}`)
      yield* setting.pass("1600 millis")
      const found = yield* acquire(1)
      // A store may need one look to find that its time has come.
      assert.deepStrictEqual(ids(found.jobs.length > 0 ? found.jobs : (yield* acquire(1)).jobs), [job!.id])
    })
  )

  test(
    "hands out again what a worker holds and does not know of, under the same token",
    Effect.gen(function*() {
      const store = yield* JobStore
      yield* store.submit(yield* newJobs([{}, {}, {}]))
      const { jobs: [known, unknown] } = yield* acquire(2)
      const again = yield* acquire(2, {}, workerA, [known!])
      assert.strictEqual(again.jobs.length, 2)
      assert.deepStrictEqual(again.jobs[0], unknown)
      assert.deepStrictEqual((yield* acquire(0, {}, workerB, [])).jobs, [])
    })
  )

  test(
    "keeps a lease that is beaten, and says what became of others",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [a, b, c] = yield* newJobs([{}, {}, {}])
      yield* store.submit([a!, b!, c!])
      const { jobs } = yield* acquire(3)
      yield* store.cancel(b!.id)
      yield* store.finish([{ ...jobs[2]!, outcome: { status: "succeeded", result: null } }])
      const stale = { ...jobs[0]!, token: jobs[0]!.token - 1 }
      assert.deepStrictEqual(yield* store.heartbeat([...jobs, stale], lease), ["held", "canceling", "lost", "lost"])
    })
  )

  test(
    "accepts a result once and again, and refuses it under a stale token",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [job] = yield* newJobs([{}])
      yield* store.submit([job!])
      const { jobs: [leased] } = yield* acquire(1)
      const stale = {
        job: leased!.job,
        token: leased!.token - 1,
        outcome: { status: "succeeded", result: "stale" } as const
      }
      const report = {
        job: leased!.job,
        token: leased!.token,
        outcome: { status: "succeeded", result: { n: 1 } } as const
      }
      assert.deepStrictEqual(yield* store.finish([stale, report]), ["refused", "stored"])
      assert.deepStrictEqual(yield* store.finish([report]), ["stored"])
      assert.deepStrictEqual(yield* store.finish([stale]), ["refused"])
      const stored = yield* store.get(job!.id)
      assert.strictEqual(stored.status, "succeeded")
      assert.deepStrictEqual(stored.result, { n: 1 })
      assert.isDefined(stored.finishedAt)
    })
  )

  test(
    "lets a failed job with attempts left wait, and then gives it again under a higher token",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [job] = yield* newJobs([{ maxAttempts: 2 }])
      yield* store.submit([job!])
      const failed = { status: "failed", result: null, error: "no luck" } as const
      const { jobs: [first] } = yield* acquire(1)
      assert.deepStrictEqual(yield* store.finish([{ ...first!, outcome: failed }]), ["again"])
      assert.deepStrictEqual(yield* store.finish([{ ...first!, outcome: failed }]), ["again"])
      assert.strictEqual((yield* store.get(job!.id)).status, "pending")
      assert.deepStrictEqual((yield* acquire(1)).jobs, [])
      yield* setting.pass("1100 millis")
      const found = yield* acquire(1)
      const second = found.jobs[0] ?? (yield* acquire(1)).jobs[0]
      assert.strictEqual(second?.attempt, 2)
      assert.isAbove(second!.token, first!.token)
      assert.deepStrictEqual(yield* store.finish([{ ...first!, outcome: failed }]), ["refused"])
      assert.deepStrictEqual(yield* store.finish([{ ...second!, outcome: failed }]), ["stored"])
      const stored = yield* store.get(job!.id)
      assert.strictEqual(stored.status, "failed")
      assert.strictEqual(stored.error, "no luck")
    })
  )

  test(
    "cancels a pending job at once, and a running one when its worker says so",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [pending, running] = yield* newJobs([{ priority: -1 }, {}])
      yield* store.submit([pending!, running!])
      const { jobs: [leased] } = yield* acquire(1)
      assert.strictEqual((yield* store.cancel(pending!.id)).status, "canceled")
      assert.strictEqual((yield* store.cancel(pending!.id)).status, "canceled")
      assert.strictEqual((yield* store.cancel(running!.id)).status, "canceling")
      assert.strictEqual((yield* store.cancel(running!.id)).status, "canceling")
      assert.deepStrictEqual((yield* acquire(9)).jobs, [])
      yield* store.finish([{ ...leased!, outcome: { status: "canceled", result: null, error: "canceled" } }])
      assert.strictEqual((yield* store.get(running!.id)).status, "canceled")
    })
  )

  test(
    "does not cancel what has ended",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [job] = yield* newJobs([{}])
      yield* store.submit([job!])
      const { jobs: [leased] } = yield* acquire(1)
      yield* store.finish([{ ...leased!, outcome: { status: "succeeded", result: null } }])
      const error = yield* Effect.flip(store.cancel(job!.id))
      assert.strictEqual(error._tag, "JobEnded")
      assert.strictEqual((yield* store.get(job!.id)).status, "succeeded")
    })
  )

  test(
    "does not start a canceling job again, whatever its worker reports",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [job] = yield* newJobs([{ maxAttempts: 5 }])
      yield* store.submit([job!])
      const { jobs: [leased] } = yield* acquire(1)
      yield* store.cancel(job!.id)
      yield* store.finish([{ ...leased!, outcome: { status: "failed", result: null, error: "it failed first" } }])
      assert.strictEqual((yield* store.get(job!.id)).status, "failed")
    })
  )

  test(
    "stores output once, in order, and only under the current token",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [job] = yield* newJobs([{}])
      yield* store.submit([job!])
      const { jobs: [leased] } = yield* acquire(1)
      const batch = { job: leased!.job, token: leased!.token, attempt: 1, lines: [line(0, "a"), line(1, "b")] }
      const next = { ...batch, lines: [line(2, "c")] }
      assert.deepStrictEqual(yield* store.appendOutput([batch]), [true])
      assert.deepStrictEqual(yield* store.appendOutput([batch, next, { ...next, token: 99 }]), [true, true, false])
      const output = yield* store.readOutput(job!.id, { limit: 10 })
      assert.deepStrictEqual(output.map(({ text }) => text), ["a", "b", "c"])
      assert.deepStrictEqual(output[2], { ...line(2, "c"), attempt: 1 })
      const rest = yield* store.readOutput(job!.id, { after: { attempt: 1, index: 0 }, limit: 1 })
      assert.deepStrictEqual(rest.map(({ text }) => text), ["b"])
    })
  )

  test(
    "takes jobs from their worker unless their leases were renewed since they were seen, and refuses the late worker",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [once, twice, canceling, beaten] = yield* newJobs([{}, { maxAttempts: 2 }, {}, {}])
      yield* store.submit([once!, twice!, canceling!, beaten!])
      const { jobs } = yield* acquire(4)
      yield* store.cancel(canceling!.id)
      const seen = yield* store.leases([])
      assert.deepStrictEqual(
        seen.map(({ job, token, worker }) => [job, token, worker]).toSorted(),
        jobs.map(({ job, token }) => [job, token, workerA]).toSorted()
      )
      assert.deepStrictEqual(yield* store.leases(jobs.map(({ job }) => job)), seen)
      assert.deepStrictEqual(yield* store.heartbeat([jobs[3]!], lease), ["held"])
      assert.deepStrictEqual((yield* store.reap(seen)).toSorted(), [once!.id, twice!.id, canceling!.id].toSorted())
      assert.deepStrictEqual(yield* store.reap(seen), [])
      assert.deepStrictEqual((yield* store.leases([])).map(({ job }) => job), [beaten!.id])
      assert.strictEqual((yield* store.get(once!.id)).status, "failed")
      assert.strictEqual((yield* store.get(twice!.id)).status, "pending")
      assert.strictEqual((yield* store.get(canceling!.id)).status, "canceled")
      assert.strictEqual((yield* store.get(beaten!.id)).status, "running")
      const late = jobs.slice(0, 3).map((job) => ({
        ...job,
        outcome: { status: "succeeded", result: "late" } as const
      }))
      assert.deepStrictEqual(yield* store.finish(late), ["refused", "refused", "refused"])
      assert.deepStrictEqual(yield* store.appendOutput([{ ...jobs[0]!, lines: [line(0, "late")] }]), [false])
      assert.deepStrictEqual(yield* store.heartbeat(jobs.slice(0, 3), lease), ["lost", "lost", "lost"])
      assert.strictEqual((yield* store.get(once!.id)).error?.includes("worker is gone"), true)
      assert.strictEqual((yield* store.get(once!.id)).result, null)
    })
  )

  test(
    "gives a worker the types that it runs, and no others, however many wait",
    Effect.gen(function*() {
      const store = yield* JobStore
      const jobs = yield* newJobs([{ type: "other", priority: 9 }, { type: "mine" }, { type: "third" }, {
        type: "mine"
      }])
      yield* store.submit(jobs)
      assert.deepStrictEqual(ids((yield* acquire(9, {}, workerA, undefined, ["mine", "absent"])).jobs), [
        jobs[1]!.id,
        jobs[3]!.id
      ])
      assert.deepStrictEqual(ids((yield* acquire(9, {}, workerA, undefined, ["mine"])).jobs), [])
      assert.deepStrictEqual(ids((yield* acquire(9, {}, workerB, undefined, [])).jobs), [])
      const [late] = yield* newJobs([{ type: "mine" }])
      yield* store.submit([late!])
      assert.deepStrictEqual(ids((yield* acquire(9, {}, workerA, undefined, ["mine"])).jobs), [late!.id])
      assert.deepStrictEqual(ids((yield* acquire(9, {}, workerB)).jobs), [jobs[0]!.id, jobs[2]!.id])
    })
  )

  test(
    "hands out again what a worker holds under a token that it does not know of",
    Effect.gen(function*() {
      const store = yield* JobStore
      yield* store.submit(yield* newJobs([{}]))
      const { jobs: [leased] } = yield* acquire(1)
      assert.deepStrictEqual((yield* acquire(1, {}, workerA, [leased!])).jobs, [])
      const stale = { job: leased!.job, token: leased!.token - 1 }
      assert.deepStrictEqual((yield* acquire(1, {}, workerA, [stale])).jobs, [leased!])
    })
  )

  test(
    "takes back a job that was not started, as if it had not been given; once, and under its token only",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [job, canceling] = yield* newJobs([{}, {}])
      const [before] = yield* store.submit([job!, canceling!])
      const { jobs } = yield* acquire(2)
      yield* store.cancel(canceling!.id)
      assert.deepStrictEqual(yield* store.release([{ ...jobs[0]!, token: 99 }]), [false])
      assert.deepStrictEqual(yield* store.release(jobs), [true, true])
      assert.deepStrictEqual(yield* store.release(jobs), [false, false])
      assert.deepStrictEqual(yield* store.get(job!.id), before)
      assert.strictEqual((yield* store.get(canceling!.id)).status, "canceled")
      const { jobs: [again] } = yield* acquire(2)
      assert.deepStrictEqual([again?.job, again?.attempt], [job!.id, 1])
      assert.isAbove(again!.token, jobs[0]!.token)
      assert.deepStrictEqual(yield* store.heartbeat([jobs[0]!], lease), ["lost"])
    })
  )

  test(
    "knows the same request under its idempotency key after the job was tried again, whatever time it asked for",
    Effect.gen(function*() {
      const store = yield* JobStore
      for (const notBefore of [undefined, 1_000]) {
        const key = `key ${notBefore}`
        const [job, repeated] = yield* newJobs([
          { maxAttempts: 2, idempotencyKey: key, notBefore },
          { maxAttempts: 2, idempotencyKey: key, notBefore }
        ])
        yield* store.submit([job!])
        const { jobs: [leased] } = yield* acquire(1)
        yield* store.finish([{ ...leased!, outcome: { status: "failed", result: null, error: "no luck" } }])
        const [answer] = yield* store.submit([repeated!])
        assert.strictEqual(answer?.id, job!.id)
        assert.strictEqual(answer?.notBefore, notBefore)
        assert.deepStrictEqual((yield* store.submit([job!]))[0], answer)
      }
    })
  )

  test(
    "says of a job that was canceled while it waited for its next attempt that it had run",
    Effect.gen(function*() {
      const store = yield* JobStore
      const [job] = yield* newJobs([{ maxAttempts: 2 }])
      yield* store.submit([job!])
      const { jobs: [leased] } = yield* acquire(1)
      yield* store.finish([{ ...leased!, outcome: { status: "failed", result: null, error: "no luck" } }])
      assert.strictEqual((yield* store.cancel(job!.id)).error?.includes("after attempt 1"), true)
      const [fresh] = yield* newJobs([{}])
      yield* store.submit([fresh!])
      assert.strictEqual((yield* store.cancel(fresh!.id)).error, "canceled before it was started")
    })
  )

  test(
    "keeps sixteen tags of the greatest length",
    Effect.gen(function*() {
      const store = yield* JobStore
      const tags = Object.fromEntries(Array.from({ length: limits.tags }, (_, at) => [
        `${at}`.padEnd(limits.tagKeyLength, "k€"),
        `${at}`.padEnd(limits.tagValueLength, "v€")
      ]))
      const [job] = yield* newJobs([{ tags }])
      yield* store.submit([job!])
      assert.deepStrictEqual((yield* store.get(job!.id)).tags, JSON.parse(tagKey(tags)))
      assert.deepStrictEqual(ids((yield* acquire(1, tags)).jobs), [job!.id])
    })
  )

  const invalid: ReadonlyArray<readonly [what: string, options: Record<string, unknown>, field: string]> = [
    ["an empty type", { type: "" }, "type"],
    ["a type of 65 characters", { type: "t".repeat(65) }, "type"],
    ["a type with NUL", { type: "a\0b" }, "type"],
    ["no attempts", { maxAttempts: 0 }, "maxAttempts"],
    ["too many attempts", { maxAttempts: 1e6 }, "maxAttempts"],
    ["a fraction as priority", { priority: 1.5 }, "priority"],
    ["a priority beyond smallint", { priority: 40_000 }, "priority"],
    ["no number as time", { notBefore: Number.NaN }, "notBefore"],
    ["a time after all times", { notBefore: 1e16 }, "notBefore"],
    ["a negative time limit", { timeout: -1 }, "timeout"],
    ["an infinite time limit", { timeout: Number.POSITIVE_INFINITY }, "timeout"],
    ["an empty key", { idempotencyKey: "" }, "idempotencyKey"],
    ["half a surrogate pair in a tag", { tags: { a: "\ud800" } }, "tags"],
    ["seventeen tags", { tags: Object.fromEntries(Array.from({ length: 17 }, (_, at) => [`k${at}`, ""])) }, "tags"],
    ["a bigint as input", { input: 1n }, "input"],
    ["a bigint within the input", { input: { a: [1n] } }, "input"],
    ["a function as input", { input: () => 1 }, "input"],
    ["an input that holds itself", {
      input: (() => {
        const self: Record<string, unknown> = {}
        self["self"] = self
        return self
      })()
    }, "input"],
    ["an input of more than a mebibyte", { input: "x".repeat(limits.inputBytes) }, "input"],
    ["an input that is too deep", { input: JSON.parse("[".repeat(300) + "]".repeat(300)) }, "input"]
  ]
  for (const [what, options, field] of invalid) {
    test(
      `refuses ${what}, names the field, and stores nothing`,
      Effect.gen(function*() {
        const store = yield* JobStore
        const [good, bad] = yield* newJobs([{}, {}])
        const error = yield* Effect.flip(store.submit([good!, { ...bad!, ...options }]))
        assert.strictEqual(error._tag, "InvalidJob")
        if (error._tag !== "InvalidJob") return
        assert.deepStrictEqual(error.problems.map(({ job }) => job), error.problems.map(() => 1))
        assert.isTrue(error.problems.every((problem) => problem.field.startsWith(field)), error.message)
        assert.deepStrictEqual(yield* store.list({ limit: 10 }), [])
      })
    )
  }

  test(
    "keeps of an input what its JSON says, and nothing of the caller's own value",
    Effect.gen(function*() {
      const store = yield* JobStore
      const input = { at: new Date(0), left: undefined, list: [undefined, Number.NaN] }
      const [job] = yield* newJobs([{ input }])
      yield* store.submit([job!])
      assert.deepStrictEqual((yield* store.get(job!.id)).input, { at: "1970-01-01T00:00:00.000Z", list: [null, null] })
      const { jobs: [leased] } = yield* acquire(1)
      assert.deepStrictEqual(leased?.input, { at: "1970-01-01T00:00:00.000Z", list: [null, null] })
    })
  )

  test(
    "says which types and tags no worker serves",
    Effect.gen(function*() {
      const store = yield* JobStore
      const queues = [
        { type: "command", tags: {} },
        { type: "command", tags: { os: "linux" } },
        { type: "greet", tags: {} }
      ]
      assert.deepStrictEqual(yield* store.served(queues), [false, false, false])
      yield* setting.live(workerA)
      yield* setting.live(workerB)
      const worker = { replica: workerA, name: "a", tags: {}, slots: 4, types: ["command"] }
      yield* store.register({ ...worker, id: workerA })
      assert.deepStrictEqual(yield* store.served(queues), [true, false, false])
      yield* store.register({
        ...worker,
        id: workerB,
        replica: workerB,
        tags: { os: "linux", size: "l" },
        types: undefined
      })
      assert.deepStrictEqual(yield* store.served(queues), [true, true, false])
      yield* store.register({ ...worker, id: workerA, slots: 0 })
      assert.deepStrictEqual(yield* store.served(queues), [false, true, false])
    })
  )

  test(
    "lists the newest first, by status, type and tags, page by page",
    Effect.gen(function*() {
      const store = yield* JobStore
      const jobs = yield* newJobs([{}, { type: "other" }, { tags: { a: "1", b: "2" } }, {}])
      yield* store.submit(jobs)
      yield* acquire(1)
      const listed = (options: Parameters<typeof store.list>[0]) =>
        Effect.map(store.list(options), (found) => found.map((job) => jobs.findIndex(({ id }) => id === job.id)))
      assert.deepStrictEqual(yield* listed({ limit: 10 }), [3, 2, 1, 0])
      assert.deepStrictEqual(yield* listed({ limit: 2 }), [3, 2])
      assert.deepStrictEqual(yield* listed({ limit: 2, before: jobs[2]!.id }), [1, 0])
      assert.deepStrictEqual(yield* listed({ limit: 10, status: "running" }), [0])
      assert.deepStrictEqual(yield* listed({ limit: 10, type: "other" }), [1])
      assert.deepStrictEqual(yield* listed({ limit: 10, tags: { b: "2" } }), [2])
    })
  )
}
