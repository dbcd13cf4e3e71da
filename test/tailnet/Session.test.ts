import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Result } from "effect"
import { TestClock } from "effect/testing"
import { makePair, type PeerConnection } from "../../src/tailnet/Connection.ts"
import { limits } from "../../src/tailnet/Peer.ts"
import { closeCodes, decodeRequest, type Event, type Request } from "../../src/tailnet/Protocol.ts"
import * as ResumeToken from "../../src/tailnet/ResumeToken.ts"
import * as Session from "../../src/tailnet/Session.ts"
import type * as TailnetLoop from "../../src/tailnet/TailnetLoop.ts"
import { make as makeWorld, node, peer, uuid } from "../support/TailnetWorld.ts"

const settle = Effect.repeat(TestClock.adjust("1 millis"), { times: 9 })

const hello = (number: number, more: Partial<Extract<Request, { type: "hello" }>> = {}): Request => ({
  type: "hello",
  version: 1,
  peer: uuid(number),
  node: node(number),
  ...more
})

/** A connection by hand, and all that came over it, with its end. */
const dial = Effect.fnUntraced(
  function*(transport: TailnetLoop.Transport) {
    const connection: PeerConnection = yield* transport.dial
    const received: Array<Event> = []
    const reading = yield* Effect.forkScoped(Effect.flip(Effect.forever(
      Effect.tap(connection.receive, (events) => Effect.sync(() => received.push(...events)))
    )))
    return {
      ...connection,
      received,
      types: () => received.map(({ type }) => type),
      error: () => received.find((event) => event.type === "error"),
      end: Fiber.join(reading)
    }
  }
)

