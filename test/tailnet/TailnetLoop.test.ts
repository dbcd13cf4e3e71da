import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Logger, Scope } from "effect"
import { TestClock } from "effect/testing"
import { type CoordinatorConnection, makePair } from "../../src/tailnet/Connection.ts"
import type { Event, Request, UnknownRequest } from "../../src/tailnet/Protocol.ts"
import * as TailnetLoop from "../../src/tailnet/TailnetLoop.ts"
import { make as makeWorld, node, peer, uuid } from "../support/TailnetWorld.ts"

const settle = Effect.repeat(TestClock.adjust("1 millis"), { times: 9 })

const welcome: Event = { type: "welcome", session: "s", resume: "token", keepAliveSeconds: 15, replica: "scripted" }

/** A coordinator that does what it is told: `serve` is its side of each connection. */
const scripted = (serve: (connection: CoordinatorConnection, dial: number) => Effect.Effect<unknown, unknown>) => {
  const dials: Array<number> = []
  const requests: Array<Request | UnknownRequest> = []
  const closes: Array<string> = []
  const transport: TailnetLoop.Transport = {
    name: "scripted",
    dial: Effect.gen(function*() {
      dials.push(yield* Effect.clockWith((clock) => clock.currentTimeMillis))
      const [peerEnd, coordinatorEnd] = yield* makePair
      const noted: CoordinatorConnection = {
        ...coordinatorEnd,
        receive: Effect.tap(coordinatorEnd.receive, (all) => Effect.sync(() => requests.push(...all)))
      }
      yield* Effect.forkDetach(Effect.ignore(serve(noted, dials.length)))
      return {
        ...peerEnd,
        close: (code, reason) => Effect.andThen(Effect.sync(() => closes.push(reason)), peerEnd.close(code, reason))
      }
    })
  }
  return { transport, dials, requests, closes }
}

const collect = () => {
  const lines: Array<string> = []
  return { lines, layer: Logger.layer([Logger.make(({ message }) => void lines.push(String(message)))]) }
}

const start = Effect.fnUntraced(function*(
  transport: TailnetLoop.Transport,
  options: Partial<TailnetLoop.Options> = {}
) {
  const loop = yield* TailnetLoop.make({ peer: uuid(1), transports: [transport], node: node(1), ...options })
  const fiber = yield* Effect.forkScoped(loop.run)
  yield* settle
  return { ...loop, fiber }
})

/** Reads all that comes, for ever. */
const drain = (connection: CoordinatorConnection) => Effect.forever(connection.receive)

const gaps = (times: ReadonlyArray<number>) => times.slice(1).map((at, index) => at - times[index]!)

