import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { assert, describe, it } from "@effect/vitest"
import { Data, Effect, Layer } from "effect"
import * as HttpRouter from "effect/http/HttpRouter"
import { createServer, type Server as NodeServer } from "node:http"
import type { AddressInfo } from "node:net"
import { trusting } from "../../src/http/ClientAddress.ts"
import type * as Guard from "../../src/http/Guard.ts"
import * as Server from "../../src/http/Server.ts"
import { ExecutionFailed, Executor } from "../../src/provisioner/Executor.ts"
import { JobStore } from "../../src/provisioner/JobStore.ts"
import { Provisioner } from "../../src/provisioner/Provisioner.ts"
import * as Outage from "../../src/testing/Outage.ts"
import { collectLines } from "../support/replicas.ts"

const executor = Executor.layerHandlers({
  command: (job, output) => {
    const [program, ...rest] = (job.input as { readonly command: ReadonlyArray<string> }).command
    return program === "fail"
      ? Effect.fail(new ExecutionFailed({ error: "exit status 3", result: { exitCode: 3, signal: null } }))
      : program === "sleep"
      ? Effect.as(Effect.sleep(Number(rest[0]) * 1000), { exitCode: 0 })
      : Effect.as(output.write("stdout", rest), { exitCode: 0, signal: null })
  }
})

/** A service on memory stores, on a port of its own; the database is away as the script says. */
const withService = (
  body: (ask: (path: string, init?: RequestInit) => Promise<Response>) => Promise<void>,
  options: {
    readonly outage?: ReadonlyArray<Outage.FaultInput>
    readonly guard?: Partial<Guard.Options>
    readonly slots?: number
    /** What `get` of the store answers with. */
    readonly get?: JobStore["Service"]["get"]
  } = {}
) =>
  Effect.gen(function*() {
    let server: NodeServer | undefined
    const layer = HttpRouter.serve(
      Server.layer({ token: undefined, hosts: ["127.0.0.1"], ...options.guard }),
      { disableLogger: true, disableListenLog: true }
    ).pipe(
      Layer.provide(NodeHttpServer.layer(() => server = createServer(), {
        host: "127.0.0.1",
        port: 0,
        gracefulShutdownTimeout: "100 millis"
      })),
      Layer.provide(Layer.effect(
        JobStore,
        Effect.map(JobStore, (store) => ({ ...store, ...(options.get === undefined ? {} : { get: options.get }) }))
      )),
      Layer.provide(Provisioner.layerMemory({
        outage: Outage.make(options.outage ?? []),
        worker: { slots: options.slots ?? 4, heartbeatEvery: "200 millis", shutdownDeadline: "100 millis" }
      })),
      Layer.provide(executor)
    )
    yield* Layer.build(layer)
    // The first heartbeat, or the finding that there is none.
    yield* Effect.sleep("50 millis")
    const { port } = server!.address() as AddressInfo
    yield* Effect.promise(() => body((path, init) => fetch(`http://127.0.0.1:${port}${path}`, init)))
  }).pipe(Effect.scoped)

const post = (body: unknown, headers: Record<string, string> = {}): RequestInit => ({
  method: "POST",
  headers: { "content-type": "application/json", ...headers },
  body: typeof body === "string" ? body : JSON.stringify(body)
})

const command = (...words: ReadonlyArray<string>) => ({ input: { command: words } })

interface Document {
  readonly id: string
  readonly status: string
  readonly [field: string]: unknown
}

const read = async (response: Response) => await response.json() as Document
const problem = async (response: Response) => {
  assert.strictEqual(response.headers.get("content-type"), "application/problem+json")
  return await response.json() as {
    readonly status: number
    readonly detail: string
    readonly errors?: ReadonlyArray<{ readonly field: string }>
  }
}

const ended = async (ask: (path: string) => Promise<Response>, id: string): Promise<Document> => {
  const job = await read(await ask(`/api/v1/jobs/${id}`))
  return ["succeeded", "failed", "canceled"].includes(job.status) ? job : ended(ask, id)
}

