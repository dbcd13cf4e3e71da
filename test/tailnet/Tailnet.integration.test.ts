/** Replicas of the service as processes, on one PostgreSQL, and peers over WebSockets. */
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Logger, Ref, Schedule, Scope, Stream, SubscriptionRef } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { createServer, type Server } from "node:http"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, afterEach, beforeAll } from "vitest"
import * as Cluster from "../../src/database/embedded/Cluster.ts"
import type { PeerUpdate } from "../../src/tailnet/Peer.ts"
import * as TailnetLoop from "../../src/tailnet/TailnetLoop.ts"
import * as Transports from "../../src/tailnet/Transports.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { until } from "../support/realDatabase.ts"
import { node, uuid } from "../support/TailnetWorld.ts"
import * as TcpRelay from "../support/TcpRelay.ts"

const main = fileURLToPath(new URL("../../src/main.ts", import.meta.url))
const memoryProbe = new URL("../support/memoryProbe.mjs", import.meta.url).href
const plainClient = fileURLToPath(new URL("./client.mjs", import.meta.url))

describe("the tailnet of several replicas", () => {
  const scope = Effect.runSync(Scope.make())
  const directory = mkdtempSync(join(tmpdir(), "lull-tailnet-"))
  let server: PostgresServer.PostgresServer
  const children: Array<ChildProcess> = []

  beforeAll(async () => {
    server = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
  })
  afterEach(() => {
    for (const child of children.splice(0)) child.kill("SIGKILL")
  })
  afterAll(async () => {
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(directory, { recursive: true, force: true })
  })

  const run = (script: string, parameters: ReadonlyArray<string>, environment: Record<string, string> = {}) => {
    const child = spawn(process.execPath, [script, ...parameters], {
      env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", ...environment },
      stdio: ["ignore", "pipe", "pipe"]
    })
    children.push(child)
    let stdout = ""
    let stderr = ""
    child.stdout.on("data", (bytes) => stdout += String(bytes))
    child.stderr.on("data", (bytes) => stderr += String(bytes))
    return { child, stdout: () => stdout, stderr: () => stderr }
  }

  const serve = Effect.fnUntraced(function*(environment: Record<string, string> = {}, chosenPort?: string) {
    const port = chosenPort ?? String(yield* Cluster.freePort)
    const address = `http://127.0.0.1:${port}`
    const replica = run(main, ["serve"], {
      LULL_LISTEN: `127.0.0.1:${port}`,
      LULL_DATA_DIR: join(directory, port),
      LULL_DATABASE_URL: server.url,
      LULL_LOG_FILE: "none",
      LULL_WORKER_SLOTS: "0",
      ...environment
    })
    yield* Effect.promise(async () => {
      for (;;) {
        const response = await fetch(`${address}/readyz`).catch(() => undefined)
        if (response?.ok === true) return
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    })
    return { ...replica, address }
  })

  /** A peer in this process, until the scope of the test ends. */
  const peer = Effect.fnUntraced(
    function*(number: number, addresses: ReadonlyArray<string>, tunnels: ReadonlyArray<number> = []) {
      const [first, ...rest] = yield* Effect.forEach(addresses, (address) => Transports.webSocket({ address }))
      const loop = yield* TailnetLoop.make({
        peer: uuid(number),
        transports: [first!, ...rest],
        node: node(number),
        tunnels: tunnels.map(uuid)
      })
      const heard = yield* Ref.make<ReadonlyArray<PeerUpdate>>([])
      yield* Effect.forkScoped(Stream.runForEach(loop.events, (update) => Ref.update(heard, (all) => [...all, update])))
      yield* Effect.forkScoped(loop.run)
      return {
        ...loop,
        id: uuid(number),
        heard: Ref.getAndSet(heard, []),
        knows: (other: number) => SubscriptionRef.getUnsafe(loop.peers).get(uuid(other))
      }
    }
  )

  const test = (name: string, body: Effect.Effect<void, unknown, Scope.Scope>, timeout = 60_000) =>
    it.live(name, () => body.pipe(Effect.scoped, Effect.provide(Logger.layer([]))), timeout)

  const withSockets = <A, E, R>(body: Effect.Effect<A, E, R>) =>
    Effect.provide(body, NodeSocket.layerWebSocketConstructor)

  test(
    "a peer on each replica: they learn of each other, also through an outage, and see nobody leave",
    Effect.gen(function*() {
      const one = yield* serve()
      const two = yield* serve()
      const a = yield* peer(1, [one.address], [2, 3])
      const b = yield* peer(2, [two.address])
      const c = yield* peer(3, [one.address])
      yield* until(() => a.knows(2) !== undefined && a.knows(3) !== undefined && b.knows(1) !== undefined)
      yield* a.heard
      yield* server.stop("immediate")
      yield* Effect.sleep("1 second")
      yield* c.setNode(node(30))
      yield* b.setNode(node(20))
      // Within a replica at once; between them when the database is back.
      yield* until(() => a.knows(3)?.node.asOf === 30)
      const d = yield* peer(4, [one.address], [1])
      yield* until(() => d.knows(1) !== undefined && a.knows(4) !== undefined)
      yield* Effect.sleep("8 seconds")
      assert.strictEqual(a.knows(2)?.node.asOf, 2)
      yield* server.start
      yield* until(() => a.knows(2)?.node.asOf === 20)
      const kinds = new Set((yield* a.heard).map(({ kind }) => kind))
      assert.deepStrictEqual([...kinds], ["node"])
      for (const replica of [one, two]) {
        assert.isAtMost(
          replica.stderr().split("\n").filter((line) => /WARN|ERROR/.test(line)).length,
          4,
          replica.stderr()
        )
        assert.notMatch(replica.stderr(), /foreign key/)
      }
    }).pipe(withSockets)
  )

  test(
    "the rows are lost in a failover: all that is here is written again",
    Effect.gen(function*() {
      const relay = yield* TcpRelay.make({ target: server.port })
      const environment = { LULL_DATABASE_URL: server.url.replace(`:${server.port}/`, `:${relay.port}/`) }
      const one = yield* serve(environment)
      const two = yield* serve(environment)
      const a = yield* peer(11, [one.address], [12])
      const b = yield* peer(12, [two.address])
      yield* until(() => a.knows(12) !== undefined && b.knows(11) !== undefined)
      yield* a.heard
      yield* b.heard
      // Nobody sees them go: that would be another's goodbye, and not a failover.
      yield* relay.refuse(true)
      yield* relay.dropAll
      yield* server.execute("truncate lull.peer, lull.tunnel")
      yield* server.execute("delete from lull.replica")
      yield* server.stop("immediate")
      yield* server.start
      yield* relay.refuse(false)
      yield* b.setNode(node(120))
      yield* until(() => a.knows(12)?.node.asOf === 120)
      const c = yield* peer(13, [one.address], [12])
      yield* until(() => c.knows(12)?.node.asOf === 120)
      for (const { heard, id } of [a, b]) {
        const others = (yield* heard).filter(({ kind }) => kind !== "node")
        assert.deepStrictEqual(others.map((update) => `${id} ${JSON.stringify(update)}`), [])
      }
    }).pipe(withSockets)
  )

  test(
    "the primary dies, a standby that was behind is promoted: what it lacks is written again, and nobody is told that somebody had gone",
    Effect.gen(function*() {
      const primary = yield* PostgresServer.make()
      const standby = yield* primary.makeStandby
      const relay = yield* TcpRelay.make({ target: primary.port })
      const environment = { LULL_DATABASE_URL: primary.url.replace(`:${primary.port}/`, `:${relay.port}/`) }
      const one = yield* serve(environment)
      const two = yield* serve(environment)
      const a = yield* peer(51, [one.address], [52, 54])
      const b = yield* peer(52, [two.address])
      yield* until(() => a.knows(52) !== undefined && b.knows(51) !== undefined)
      const stored = (server_: PostgresServer.PostgresServer) =>
        Effect.map(
          server_.execute("select as_of from lull.peer where node is not null order by as_of"),
          (rows) => rows.map((row) => row["as_of"])
        )
      while ((yield* stored(standby)).length < 2) yield* Effect.sleep("50 millis")
      // From here on the standby misses everything.
      yield* standby.execute("alter system set primary_conninfo to ''")
      yield* standby.execute("select pg_reload_conf()")
      while ((yield* standby.execute("select from pg_stat_wal_receiver")).length > 0) yield* Effect.sleep("50 millis")
      yield* b.setNode(node(520))
      const c = yield* peer(53, [one.address], [52])
      const d = yield* peer(54, [two.address], [53])
      yield* until(() =>
        a.knows(52)?.node.asOf === 520 && a.knows(54) !== undefined && c.knows(54) !== undefined &&
        d.knows(53) !== undefined
      )
      for (const { heard } of [a, b, c, d]) yield* heard
      yield* primary.stop("immediate")
      yield* relay.setTarget(standby.port)
      yield* standby.promote
      const all = [51, 53, 54, 520]
      while (JSON.stringify(yield* stored(standby)) !== JSON.stringify(all)) yield* Effect.sleep("50 millis")
      yield* c.setNode(node(530))
      yield* until(() => d.knows(53)?.node.asOf === 530)
      // For longer than a replica may be silent.
      yield* Effect.sleep("8 seconds")
      for (const { heard, id } of [a, b, c, d]) {
        const others = (yield* heard).filter(({ kind }) => kind !== "node")
        assert.deepStrictEqual(others.map((update) => `${id} ${JSON.stringify(update)}`), [])
      }
      for (const replica of [one, two]) assert.notMatch(replica.stderr(), /foreign key|ERROR/)
    }).pipe(withSockets)
  )

  test(
    "a replica is killed with a thousand peers: they are on the other, with all their tunnels",
    Effect.gen(function*() {
      const one = yield* serve()
      const two = yield* serve()
      const count = 1_000
      const peers = yield* Effect.forEach(
        Array.from({ length: count }, (_, at) => at),
        (at) => peer(1_000 + at, [one.address, two.address], [1_000 + (at + 1) % count]),
        { concurrency: 50 }
      )
      const isWhole = () =>
        peers.every((each, at) =>
          [1, count - 1].every((step) => each.knows(1_000 + (at + step) % count)?.isLost === false)
        )
      yield* until(isWhole)
      one.child.kill("SIGKILL")
      yield* until(() => peers.every(({ replica }) => replica() !== undefined))
      yield* Effect.forEach(peers, (each, at) => each.setNode(node(10_000 + at)))
      yield* until(() =>
        isWhole() &&
        peers.every((each, at) => each.knows(1_000 + (at + 1) % count)?.node.asOf === 10_000 + (at + 1) % count)
      )
    }).pipe(withSockets),
    120_000
  )

  test(
    "listeners lose their connections again and again: each session ends on what is newest",
    Effect.gen(function*() {
      const one = yield* serve()
      const two = yield* serve()
      const a = yield* peer(61, [one.address], [62])
      const b = yield* peer(62, [two.address])
      yield* until(() => a.knows(62) !== undefined && b.knows(61) !== undefined)
      for (let round = 1; round <= 10; round++) {
        let ended = 0
        while (ended === 0) {
          const [row] = yield* server.execute(
            "select count(pg_terminate_backend(pid))::int as ended from pg_stat_activity where query like 'LISTEN%'"
          )
          ended = Number(row?.["ended"])
          yield* Effect.sleep("10 millis")
        }
        yield* a.setNode(node(61_000 + round))
        yield* b.setNode(node(62_000 + round))
        yield* Effect.sleep(20 * round)
      }
      yield* until(() => a.knows(62)?.node.asOf === 62_010 && b.knows(61)?.node.asOf === 61_010)
    }).pipe(withSockets)
  )

  test(
    "a replica ends: its peers go elsewhere, and nobody sees them flap",
    Effect.gen(function*() {
      const one = yield* serve()
      const two = yield* serve()
      const a = yield* peer(21, [one.address], [22, 23, 24])
      const moving = yield* Effect.forEach([22, 23, 24], (number) => peer(number, [two.address, one.address]))
      yield* until(() => [22, 23, 24].every((number) => a.knows(number) !== undefined))
      yield* a.heard
      const before = moving[0]?.replica()
      two.child.kill("SIGTERM")
      yield* until(() => moving.every(({ replica }) => replica() !== undefined && replica() !== before))
      yield* Effect.sleep("2 seconds")
      assert.isEmpty((yield* a.heard).filter(({ kind }) => kind !== "node"))
      yield* until(() => two.child.exitCode !== null)
      assert.strictEqual(two.child.exitCode, 0)
    }).pipe(withSockets)
  )

  test(
    "garbage, frames of ten megabytes and a foreign version are closed with a reason, and harm nobody",
    Effect.gen(function*() {
      const one = yield* serve()
      const a = yield* peer(31, [one.address], [32])
      const b = yield* peer(32, [one.address])
      yield* until(() => a.knows(32) !== undefined)
      const closeOf = (frame: string) =>
        Effect.callback<readonly [number, string]>((resume) => {
          const socket = new WebSocket(`${one.address.replace("http", "ws")}/api/v1/tailnet`)
          socket.onopen = () => socket.send(frame)
          socket.onclose = ({ code, reason }) => resume(Effect.succeed([code, reason]))
        })
      assert.deepStrictEqual(yield* closeOf("garbage"), [4400, "it is no JSON"])
      assert.strictEqual((yield* closeOf("x".repeat(10_000_000)))[0], 1009)
      assert.deepStrictEqual(
        yield* closeOf(JSON.stringify({ type: "hello", version: 9, peer: uuid(33) })),
        [4406, "this coordinator speaks version 1 of the protocol, and not 9"]
      )
      yield* b.setNode(node(320))
      yield* until(() => a.knows(32)?.node.asOf === 320)
    }).pipe(withSockets)
  )

  test(
    "a peer that says that it lives and reads nothing is closed, and does not cost more than what the kernel holds",
    Effect.gen(function*() {
      const memory = join(directory, "memory")
      const one = yield* serve({ NODE_OPTIONS: `--import ${memoryProbe}`, MEMORY_FILE: memory })
      const busy = yield* peer(91, [one.address])
      const port = Number(new URL(one.address).port)
      const deaf = connect({ host: "127.0.0.1", port })
      yield* Effect.addFinalizer(() => Effect.sync(() => deaf.destroy()))
      deaf.on("error", () => undefined)
      const write = (message: object) => {
        const text = Buffer.from(JSON.stringify(message))
        const header = Buffer.from([0x81, 0x80 | 126, text.length >> 8, text.length & 255, 0, 0, 0, 0])
        deaf.write(Buffer.concat([header, text]))
      }
      deaf.write([
        "GET /api/v1/tailnet HTTP/1.1",
        `Host: 127.0.0.1:${port}`,
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        "",
        ""
      ].join("\r\n"))
      yield* Effect.callback<void>((resume) => void deaf.once("data", () => resume(Effect.void)))
      deaf.pause()
      write({ type: "hello", version: 1, peer: uuid(92), node: node(1), tunnels: [uuid(91)] })
      yield* until(() => busy.knows(92) !== undefined)
      const large = { ...node(1), endpoints: Array.from({ length: 64 }, () => "e".repeat(128)) }
      // What is in use, after a collection: how much of the rest the collector keeps is its own affair.
      const inUse = Effect.gen(function*() {
        rmSync(memory, { force: true })
        one.child.kill("SIGUSR2")
        yield* until(() => existsSync(memory))
        return Number(readFileSync(memory, "utf8")) / 1e6
      })
      const before = yield* inUse
      let most = before
      for (let asOf = 2; busy.knows(92)?.isLost === false; asOf++) {
        yield* busy.setNode({ ...large, asOf })
        if (asOf % 100 === 0) write({ type: "pong" })
        if (asOf % 200 === 0) most = Math.max(most, yield* inUse)
        // As much as a peer may say for as long as it likes.
        yield* Effect.sleep("6 millis")
      }
      // Of some 20 MB that were said by then.
      assert.isBelow(most - before, 13)
    }).pipe(withSockets)
  )

  test(
    "each refusal reads differently at a peer, is said once, and ends it with a status where it is for good",
    Effect.gen(function*() {
      const refuse = (status: number) =>
        Effect.acquireRelease(
          Effect.callback<string>((resume) => {
            const fake = createServer().on("upgrade", (_, socket) => {
              socket.end(`HTTP/1.1 ${status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`)
            })
            fake.listen(0, "127.0.0.1", () => {
              const address = fake.address()
              open.push(fake)
              resume(Effect.succeed(`http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`))
            })
          }),
          () => Effect.sync(() => open.splice(0).forEach((fake) => fake.close()))
        )
      const open: Array<Server> = []
      const join = (url: string, environment: Record<string, string> = {}) =>
        run(main, ["peer", "join", "--name", "zoe", "--json", "--watch", "--url", url], environment)
      const ended = (peer: ReturnType<typeof run>) => until(() => peer.child.exitCode !== null)
      for (
        const [status, exit, words] of [
          [401, 77, "the service asks for a token (401)"],
          [403, 77, "the service does not let this peer in (403)"],
          [404, 69, "there is no tailnet at this address (404)"],
          [426, 69, "something between does not pass WebSockets on (426)"]
        ] as const
      ) {
        const refused = join(yield* refuse(status))
        yield* ended(refused)
        assert.strictEqual(refused.child.exitCode, exit)
        assert.strictEqual(refused.stdout(), "")
        assert.lengthOf(refused.stderr().split(words), 2, refused.stderr())
      }
      const wrong = join(yield* refuse(401), { LULL_PEER_TOKEN: "wrong" })
      yield* ended(wrong)
      assert.include(wrong.stderr(), "the service refused the token (401)")
      // Of two replicas one may be well again.
      const away = join(`${yield* refuse(503)},${yield* refuse(404)},http://127.0.0.1:${yield* Cluster.freePort}`)
      yield* until(() => ["(503)", "(404)", "ECONNREFUSED"].every((words) => away.stderr().includes(words)))
      yield* Effect.sleep("2 seconds")
      assert.isNull(away.child.exitCode)
      assert.lengthOf(away.stderr().split("(503)"), 2, away.stderr())
      assert.include(away.stderr(), "nobody listens there")
    })
  )

  test(
    "rows that somebody has removed are written again, and nobody is gone: an emptied table, a dropped schema",
    Effect.gen(function*() {
      const one = yield* serve()
      const two = yield* serve()
      const a = yield* peer(61, [one.address], [62])
      const b = yield* peer(62, [two.address])
      yield* until(() => a.knows(62) !== undefined && b.knows(61) !== undefined)
      const stored = server.execute(
        `select from lull.peer join lull.tunnel on from_peer = id and to_peer = '${uuid(62)}'
        where id = '${uuid(61)}' and not is_lost`
      )
      for (const removal of ["truncate lull.peer, lull.tunnel", "drop schema lull cascade"]) {
        yield* server.execute(removal)
        yield* Effect.repeat(Effect.catch(stored, () => Effect.succeed([])), {
          schedule: Schedule.spaced("200 millis"),
          until: (rows) => rows.length > 0
        })
        const late = yield* peer(removal.length, [two.address], [61])
        yield* until(() => late.knows(61)?.isLost === false)
        yield* until(() => a.knows(62)?.isLost === false && b.knows(61)?.isLost === false)
      }
    }).pipe(withSockets),
    120_000
  )

  test(
    "peers need a token where one is set; that of peers admits to nothing else",
    Effect.gen(function*() {
      const token = "a-token-for-everything"
      const peerToken = "a-token-for-peers-only"
      const relays = [{ id: 1, name: "europe", hosts: ["relay.example:443"] }]
      const one = yield* serve({
        LULL_TOKEN: token,
        LULL_PEER_TOKEN: peerToken,
        LULL_RELAY_MAP: JSON.stringify(relays)
      })
      const dial = (given: string | undefined) =>
        Effect.flatMap(
          Transports.webSocket({ address: one.address, token: given }),
          ({ dial: dialling }) => Effect.scoped(Effect.exit(dialling))
        )
      assert.isTrue(Exit.isFailure(yield* dial(undefined)))
      assert.isTrue(Exit.isFailure(yield* dial("something-else-entirely")))
      assert.isTrue(Exit.isSuccess(yield* dial(token)))
      assert.isTrue(Exit.isSuccess(yield* dial(peerToken)))
      const loop = yield* TailnetLoop.make({
        peer: uuid(71),
        transports: [yield* Transports.webSocket({ address: one.address, token: peerToken })]
      })
      yield* Effect.forkScoped(loop.run)
      yield* until(() => SubscriptionRef.getUnsafe(loop.relays).length > 0)
      assert.deepStrictEqual(SubscriptionRef.getUnsafe(loop.relays), relays)
      const { status } = yield* Effect.promise(() =>
        fetch(`${one.address}/api/v1/jobs`, { headers: { authorization: `Bearer ${peerToken}` } })
      )
      assert.strictEqual(status, 401)
    }).pipe(withSockets)
  )

  test(
    "a client in plain JavaScript, written from the page alone, and lull peer join",
    Effect.gen(function*() {
      const one = yield* serve()
      const two = yield* serve()
      const joined = run(main, ["peer", "join", "--name", uuid(41), "--watch", "--json", "--url", two.address])
      const client = run(plainClient, [one.address, uuid(42), uuid(41)])
      yield* until(() => client.stdout().includes(`"kind":"node","peer":"${uuid(41)}","known":1`))
      yield* until(() => joined.stdout().includes("\"key\":\"a plain client\""))
      one.child.kill("SIGKILL")
      const again = yield* serve({}, new URL(one.address).port)
      yield* until(() => client.stdout().split("\"welcome\"").length > 2)
      joined.child.kill("SIGTERM")
      yield* until(() => client.stdout().includes(`"kind":"disconnected","peer":"${uuid(41)}","known":0`))
      client.child.kill("SIGTERM")
      yield* until(() => client.child.exitCode === 0)
      assert.strictEqual(again.address, one.address)
    }).pipe(withSockets)
  )
})
