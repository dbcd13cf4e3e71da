import { assert, describe, it } from "@effect/vitest"
import { largestBody } from "../../src/http/Guard.ts"
import { limits } from "../../src/provisioner/Job.ts"
import { pause, type Service, withService } from "./service.ts"

const submit = async ({ ask }: Service, body: string | Uint8Array<ArrayBuffer>) => {
  const answer = await ask("/api/v1/jobs", { method: "POST", headers: { "content-type": "application/json" }, body })
  const text = await answer.text()
  const { errors } = JSON.parse(text) as { errors?: ReadonlyArray<{ field: string; problem: string }> }
  return { status: answer.status, errors: errors ?? [], bytes: text.length }
}

const command = (words: string) => `{"input":{"command":[${words}]}}`
const zeros = (count: number) => `${"0,".repeat(count - 1)}0`
const object = (count: number, entry: (index: number) => string) =>
  `{${Array.from({ length: count }, (_, index) => entry(index)).join()}}`

const named: ReadonlyArray<readonly [what: string, body: string, fields: ReadonlyArray<string>]> = [
  ["a command of millions of numbers", command(zeros(largestBody / 2 - 20)), ["input.command"]],
  ["a command of one word more than there may be", command(`"x",`.repeat(limits.commandWords) + `"x"`), [
    "input.command"
  ]],
  ["one of many with such a command", `[${command("\"x\"")},${command(zeros(20_000))}]`, ["[1].input.command"]],
  [
    "an environment of thousands of variables",
    `{"input":{"command":["x"],"env":${object(5_000, (index) => `"K${index}":0`)}}}`,
    ["input.env"]
  ],
  ["thousands of tags", `{"input":{"command":["x"]},"tags":${object(10_000, (index) => `"k${index}":0`)}}`, ["tags"]],
  ["thousands of unknown fields", object(10_000, (index) => `"k${index}":0`), [""]],
  ["thousands of unknown fields of its input", `{"input":${object(10_000, (index) => `"k${index}":0`)}}`, ["input"]],
  ["lists that are too deep", "[".repeat(1_000_000), ["[0][0][0][0][0][0][0][0]"]],
  ["objects that are too deep", "{\"a\":".repeat(1_000_000), ["a.a.a.a.a.a.a.a"]],
  ["more jobs than there may be", `[${`${command("\"x\"")},`.repeat(limits.submission)}{}]`, [""]],
  ["millions of empty objects", `[${"{},".repeat(2_000_000)}{}]`, [""]],
  ["too much in all, with nothing that is too long", `[${`[${"{},".repeat(50)}{}],`.repeat(9_000)}[]]`, [""]],
  ["bytes that are no UTF-8", "\xff", [""]],
  ["a number that is none for JavaScript", "{\"input\":{\"command\":[\"x\"]},\"priority\":1e999}", [
    "priority",
    "priority"
  ]]
]

