import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as PoolGate from "../../src/database/PoolGate.ts"

interface Connection {
  readonly id: number
  isSound: boolean
  closed: Array<(isBroken: boolean) => void>
  end: "open" | "closed" | "destroyed"
}

/** A server with so many connections, which takes `after` to let somebody in. */
const makeGate = Effect.fnUntraced(function*(
  options: { room?: number; most?: number; after?: Duration.Input; lingers?: Duration.Input } = {}
) {
  const server = { room: options.room ?? 100, retryAfter: 0, attempts: 0, all: [] as Array<Connection> }
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  const gate = yield* PoolGate.make<Connection, string>({
    open: () =>
      Effect.suspend(() => {
        server.attempts++
        return Effect.andThen(
          Effect.sleep(options.after ?? 0),
          Effect.suspend(() => {
            const open = server.all.filter(({ end }) => end === "open").length
            if (open >= server.room) {
              server.retryAfter = 1_000
              return Effect.fail("too many connections")
            }
            const connection: Connection = { id: server.all.length, isSound: true, closed: [], end: "open" }
            server.all.push(connection)
            return Effect.succeed(connection)
          })
        )
      }),
    close: (connection, error) => {
      if (connection.end !== "open") return
      const end = Effect.sync(() => {
        connection.end = error === undefined ? "closed" : "destroyed"
        for (const closed of connection.closed.splice(0)) closed(false)
      })
      runFork(Effect.delay(end, error === undefined ? options.lingers ?? 0 : 0))
    },
    isSound: (connection) => connection.isSound,
    onClosed: (connection, closed) => {
      if (connection.end === "open") connection.closed.push(closed)
      else closed(false)
    },
    most: () => options.most ?? 10,
    retryAfter: () => server.retryAfter,
    isScarce: () => server.retryAfter > 0,
    atOnce: () => 4,
    lendFor: Duration.seconds(6),
    lifetime: Duration.minutes(5)
  })
  const busy = (time: Duration.Input) => gate.use(({ id }) => Effect.as(Effect.sleep(time), id))
  const many = (count: number, time: Duration.Input) =>
    Effect.forEach(Array.from({ length: count }), () => Effect.forkChild(Effect.exit(busy(time))))
  return { gate, server, busy, many }
})

