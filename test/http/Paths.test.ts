import { assert, describe, it } from "@effect/vitest"
import { answerTo, withService } from "./service.ts"

const token = "0123456789abcdef"
const peerToken = "fedcba9876543210"

const spellings = [
  "//api/v1/tailnet",
  "/api//v1/tailnet",
  "/API/v1/tailnet",
  "/api/v1/Tailnet",
  "/api/v1/tailnet/",
  "/api/v1/tailnet;x",
  "/api/v1/tailnet;",
  "/api/v1/%74ailnet",
  "/api/v1/tailnet%3f",
  "/api%2fv1/tailnet",
  "/api/v1/./tailnet",
  "/api/v1/jobs/../tailnet",
  "/api/v1/%2e%2e/v1/tailnet",
  "/api/v1\\tailnet",
  "\\api/v1/tailnet",
  "/api/v1/tailnet#x",
  "/api/v1/tailnet%00",
  "/api/v1/tailnet%20",
  "/api/v1/tailnet\x80",
  "http://127.0.0.1/api/v1/tailnet",
  "HTTP://127.0.0.1/api/v1/tailnet",
  "http://127.0.0.1/api/v1/x/../tailnet",
  "ws://127.0.0.1/api/v1/tailnet",
  "api/v1/tailnet",
  "127.0.0.1/api/v1/tailnet",
  "?/api/v1/tailnet",
  "*"
]

const ask = (target: string, given: string | undefined, upgrade = false, method = "GET") =>
  [
    `${method} ${target} HTTP/1.1`,
    "Host: 127.0.0.1",
    ...given === undefined ? [] : [`Authorization: Bearer ${given}`],
    ...upgrade
      ? [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
      ]
      : ["Connection: close"],
    "",
    ""
  ].join("\r\n")

const statusOf = (answer: string) => Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1])
const soon = { headers: 300, request: 600, keepAlive: 100, idle: 400, check: 50 }

describe("a path", () => {
  for (const spelling of spellings) {
    it.live(`is refused as ${JSON.stringify(spelling)}, whatever token is given`, () =>
      withService(async ({ port }) => {
        for (const given of [undefined, peerToken, token]) {
          for (const upgrade of [false, true]) {
            const answer = await answerTo(port, ask(spelling, given, upgrade))
            assert.strictEqual(statusOf(answer), 400, answer)
          }
        }
      }, { guard: { token, peerToken }, sockets: { deadlines: soon } }))
  }

  it.live("that is refused is answered with what would be right", () =>
    withService(async ({ ask: fetchPath, port }) => {
      assert.include(await (await fetchPath("/API/v1/jobs")).text(), "lower case, as /api/v1/jobs")
      assert.include(await (await fetchPath("//api/v1/jobs")).text(), "single slashes")
      assert.include(await answerTo(port, ask("http://127.0.0.1/healthz", undefined)), "without a scheme and a host")
    }, { sockets: { deadlines: soon } }))

  it.live("that is right is what the peer token admits to, and no other", () =>
    withService(async ({ port }) => {
      const status = async (...parameters: Parameters<typeof ask>) => statusOf(await answerTo(port, ask(...parameters)))
      assert.strictEqual(await status("/api/v1/tailnet", peerToken), 426)
      assert.strictEqual(await status("/api/v1/tailnet?x=/healthz", peerToken), 426)
      assert.strictEqual(await status("/api/v1/tailnet", "wrong"), 401)
      assert.strictEqual(await status("/api/v1/tailnet", undefined, true), 401)
      for (const path of ["/api/v1/jobs", "/metrics", "/openapi.json", "/api/v1/tailnet/x", "/nothing", "/"]) {
        assert.strictEqual(await status(path, peerToken), 401, path)
        assert.strictEqual(await status(path, peerToken, true), 401, path)
      }
      assert.strictEqual(await status("/api/v1/jobs", peerToken, false, "POST"), 401)
    }, { guard: { token, peerToken }, sockets: { deadlines: soon } }))

  it.live("is asked for its token before anything else where only peers have one", () =>
    withService(async ({ port }) => {
      for (const spelling of ["/api/v1/tailnet", "//api/v1/tailnet", "/api/v1/tailnet/", "/API/v1/tailnet"]) {
        assert.notInclude([101, 200, 426], statusOf(await answerTo(port, ask(spelling, undefined, true))), spelling)
      }
    }, { guard: { peerToken }, sockets: { deadlines: soon } }))
})

describe("a method", () => {
  const gets = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/api/v1/tailnet",
    "/api/v1/jobs/x",
    "/api/v1/jobs/x/logs"
  ]

  for (const path of gets) {
    it.live(`that ${path} does not have is refused with 405 and those that it has`, () =>
      withService(async ({ ask: fetchPath }) => {
        for (const method of ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"]) {
          const answer = await fetchPath(path, { method, ...method === "POST" ? { body: "x" } : {} })
          assert.strictEqual(answer.status, 405, method)
          assert.strictEqual(answer.headers.get("allow"), "GET, HEAD")
        }
      }))
  }
})