describe("a submission", () => {
  for (const [what, body, fields] of named) {
    it.live(`with ${what} is refused with its place`, () =>
      withService(async (service) => {
        const { errors, status } = await submit(service, what.includes("UTF-8") ? Buffer.from(body, "latin1") : body)
        assert.strictEqual(status, 400)
        assert.deepStrictEqual(errors.map(({ field }) => field), fields)
      }))
  }

  it.live("with many faults is answered with some of them, in few words", () =>
    withService(async (service) => {
      const bodies = [
        command(zeros(limits.commandWords)),
        `[${`${command("0")},`.repeat(9_999)}${command("0")}]`,
        `[${`{"type":["${"x".repeat(550)}"]},`.repeat(9_999)}{}]`,
        `{"${"n".repeat(1_000_000)}":1}`,
        `{"input":{"command":["x"]},"tags":{"${"n".repeat(1_000_000)}":1}}`,
        `{"input":{"command":["x"]},"priority":"${"n".repeat(1_000_000)}"}`
      ]
      for (const body of bodies) {
        const { bytes, errors, status } = await submit(service, body)
        assert.strictEqual(status, 400)
        assert.isAtLeast(errors.length, 1)
        assert.isAtMost(errors.length, 20)
        assert.isBelow(bytes, 30_000)
      }
    }))

  it.live("may have as many jobs as there may be, of 750 bytes each", () =>
    withService(async (service) => {
      const job = {
        input: { command: ["sh", "-c", "deploy"], env: { REGION: "eu-1", STAGE: "live" }, stdin: "x".repeat(550) },
        tags: { os: "linux", size: "large" },
        priority: 5,
        timeoutSeconds: 600,
        maxAttempts: 3
      }
      const jobs = Array.from(
        { length: limits.submission },
        (_, index) => ({ ...job, idempotencyKey: `deploy-${index}` })
      )
      const body = JSON.stringify(jobs)
      assert.isAbove(body.length, 7_500_000)
      const answer = await service.ask("/api/v1/jobs", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body
      })
      assert.deepStrictEqual([answer.status, answer.headers.get("content-type")], [201, "application/json"])
      const answered = await answer.json() as ReadonlyArray<{ readonly idempotencyKey: string }>
      assert.deepStrictEqual(
        answered.map(({ idempotencyKey }) => idempotencyKey),
        jobs.map(({ idempotencyKey }) => idempotencyKey)
      )
    }))

  it.live("may have the longest command, and the most variables", () =>
    withService(async (service) => {
      const words = Array.from({ length: limits.commandWords }, () => "x")
      const env = Object.fromEntries(
        Array.from({ length: limits.environmentVariables }, (_, index) => [`K${index}`, "v"])
      )
      assert.strictEqual((await submit(service, JSON.stringify({ input: { command: words, env } }))).status, 201)
    }))

  it.live("waits while others that are large are read, and small ones do not", () =>
    withService(async (service) => {
      const large = JSON.stringify({ input: { command: ["x".repeat(1_000_000)], stdin: "x".repeat(500_000) } })
      const stop = new AbortController()
      const slow = Array.from({ length: 4 }, () =>
        service.ask("/api/v1/jobs", {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: new ReadableStream({ start: (controller) => controller.enqueue(Buffer.from("[")) }),
          duplex: "half",
          signal: stop.signal
        }).catch(() => undefined))
      await service.ask("/healthz")
      await pause(100)
      let isAnswered = false
      const waiting = submit(service, large).then((answer) => {
        isAnswered = true
        return answer
      })
      assert.strictEqual((await submit(service, command("\"x\""))).status, 201)
      await pause(100)
      assert.isFalse(isAnswered)
      stop.abort()
      await Promise.all(slow)
      assert.strictEqual((await waiting).status, 400)
    }))

  it.live("keeps a name that is one of JavaScript's own", () =>
    withService(async (service) => {
      const answer = await service.ask("/api/v1/jobs", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body:
          "{\"input\":{\"command\":[\"x\"],\"env\":{\"__proto__\":\"a\",\"constructor\":\"b\"}},\"tags\":{\"__proto__\":\"c\"}}"
      })
      assert.strictEqual(answer.status, 201)
      const text = await answer.text()
      assert.include(text, "\"__proto__\":\"a\"")
      assert.include(text, "\"tags\":{\"__proto__\":\"c\"}")
    }))

  it.live("that is cut off is not taken, and what is not there is not logged", () =>
    withService(async ({ ask }) => {
      const stop = new AbortController()
      const body = new ReadableStream({
        start: (controller) => controller.enqueue(Buffer.from("{\"input\":"))
      })
      const asking = ask("/api/v1/jobs", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body,
        duplex: "half",
        signal: stop.signal
      }).catch(() => undefined)
      await ask("/healthz")
      stop.abort()
      assert.isUndefined(await asking)
      assert.strictEqual((await ask("/healthz")).status, 200)
    }))
})