describe("PoolGate", () => {
  it.effect("serves those who can wait a few milliseconds with the one connection that there is", () =>
    Effect.gen(function*() {
      const { many, server } = yield* makeGate()
      const callers = yield* many(4, Duration.times(PoolGate.growAfter, 0.25))
      yield* TestClock.adjust("20 millis")
      const exits = yield* Effect.forEach(callers, Fiber.join)
      assert.isTrue(exits.every(Exit.isSuccess))
      assert.strictEqual(server.attempts, 1)
    }))

  it.effect("opens more when somebody has waited longer, up to its limit", () =>
    Effect.gen(function*() {
      const { gate, many, server } = yield* makeGate({ most: 5 })
      yield* many(20, "1 second")
      yield* TestClock.adjust("100 millis")
      assert.deepStrictEqual(gate.stats(), { open: 5, used: 5, waiting: 15 })
      assert.strictEqual(server.attempts, 5)
    }))

  it.effect("fails nobody when the server lets no more in, and tries again under the backoff", () =>
    Effect.gen(function*() {
      const { gate, many, server } = yield* makeGate({ room: 2 })
      const callers = yield* many(20, "300 millis")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(gate.stats().open, 2)
      assert.strictEqual(server.attempts, 3)
      server.room = 5
      server.retryAfter = 0
      yield* TestClock.adjust("1 second")
      assert.strictEqual(gate.stats().open, 5)
      yield* TestClock.adjust("3 seconds")
      const exits = yield* Effect.forEach(callers, Fiber.join)
      assert.isTrue(exits.every(Exit.isSuccess))
    }))

  it.effect("replaces one that it gave up when the server has let it go, and fails nobody meanwhile", () =>
    Effect.gen(function*() {
      const { gate, many, server } = yield* makeGate({ room: 1, lingers: "100 millis" })
      const [first] = yield* many(1, "10 millis")
      yield* TestClock.adjust("20 millis")
      yield* Fiber.join(first!)
      for (let round = 0; round < 5; round++) {
        gate.renew()
        const callers = yield* many(3, "10 millis")
        yield* TestClock.adjust("2 seconds")
        const exits = yield* Effect.forEach(callers, Fiber.join)
        assert.isTrue(exits.every(Exit.isSuccess), `round ${round}: ${exits.map(String).join()}`)
        // It was refused of late, also where the next one is let in.
        assert.strictEqual(gate.stats().open, 1)
      }
      // Refused once, when it did not know yet that there is room for one.
      assert.isAtMost(server.attempts, 7)
    }))

  it.effect("fails those who wait with the reason when nothing at all is open", () =>
    Effect.gen(function*() {
      const { busy, many } = yield* makeGate({ room: 0 })
      const callers = yield* many(5, "1 second")
      yield* TestClock.adjust("10 millis")
      for (const exit of yield* Effect.forEach(callers, Fiber.join)) {
        assert.deepStrictEqual(exit, Exit.fail("too many connections"))
      }
      assert.strictEqual(yield* Effect.flip(busy("1 second")), "too many connections")
    }))

  it.effect("closes what nobody has used for ten seconds, but the last", () =>
    Effect.gen(function*() {
      const { gate, many, server } = yield* makeGate()
      yield* many(6, "1 second")
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(gate.stats().open, 6)
      yield* TestClock.adjust("12 seconds")
      assert.strictEqual(gate.stats().open, 1)
      assert.isTrue(server.all.every(({ end }) => end !== "destroyed"))
    }))

  it.effect("replaces a connection that has broken, and no other", () =>
    Effect.gen(function*() {
      const { busy, many, server } = yield* makeGate()
      yield* many(2, "1 second")
      yield* TestClock.adjust("2 seconds")
      const last = yield* Effect.forkChild(busy(0))
      yield* TestClock.adjust("1 millis")
      const id = yield* Fiber.join(last)
      server.all[id]!.isSound = false
      server.all[id]!.closed.splice(0).forEach((closed) => closed(true))
      assert.notStrictEqual(yield* busy(0), id)
      assert.strictEqual(server.attempts, 2)
    }))

  it.effect("lends none again that was made before it was renewed, and lets work end on it", () =>
    Effect.gen(function*() {
      const { busy, gate, many, server } = yield* makeGate()
      const [working] = yield* many(1, "1 second")
      yield* TestClock.adjust("10 millis")
      gate.renew()
      assert.strictEqual(server.all[0]!.end, "open")
      const next = yield* Effect.forkChild(busy("1 millis"))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(next), 1)
      assert.deepStrictEqual(yield* Fiber.join(working!), Exit.succeed(0))
      assert.strictEqual(server.all[0]!.end, "closed")
    }))

  it.effect("ends all at once when it is severed: those who wait fail", () =>
    Effect.gen(function*() {
      const { gate, many, server } = yield* makeGate({ most: 1 })
      const callers = yield* many(3, "1 second")
      yield* TestClock.adjust("10 millis")
      gate.sever(new Error("away"), Cause.fail("away"))
      assert.strictEqual(server.all[0]!.end, "destroyed")
      yield* Fiber.interrupt(callers[0]!)
      assert.deepStrictEqual(yield* Fiber.join(callers[1]!), Exit.fail("away"))
      assert.deepStrictEqual(yield* Fiber.join(callers[2]!), Exit.fail("away"))
    }))

  it.effect("ends a connection whose work does not end", () =>
    Effect.gen(function*() {
      const { gate, server } = yield* makeGate({ most: 1 })
      yield* Effect.forkDetach(gate.use(() => Effect.uninterruptible(Effect.never)))
      yield* TestClock.adjust("8 seconds")
      assert.strictEqual(server.all[0]!.end, "destroyed")
      assert.strictEqual(gate.stats().open, 0)
    }))

  it.effect("loses no connection to those who stop waiting", () =>
    Effect.gen(function*() {
      const { gate, many } = yield* makeGate({ most: 2 })
      for (let round = 0; round < 50; round++) {
        const callers = yield* many(10, "3 millis")
        yield* TestClock.adjust(`${round % 12} millis`)
        yield* Effect.forEach(callers, (caller) => Fiber.interrupt(caller))
      }
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([gate.stats().used, gate.stats().waiting], [0, 0])
      assert.isAtMost(gate.stats().open, 2)
    }))
})