describe("the API", () => {
  it.live("names in the log what a request failed with, by its tag and fields if there is no message", () => {
    const { layer, lines } = collectLines()
    class BrokerGone extends Data.TaggedError("BrokerGone")<{ readonly broker: string }> {}
    return Effect.andThen(
      withService(async (ask) => {
        const response = await ask("/api/v1/jobs/0b9f8a52-7a2e-7c31-9d8e-2f3b9c1d7e60")
        assert.strictEqual(response.status, 500)
      }, { get: () => Effect.die(new BrokerGone({ broker: "b1" })) }),
      Effect.sync(() => assert.include(lines.map(({ text }) => text), "a request failed: BrokerGone (broker: b1)"))
    ).pipe(Effect.provide(layer))
  })

  it.live("takes a job, runs it, and shows it with its output", () =>
    withService(async (ask) => {
      const response = await ask(
        "/api/v1/jobs",
        post({ ...command("echo", "hello"), tags: {}, priority: 7, timeoutSeconds: 5 })
      )
      assert.strictEqual(response.status, 201)
      const job = await read(response)
      assert.strictEqual(job.status, "pending")
      const done = await ended(ask, job.id)
      assert.strictEqual(done.status, "succeeded")
      assert.deepStrictEqual(done["result"], { exitCode: 0, signal: null })
      assert.deepStrictEqual([done["priority"], done["timeoutSeconds"], done["attempt"]], [7, 5, 1])
      const logs = await (await ask(`/api/v1/jobs/${job.id}/logs`)).text()
      const [line] = logs.trim().split("\n").map((text) => JSON.parse(text) as { text: string; stream: string })
      assert.deepStrictEqual([line?.text, line?.stream], ["hello", "stdout"])
    }))

  it.live("takes many jobs at once, and answers in their order", () =>
    withService(async (ask) => {
      const response = await ask("/api/v1/jobs", post([command("echo", "1"), command("fail"), command("echo", "3")]))
      assert.strictEqual(response.status, 201)
      const jobs = await response.json() as ReadonlyArray<Document>
      const statuses = await Promise.all(jobs.map(async ({ id }) => (await ended(ask, id)).status))
      assert.deepStrictEqual(statuses, ["succeeded", "failed", "succeeded"])
    }))

  it.live("says of a job that no worker runs such jobs, when it is submitted and when it is shown", () =>
    withService(async (ask) => {
      const submitted = await read(
        await ask("/api/v1/jobs", post({ ...command("x"), tags: { os: "linux", size: "l" } }))
      )
      const expected = "no worker with the tags os=linux, size=l runs jobs of the type \"command\": they wait for one"
      assert.strictEqual(submitted["remark"], expected)
      assert.strictEqual((await read(await ask(`/api/v1/jobs/${submitted.id}`)))["remark"], expected)
      const served = await read(await ask("/api/v1/jobs", post(command("x"))))
      assert.isNull(served["remark"])
    }))

  it.live("takes leap days and the last days of months", () =>
    withService(async (ask) => {
      for (const day of ["2028-02-29", "2030-04-30", "2030-12-31"]) {
        const job = await read(await ask("/api/v1/jobs", post({ ...command("x"), notBefore: `${day}T23:59:59.5Z` })))
        assert.strictEqual(job["notBefore"], `${day}T23:59:59.500Z`)
      }
    }))

  it.live("lists pages, newest first, by status and tag", () =>
    withService(async (ask) => {
      for (let index = 0; index < 5; index++) {
        await ask("/api/v1/jobs", post({ ...command("echo"), tags: { n: String(index), all: "yes" } }))
      }
      const page = async (query: string) =>
        await (await ask(`/api/v1/jobs?${query}`)).json() as { jobs: ReadonlyArray<Document>; cursor: string | null }
      const tags = (jobs: ReadonlyArray<Document>) => jobs.map((job) => (job["tags"] as { n: string }).n)
      const first = await page("limit=3")
      assert.deepStrictEqual(tags(first.jobs), ["4", "3", "2"])
      const second = await page(`limit=3&cursor=${first.cursor}`)
      assert.deepStrictEqual(tags(second.jobs), ["1", "0"])
      assert.isNull(second.cursor)
      assert.deepStrictEqual(tags((await page("tag=n=1&tag=all=yes")).jobs), ["1"])
      assert.deepStrictEqual((await page("status=succeeded")).jobs, [])
    }))

  it.live("cancels a running job, and not one that has ended", () =>
    withService(async (ask) => {
      const { id } = await read(await ask("/api/v1/jobs", post(command("sleep", "60"))))
      while ((await read(await ask(`/api/v1/jobs/${id}`))).status === "pending");
      assert.strictEqual((await ask(`/api/v1/jobs/${id}/cancel`, { method: "POST" })).status, 200)
      assert.strictEqual((await ended(ask, id)).status, "canceled")
      const { id: other } = await read(await ask("/api/v1/jobs", post(command("echo"))))
      await ended(ask, other)
      const refused = await ask(`/api/v1/jobs/${other}/cancel`, { method: "POST" })
      assert.strictEqual(refused.status, 409)
      await problem(refused)
    }))

  it.live("follows the output until the job has ended", () =>
    withService(async (ask) => {
      const { id } = await read(await ask("/api/v1/jobs", post(command("echo", "a", "b"))))
      const text = await (await ask(`/api/v1/jobs/${id}/logs?follow=true`)).text()
      assert.deepStrictEqual(text.trim().split("\n").map((line) => (JSON.parse(line) as { text: string }).text), [
        "a",
        "b"
      ])
      const rest = await (await ask(`/api/v1/jobs/${id}/logs?after=1:0`)).text()
      assert.strictEqual((JSON.parse(rest) as { text: string }).text, "b")
    }))

  it.live("keeps an idempotency key for one job, and refuses it for another", () =>
    withService(async (ask) => {
      const first = await read(await ask("/api/v1/jobs", post({ ...command("echo"), idempotencyKey: "k" })))
      const again = await read(await ask("/api/v1/jobs", post(command("echo"), { "idempotency-key": "k" })))
      assert.strictEqual(again.id, first.id)
      const other = await ask("/api/v1/jobs", post({ ...command("echo", "other"), idempotencyKey: "k" }))
      assert.strictEqual(other.status, 409)
      assert.include((await problem(other)).detail, "\"k\"")
    }))

  const bad: ReadonlyArray<readonly [what: string, body: unknown, fields: ReadonlyArray<string>]> = [
    ["what is not JSON", "{", [""]],
    ["a job without input", {}, ["input"]],
    ["an empty command", command(), ["input.command[0]"]],
    ["a number in a command", { input: { command: ["echo", 1] } }, ["input.command[1]"]],
    ["unknown fields", { ...command("x"), prority: 1 }, ["prority"]],
    ["a priority that is too high", { ...command("x"), priority: 99_999 }, ["priority"]],
    ["another type", { ...command("x"), type: "http" }, ["type"]],
    ["a time that is none", { ...command("x"), notBefore: "soon" }, ["notBefore"]],
    ["the 31st of February", { ...command("x"), notBefore: "2026-02-31T12:00:00Z" }, ["notBefore"]],
    ["the 29th of February of a common year", { ...command("x"), notBefore: "2026-02-29T12:00:00+01:00" }, [
      "notBefore"
    ]],
    ["the 31st of June", { ...command("x"), notBefore: "2026-06-31T12:00:00Z" }, ["notBefore"]],
    ["a time before all jobs", { ...command("x"), notBefore: "1926-01-31T12:00:00Z" }, ["notBefore"]],
    ["an input of more than a mebibyte", { input: { command: ["x"], stdin: "x".repeat(1_100_000) } }, ["input"]],
    ["one input of many that is too large", [command("x"), { input: { command: ["x".repeat(1_100_000)] } }], [
      "[1].input"
    ]],
    ["tags that are no texts", { ...command("x"), tags: { a: 1 } }, ["tags.a"]],
    ["several faults at once", { input: { command: [], env: 5 }, maxAttempts: 0 }, [
      "input.command[0]",
      "input.env",
      "maxAttempts"
    ]],
    ["one bad job among many, all of which are refused", [command("x"), command()], ["[1].input.command[0]"]],
    ["no jobs at all", [], [""]]
  ]
  for (const [what, body, fields] of bad) {
    it.live(`refuses ${what} with 400, and names the fields`, () =>
      withService(async (ask) => {
        const response = await ask("/api/v1/jobs", post(body))
        assert.strictEqual(response.status, 400)
        const { errors } = await problem(response)
        assert.deepStrictEqual(errors?.map(({ field }) => field).toSorted(), fields.toSorted())
        const { jobs } = await (await ask("/api/v1/jobs")).json() as { jobs: ReadonlyArray<Document> }
        assert.deepStrictEqual(jobs, [])
      }))
  }

  it.live("answers what is not there with 404, and what is not possible with 405", () =>
    withService(async (ask) => {
      for (
        const path of [
          "/api/v1/jobs/x",
          "/api/v1/jobs/01890000-0000-7000-8000-000000000000",
          "/nothing",
          "/api/v1/jobs/x/logs"
        ]
      ) {
        const response = await ask(path)
        assert.strictEqual(response.status, 404, path)
        await problem(response)
      }
      for (const [path, allowed] of [["/api/v1/jobs", "POST, GET, HEAD"], ["/api/v1/jobs/x/cancel", "POST"]] as const) {
        const response = await ask(path, { method: "DELETE" })
        assert.strictEqual(response.status, 405)
        assert.strictEqual(response.headers.get("allow"), allowed)
        await problem(response)
      }
      assert.strictEqual((await ask("/healthz", { method: "HEAD" })).status, 200)
    }))

  it.live("refuses what the database cannot keep, and keys of which it is not sure", () =>
    withService(async (ask) => {
      const submit = (body: unknown, headers: Record<string, string> = {}) =>
        ask("/api/v1/jobs", {
          method: "POST",
          headers: { "content-type": "application/json", ...headers },
          body: JSON.stringify(body)
        })
      const job = { input: { command: ["true"] } }
      for (
        const [field, response] of [
          ["input.command[1]", await submit({ input: { command: ["echo", "a\0b"] } })],
          ["tags", await submit({ ...job, tags: { "a\0": "b" } })],
          ["input.stdin", await submit({ input: { command: ["cat"], stdin: "\ud800" } })],
          ["notBefore", await submit({ ...job, notBefore: "2026-01-31 12:00" })],
          ["Idempotency-Key", await submit([job, job], { "idempotency-key": "a" })],
          ["Idempotency-Key", await submit({ ...job, idempotencyKey: "b" }, { "idempotency-key": "a" })],
          ["Idempotency-Key", await submit(job, { "idempotency-key": "a".repeat(1_000) })],
          ["type", await ask("/api/v1/jobs?type=a%00b")],
          ["tag", await ask("/api/v1/jobs?tag=a%3Db&tag=a%3Dc")]
        ] as const
      ) {
        assert.strictEqual(response.status, 400, field)
        assert.deepStrictEqual((await problem(response)).errors?.map((error) => error.field), [field])
      }
    }))

  it.live("names wrong parameters", () =>
    withService(async (ask) => {
      const response = await ask("/api/v1/jobs?status=lost&limit=0&cursor=1&tag=x")
      assert.strictEqual(response.status, 400)
      const { errors } = await problem(response)
      assert.deepStrictEqual(errors?.map(({ field }) => field), ["status", "limit", "cursor", "tag"])
    }))

  it.live("is described by a document with every path", () =>
    withService(async (ask) => {
      const document = await (await ask("/openapi.json")).json() as { openapi: string; paths: Record<string, unknown> }
      assert.match(document.openapi, /^3\.1/)
      assert.deepStrictEqual(Object.keys(document.paths).toSorted(), [
        "/api/v1/jobs",
        "/api/v1/jobs/{id}",
        "/api/v1/jobs/{id}/cancel",
        "/api/v1/jobs/{id}/logs",
        "/healthz",
        "/metrics",
        "/readyz"
      ])
    }))
})

