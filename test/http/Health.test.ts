import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, SubscriptionRef } from "effect"
import * as HttpRouter from "effect/http/HttpRouter"
import { createServer, type Server as NodeServer } from "node:http"
import type { AddressInfo } from "node:net"
import { Availability, type State } from "../../src/database/Availability.ts"
import type * as Guard from "../../src/http/Guard.ts"
import * as Health from "../../src/http/Health.ts"
import { AcquireLoop } from "../../src/provisioner/AcquireLoop.ts"

const token = "0123456789abcdef"

/** All that a server may name. */
const words = "no pg_hba.conf entry for host \"10.1.2.3\", user \"app_owner\", database \"payroll\""
const secrets = ["10.1.2.3", "app_owner", "payroll", "pg_hba", "/var/lib/jobs"]

const trouble = {
  reason: "Misconfigured",
  detail: words,
  lastError: words,
  since: 0,
  attempts: 3,
  nextAttempt: 0
} as const
const unavailable: State = { _tag: "Unavailable", ...trouble }
const degraded: State = { _tag: "Degraded", ...trouble, server: undefined, epoch: 1 }
const available: State = { _tag: "Available", since: 0, server: undefined, epoch: 1 }

/** Asks with these tokens in turn. */
const ask = (options: {
  readonly state: State
  readonly unable?: string
  readonly guard?: Partial<Guard.Options>
  readonly path?: string
  readonly tokens: ReadonlyArray<string | undefined>
}) =>
  Effect.gen(function*() {
    let server: NodeServer | undefined
    const state = yield* SubscriptionRef.make(options.state)
    yield* Layer.build(
      HttpRouter.serve(Health.layer({ token: undefined, hosts: undefined, ...options.guard }), {
        disableLogger: true,
        disableListenLog: true
      }).pipe(
        Layer.provide(NodeHttpServer.layer(() => server = createServer(), { host: "127.0.0.1", port: 0 })),
        Layer.provide(Layer.mock(Availability, {
          state,
          isOpen: () => false,
          report: () => {},
          writableMillis: () => 0,
          unavailableMillis: Effect.succeed(0),
          history: () => 0
        })),
        Layer.provide(Layer.mock(AcquireLoop, {
          worker: { id: "", replica: "", name: "", tags: {}, types: undefined, slots: 1 },
          tags: {},
          slots: 1,
          running: () => [],
          unanswered: () => [],
          unable: () => options.unable
        }))
      )
    )
    const { port } = server!.address() as AddressInfo
    return yield* Effect.forEach(options.tokens, (shown) =>
      Effect.promise(async () => {
        const headers: Record<string, string> = shown === undefined ? {} : { authorization: `Bearer ${shown}` }
        const response = await fetch(`http://127.0.0.1:${port}${options.path ?? "/readyz"}`, { headers })
        return { status: response.status, text: await response.text() }
      }))
  }).pipe(Effect.scoped)

const fields = (text: string) => JSON.parse(text) as Readonly<Record<string, unknown>>

describe("/readyz", () => {
  for (const [status, state] of [["unavailable", unavailable], ["degraded", degraded]] as const) {
    it.live(`says without the token that the database is ${status} and for which reason, and nothing else of it`, () =>
      Effect.gen(function*() {
        const answers = yield* ask({ state, guard: { token }, tokens: [undefined, "", "wrong", `${token}x`] })
        for (const { status: code, text } of answers) {
          assert.strictEqual(code, 503)
          const { attempts, reason, since, status: shown, ...more } = fields(text)
          assert.deepStrictEqual([shown, reason, attempts], [status, "Misconfigured", 3])
          assert.strictEqual(since, "1970-01-01T00:00:00.000Z")
          assert.deepStrictEqual(more, {})
          for (const secret of secrets) assert.notInclude(text, secret)
        }
      }))

    it.live(`says to who shows the token what the server said of why it is ${status}`, () =>
      Effect.gen(function*() {
        const [answer] = yield* ask({ state, guard: { token }, tokens: [token] })
        assert.strictEqual(fields(answer?.text ?? "")["lastError"], words)
      }))
  }

  it.live("says no more to who shows the token of peers, or any where none is set", () =>
    Effect.gen(function*() {
      const peerToken = "fedcba9876543210"
      const [peer] = yield* ask({ state: unavailable, guard: { token, peerToken }, tokens: [peerToken] })
      assert.notProperty(fields(peer?.text ?? ""), "lastError")
      for (const { text } of yield* ask({ state: unavailable, tokens: [undefined, token] })) {
        assert.notProperty(fields(text), "lastError")
      }
    }))

  it.live("says without the token that no jobs can be run, and with it what the executor said", () =>
    Effect.gen(function*() {
      const unable = "could not write into /var/lib/jobs"
      const [open, trusted] = yield* ask({ state: available, unable, guard: { token }, tokens: [undefined, token] })
      assert.deepStrictEqual(fields(open?.text ?? ""), { status: "unable to run jobs" })
      assert.deepStrictEqual(fields(trusted?.text ?? ""), { status: "unable to run jobs", reason: unable })
    }))

  it.live("is the same for everybody while it is ready", () =>
    Effect.gen(function*() {
      const answers = yield* ask({ state: available, guard: { token }, tokens: [undefined, token] })
      for (const answer of answers) {
        assert.strictEqual(answer.status, 200)
        assert.deepStrictEqual(Object.keys(fields(answer.text)), ["status", "since"])
      }
    }))
})

describe("/metrics", () => {
  it.live("names the reason of a trouble, and nothing that the server said", () =>
    Effect.gen(function*() {
      const [answer] = yield* ask({ state: degraded, unable: words, path: "/metrics", tokens: [undefined] })
      assert.include(answer?.text, "lull_database_degraded{reason=\"Misconfigured\"} 1")
      for (const secret of secrets) assert.notInclude(answer?.text, secret)
    }))
})