describe("a session at the coordinator", () => {
  it.effect("begins with a hello of a version that it speaks", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const a = yield* world.replica("a")
      for (
        const [request, code, detail] of [
          [{ type: "pong" }, "badMessage", "the first message has to be a hello"],
          [hello(1, { version: 7 }), "version", "this coordinator speaks version 1 of the protocol, and not 7"],
          [
            hello(1, { resume: "1.x" }),
            "badResume",
            "the resume token was not made for this peer; say hello without one"
          ]
        ] as const
      ) {
        yield* TestClock.adjust("1 second")
        const connection = yield* dial(a.transport)
        yield* connection.send(request)
        yield* settle
        assert.deepStrictEqual(connection.received, [{ type: "error", code, detail }])
        const end = yield* connection.end
        assert.strictEqual(end._tag === "ConnectionClosed" ? end.code : 0, closeCodes[code])
      }
      assert.strictEqual(a.coordinator.peers(), 0)
    }).pipe(Effect.scoped))

  it.effect("a resume token is accepted of the peer that it was made for, until it expires", () =>
    Effect.gen(function*() {
      const key = "key"
      const token = ResumeToken.make(key, uuid(1), 1_000)
      assert.isUndefined(ResumeToken.check(key, uuid(1), token, 2_000))
      assert.include(ResumeToken.check(key, uuid(2), token, 2_000), "not made for this peer")
      assert.include(ResumeToken.check("other", uuid(1), token, 2_000), "not made for this peer")
      assert.include(ResumeToken.check(key, uuid(1), token, 8 * 86_400_000), "expired")
      assert.include(ResumeToken.check(key, uuid(1), `9${token}`, 2_000), "not made for this peer")
      yield* Effect.void
    }))

  it.effect("says nothing for ten seconds: closed; nothing after the hello: closed as silent", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const a = yield* world.replica("a")
      const mute = yield* dial(a.transport)
      const silent = yield* dial(a.transport)
      yield* silent.send(hello(1))
      yield* TestClock.adjust("11 seconds")
      assert.strictEqual(mute.error()?.code, "silent")
      yield* TestClock.adjust("10 seconds")
      assert.include(silent.types(), "ping")
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(silent.error()?.code, "silent")
      assert.strictEqual(a.coordinator.peers(), 0)
    }).pipe(Effect.scoped))

  it.effect("stays for as long as the peer answers, and ends gracefully when it says goodbye", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const a = yield* world.replica("a")
      const one = yield* dial(a.transport)
      yield* one.send(hello(1))
      for (let n = 0; n < 20; n++) {
        yield* TestClock.adjust("10 seconds")
        yield* one.send({ type: "pong" })
      }
      assert.strictEqual(a.coordinator.peers(), 1)
      yield* one.send({ type: "disconnect" })
      yield* settle
      assert.strictEqual(a.coordinator.peers(), 0)
      assert.isFalse(world.table.peers.has(uuid(1)))
    }).pipe(Effect.scoped))

  it.effect("a peer that never reads is closed, and costs nobody else anything", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const a = yield* world.replica("a")
      const stuck: PeerConnection = yield* a.transport.dial
      yield* stuck.send(hello(1, { tunnels: [uuid(2)] }))
      const two = yield* peer(2, [a.transport], { tunnels: [uuid(3)] })
      const three = yield* peer(3, [a.transport])
      for (let n = 0; n < 300; n++) {
        yield* two.setNode(node(100 + n))
        yield* stuck.send({ type: "pong" })
        yield* settle
      }
      assert.deepStrictEqual(three.knows(2)?.node, node(399))
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(a.coordinator.peers(), 2)
    }).pipe(Effect.scoped))

  it.effect("a hundred thousand updates: limited, closed with a reason, others unharmed", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const a = yield* world.replica("a")
      const two = yield* peer(2, [a.transport], { tunnels: [uuid(3)] })
      const three = yield* peer(3, [a.transport])
      const flood = yield* dial(a.transport)
      yield* flood.send(hello(1))
      const sending = yield* Effect.forkScoped(Effect.exit(Effect.forEach(
        Array.from({ length: 100_000 }, (_, n) => n),
        (n) => flood.send({ type: "node", node: node(n) }),
        { discard: true }
      )))
      yield* settle
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(flood.error()?.code, "tooMany")
      assert.isTrue((yield* Fiber.join(sending))._tag === "Failure")
      yield* two.setNode(node(20))
      yield* settle
      assert.deepStrictEqual(three.knows(2)?.node, node(20))
    }).pipe(Effect.scoped))

  it.effect("says over how long the peers here would have to spread, and again when they have become many more", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const a = yield* world.replica("a")
      const spreadOf = (events: ReadonlyArray<Event>) =>
        events.flatMap((event) =>
          event.type === "welcome" || event.type === "ping" ? [event.reconnectSpreadMillis] : []
        )
      const join = Effect.fnUntraced(function*(number: number) {
        const connection = yield* dial(a.transport)
        yield* connection.send(hello(number))
        yield* settle
        return connection
      })
      const first = yield* join(1)
      assert.deepStrictEqual(spreadOf(first.received), [undefined])
      for (let number = 2; number < 20; number++) yield* join(number)
      const last = yield* join(20)
      assert.deepStrictEqual(spreadOf(last.received), [100])
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(spreadOf(first.received), [undefined, 100])
      assert.deepStrictEqual(spreadOf(last.received), [100])
    }).pipe(Effect.scoped))

  it.effect("more tunnels than a peer may have are refused", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const a = yield* world.replica("a")
      const one = yield* dial(a.transport)
      yield* one.send(hello(1, { tunnels: Array.from({ length: limits.tunnels }, (_, n) => uuid(100 + n)) }))
      yield* settle
      yield* one.send({ type: "addTunnel", peer: uuid(100) })
      yield* settle
      assert.isUndefined(one.error())
      yield* one.send({ type: "addTunnel", peer: uuid(99) })
      yield* settle
      assert.strictEqual(one.error()?.code, "tooMany")
    }).pipe(Effect.scoped))
})