describe("the API during an outage", () => {
  it.live("answers at once with 503 and Retry-After, is alive, and not ready", () =>
    withService(async (ask) => {
      const answers = await Promise.all(Array.from({ length: 200 }, () => ask("/api/v1/jobs", post(command("echo")))))
      for (const answer of answers) {
        assert.strictEqual(answer.status, 503)
        assert.match(answer.headers.get("retry-after") ?? "", /^[1-9]\d*$/)
      }
      assert.include((await problem(answers[0]!)).detail, "ReadOnly")
      assert.strictEqual((await ask("/healthz")).status, 200)
      const ready = await ask("/readyz")
      assert.strictEqual(ready.status, 503)
      assert.strictEqual((await ready.json() as { reason: string }).reason, "ReadOnly")
      assert.include(await (await ask("/metrics")).text(), "lull_database_available 0")
    }, { outage: [{ kind: "readOnly" }] }))

  it.live("is not ready while the database is degraded, and says why", () =>
    withService(async (ask) => {
      let ready = await ask("/readyz")
      while (ready.status === 200) ready = await ask("/readyz")
      assert.strictEqual(ready.status, 503)
      const { reason, status } = await ready.json() as { status: string; reason: string }
      assert.deepStrictEqual([status, reason], ["degraded", "Refusing"])
      const metrics = await (await ask("/metrics")).text()
      assert.include(metrics, "lull_database_available 0")
      assert.include(metrics, "lull_database_degraded{reason=\"Refusing\"} 1")
      assert.include(metrics, "lull_database_degraded{reason=\"Full\"} 0")
      assert.strictEqual((await ask("/api/v1/jobs")).status, 503)
    }, { outage: [{ kind: "poolRefused" }] }))

  it.live("asks again for itself when the answer to a submission was lost", () =>
    withService(async (ask) => {
      const response = await ask("/api/v1/jobs", post(command("echo")))
      assert.strictEqual(response.status, 201)
      const { jobs } = await (await ask("/api/v1/jobs")).json() as { jobs: ReadonlyArray<Document> }
      assert.strictEqual(jobs.length, 1)
    }, { outage: [{ kind: "ackLost", operation: "JobStore.submit", times: 1 }] }))

  it.live("goes on with a log that is followed when the database is back", () =>
    withService(async (ask) => {
      const { id } = await read(await ask("/api/v1/jobs", post(command("sleep", "1"))))
      const text = await (await ask(`/api/v1/jobs/${id}/logs?follow=true`)).text()
      assert.strictEqual(text, "")
      assert.strictEqual((await ended(ask, id)).status, "succeeded")
    }, { outage: [{ kind: "connectionDropped", operation: "JobStore.readOutput", times: 2 }] }))
})

