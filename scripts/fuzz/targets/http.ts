/** HTTP: requests that are nearly right, and bytes that are none, at a real service. None of its answers is a fault of its own. */
import * as Json from "../Json.ts"
import type { Random } from "../Random.ts"
import * as RawSocket from "../RawSocket.ts"
import * as Service from "../Service.ts"
import { holds, type Target } from "../Target.ts"

const id = "01920000-0000-7000-8000-000000000001"

const paths = [
  "/",
  "/healthz",
  "/readyz",
  "/metrics",
  "/openapi.json",
  "/api/v1/jobs",
  `/api/v1/jobs/${id}`,
  `/api/v1/jobs/${id}/cancel`,
  `/api/v1/jobs/${id}/logs`,
  "/api/v1/tailnet"
]

const twisted = (random: Random, path: string): string =>
  random.pick([
    () => path,
    () => path,
    () => path,
    () => path.toUpperCase(),
    () => path.replaceAll("/", "//"),
    () => `${path}/`,
    () => path.replace("a", "%61"),
    () => `${path};x`,
    () => path.replace("v1", "./v1/../v1"),
    () => path.replaceAll("/", "\\"),
    () => `http://127.0.0.1${path}`,
    () => path + encodeURIComponent(random.text(5).toWellFormed()),
    () => random.text(30)
  ])()

const parameters = ["status", "type", "tag", "limit", "before", "after", "follow", "attempt", "x", "__proto__"]
const values = [
  "",
  "1",
  "-1",
  "0x10",
  "1e3",
  "999999999999",
  "succeeded",
  "pending",
  "os=linux",
  "=",
  id,
  "32768:0",
  "0:0",
  "2026-02-30",
  "true",
  "%00",
  "%ff",
  "%",
  "+",
  "a%20b"
]

const query = (random: Random): string =>
  `?${
    random.several(4, () => `${random.pick(parameters)}=${random.oneIn(6) ? random.text(10) : random.pick(values)}`)
      .join("&")
  }`

const job = {
  type: "command",
  input: { command: ["echo", "hello"], env: { A: "b" }, stdin: "text" },
  tags: { os: "linux" },
  priority: 1,
  maxAttempts: 2,
  timeoutSeconds: 10,
  notBefore: "2036-01-01T00:00:00Z"
}

const body = (random: Random): string => Json.text(random, random.oneIn(3) ? [job, job, job] : job)

/** That of a client of ours. */
const rightHeaders = (port: number, length: number): ReadonlyArray<string> => [
  `host: 127.0.0.1:${port}`,
  ...length === 0 ? [] : [`content-length: ${length}`, "content-type: application/json"],
  "connection: close"
]

const wrongHeaders = (random: Random, port: number, length: number): ReadonlyArray<string> => {
  const further = [
    "transfer-encoding: chunked",
    "expect: 100-continue",
    "upgrade: websocket",
    "connection: upgrade",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version: 13",
    "origin: https://evil.example",
    "sec-fetch-site: cross-site",
    "x-forwarded-for: 1.2.3.4",
    "authorization: Bearer x",
    `host: ${random.text(10)}`,
    `content-length: ${random.pick(["-1", "x", "1, 2", String(length + 5)])}`,
    `content-type: ${random.text(10)}`,
    `accept: ${"a".repeat(random.below(200))}`,
    `${random.text(8)}: ${random.text(20)}`
  ]
  return [
    ...rightHeaders(port, length).filter(() => !random.oneIn(10)),
    ...random.several(3, () => random.pick(further))
  ]
}

const methods = ["PUT", "HEAD", "OPTIONS", "CONNECT", "PATCH", "get", "DELETE"]

/** What is wrong with it is mostly one thing: a request of which nothing is right comes no further than the parser. */
const request = (random: Random, port: number): string => {
  const isWrong = new Set([random.pick(["path", "query", "headers", "body", "method", "version"])])
  if (random.oneIn(5)) isWrong.add(random.pick(["path", "query", "headers", "method"]))
  const isSubmission = isWrong.has("body") || random.oneIn(4)
  const content = isSubmission ? isWrong.has("body") ? body(random) : JSON.stringify(job) : ""
  const path = isSubmission ? "/api/v1/jobs" : random.pick(paths)
  const method = isWrong.has("method")
    ? random.pick([...methods, random.text(4)])
    : isSubmission || path.endsWith("/cancel")
    ? "POST"
    : "GET"
  const target = (isWrong.has("path") ? twisted(random, path) : path) + (isWrong.has("query") ? query(random) : "")
  const version = isWrong.has("version") ? random.pick(["HTTP/1.0", "HTTP/2.0", "HTTP/9", ""]) : "HTTP/1.1"
  const length = Buffer.byteLength(content)
  const all = isWrong.has("headers") ? wrongHeaders(random, port, length) : rightHeaders(port, length)
  return `${method} ${target} ${version}\r\n${all.join("\r\n")}\r\n\r\n${content}`
}

const bytes = (random: Random, port: number): ReadonlyArray<string | Uint8Array> => {
  if (random.oneIn(20)) return [random.bytes(200)]
  const whole = request(random, port)
  if (!random.oneIn(10)) return [whole]
  const at = random.below(whole.length)
  return random.oneIn(2) ? [whole.slice(0, at), whole.slice(at)] : [whole, request(random, port)]
}

export const target: Target = {
  meaning: "HTTP requests, at a real service",
  open: async () => {
    // Without slots nothing that is submitted runs; that nobody takes it is said, once.
    const service = await Service.open({ LULL_WORKER_SLOTS: "0" }, (line) => line.includes("no worker"))
    return {
      run: async (random) => {
        const sent = bytes(random, service.port)
        const received = await RawSocket.exchange(service.port, sent, {
          isAsking: true,
          over: (text) => text.startsWith("HTTP/1.1 101")
        })
        const fault = /^HTTP\/1\.1 5\d\d/m.exec(received)?.[0]
        holds(fault === undefined, `${fault} to ${JSON.stringify(sent.map(String))}: ${received.slice(0, 1_000)}`)
        holds(received === "" || received.startsWith("HTTP/1.1 "), `no answer: ${received.slice(0, 200)}`)
      },
      check: service.check,
      close: service.close
    }
  }
}
