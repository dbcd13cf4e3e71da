/**
 * A replica whose time of day is set, by libfaketime of Debian, while its monotonic clock is the real one: forwards, backwards, and
 * right again, as a server of times, a resume or a migration does it.
 */
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Logger, Ref, Stream, SubscriptionRef } from "effect"
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { PeerUpdate } from "../src/tailnet/Peer.ts"
import * as TailnetLoop from "../src/tailnet/TailnetLoop.ts"
import * as Transports from "../src/tailnet/Transports.ts"
import { freePort, start, untilReady } from "./cli/processes.ts"
import * as PostgresServer from "./support/PostgresServer.ts"
import { until } from "./support/realDatabase.ts"
import { node, uuid } from "./support/TailnetWorld.ts"

const preload = ["x86_64", "aarch64"].map((machine) => `/usr/lib/${machine}-linux-gnu/faketime/libfaketime.so.1`)
  .find((file) => existsSync(file))

/** What is set, and for how long: longer than to the next ping after a step back, and to the next look after one ahead. */
const steps: ReadonlyArray<readonly [offset: number, seconds: number]> = [
  [-120, 17],
  [0, 7],
  [3_600, 7],
  [0, 17],
  [-86_400, 7]
]

const directoryOf = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "lull-clock-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

/** A time of day that can be set, for the processes that are started with `environment`. */
const settableClock = Effect.map(directoryOf, (directory) => {
  const file = join(directory, "offset")
  const set = (seconds: number) => writeFileSync(file, `${seconds >= 0 ? "+" : ""}${seconds}\n`)
  set(0)
  assert.isDefined(preload, "libfaketime (Debian's package libfaketime) is needed")
  return {
    set,
    environment: {
      LD_PRELOAD: preload ?? "",
      FAKETIME_TIMESTAMP_FILE: file,
      FAKETIME_NO_CACHE: "1",
      FAKETIME_DONT_FAKE_MONOTONIC: "1",
      DONT_FAKE_MONOTONIC: "1"
    }
  }
})

const serve = Effect.fnUntraced(function*(url: string, environment: Record<string, string>) {
  const port = yield* Effect.promise(freePort)
  const address = `http://127.0.0.1:${port}`
  const service = yield* Effect.acquireRelease(
    Effect.map(directoryOf, (directory) =>
      start(["serve"], {
        LULL_LISTEN: `127.0.0.1:${port}`,
        LULL_DATA_DIR: directory,
        LULL_DATABASE_URL: url,
        LULL_LOG_FILE: "none",
        LULL_WORKER_TAGS: `at=${port}`,
        ...environment
      })),
    ({ child, ended }) =>
      Effect.promise(() => {
        child.kill("SIGKILL")
        return ended
      })
  )
  yield* Effect.promise(() => untilReady(address))
  return { ...service, address, tag: `at=${port}` }
})

const peer = Effect.fnUntraced(function*(number: number, address: string, to: number) {
  const transport = yield* Transports.webSocket({ address })
  const loop = yield* TailnetLoop.make({
    peer: uuid(number),
    transports: [transport],
    node: node(number),
    tunnels: [uuid(to)]
  })
  const heard = yield* Ref.make<ReadonlyArray<PeerUpdate["kind"]>>([])
  yield* Effect.forkScoped(Stream.runForEach(loop.events, ({ kind }) => Ref.update(heard, (all) => [...all, kind])))
  yield* Effect.forkScoped(loop.run)
  yield* until(() => SubscriptionRef.getUnsafe(loop.peers).has(uuid(to)) || number > to)
  return { ...loop, heard: Ref.getAndSet(heard, []) }
})

const submit = (address: string, tag: string, command: ReadonlyArray<string>) =>
  Effect.promise(() => start(["job", "submit", "--tag", tag, "--", ...command], { LULL_URL: address }).ended)

/** But that it is run by root, as here. */
const warnings = (stderr: string) =>
  stderr.split("\n").filter((line) => /WARN|ERROR/i.test(line) && !line.includes("LULL_JOB_USER"))

describe("a replica whose time of day is set, beside one that is right", () => {
  it.live("keeps its peers, runs its jobs once and to their end, and says nothing of it", () =>
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const clock = yield* settableClock
      const wrong = yield* serve(server.url, clock.environment)
      const right = yield* serve(server.url, {})
      const two = yield* peer(2, right.address, 1)
      const one = yield* peer(1, wrong.address, 2)
      yield* until(() => SubscriptionRef.getUnsafe(two.peers).has(uuid(1)))
      const seconds = steps.reduce((sum, [, lasting]) => sum + lasting, 0)
      const command = `for n in $(seq ${seconds * 10}); do echo line $n; sleep 0.1; done`
      const jobs = yield* Effect.forEach([wrong, right], ({ address, tag }) =>
        submit(address, tag, ["env", "-u", "LD_PRELOAD", "sh", "-c", command]))
      yield* one.heard
      yield* two.heard
      for (const [offset, lasting] of steps) {
        clock.set(offset)
        yield* Effect.sleep(`${lasting} seconds`)
      }
      assert.deepStrictEqual(yield* one.heard, [])
      assert.deepStrictEqual(yield* two.heard, [])
      assert.deepStrictEqual([(yield* one.counts).started, (yield* two.counts).started], [1, 1])
      for (const { stdout } of jobs) {
        const show = () =>
          Effect.promise(() =>
            fetch(`${right.address}/api/v1/jobs/${stdout.trim()}`).then((answer) =>
              answer.json() as Promise<Shown>
            )
          )
        const job = yield* Effect.repeat(Effect.andThen(Effect.sleep("100 millis"), show()), {
          until: ({ status }) => status !== "running"
        })
        assert.deepInclude(job, { status: "succeeded", attempt: 1 })
        const logs = yield* Effect.promise(() =>
          fetch(`${right.address}/api/v1/jobs/${stdout.trim()}/logs`).then((answer) => answer.text())
        )
        assert.strictEqual(logs.trim().split("\n").length, seconds * 10)
      }
      assert.deepStrictEqual(warnings(wrong.stderr()), [])
      assert.deepStrictEqual(warnings(right.stderr()), [])
    }).pipe(
      Effect.scoped,
      Effect.provide(NodeSocket.layerWebSocketConstructor),
      Effect.provide(Logger.layer([]))
    ), 150_000)
})

interface Shown {
  readonly status: string
  readonly attempt: number
}
