import { PgClient } from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Stream from "effect/Stream"
import { readFileSync } from "node:fs"
import { createServer as createTlsServer } from "node:tls"
import { afterAll, beforeAll } from "vitest"
import * as Certificates from "../support/Certificates.ts"
import * as LoginServer from "../support/LoginServer.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { open, until, untilAvailable, untilUnavailable } from "../support/realDatabase.ts"
import * as TlsIntruder from "../support/TlsIntruder.ts"

const test = (name: string, body: Effect.Effect<void, unknown, SecureRandom.SecureRandom | Scope.Scope>) =>
  it.live(name, () => body.pipe(Effect.scoped, Effect.provide(SecureRandom.layerWebCrypto)), 60_000)

/** How the first probe fails; without a secret. */
const failure = Effect.fnUntraced(function*(url: string) {
  const opened = yield* open({ url })
  yield* until(() => opened.availability.isOpen()).pipe(
    Effect.raceFirst(untilUnavailable(opened))
  )
  const state = yield* opened.state
  yield* opened.close
  const said = state._tag === "Unavailable" ? `${state.reason}: ${state.lastError}` : state._tag
  assert.notInclude(said, "hush")
  return said
})

const roles = ["clear", "hashed", "scram", "trusted"] as const

describe("a login", () => {
  const scope = Effect.runSync(Scope.make())
  let certificates: Certificates.Certificates
  let server: PostgresServer.PostgresServer
  let plain: PostgresServer.PostgresServer
  const lines = ["host all clear all password", "host all hashed all md5", "host all scram all scram-sha-256"]
  beforeAll(async () => {
    certificates = await Effect.runPromise(Scope.provide(Certificates.make, scope))
    const make = (options: PostgresServer.Options) =>
      Effect.runPromise(Scope.provide(PostgresServer.make({ ...options, hba: lines }), scope))
    server = await make({
      files: certificates.server.files,
      configuration: { ...certificates.server.configuration, md5_password_warnings: "off" }
    })
    plain = await make({ configuration: { md5_password_warnings: "off" } })
    for (const each of [server, plain]) {
      for (const role of roles) {
        const encryption = role === "hashed" ? "md5" : "scram-sha-256"
        await Effect.runPromise(each.execute(`alter role postgres set password_encryption = '${encryption}'`))
        await Effect.runPromise(each.execute(`create role ${role} superuser login password 'hush'`))
      }
    }
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const file = (name: string) => encodeURIComponent(certificates.path(name))
  const read = (name: string) => readFileSync(certificates.path(name), "utf8")
  const verified = () => `sslmode=verify-full&sslrootcert=${file("ca.crt")}`
  const url = (to: { readonly port: number }, role: string, query: string, host = "127.0.0.1") =>
    `postgres://${role}:hush@${host}:${to.port}/postgres?${query}`

  /** `true`: it is let in. */
  const rows: ReadonlyArray<readonly [role: string, query: string, plain: true | RegExp, tls: true | RegExp]> = [
    ["clear", "", /in clear.*require_auth=password/, /in clear.*certificate was not verified/],
    ["clear", "require_auth=password", true, true],
    ["clear", "require_auth=!md5", /in clear/, /in clear/],
    ["clear", "require_auth=scram-sha-256", /in clear, and the URL has require_auth=scram-sha-256/, /in clear/],
    ["hashed", "", true, true],
    ["hashed", "require_auth=md5,scram-sha-256", true, true],
    ["hashed", "require_auth=scram-sha-256", /as MD5, and the URL has require_auth/, /as MD5/],
    ["hashed", "require_auth=!md5", /as MD5/, /as MD5/],
    ["scram", "", true, true],
    ["scram", "require_auth=scram-sha-256", true, true],
    ["scram", "require_auth=!scram-sha-256", /asks for SCRAM-SHA-256, and the URL has/, /asks for SCRAM-SHA-256/],
    ["scram", "require_auth=password", /asks for SCRAM-SHA-256/, /asks for SCRAM-SHA-256/],
    ["scram", "channel_binding=disable", true, true],
    ["scram", "channel_binding=prefer", true, true],
    ["scram", "channel_binding=require", /channel_binding=require.*no TLS/, true],
    ["hashed", "channel_binding=require", /as MD5, and the URL has channel_binding=require/, /as MD5/],
    ["trusted", "", true, true],
    ["trusted", "require_auth=none", true, true],
    ["trusted", "require_auth=!none", /asks for nothing, and the URL has require_auth=!none/, /asks for nothing/],
    ["trusted", "require_auth=scram-sha-256", /asks for nothing/, /asks for nothing/],
    ["trusted", "channel_binding=require", /asks for nothing/, /asks for nothing/]
  ]
  for (const [role, query, overPlain, overTls] of rows) {
    test(
      `of the role ${role} with ${query || "no further word"} is as libpq has it, but for passwords in clear`,
      Effect.gen(function*() {
        for (const [to, expected] of [[plain, overPlain], [server, overTls]] as const) {
          const said = yield* failure(url(to, role, query))
          if (expected === true) assert.strictEqual(said, "Available")
          else assert.match(said, new RegExp(`^Misconfigured: .*${expected.source}`))
        }
      })
    )
  }

  test(
    "gives the password in clear to a server whose certificate is verified, and to no other",
    Effect.gen(function*() {
      assert.strictEqual(yield* failure(url(server, "clear", verified(), "localhost")), "Available")
      const verifiedCa = `sslmode=verify-ca&sslrootcert=${file("ca.crt")}`
      assert.strictEqual(yield* failure(url(server, "clear", verifiedCa)), "Available")
      assert.match(yield* failure(url(server, "clear", "sslmode=require")), /^Misconfigured: .*in clear/)
    })
  )

  test(
    "says that the server asks for a password where the URL has none, and the server's words where it is wrong",
    Effect.gen(function*() {
      const without = `postgres://scram@127.0.0.1:${plain.port}/postgres`
      assert.match(yield* failure(without), /^Misconfigured: the server asks for a password.*and the URL has none/)
      const wrong = `postgres://scram:other@127.0.0.1:${plain.port}/postgres`
      assert.match(yield* failure(wrong), /^Misconfigured: password authentication failed/)
    })
  )

  test(
    "is made for streams of rows, canceled statements and notifications too",
    Effect.gen(function*() {
      for (const address of [url(plain, "scram", ""), url(server, "scram", "channel_binding=require")]) {
        const opened = yield* open({ url: address })
        yield* untilAvailable(opened)
        const count = yield* opened.database.read(
          "test.stream",
          Effect.flatMap(PgClient, (sql) => Stream.runCount(sql`select n from generate_series(1, 3000) n`.stream))
        )
        assert.strictEqual(count, 3_000)
        const slow = opened.query("select pg_sleep(30)").pipe(Effect.timeoutOption("100 millis"))
        yield* slow
        yield* opened.query("select 1")
        yield* opened.close
      }
    })
  )

  test(
    "that is bound to TLS fails where somebody is in between, who otherwise hears all of it",
    Effect.gen(function*() {
      const intruder = yield* TlsIntruder.make({ to: server.port, key: read("client.key"), cert: read("client.crt") })
      for (const query of ["sslmode=require", "sslmode=require&channel_binding=require"]) {
        assert.match(yield* failure(url(intruder, "scram", query)), /^Misconfigured: .*channel binding/i, query)
      }
      assert.isAbove(intruder.passed(), 0)
      const careless = url(intruder, "scram", "sslmode=require&channel_binding=disable")
      assert.strictEqual(yield* failure(careless), "Available")
    })
  )

  test(
    "never gives the password to another program on the port of a server that has crashed",
    Effect.gen(function*() {
      const mine = yield* PostgresServer.make({ hba: lines })
      yield* mine.execute("create role scram superuser login password 'hush'")
      const opened = yield* open({ url: url(mine, "scram", "") })
      yield* untilAvailable(opened)
      yield* mine.kill
      yield* untilUnavailable(opened)
      const certificate = { key: read("client.key"), cert: read("client.crt") }
      for (const tls of [undefined, certificate]) {
        yield* Effect.scoped(Effect.gen(function*() {
          const thief = yield* LoginServer.make({ port: mine.port, tls, answers: () => LoginServer.says.cleartext })
          yield* until(() => thief.turns() > 0)
          yield* Effect.gen(function*() {
            const state = yield* opened.state
            return state._tag === "Unavailable" ? state.lastError : ""
          }).pipe(Effect.delay("20 millis"), Effect.repeat({ until: (said) => said.includes("in clear") }))
          assert.notInclude(thief.heard(), "hush")
        }))
      }
      yield* mine.start
      yield* untilAvailable(opened)
      yield* opened.query("select 1")
    })
  )

  const { error, gssapi, md5, notice, ok, ready, sasl, saslContinue, saslFinal } = LoginServer.says
  const joined = (...parts: ReadonlyArray<Uint8Array>) => Buffer.concat(parts)
  const nonceOf = (heard: Uint8Array) => /r=(\S+)$/.exec(Buffer.from(heard).toString("latin1"))?.[1] ?? ""
  const challenge = (heard: Uint8Array, iterations = 1) =>
    saslContinue(`r=${nonceOf(heard)}x,s=c2FsdA==,i=${iterations}`)
  const attempts: ReadonlyArray<readonly [what: string, answers: LoginServer.Options["answers"], RegExp]> = [
    ["lets in without a word", () => ready, /not PostgreSQL/],
    ["sends rows before a login", () => Buffer.from("D\0\0\0\x06\0\0", "latin1"), /not PostgreSQL/],
    ["asks for GSSAPI", () => gssapi, /asks for GSSAPI, which Lull cannot do/],
    ["offers no SCRAM", () => sasl("OAUTHBEARER"), /SASL without SCRAM-SHA-256/],
    ["asks in clear after a notice", () => joined(notice("hello"), LoginServer.says.cleartext), /in clear/],
    ["asks in clear, and lets in", () => joined(LoginServer.says.cleartext, ok, ready), /in clear/],
    [
      "asks in clear after SCRAM",
      (_, turn) => turn === 0 ? sasl("SCRAM-SHA-256") : LoginServer.says.cleartext,
      /in an order/
    ],
    ["asks for MD5 twice", () => md5, /in an order/],
    ["lets in during SCRAM", (_, turn) => turn === 0 ? sasl("SCRAM-SHA-256") : joined(ok, ready), /without a proof/],
    [
      "lets in after the proof without its own",
      (heard, turn) => [sasl("SCRAM-SHA-256"), challenge(heard), joined(ok, ready)][turn],
      /without a proof/
    ],
    [
      "proves wrongly",
      (heard, turn) => [sasl("SCRAM-SHA-256"), challenge(heard), saslFinal("v=AAAA")][turn],
      /has not proven that it knows the password/
    ],
    [
      "sends another's nonce",
      (_, turn) => [sasl("SCRAM-SHA-256"), saslContinue("r=other,s=c2FsdA==,i=1")][turn],
      /not one to what it was sent/
    ],
    [
      "wants a billion rounds",
      (heard, turn) => [sasl("SCRAM-SHA-256"), challenge(heard, 999_999_999)][turn],
      /not one to what it was sent/
    ],
    [
      "goes on before it has its answer",
      (heard, turn) => [sasl("SCRAM-SHA-256"), joined(challenge(heard, 100_000), saslFinal("v=AAAA"))][turn],
      /goes on before it has its answer/
    ],
    ["speaks HTTP", () => Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"), /not PostgreSQL/],
    ["sends an endless error", () => Buffer.from("E\0\xff\xff\xffSFATAL", "latin1"), /not PostgreSQL/],
    ["sends an endless message", () => Buffer.from("R\x7f\xff\xff\xff", "latin1"), /not PostgreSQL/]
  ]
  for (const [what, answers, expected] of attempts) {
    test(
      `is refused to a server that ${what}`,
      Effect.gen(function*() {
        const thief = yield* LoginServer.make({ answers })
        assert.match(yield* failure(url(thief, "u", "")), new RegExp(`^Misconfigured: .*${expected.source}`))
        assert.notInclude(thief.heard(), "hush")
      })
    )
  }

  test(
    "says what a server says that cannot serve anybody, in the form of any version",
    Effect.gen(function*() {
      const full = yield* LoginServer.make({ answers: () => error("53300", "sorry, too many clients already") })
      assert.match(yield* failure(url(full, "u", "")), /^Refusing: sorry, too many clients already/)
      const forkless = yield* LoginServer.make({ answers: () => Buffer.from("Ecould not fork new process\n\0") })
      assert.match(yield* failure(url(forkless, "u", "")), /^Unreachable: .*could not fork new process/)
    })
  )
})

/** Speaks TLS, without a protocol by name. */
const tlsOnly = Effect.fnUntraced(function*(certificates: Certificates.Certificates) {
  const { files } = certificates.server
  const listening = createTlsServer({ key: files["server.key"], cert: files["server.crt"] })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => void listening.listen(0, "127.0.0.1", () => resume(Effect.void))),
    () => Effect.sync(() => listening.close())
  )
  const bound = listening.address()
  return typeof bound === "object" && bound !== null ? bound.port : 0
})

describe("TLS of a connection URL", () => {
  const scope = Effect.runSync(Scope.make())
  let certificates: Certificates.Certificates
  let server: PostgresServer.PostgresServer
  beforeAll(async () => {
    certificates = await Effect.runPromise(Scope.provide(Certificates.make, scope))
    server = await Effect.runPromise(Scope.provide(PostgresServer.make(certificates.server), scope))
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const versionWith = Effect.fnUntraced(function*(query: string) {
    const ca = encodeURIComponent(certificates.path("ca.crt"))
    const opened = yield* open({
      url: `postgres://postgres@localhost:${server.port}/postgres?${query.replace("CA", ca)}`
    })
    yield* untilAvailable(opened)
    const [row] = yield* opened.query("select version from pg_stat_ssl where pid = pg_backend_pid()")
    yield* opened.close
    return row?.["version"]
  })

  test(
    "begins with the first byte where sslnegotiation says so",
    Effect.gen(function*() {
      assert.strictEqual(yield* versionWith("sslmode=verify-full&sslrootcert=CA&sslnegotiation=direct"), "TLSv1.3")
      assert.strictEqual(yield* versionWith("sslmode=require&sslnegotiation=postgres"), "TLSv1.3")
      // One that knows TLS, and not that PostgreSQL's protocol follows.
      const stranger = yield* tlsOnly(certificates)
      const asked = yield* failure(`postgres://u@127.0.0.1:${stranger}/d?sslmode=require&sslnegotiation=direct`)
      assert.match(asked, /^Misconfigured: the server does not support TLS as sslnegotiation=direct asks for it/)
    })
  )

  test(
    "has the version that the URL asks for",
    Effect.gen(function*() {
      assert.strictEqual(yield* versionWith("sslmode=require&ssl_max_protocol_version=TLSv1.2"), "TLSv1.2")
      assert.strictEqual(yield* versionWith("sslmode=require&ssl_min_protocol_version=TLSv1.3"), "TLSv1.3")
    })
  )

  test(
    "is not made with a certificate that is on the list of sslcrl, nor without its authority's list",
    Effect.gen(function*() {
      const file = (name: string) => encodeURIComponent(certificates.path(name))
      const query = (list: string) => `sslmode=verify-full&sslrootcert=CA&sslcrl=${file(list)}`
      assert.strictEqual(yield* versionWith(query("none-revoked.crl")), "TLSv1.3")
      const at = `postgres://postgres@localhost:${server.port}/postgres?`
      const revoked = query("server-revoked.crl").replace("CA", file("ca.crt"))
      assert.match(yield* failure(at + revoked), /^Misconfigured: certificate revoked/)
      const other = query("other.crl").replace("CA", file("ca.crt"))
      assert.match(yield* failure(at + other), /^Misconfigured: unable to get certificate CRL/)
      // It goes on without TLS only where that was not agreed.
      assert.match(yield* failure(at + revoked.replace("verify-full", "prefer")), /^Misconfigured: certificate revoked/)
    })
  )

  test(
    "verifies a name that the server does not hear",
    Effect.gen(function*() {
      assert.strictEqual(yield* versionWith("sslmode=verify-full&sslrootcert=CA&sslsni=0"), "TLSv1.3")
    })
  )
})
