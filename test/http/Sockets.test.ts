import { assert, describe, it } from "@effect/vitest"
import { connect, type Server as NetServer, type Socket } from "node:net"
import type { Deadlines } from "../../src/http/Sockets.ts"
import { answerTo, pause, type Service, withService } from "./service.ts"

const soon: Deadlines = { headers: 300, request: 600, keepAlive: 200, idle: 400, check: 50 }
const token = "0123456789abcdef"

const head = (line: string, ...fields: ReadonlyArray<string>) =>
  [line, "Host: 127.0.0.1", ...fields, "", ""].join("\r\n")
const upgrade = (path: string, protocol = "websocket", method = "GET") =>
  head(
    `${method} ${path} HTTP/1.1`,
    `Upgrade: ${protocol}`,
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
  )

/** A client that reads what comes, and never ends its side, whatever the service does. */
const halfOpen = (port: number, bytes: string) =>
  new Promise<Socket>((resolve) => {
    const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true })
    socket.on("error", () => {}).on("data", () => {})
    socket.write(bytes, () => resolve(socket))
  })

const connections = (server: NetServer) =>
  new Promise<number>((resolve, reject) =>
    server.getConnections((error, count) => error ? reject(error) : resolve(count))
  )

const untilNone = async ({ server }: Service) => {
  while (await connections(server) > 0) await pause(20)
}

const lines: ReadonlyArray<readonly [what: string, bytes: string]> = [
  ["ask for the tailnet without a token", upgrade("/api/v1/tailnet")],
  ["ask for the tailnet in other words", upgrade("/API/v1/tailnet")],
  ["ask for an upgrade elsewhere", upgrade("/healthz")],
  ["ask for an upgrade of what is not there", upgrade("/nothing")],
  ["ask for another protocol", upgrade("/api/v1/tailnet", "h2c")],
  ["ask for an upgrade as they submit", upgrade("/api/v1/jobs", "websocket", "POST")],
  ["say nothing", ""],
  ["begin to say something", "GET /healthz HT"],
  ["ask, and begin to ask again", `${head("GET /healthz HTTP/1.1")}GET /heal`],
  [
    "announce a body and do not send it",
    head("POST /api/v1/jobs HTTP/1.1", "Content-Type: application/json", "Content-Length: 9")
  ],
  ["want a tunnel", head("CONNECT 127.0.0.1:1 HTTP/1.1")],
  ["speak no HTTP", "\x16\x03\x01\x02\x00\x01"]
]

describe("the sockets", () => {
  for (const [what, bytes] of lines) {
    it.live(`end the connections of clients that ${what} and never close`, () =>
      withService(async (service) => {
        const clients = await Promise.all(Array.from({ length: 50 }, () => halfOpen(service.port, bytes)))
        await untilNone(service)
        assert.strictEqual((await service.ask("/healthz")).status, 200)
        for (const client of clients) client.destroy()
      }, { guard: { token }, sockets: { deadlines: soon } }))
  }

  it.live("take others again when those who say nothing have filled them", () =>
    withService(async (service) => {
      let dropped = 0
      service.server.on("drop", () => dropped++)
      const clients = await Promise.all(
        Array.from({ length: 100 }, (_, index) =>
          halfOpen(service.port, index % 2 === 0 ? "" : upgrade("/api/v1/tailnet")))
      )
      await untilNone(service)
      assert.isAbove(dropped, 0)
      assert.strictEqual((await service.ask("/healthz")).status, 200)
      for (const client of clients) {
        client.destroy()
      }
    }, { guard: { token }, sockets: { most: 20, deadlines: soon } }))

  it.live("end the connection of a client that asks and does not read", () =>
    withService(async (service) => {
      const client = connect({ port: service.port, host: "127.0.0.1" })
      client.on("error", () => {}).pause()
      client.write(head("GET /openapi.json HTTP/1.1").repeat(2_000))
      await pause(100)
      await untilNone(service)
      client.destroy()
    }, { sockets: { deadlines: soon } }))

  it.live("leave a log alone that is followed while nothing is written", () =>
    withService(async ({ ask }) => {
      const submitted = await ask("/api/v1/jobs", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ input: { command: ["sleep", "2"] } })
      })
      const { id } = await submitted.json() as { id: string }
      assert.strictEqual(await (await ask(`/api/v1/jobs/${id}/logs?follow=true`)).text(), "")
    }, { sockets: { deadlines: soon } }))

  it.live("leave a peer alone that has nothing to say", () =>
    withService(async ({ port }) => {
      const socket = new WebSocket(`ws://127.0.0.1:${port}/api/v1/tailnet`)
      const messages: Array<string> = []
      socket.onmessage = ({ data }) => messages.push(String(data))
      await new Promise((resolve) => socket.onopen = resolve)
      socket.send(JSON.stringify({ type: "hello", version: 1, peer: "5a1d6f0c-93a1-4c8e-9d5e-0c5c9c3e3b10" }))
      await pause(4 * soon.idle)
      assert.strictEqual(socket.readyState, WebSocket.OPEN)
      assert.include(messages[0], "welcome")
      socket.close()
    }, { sockets: { deadlines: soon } }))

  it.live("do not upgrade a connection on which an answer is still under way", () =>
    withService(async (service) => {
      const submitted = await service.ask("/api/v1/jobs", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ input: { command: ["sleep", "2"] } })
      })
      const { id } = await submitted.json() as { id: string }
      const path = `/api/v1/jobs/${id}/logs?follow=true`
      const answer = await answerTo(service.port, `${head(`GET ${path} HTTP/1.1`)}${upgrade("/api/v1/tailnet")}`)
      assert.notInclude(answer, "101")
      assert.strictEqual((await service.ask("/healthz")).status, 200)
    }, { sockets: { deadlines: soon } }))

  it.live("upgrade where the tailnet is called under another path", () =>
    withService(async ({ port, server }) => {
      const upgraded = new Promise<string | undefined>((resolve) => server.once("upgrade", ({ url }) => resolve(url)))
      await answerTo(port, upgrade("/lull/api/v1/tailnet"))
      assert.strictEqual(await upgraded, "/lull/api/v1/tailnet")
    }, { sockets: { deadlines: soon, ownTarget: (target) => target.replace(/^\/lull/, "") } }))

  it.live("answer a request for another upgrade as if it asked for none", () =>
    withService(async ({ port }) => {
      assert.match(await answerTo(port, upgrade("/healthz")), /^HTTP\/1\.1 200 /)
      assert.match(await answerTo(port, upgrade("/api/v1/tailnet", "h2c")), /^HTTP\/1\.1 426 /)
    }, { sockets: { deadlines: soon } }))
})

