import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted, type Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { readFileSync } from "node:fs"
import { Executor } from "../../src/provisioner/Executor.ts"
import { Provisioner } from "../../src/provisioner/Provisioner.ts"
import * as Certificates from "../support/Certificates.ts"
import * as PgBouncer from "../support/PgBouncer.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { open, untilAvailable, untilUnavailable } from "../support/realDatabase.ts"
import { collectLines } from "../support/replicas.ts"

const test = (name: string, body: Effect.Effect<void, unknown, SecureRandom.SecureRandom | Scope.Scope>) =>
  it.live(name, () => body.pipe(Effect.scoped, Effect.provide(SecureRandom.layerWebCrypto)), 60_000)

const warnings = (lines: ReadonlyArray<{ readonly level: string; readonly text: string }>) =>
  lines.filter(({ level }) => level === "Warn" || level === "Error").map(({ text }) => text)

/** The server of these tests is without jit by itself. */
const notTaken = (port: number) =>
  `127.0.0.1:${port} does not take these settings from Lull, as poolers do not: lock_timeout, statement_timeout, ` +
  "idle_in_transaction_session_timeout, enable_seqscan. The server will not end what takes too long, and may choose " +
  "slower plans; set them for the role, as docs/connections.md shows"

/** What `docs/connections.md` shows. */
const forRole = (role: string) => [
  `alter role ${role} set lock_timeout = '30s'`,
  `alter role ${role} set statement_timeout = '1min'`,
  `alter role ${role} set idle_in_transaction_session_timeout = '2min'`,
  `alter role ${role} set enable_seqscan = off`,
  `alter role ${role} set jit = off`
]