describe("TailnetLoop", () => {
  for (
    const [name, end] of [
      [
        "refused right after a successful dial",
        (connection: CoordinatorConnection) => connection.close(1011, "broken")
      ],
      ["refused by a coordinator whose database is unavailable", (connection: CoordinatorConnection) =>
        Effect.andThen(
          connection.send({ type: "error", code: "unavailable", detail: "the database is unavailable" }),
          connection.close(4503, "the database is unavailable")
        )],
      [
        "welcomed, and then refused",
        (connection: CoordinatorConnection) =>
          Effect.andThen(connection.send(welcome), connection.close(1011, "broken"))
      ]
    ] as const
  ) {
    it.effect(`${name}, for ever: the delays grow to the cap, and it says so once`, () => {
      const { layer, lines } = collect()
      return Effect.gen(function*() {
        const { dials, transport } = scripted((connection) => Effect.andThen(connection.receive, end(connection)))
        yield* start(transport)
        yield* TestClock.adjust("10 minutes")
        const between = gaps(dials)
        assert.isAtMost(dials.length, 9 + 600 / 8)
        assert.isAtMost(Math.max(...between), 10_000)
        for (const gap of between.slice(10)) assert.isAtLeast(gap, 8_000)
        assert.isAtMost(lines.length, 2, lines.join("\n"))
      }).pipe(Effect.scoped, Effect.provide(layer))
    })
  }

  it.effect("a session that was stable starts the delays anew; a shorter one does not", () =>
    Effect.gen(function*() {
      const stays = (millis: number) => (connection: CoordinatorConnection) =>
        Effect.andThen(
          connection.send(welcome),
          Effect.raceFirst(drain(connection), Effect.andThen(Effect.sleep(millis), connection.close(1011, "broken")))
        )
      const short = scripted(stays(9_000))
      yield* start(short.transport, { stableAfter: "10 seconds" })
      yield* TestClock.adjust("5 minutes")
      assert.isAtLeast(Math.max(...gaps(short.dials)), 9_000 + 6_000)
      const long = scripted(stays(11_000))
      yield* start(long.transport, { stableAfter: "10 seconds" })
      yield* TestClock.adjust("5 minutes")
      assert.isAtMost(Math.max(...gaps(long.dials)), 11_000 + 60)
    }).pipe(Effect.scoped))

  it.effect("canceled during a delay: it does not dial again", () =>
    Effect.gen(function*() {
      const { dials, transport } = scripted((connection) => connection.close(1011, "broken"))
      const { fiber } = yield* start(transport)
      yield* TestClock.adjust("1 minute")
      const before = dials.length
      yield* Fiber.interrupt(fiber)
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual(dials.length, before)
    }).pipe(Effect.scoped))

  it.effect("canceled while connected: it says goodbye and closes, within a second", () =>
    Effect.gen(function*() {
      const { closes, requests, transport } = scripted((connection) =>
        Effect.andThen(connection.send(welcome), drain(connection))
      )
      const { fiber } = yield* start(transport)
      yield* Fiber.interrupt(fiber)
      yield* settle
      assert.deepStrictEqual(requests.map(({ type }) => type), ["hello", "disconnect"])
      assert.deepStrictEqual(closes, ["goodbye"])
    }).pipe(Effect.scoped))

  it.effect("canceled while connected to one that takes nothing: closed within a second all the same", () =>
    Effect.gen(function*() {
      const { transport } = scripted((connection) => Effect.andThen(connection.send(welcome), Effect.never))
      const stuck: TailnetLoop.Transport = {
        ...transport,
        dial: Effect.map(transport.dial, (connection) => ({
          ...connection,
          send: (message: Request) => message.type === "disconnect" ? Effect.never : connection.send(message)
        }))
      }
      const { fiber } = yield* start(stuck)
      const ending = yield* Effect.forkScoped(Fiber.interrupt(fiber))
      yield* TestClock.adjust("999 millis")
      assert.isUndefined(ending.pollUnsafe())
      yield* TestClock.adjust("2 millis")
      assert.isDefined(ending.pollUnsafe())
    }).pipe(Effect.scoped))

  it.effect("one direction of a session fails: all of it is closed, and dialled once", () =>
    Effect.gen(function*() {
      const { closes, dials, transport } = scripted((connection) =>
        Effect.andThen(connection.send(welcome), drain(connection))
      )
      let breaks = true
      const oneWay: TailnetLoop.Transport = {
        ...transport,
        dial: Effect.map(transport.dial, (connection) => ({
          ...connection,
          send: (message: Request) =>
            message.type === "addTunnel" && breaks
              ? Effect.andThen(
                Effect.sync(() => {
                  breaks = false
                }),
                Effect.flatMap(connection.close(1006, "broken"), () => connection.send(message))
              )
              : connection.send(message)
        }))
      }
      const loop = yield* start(oneWay)
      yield* loop.addTunnel(uuid(2))
      yield* settle
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(dials.length, 2)
      assert.isAtLeast(closes.length, 1)
    }).pipe(Effect.scoped))

  it.effect("a coordinator that is silent is given up, by what it sends and not by what it is sent", () =>
    Effect.gen(function*() {
      const { dials, transport } = scripted((connection) => Effect.andThen(connection.send(welcome), drain(connection)))
      yield* start(transport)
      yield* TestClock.adjust("37 seconds")
      assert.strictEqual(dials.length, 1)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(dials.length, 2)
    }).pipe(Effect.scoped))

  it.effect("says with each hello all that it wants, and who it was", () =>
    Effect.gen(function*() {
      const { requests, transport } = scripted((connection, dial) =>
        Effect.andThen(
          connection.send(welcome),
          dial === 1
            ? Effect.raceFirst(drain(connection), Effect.andThen(Effect.sleep("5 seconds"), connection.close(1011, "")))
            : drain(connection)
        )
      )
      const loop = yield* start(transport, { tunnels: [uuid(2)] })
      yield* loop.addTunnel(uuid(3))
      yield* loop.removeTunnel(uuid(2))
      yield* loop.setNode(node(10))
      yield* TestClock.adjust("4 seconds")
      assert.sameMembers(requests.map(({ type }) => type), ["hello", "addTunnel", "removeTunnel", "node"])
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(requests.at(-1), {
        type: "hello",
        version: 1,
        peer: uuid(1),
        resume: "token",
        node: node(10),
        tunnels: [uuid(3)]
      })
    }).pipe(Effect.scoped))

  it.effect("honours when it is told to come back, and says nothing of it", () => {
    const { layer, lines } = collect()
    return Effect.gen(function*() {
      const { dials, transport } = scripted((connection) =>
        Effect.andThen(connection.send(welcome), connection.send({ type: "goingAway", retryAfterMillis: 4_000 }))
      )
      yield* start(transport)
      yield* TestClock.adjust("3900 millis")
      assert.strictEqual(dials.length, 1)
      yield* TestClock.adjust("200 millis")
      assert.strictEqual(dials.length, 2)
      assert.isEmpty(lines)
    }).pipe(Effect.scoped, Effect.provide(layer))
  })

  it.effect("of many whose coordinator vanishes none waits longer than it had said, and they do not dial at once", () =>
    Effect.gen(function*() {
      const { dials, transport } = scripted((connection, dial) =>
        dial > 100
          ? Effect.andThen(connection.send(welcome), drain(connection))
          : connection.send({ ...welcome, reconnectSpreadMillis: 60_000 }).pipe(
            Effect.andThen(Effect.sleep("1 second")),
            Effect.andThen(connection.send({ type: "ping", reconnectSpreadMillis: 10_000 })),
            Effect.andThen(Effect.sleep("30 seconds")),
            Effect.andThen(connection.close(1006, "killed"))
          )
      )
      yield* Effect.forEach(
        Array.from({ length: 100 }, (_, at) => at),
        (at) =>
          Effect.flatMap(
            TailnetLoop.make({ peer: uuid(at), transports: [transport] }),
            ({ run }) => Effect.forkScoped(run)
          )
      )
      yield* TestClock.adjust("31 seconds")
      assert.strictEqual(dials.length, 100)
      yield* TestClock.adjust("11 seconds")
      assert.strictEqual(dials.length, 200)
      const again = dials.slice(100).map((at) => at - 31_000)
      assert.isAtMost(Math.max(...again), 10_050)
      const inSecond = (second: number) => again.filter((at) => Math.floor(at / 1_000) === second).length
      // Ten are to be expected.
      for (let second = 0; second < 10; second++) assert.isAtMost(inSecond(second), 35)
    }).pipe(Effect.scoped, Effect.provide(Logger.layer([]))))

  it.effect("dials several in turn, and has all its tunnels back with another", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const a = yield* world.replica("a")
      const b = yield* world.replica("b")
      const one = yield* peer(1, [a.transport, b.transport], { tunnels: [uuid(2)] })
      const two = yield* peer(2, [b.transport])
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(one.replica(), "a")
      assert.isDefined(one.knows(2))
      yield* a.unreachable(true)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(one.replica(), "b")
      yield* two.setNode(node(20))
      yield* settle
      assert.deepStrictEqual(one.knows(2)?.node, node(20))
      assert.isFalse(two.knows(1)?.isLost)
    }).pipe(Effect.scoped))

  it.effect("keeps what it knows of others while its coordinator is away", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const a = yield* world.replica("a")
      const one = yield* peer(1, [a.transport], { tunnels: [uuid(2)] })
      yield* peer(2, [a.transport])
      yield* settle
      yield* a.unreachable(true)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(one.knows(2), { node: node(2), isLost: false })
    }).pipe(Effect.scoped))

  it.effect("a newer session of the same peer replaces the older", () =>
    Effect.gen(function*() {
      const { layer, lines } = collect()
      const world = yield* makeWorld
      const a = yield* world.replica("a")
      const other = yield* peer(2, [a.transport], { tunnels: [uuid(1)] })
      const scope = yield* Scope.make()
      yield* Scope.provide(Effect.provide(peer(1, [a.transport]), layer), scope)
      yield* settle
      yield* other.heard
      const again = yield* peer(1, [a.transport], { node: node(10) })
      yield* settle
      assert.deepStrictEqual(other.knows(1)?.node, node(10))
      assert.strictEqual(again.replica(), "a")
      assert.strictEqual(a.coordinator.peers(), 2)
      assert.include(lines.join(), "a newer session of the same peer replaced it")
      yield* Scope.close(scope, Exit.void)
    }).pipe(Effect.scoped))
})