/** As if all connections came from there. */
const pretend = ({ server }: Service, remoteAddress: string) =>
  server.prependListener(
    "connection",
    (socket: Socket) => Object.defineProperty(socket, "remoteAddress", { value: remoteAddress })
  )

describe("connections of one address", () => {
  const refused: Array<string> = []
  const sockets = {
    perAddress: 3,
    deadlines: { ...soon, headers: 5_000, request: 6_000 },
    onRefused: (of: string) => void refused.push(of)
  }

  it.live("are limited, and are taken again when others have ended", () =>
    withService(async (service) => {
      pretend(service, "::ffff:192.0.2.1")
      const open = await Promise.all(["", "", ""].map((bytes) => halfOpen(service.port, bytes)))
      while (await connections(service.server) < 3) await pause(10)
      assert.match(await answerTo(service.port, ""), /^HTTP\/1\.1 429 [^]*too many connections of this address/)
      assert.deepStrictEqual(refused.splice(0), ["address"])
      for (const client of open) client.destroy()
      await untilNone(service)
      assert.strictEqual((await service.ask("/healthz")).status, 200)
    }, { sockets }))

  it.live("are not counted on the loopback", () =>
    withService(async (service) => {
      const open = await Promise.all(Array.from({ length: 10 }, () => halfOpen(service.port, "")))
      assert.strictEqual((await service.ask("/healthz")).status, 200)
      for (const client of open) client.destroy()
    }, { sockets }))

  it.live("behind a trusted proxy are those for which it asks", () =>
    withService(async ({ ask, port }) => {
      const forwarded = (address: string) => ({ headers: { "x-forwarded-for": address } })
      // What a client writes itself stands on the left.
      const waiting = await Promise.all([1, 2, 3].map((turn) =>
        halfOpen(
          port,
          head(
            "POST /api/v1/jobs HTTP/1.1",
            "Content-Type: application/json",
            "Content-Length: 9",
            `X-Forwarded-For: 192.0.2.${turn}, 198.51.100.7, 127.0.0.1`
          )
        )
      ))
      while ((await ask("/healthz", forwarded("198.51.100.7"))).status !== 429) await pause(10)
      assert.match(
        await answerTo(
          port,
          upgrade("/api/v1/tailnet").replace("\r\n\r\n", "\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n")
        ),
        /^HTTP\/1\.1 429 /
      )
      assert.strictEqual((await ask("/healthz", forwarded("198.51.100.8"))).status, 200)
      for (const client of waiting) client.destroy()
      while ((await ask("/healthz", forwarded("198.51.100.7"))).status === 429) await pause(20)
    }, { sockets: { ...sockets, trusted: (address) => address === "127.0.0.1" } }))
})