describe("PgBouncer", () => {
  for (const mode of ["session", "transaction"] as const) {
    test(
      `in ${mode} mode passes jobs, and what it does not take is said once`,
      Effect.gen(function*() {
        const server = yield* PostgresServer.make()
        const bouncer = yield* PgBouncer.make({ target: server.port, mode })
        const { layer, lines } = collectLines()
        const ran: Array<unknown> = []
        const Live = Provisioner.layerPostgres({
          url: Redacted.make(bouncer.url),
          ...(mode === "session" ? {} : { prepare: false, listenUrl: Redacted.make(server.url) })
        }).pipe(
          Layer.provide(Executor.layerHandlers({
            greet: (job) =>
              Effect.sync(() => {
                ran.push(job.input)
                return `hello ${String(job.input)}`
              })
          }))
        )
        const results = yield* Effect.gen(function*() {
          const provisioner = yield* Provisioner
          const submit = provisioner.submitAll(
            Array.from({ length: 200 }, (_, input) => ({ type: "greet", input }))
          )
          const jobs = yield* Effect.retry(submit, { while: (error) => error._tag === "DatabaseUnavailable" })
          const ended = yield* Effect.forEach(jobs, ({ id }) => provisioner.awaitEnd(id), { concurrency: "unbounded" })
          return ended.map(({ result, status }) => `${status}: ${String(result)}`)
        }).pipe(Effect.provide(Live), Effect.provide(layer))
        assert.deepStrictEqual(results, Array.from({ length: 200 }, (_, n) => `succeeded: hello ${n}`))
        assert.lengthOf(ran, 200)
        assert.deepStrictEqual(warnings(lines), [notTaken(bouncer.port)])
      })
    )
  }

  test(
    "that drops the settings silently is found out",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const bouncer = yield* PgBouncer.make({
        target: server.port,
        mode: "transaction",
        settings: {
          ignore_startup_parameters:
            "lock_timeout,statement_timeout,idle_in_transaction_session_timeout,enable_seqscan,jit"
        }
      })
      const { layer, lines } = collectLines()
      const opened = yield* Effect.provide(open({ url: bouncer.url, prepare: false }), layer)
      yield* untilAvailable(opened)
      yield* opened.query("select 1")
      assert.deepStrictEqual(warnings(lines), [notTaken(bouncer.port)])
    })
  )

  test(
    "is not spoken of where the role has the settings",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      yield* Effect.forEach(forRole("postgres"), server.execute)
      const bouncer = yield* PgBouncer.make({ target: server.port, mode: "session" })
      const { layer, lines } = collectLines()
      const opened = yield* Effect.provide(open({ url: bouncer.url }), layer)
      yield* untilAvailable(opened)
      const [row] = yield* opened.query("select current_setting('statement_timeout') as timeout")
      assert.deepStrictEqual([row, warnings(lines)], [{ timeout: "1min" }, []])
    })
  )

  test(
    "does not take the options of the URL, which is said, and takes the application's name",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      yield* Effect.forEach(forRole("postgres"), server.execute)
      const bouncer = yield* PgBouncer.make({ target: server.port, mode: "session" })
      const { layer, lines } = collectLines()
      const url = `${bouncer.url}?options=-c%20geqo%3Doff&application_name=shop`
      const opened = yield* Effect.provide(open({ url }), layer)
      yield* untilAvailable(opened)
      const statement = "select current_setting('geqo') as geqo, current_setting('application_name') as name"
      assert.deepStrictEqual(yield* opened.query(statement), [{ geqo: "on", name: "shop" }])
      assert.deepStrictEqual(warnings(lines), [
        `127.0.0.1:${bouncer.port} does not take the options of the URL, as poolers do not: they have no effect. ` +
        "Set them for the role instead"
      ])
    })
  )

  test(
    "that asks for a password gets it by SCRAM and MD5, and in clear where the URL says so",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const certificates = yield* Certificates.make
      const files = {
        "server.key": readFileSync(certificates.path("server.key"), "utf8"),
        "server.crt": readFileSync(certificates.path("server.crt"), "utf8"),
        "users.txt": `"postgres" "hush"\n`
      }
      const asking = (auth_type: string) =>
        PgBouncer.make({
          target: server.port,
          mode: "session",
          files,
          settings: {
            auth_type,
            auth_file: "users.txt",
            client_tls_sslmode: "allow",
            client_tls_key_file: "server.key",
            client_tls_cert_file: "server.crt"
          }
        })
      const said = Effect.fnUntraced(function*(port: number, query: string) {
        const opened = yield* open({ url: `postgres://postgres:hush@127.0.0.1:${port}/postgres?${query}` })
        yield* Effect.raceFirst(untilAvailable(opened), untilUnavailable(opened))
        const state = yield* opened.state
        yield* opened.close
        return state._tag === "Unavailable" ? state.lastError : state._tag
      })
      const scram = yield* asking("scram-sha-256")
      for (const query of ["sslmode=disable", "sslmode=require", "channel_binding=disable&sslmode=require"]) {
        assert.strictEqual(yield* said(scram.port, query), "Available", query)
      }
      assert.match(yield* said(scram.port, "sslmode=require&channel_binding=require"), /does not offer it, as poolers/)
      const md5 = yield* asking("md5")
      assert.strictEqual(yield* said(md5.port, "sslmode=disable"), "Available")
      const plain = yield* asking("plain")
      assert.match(yield* said(plain.port, "sslmode=require"), /in clear/)
      assert.strictEqual(yield* said(plain.port, "sslmode=disable&require_auth=password"), "Available")
    })
  )

  test(
    "with TLS of its own is verified like a server",
    Effect.gen(function*() {
      const server = yield* PostgresServer.make()
      const certificates = yield* Certificates.make
      const bouncer = yield* PgBouncer.make({
        target: server.port,
        mode: "session",
        files: {
          "server.key": readFileSync(certificates.path("server.key"), "utf8"),
          "server.crt": readFileSync(certificates.path("server.crt"), "utf8")
        },
        settings: {
          client_tls_sslmode: "require",
          client_tls_key_file: "server.key",
          client_tls_cert_file: "server.crt"
        }
      })
      const opened = yield* open({
        url: `postgres://postgres@localhost:${bouncer.port}/postgres?sslmode=verify-full&sslrootcert=${
          encodeURIComponent(certificates.path("ca.crt"))
        }`
      })
      yield* untilAvailable(opened)
      yield* opened.query("select 1")
    })
  )
})
