/** The recipes of `docs/proxy.md`, with the proxies that Debian has: jobs, peers, and who is let in. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { request, type RequestOptions } from "node:https"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { freePort, start, type Started, until, untilReady } from "../cli/processes.ts"
import * as Certificates from "../support/Certificates.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import * as Proxies from "../support/Proxies.ts"

const token = "a-token-for-everything"
const peerToken = "a-token-for-peers-only"

interface Way {
  readonly what: string
  readonly kind: Proxies.Kind
  readonly prefix: string
  readonly replacements?: Proxies.Options["replacements"]
}

const ways: ReadonlyArray<Way> = [
  { what: "nginx", kind: "nginx", prefix: "" },
  {
    what: "nginx with a prefix",
    kind: "nginx",
    prefix: "/lull",
    replacements: [["location / {", "location /lull/ {"]]
  },
  {
    what: "nginx that takes the prefix off",
    kind: "nginx",
    prefix: "/lull",
    replacements: [["location / {", "location /lull/ {"], [":7070;", ":7070/;"]]
  },
  { what: "Caddy", kind: "caddy", prefix: "" },
  {
    what: "Caddy with a prefix",
    kind: "caddy",
    prefix: "/lull",
    replacements: [["reverse_proxy ", "reverse_proxy /lull/* "]]
  }
]

describe("the recipes of docs/proxy.md", () => {
  const scope = Effect.runSync(Scope.make())
  const directory = mkdtempSync(join(tmpdir(), "lull-proxies-"))
  const inScope = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) => Effect.runPromise(Scope.provide(effect, scope))
  let server: PostgresServer.PostgresServer
  let certificates: Certificates.Certificates

  beforeAll(async () => {
    server = await inScope(PostgresServer.make())
    certificates = await inScope(Certificates.make)
  })
  afterAll(async () => {
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(directory, { recursive: true, force: true })
  })

  for (const { kind, prefix, replacements, what } of ways) {
    describe(what, () => {
      const ownScope = Effect.runSync(Scope.make())
      const children: Array<Started> = []
      let service: Started
      let url = ""
      let port = 0

      const run = (words: ReadonlyArray<string>, environment: Record<string, string>) => {
        const started = start(words, environment)
        children.push(started)
        return started
      }
      const client = (words: ReadonlyArray<string>) =>
        run(words, { LULL_URL: url, LULL_TOKEN: token, NODE_EXTRA_CA_CERTS: certificates.path("ca.crt") })

      beforeAll(async () => {
        const target = await freePort()
        port = await Scope.provide(
          Proxies.make(kind, {
            target,
            certificate: certificates.path("server.crt"),
            key: certificates.path("server.key"),
            ...replacements === undefined ? {} : { replacements }
          }),
          ownScope
        ).pipe(Effect.runPromise)
        url = `https://localhost:${port}${prefix}`
        service = run(["serve"], {
          LULL_LISTEN: `127.0.0.1:${target}`,
          LULL_DATA_DIR: join(directory, String(target)),
          LULL_DATABASE_URL: server.url,
          LULL_LOG_FILE: "none",
          LULL_TOKEN: token,
          LULL_PEER_TOKEN: peerToken,
          LULL_PUBLIC_URL: `https://lull.example${prefix},${url}`,
          LULL_TRUSTED_PROXIES: "127.0.0.1"
        })
        await untilReady(`http://127.0.0.1:${target}`)
      })
      afterAll(async () => {
        for (const { child } of children) child.kill("SIGKILL")
        await Promise.all(children.map(({ ended }) => ended))
        await Effect.runPromise(Scope.close(ownScope, Exit.void))
      })

      /** As a browser or any other client on another machine, whose address is not the proxy's. */
      const ask = (path: string, headers: Record<string, string>, options: RequestOptions = {}, body = "") =>
        new Promise<number>((resolve, reject) => {
          const asked = request({
            host: "127.0.0.1",
            port,
            servername: "localhost",
            localAddress: "127.0.0.2",
            ca: readFileSync(certificates.path("ca.crt")),
            path: `${prefix}${path}`,
            headers: { host: "lull.example", ...headers },
            ...options
          }, (response) => response.resume().on("end", () => resolve(response.statusCode ?? 0)))
          asked.on("error", reject)
          asked.end(body)
        })

      const authorization = `Bearer ${token}`

      it("passes jobs, and their output line by line", async () => {
        const go = join(directory, `go-${port}`)
        const script = `echo one; while [ ! -e ${go} ]; do sleep 0.05; done; echo two; exit 3`
        const job = client(["job", "submit", "--wait", "--follow", "--", "sh", "-c", script])
        await until(() => job.stdout() === "one\n")
        writeFileSync(go, "")
        const { status, stdout } = await job.ended
        assert.deepStrictEqual([status, stdout], [3, "one\ntwo\n"])
      }, 60_000)

      it("passes a body of many jobs", async () => {
        // Which no worker runs.
        const job = { input: { command: ["true"], stdin: "x".repeat(1_000) }, tags: { place: "nowhere" } }
        const body = JSON.stringify(Array.from({ length: 2_000 }, () => job))
        const headers = { authorization, "content-type": "application/json" }
        assert.strictEqual(await ask("/api/v1/jobs", headers, { method: "POST" }, body), 201)
      }, 60_000)

      it("passes peers", async () => {
        const peer = (name: string, other: string) =>
          client(["peer", "join", "--name", name, "--tunnel", other, "--watch"])
        const alice = peer("alice", "bob")
        const bob = peer("bob", "alice")
        await until(() => /^bob {2}node {2}/m.test(alice.stdout()) && /^alice {2}node {2}/m.test(bob.stdout()))
      }, 60_000)

      it("lets in who calls the public name, and no page of another site", async () => {
        const jobs = (headers: Record<string, string> = {}) => ask("/api/v1/jobs", { authorization, ...headers })
        assert.strictEqual(await jobs(), 200)
        assert.strictEqual(await jobs({ origin: "https://lull.example" }), 200)
        assert.strictEqual(await jobs({ origin: "https://lull.example", "sec-fetch-site": "same-origin" }), 200)
        for (const origin of ["https://evil.example", "http://lull.example", "https://lull.example:1", "null"]) {
          assert.strictEqual(await jobs({ origin }), 403, origin)
        }
        for (const site of ["cross-site", "same-site"]) assert.strictEqual(await jobs({ "sec-fetch-site": site }), 403)
        // Caddy answers by itself where it does not know the name.
        if (kind === "nginx") assert.strictEqual(await jobs({ host: "evil.example" }), 403)
      })

      it("keeps who comes without a token out, and the service says who gave a wrong one", async () => {
        assert.strictEqual(await ask("/api/v1/jobs", {}), 401)
        assert.strictEqual(await ask("/healthz", {}), 200)
        const forged = { "x-forwarded-for": "203.0.113.9", forwarded: "for=203.0.113.9" }
        assert.strictEqual(await ask("/metrics", { authorization: `Bearer ${peerToken}`, ...forged }), 401)
        await until(() => service.stderr().includes("gave a token that is not accepted"))
        assert.include(service.stderr(), "127.0.0.2 gave a token that is not accepted")
        assert.notInclude(service.stderr(), "203.0.113.9")
        assert.notInclude(service.stderr(), peerToken)
      })
    })
  }
})
