/**
 * One measurement of the tailnet, for `npm run bench -- tailnet`. Its last line is its answer, as JSON. Services run as processes of
 * their own, clients speak the protocol of `docs/tailnet.md` over bare WebSockets.
 *
 *     node scripts/bench/tailnet.ts latency same|other|echo|relay UPDATES
 *     node scripts/bench/tailnet.ts scale PEERS
 */
import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { createRequire } from "node:module"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const [what, which = "", amount = "1000"] = process.argv.slice(2)
const databaseUrl = process.env["DATABASE_URL"] ?? ""
const directory = mkdtempSync(join(tmpdir(), "bench-tailnet-"))
const children: Array<ChildProcess> = []
const require = createRequire(new URL("./peers/package.json", import.meta.url))
// A client that costs little, as there are thousands of them in one process.
const { WebSocket } = require("ws") as {
  readonly WebSocket: new(url: string) => {
    readonly on: (event: string, listener: (data: Buffer) => void) => void
    readonly send: (text: string) => void
    readonly close: () => void
  }
}

const idOf = (index: number) => `00000000-0000-4000-8000-${String(index).padStart(12, "0")}`
const node = (index: number, asOf: number) => ({
  key: `m3fyG0yOYZ4Wn0Vg7S8Y3dZb7mGvB8n2Q3m9s0c9dHk=${index}`,
  endpoints: ["198.51.100.7:41641", "203.0.113.9:41641", "[2001:db8::7]:41641"],
  relay: { preferred: 1, latencies: { "1": 12.5, "2": 31.25, "3": 88 } },
  addresses: ["fd7a:115c:a1e0::1/128"],
  allowedIps: ["fd7a:115c:a1e0::1/128"],
  asOf
})

const pause = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis))

const start = (script: string, parameters: ReadonlyArray<string>, environment: Record<string, string> = {}) => {
  const child = spawn(process.execPath, [fileURLToPath(new URL(script, import.meta.url)), ...parameters], {
    env: {
      PATH: process.env["PATH"] ?? "",
      HOME: process.env["HOME"] ?? "",
      DATABASE_URL: databaseUrl,
      ...environment
    },
    stdio: ["ignore", "pipe", "inherit"]
  })
  children.push(child)
  return child
}

const portOf = (child: ChildProcess) =>
  new Promise<string>((resolve) =>
    child.stdout?.once("data", (data) => resolve(`ws://127.0.0.1:${String(data).trim()}`))
  )

const serve = async () => {
  const port = await new Promise<number>((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const address = server.address()
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0))
    })
  })
  const child = start("../../src/main.ts", ["serve"], {
    // As `npm start` has it.
    NODE_OPTIONS: "--max-semi-space-size=2",
    LULL_DATABASE_URL: databaseUrl,
    LULL_LISTEN: `127.0.0.1:${port}`,
    LULL_DATA_DIR: join(directory, String(port)),
    LULL_LOG_FILE: "none",
    LULL_LOG_LEVEL: "none",
    LULL_WORKER_SLOTS: "0"
  })
  for (;;) {
    const answer = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined)
    if (answer?.ok === true) break
    await pause(50)
  }
  return { child, url: `ws://127.0.0.1:${port}/api/v1/tailnet` }
}

interface Client {
  readonly send: (message: unknown) => void
  onNode: (peer: string, asOf: number) => void
}

/** A session, from its welcome on. */
const connect = (url: string, index: number, tunnels: ReadonlyArray<number>) =>
  new Promise<Client>((resolve) => {
    const socket = new WebSocket(url)
    const client: Client = { send: (message) => socket.send(JSON.stringify(message)), onNode: () => undefined }
    socket.on("open", () =>
      client.send({ type: "hello", version: 1, peer: idOf(index), node: node(index, 1), tunnels: tunnels.map(idOf) }))
    socket.on("message", (data) => {
      const message = JSON.parse(String(data))
      if (message.type === "welcome") {
        resolve(client)
      }
      if (message.type === "ping") {
        client.send({ type: "pong" })
      }
      if (message.type === "updates") {
        for (const update of message.updates) {
          if (update.kind === "node") {
            client.onNode(update.peer, update.node.asOf)
          }
        }
      }
    })
  })

const quantiles = (times: ReadonlyArray<number>) => {
  const sorted = times.toSorted((a, b) => a - b)
  return { p50: sorted[Math.floor(sorted.length * 0.5)]!, p99: sorted[Math.floor(sorted.length * 0.99)]! }
}

interface Line {
  readonly send: (asOf: number) => void
  readonly received: (resolve: (asOf: number) => void) => void
}

/** One update after the other: from sending it until it is received. */
const timeEach = async (count: number, { received, send }: Line, pauseMillis: number) => {
  const times: Array<number> = []
  let arrived: (asOf: number) => void = () => undefined
  received((asOf) => arrived(asOf))
  for (let asOf = 2; asOf < count + 2; asOf++) {
    const sent = performance.now()
    await new Promise<void>((resolve) => {
      arrived = (found) => {
        if (found === asOf) resolve()
      }
      send(asOf)
    })
    times.push(performance.now() - sent)
    if (pauseMillis > 0) await pause(pauseMillis)
  }
  return times
}