describe("the guard", () => {
  const token = "0123456789abcdef"

  it.live("lets no page of another site in", () =>
    withService(async (ask) => {
      assert.strictEqual(
        (await ask("/api/v1/jobs", post(command("echo"), { origin: "http://evil.example" }))).status,
        403
      )
      assert.strictEqual((await ask("/healthz", { headers: { origin: "null" } })).status, 403)
      const form = await ask("/api/v1/jobs", { method: "POST", body: JSON.stringify(command("echo")) })
      assert.strictEqual(form.status, 415)
      await problem(form)
    }))

  it.live("is called by its own names only", () =>
    withService(async (ask) => {
      assert.strictEqual((await ask("/healthz")).status, 403)
    }, { guard: { hosts: ["localhost"] } }))

  it.live("lets a browser in only from its own address", () =>
    withService(async (ask) => {
      const asked = async (site: string) =>
        (await ask("/api/v1/jobs", post(command("echo"), { "sec-fetch-site": site }))).status
      assert.deepStrictEqual(
        [await asked("same-origin"), await asked("none"), await asked("cross-site"), await asked("same-site")],
        [201, 201, 403, 403]
      )
    }))

  it.live("accepts each of two tokens while they are changed, and what it accepts may change while it runs", () => {
    const other = "fedcba9876543210"
    let tokens: ReadonlyArray<string> = [token, other]
    const guard = {
      token: () => tokens,
      peerToken: () => ["a-token-of-peers", "another-of-peers"]
    }
    return withService(async (ask) => {
      const asked = async (given: string) =>
        (await ask("/api/v1/jobs", { headers: { authorization: `Bearer ${given}` } })).status
      assert.deepStrictEqual([await asked(token), await asked(other)], [200, 200])
      tokens = [other]
      assert.deepStrictEqual([await asked(token), await asked(other)], [401, 200])
      for (const wrong of ["a-token-of-peers", "another-of-peers", `${token},${other}`, `${other} `, "undefined"]) {
        assert.strictEqual(await asked(wrong), wrong.trim() === other ? 200 : 401, wrong)
      }
    }, { guard })
  })

  it.live("counts requests without a token that is accepted, and says once who gave a wrong one, not which", () => {
    const { layer, lines } = collectLines()
    return withService(async (ask) => {
      const metrics = async () => {
        const text = await (await ask("/metrics", { headers: { authorization: `Bearer ${token}` } })).text()
        return ["wrong", "missing"].map((kind) =>
          Number(new RegExp(`^lull_http_tokens_refused_total\\{token="${kind}"\\} (\\d+)$`, "m").exec(text)?.[1])
        )
      }
      const [wrong = Number.NaN, missing = Number.NaN] = await metrics()
      for (let time = 0; time < 5; time++) {
        await ask("/api/v1/jobs", { headers: { authorization: "Bearer hush-hush-hush-hush" } })
      }
      await ask("/api/v1/jobs", { headers: { authorization: "Basic aHVzaDpodXNo" } })
      await ask("/api/v1/jobs")
      await ask("/readyz")
      assert.deepStrictEqual(await metrics(), [wrong + 6, missing + 1])
      assert.deepStrictEqual(lines.filter(({ level }) => level !== "Info").map(({ level, text }) => [level, text]), [[
        "Warn",
        "127.0.0.1 gave a token that is not accepted; its further attempts are counted in lull_http_tokens_refused_total"
      ]])
      assert.notInclude(JSON.stringify(lines), "hush")
    }, { guard: { token } }).pipe(Effect.provide(layer))
  })

  it.live("says of a trusted proxy who has called it", () => {
    const { layer, lines } = collectLines()
    const asked = withService(async (ask) => {
      for (const address of ["192.0.2.1", "198.51.100.9, 192.0.2.1", "192.0.2.2"]) {
        const headers = { authorization: "Bearer wrong", "x-forwarded-for": address }
        await ask("/api/v1/jobs", { headers })
      }
    }, { guard: { token, trustedProxies: trusting(["127.0.0.1"]) } })
    return Effect.andThen(
      asked,
      Effect.sync(() =>
        assert.deepStrictEqual(
          lines.filter(({ level }) => level === "Warn").map(({ text }) => text.split(" ")[0]),
          ["192.0.2.1", "192.0.2.2"]
        )
      )
    ).pipe(Effect.provide(layer))
  })

  it.live("asks for the token, but not for health", () =>
    withService(async (ask) => {
      const refused = await ask("/api/v1/jobs")
      assert.strictEqual(refused.status, 401)
      assert.strictEqual(refused.headers.get("www-authenticate"), "Bearer")
      assert.strictEqual((await ask("/api/v1/jobs", { headers: { authorization: "Bearer wrong" } })).status, 401)
      assert.strictEqual((await ask("/api/v1/jobs", { headers: { authorization: `Bearer ${token}` } })).status, 200)
      assert.strictEqual((await ask("/metrics")).status, 401)
      assert.strictEqual((await ask("/healthz")).status, 200)
      assert.strictEqual((await ask("/readyz")).status, 200)
    }, { guard: { token } }))

  it.live("takes no body beyond its limit", () =>
    withService(async (ask) => {
      const response = await ask("/api/v1/jobs", post(`"${"x".repeat(17 * 1024 * 1024)}"`)).catch(() => undefined)
      assert.strictEqual(response?.status, 413)
      const undeclared = new ReadableStream({
        start: (controller) => {
          for (let index = 0; index < 17; index++) controller.enqueue(new Uint8Array(1024 * 1024))
          controller.close()
        }
      })
      const cut = await ask("/api/v1/jobs", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: undeclared,
        duplex: "half"
      }).catch(() => undefined)
      // The connection may be gone before the answer is read.
      assert.isTrue(cut === undefined || cut.status === 413, `${cut?.status}`)
    }))
})