describe("frames", () => {
  for (
    const [frame, problem] of [
      ["", "it is no JSON"],
      ["nonsense", "it is no JSON"],
      ["[]", ""],
      [
        `{"type":"node","node":${JSON.stringify(node(1)).slice(0, -1)},"x":${"[".repeat(5_000)}${"]".repeat(5_000)}}}`,
        "deep"
      ],
      [
        `{"type":"node","node":${JSON.stringify(node(1)).slice(0, -1)},"x":[${"1e20,".repeat(20_000)}1]}}`,
        "characters"
      ],
      ["{\"type\":\"node\"}", "node"],
      ["{\"type\":\"addTunnel\",\"peer\":\"x\"}", "a UUID in small letters"],
      [JSON.stringify({ type: "node", node: { ...node(1), key: "x".repeat(129) } }), "128"],
      [JSON.stringify({ type: "node", node: { ...node(1), endpoints: Array.from({ length: 65 }, String) } }), "64"]
    ] as const
  ) {
    it(`are refused with what is wrong: ${frame.slice(0, 40)}`, () => {
      const decoded = decodeRequest(frame)
      assert.strictEqual(decoded._tag, "Failure")
      if (decoded._tag === "Failure") assert.include(decoded.failure, problem)
    })
  }

  it("may have fields and types of a later version, and what a node has beside its fields is handed on", () => {
    assert.strictEqual(decodeRequest(JSON.stringify({ type: "pong", later: 1 }))._tag, "Success")
    assert.deepStrictEqual(
      decodeRequest(JSON.stringify({ type: "later", node: 1 })),
      Result.succeed({ type: "unknown" })
    )
    const later = { type: "node" as const, node: { ...node(1), mtu: 1_280, os: { name: "linux" } } }
    assert.deepStrictEqual(decodeRequest(JSON.stringify(later)), Result.succeed(later))
  })

  it.effect("of a type that is not known end no session, and count as messages", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const a = yield* world.replica("a")
      const sessions = yield* Session.make().pipe(Effect.provideContext(a.context))
      const [peerEnd, coordinatorEnd] = yield* makePair
      yield* Effect.forkScoped(sessions.serve({
        ...coordinatorEnd,
        receive: Effect.map(coordinatorEnd.receive, (all) =>
          all.map((message) => message.type === "pong" ? { type: "unknown" as const } : message))
      }))
      const connection = yield* dial({ name: "by hand", dial: Effect.succeed(peerEnd) })
      yield* connection.send(hello(1))
      for (let count = 0; count < 50; count++) {
        yield* connection.send({ type: "pong" })
      }
      yield* settle
      assert.isUndefined(connection.error())
      for (let count = 0; count < limits.messagesAtOnce; count++) {
        yield* Effect.ignore(connection.send({ type: "pong" }))
      }
      yield* settle
      assert.strictEqual(connection.error()?.code, "tooMany")
    }).pipe(Effect.scoped))

  it.effect("of the coordinator are bounded in bytes, however many and large the nodes are", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const a = yield* world.replica("a")
      const large = { ...node(1), allowedIps: Array.from({ length: 128 }, () => "\u0001".repeat(100)) }
      const bytes = Buffer.byteLength(JSON.stringify(large))
      assert.isAbove(bytes, 50_000)
      const others = Array.from({ length: 20 }, (_, at) => uuid(100 + at))
      for (const [at] of others.entries()) {
        const other = yield* dial(a.transport)
        yield* other.send(hello(100 + at, { node: large }))
      }
      yield* settle
      const connection = yield* dial(a.transport)
      yield* connection.send(hello(1, { tunnels: others }))
      yield* TestClock.adjust("1 second")
      const updates = connection.received.filter((event) => event.type === "updates")
      assert.lengthOf(updates.flatMap((event) => event.updates), 20)
      for (const event of updates) assert.isAtMost(Buffer.byteLength(JSON.stringify(event)), limits.event)
    }).pipe(Effect.scoped))
})