/** Warmed up, as a service that runs for hours is: by other peers, as one alone may not say so much in a few seconds. */
const timeWarm = async (count: number, makeLine: (index: number) => Promise<Line>) => {
  for (let line = 1; line <= 3; line++) await timeEach(500, await makeLine(line), 0)
  return quantiles(await timeEach(count, await makeLine(4), 2))
}

const bare = (url: string) =>
  new Promise<{ send: (text: string) => void; onMessage: (text: string) => void }>((resolve) => {
    const socket = new WebSocket(url)
    const client = { send: (text: string) => socket.send(text), onMessage: (_: string): void => undefined }
    socket.on("open", () => resolve(client))
    socket.on("message", (data) => client.onMessage(String(data)))
  })

const latency = async () => {
  const count = Number(amount)
  if (which === "echo" || which === "relay") {
    const first = await portOf(start(which === "echo" ? "./peers/echo.mjs" : "./peers/relay.mjs", ["write"]))
    const second = which === "echo" ? first : await portOf(start("./peers/relay.mjs", ["read"]))
    return timeWarm(count, async () => {
      const from = await bare(first)
      const to = which === "echo" ? from : await bare(second)
      return {
        send: (asOf) => from.send(JSON.stringify({ type: "node", node: node(1, asOf) })),
        received: (resolve) => {
          to.onMessage = (text) => resolve(JSON.parse(text).node.asOf)
        }
      }
    })
  }
  const one = await serve()
  const two = which === "other" ? await serve() : one
  return timeWarm(count, async (line) => {
    const from = await connect(one.url, 2 * line, [2 * line + 1])
    const to = await connect(two.url, 2 * line + 1, [])
    await pause(1_000)
    return {
      send: (asOf) => from.send({ type: "node", node: node(2 * line, asOf) }),
      received: (resolve) => {
        to.onNode = (_, asOf) => resolve(asOf)
      }
    }
  })
}

interface PgClient {
  readonly connect: () => Promise<void>
  readonly query: (text: string) => Promise<{ readonly rows: ReadonlyArray<Readonly<Record<string, unknown>>> }>
}

const residentKilobytes = (child: ChildProcess) =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1] ?? 0)

/** Many peers with five tunnels each: memory, connect rate, and the time until everybody knows a change of everybody. */
const scale = async () => {
  const count = Number(which)
  const tunnels = 5
  const pg = require("pg") as { readonly Client: new(url: string) => PgClient }
  const database = new pg.Client(databaseUrl)
  await database.connect()
  const statements = async () => {
    await pause(1_500)
    const { rows: [row] } = await database.query(
      "select coalesce(sum(calls), 0)::int as calls from pg_stat_statements where query like '%lull.%'"
    )
    return Number(row?.["calls"])
  }
  await database.query("create extension if not exists pg_stat_statements")
  const { child, url } = await serve()
  await pause(2_000)
  const before = residentKilobytes(child)
  let outstanding = 0
  const connecting = performance.now()
  const clients: Array<Client> = []
  for (let from = 0; from < count; from += 200) {
    clients.push(
      ...await Promise.all(
        Array.from(
          { length: Math.min(200, count - from) },
          (_, at) =>
            connect(url, from + at, Array.from({ length: tunnels }, (__, step) => (from + at + step + 1) % count))
        )
      )
    )
  }
  const connectSeconds = (performance.now() - connecting) / 1_000
  // Until everything is written and nothing is under way.
  await pause(10_000)
  const after = residentKilobytes(child)
  const churning = performance.now()
  const calls = await statements()
  await new Promise<void>((resolve) => {
    // Each is told of its tunnels and of those to it.
    outstanding = count * tunnels * 2
    for (const [index, client] of clients.entries()) {
      client.onNode = (_, asOf) => {
        if (asOf === 1_000 && --outstanding === 0) resolve()
      }
      client.send({ type: "node", node: node(index, 1_000) })
    }
  })
  const churnSeconds = (performance.now() - churning) / 1_000 - 1.5
  await untilStored(database, count)
  const storedSeconds = (performance.now() - churning) / 1_000 - 1.5
  return {
    kilobytesPerPeer: (after - before) / count,
    connectsPerSecond: count / connectSeconds,
    churnSeconds,
    storedSeconds,
    statements: (await statements()) - calls
  }
}

const untilStored = async (database: PgClient, count: number) => {
  for (;;) {
    const result = await database.query("select count(*) as rows from lull.peer where as_of = 1000")
    if (Number(result.rows[0]?.["rows"]) >= count) return
    await pause(50)
  }
}

const found = what === "latency" ? await latency() : await scale()
for (const child of children) child.kill("SIGKILL")
rmSync(directory, { recursive: true, force: true })
process.stdout.write(`${JSON.stringify(found)}\n`)
process.exit(0)
