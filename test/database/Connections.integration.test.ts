import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Layer, Redacted, Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { layer as reactivityLayer } from "effect/reactivity/Reactivity"
import { spawnSync } from "node:child_process"
import { chmodSync, mkdtempSync, rmSync } from "node:fs"
import { createServer, type Server, type Socket } from "node:net"
import { tmpdir, userInfo } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll } from "vitest"
import { resolve } from "../../src/database/ConnectionOptions.ts"
import * as Connections from "../../src/database/Connections.ts"
import { sslModes, supportedParameters } from "../../src/database/ConnectionUrl.ts"
import { Database } from "../../src/database/Database.ts"
import { make as makeDialer } from "../../src/database/Dialer.ts"
import { Replica } from "../../src/database/Replica.ts"
import { noAnswerCode } from "../../src/database/Unavailable.ts"
import { Loops } from "../../src/loop/Loops.ts"
import * as Certificates from "../support/Certificates.ts"
import { examplesOf, readPage, textsOf } from "../support/documents.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { open, until, untilAvailable, untilUnavailable } from "../support/realDatabase.ts"

const test = (name: string, body: Effect.Effect<void, unknown, SecureRandom.SecureRandom | Scope.Scope>) =>
  it.live(name, () => body.pipe(Effect.scoped, Effect.provide(SecureRandom.layerWebCrypto)), 60_000)

/** Opens the door, and answers with what a statement on a pooled connection says. */
const ask = Effect.fnUntraced(function*(url: string, statement: string) {
  const opened = yield* open({ url })
  yield* untilAvailable(opened)
  const [row] = yield* opened.query(statement)
  yield* opened.close
  return row
})

/** How the first probe fails. */
const failure = Effect.fnUntraced(function*(url: string) {
  const opened = yield* open({ url })
  yield* untilUnavailable(opened)
  const state = yield* opened.state
  yield* opened.close
  return state._tag === "Unavailable" ? `${state.reason}: ${state.lastError}` : state._tag
})

const isEncrypted = (url: string) =>
  Effect.map(ask(url, "select ssl from pg_stat_ssl where pid = pg_backend_pid()"), (row) => row?.["ssl"])

/** What the layer says of a URL when it is built. */
const refusal = (url: string) =>
  Layer.build(Database.layerPostgres({ url: Redacted.make(url) })).pipe(
    Effect.provide(Layer.mergeAll(Loops.layer, Layer.succeed(Replica, { id: "test", name: "test" }))),
    Effect.scoped,
    Effect.flip,
    Effect.map((error) => {
      assert.strictEqual(error._tag, "InvalidDatabaseUrl")
      assert.notInclude(error.message, "hush")
      return error.message
    })
  )

describe("a connection URL", () => {
  const scope = Effect.runSync(Scope.make())
  let server: PostgresServer.PostgresServer
  /** The directory of its Unix socket. */
  let directory = ""
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "lull-socket-"))
    chmodSync(directory, 0o777)
    const making = PostgresServer.make({
      configuration: { unix_socket_directories: `${directory},@${directory.slice(1)}` }
    })
    server = await Effect.runPromise(Scope.provide(making, scope))
    await Effect.runPromise(server.execute(`create role "a@b/c" superuser login`))
    await Effect.runPromise(server.execute(`create database "my db" owner "a@b/c"`))
  })
  afterAll(async () => {
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(directory, { recursive: true })
  })
  const address = () => `127.0.0.1:${server.port}`
  const who = "select current_user::text as user, current_database()::text as database"

  test(
    "names user and database, percent-encoded or as parameters",
    Effect.gen(function*() {
      const expected = { user: "a@b/c", database: "my db" }
      assert.deepStrictEqual(yield* ask(`postgres://a%40b%2Fc:x@${address()}/my%20db`, who), expected)
      const parameters = `host=127.0.0.1&port=${server.port}&user=a%40b%2Fc&dbname=my%20db`
      assert.deepStrictEqual(yield* ask(`postgresql:///?${parameters}`, who), expected)
    })
  )

  test(
    "without a database means that of the user's name",
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* ask(`postgres://postgres@${address()}`, who), {
        user: "postgres",
        database: "postgres"
      })
    })
  )

  test(
    "names the application, which is lull by default",
    Effect.gen(function*() {
      const name = "select current_setting('application_name') as name"
      assert.deepStrictEqual(yield* ask(`${server.url}?application_name=shop%201`, name), { name: "shop 1" })
      assert.deepStrictEqual(yield* ask(server.url, name), { name: "lull" })
    })
  )

  test(
    "gives options to the server, which win over Lull's own settings",
    Effect.gen(function*() {
      const options = encodeURIComponent("-c geqo=off -c statement_timeout=7s")
      const statement = "select current_setting('geqo') as geqo, current_setting('statement_timeout') as timeout"
      assert.deepStrictEqual(yield* ask(`${server.url}?options=${options}`, statement), { geqo: "off", timeout: "7s" })
      assert.deepStrictEqual(yield* ask(server.url, statement), { geqo: "on", timeout: "4s" })
    })
  )

  test(
    "with options that the server does not know fails with the server's words",
    Effect.gen(function*() {
      assert.match(yield* failure(`${server.url}?options=-c%20nosuch%3D1`), /^Misconfigured: .*"nosuch"/)
    })
  )

  test(
    "reaches a server over its Unix socket, however it is written",
    Effect.gen(function*() {
      const local = "select inet_client_addr() is null as local"
      const encoded = encodeURIComponent(directory)
      for (
        const rest of [
          `postgres@/postgres?host=${directory}&port=${server.port}`,
          `postgres@:${server.port}/postgres?host=${directory}`,
          `postgres@${encoded}:${server.port}/postgres`,
          `postgres@${encoded}:${server.port}/postgres?sslmode=verify-full`,
          `postgres@/postgres?host=@${directory.slice(1)}&port=${server.port}`,
          `postgres@%2Fnowhere,${encoded}:${server.port}/postgres`
        ]
      ) assert.deepStrictEqual(yield* ask(`postgres://${rest}`, local), { local: true }, rest)
    })
  )

  test(
    "over a Unix socket means the account's own name when it names no user",
    Effect.gen(function*() {
      const { username } = userInfo()
      yield* server.execute(`create role "${username}" superuser login`)
      const url = `postgres:///postgres?host=${directory}&port=${server.port}`
      assert.deepStrictEqual(yield* ask(url, who), { user: username, database: "postgres" })
    })
  )

  test(
    "over a Unix socket answers many callers at once, and is noticed when it goes and comes",
    Effect.gen(function*() {
      const opened = yield* open({ url: `postgres://postgres@/postgres?host=${directory}&port=${server.port}` })
      yield* untilAvailable(opened)
      const answers = yield* Effect.all(
        Array.from({ length: 50 }, (_, n) => opened.query(`select ${n} as n, pg_sleep(0.01)`)),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(answers.map(([row]) => row?.["n"]), Array.from({ length: 50 }, (_, n) => n))
      yield* server.stop("fast")
      yield* untilUnavailable(opened)
      const state = yield* opened.state
      assert.match(state._tag === "Unavailable" ? state.lastError : "", /(ENOENT|ECONNREFUSED).*\.s\.PGSQL\./)
      yield* server.start
      yield* untilAvailable(opened)
      yield* opened.query("select 1")
    })
  )

  test(
    "bounds one attempt to one host by connect_timeout",
    Effect.gen(function*() {
      const silent = yield* answering()
      const opened = yield* open({
        url: `postgres://postgres@127.0.0.1:${silent},${address()}/postgres?connect_timeout=1`,
        // Longer than this test may take.
        probeDeadline: "5 minutes"
      })
      yield* untilAvailable(opened)
      yield* opened.query("select 1")
    })
  )

  test(
    "gives a server that lets in slowly the time of connect_timeout",
    Effect.gen(function*() {
      const slow = yield* PostgresServer.make({ configuration: { pre_auth_delay: "2" } })
      const opened = yield* open({ url: `${slow.url}?connect_timeout=20`, probeDeadline: "1 second" })
      yield* untilAvailable(opened)
      yield* opened.query("select 1")
    })
  )

  test(
    "to a database that is not encoded in UTF8 is refused with a sentence",
    Effect.gen(function*() {
      yield* server.execute("create database latin encoding 'LATIN1' template template0")
      assert.match(
        yield* failure(`postgres://postgres@${address()}/latin`),
        /^Misconfigured: the database "latin" has the encoding LATIN1, and Lull needs UTF8/
      )
    })
  )

  test(
    "to a role that would speak another encoding speaks UTF8",
    Effect.gen(function*() {
      yield* server.execute("create role old superuser login; ")
      yield* server.execute("alter role old set client_encoding = 'latin1'")
      assert.deepStrictEqual(yield* ask(`postgres://old@${address()}/postgres`, "select 'ä→' as text"), { text: "ä→" })
    })
  )
})

/** Accepts connections, and gives this answer to the first that it hears, or none. */
const answering = Effect.fnUntraced(function*(answer?: Uint8Array) {
  const sockets = new Set<Socket>()
  const listening = createServer((socket) => {
    sockets.add(socket.on("error", () => {}))
    if (answer !== undefined) socket.once("data", () => socket.write(answer))
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => void listening.listen(0, "127.0.0.1", () => resume(Effect.void))),
    () =>
      Effect.sync(() => {
        listening.close()
        for (const socket of sockets) socket.destroy()
      })
  )
  const bound = listening.address()
  return typeof bound === "object" && bound !== null ? bound.port : 0
})

describe("sslmode", () => {
  const scope = Effect.runSync(Scope.make())
  let certificates: Certificates.Certificates
  let server: PostgresServer.PostgresServer
  let plain: PostgresServer.PostgresServer
  beforeAll(async () => {
    certificates = await Effect.runPromise(Scope.provide(Certificates.make, scope))
    const making = PostgresServer.make({
      ...certificates.server,
      hba: [
        "hostssl all app 127.0.0.1/32 cert",
        "hostssl all only_tls 127.0.0.1/32 trust",
        "hostnossl all no_tls 127.0.0.1/32 trust",
        "host all app,only_tls,no_tls all reject"
      ]
    })
    server = await Effect.runPromise(Scope.provide(making, scope))
    plain = await Effect.runPromise(Scope.provide(PostgresServer.make(), scope))
    for (const role of ["app", "only_tls", "no_tls"]) {
      await Effect.runPromise(server.execute(`create role ${role} superuser login`))
    }
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const file = (name: string) => encodeURIComponent(certificates.path(name))
  const url = (host: string, query: string, user = "postgres") =>
    `postgres://${user}:hush@${host}:${server.port}/postgres?${query}`

  const accepted: ReadonlyArray<readonly [query: string, host: string, encrypted: boolean]> = [
    ["", "127.0.0.1", true],
    ["sslmode=disable", "127.0.0.1", false],
    ["sslmode=allow", "127.0.0.1", true],
    ["sslmode=prefer", "127.0.0.1", true],
    ["sslmode=require", "127.0.0.1", true],
    ["sslmode=require&sslrootcert=ca.crt", "127.0.0.1", true],
    ["sslmode=verify-ca&sslrootcert=ca.crt", "127.0.0.1", true],
    ["sslmode=verify-full&sslrootcert=ca.crt", "localhost", true]
  ]
  for (const [query, host, encrypted] of accepted) {
    test(
      `${query || "no mode"} at ${host} is ${encrypted ? "encrypted" : "in clear"}`,
      Effect.gen(function*() {
        const is = yield* isEncrypted(url(host, query.replace("ca.crt", file("ca.crt"))))
        assert.strictEqual(is, encrypted)
      })
    )
  }

  test(
    "verifies the authority with every mode for which one is named, and the name with verify-full",
    Effect.gen(function*() {
      for (const mode of ["prefer", "require", "verify-ca", "verify-full"]) {
        const wrongAuthority = url("localhost", `sslmode=${mode}&sslrootcert=${file("other-ca.crt")}`)
        assert.match(yield* failure(wrongAuthority), /^Misconfigured: .*certificate/, mode)
      }
      const wrongName = url("127.0.0.1", `sslmode=verify-full&sslrootcert=${file("ca.crt")}`)
      assert.match(yield* failure(wrongName), /^Misconfigured: .*127\.0\.0\.1/)
      for (const query of ["sslrootcert=system", "sslmode=verify-full"]) {
        assert.match(yield* failure(url("localhost", query)), /^Misconfigured: .*certificate/, query)
      }
    })
  )

  test(
    "does without TLS at a server that has none, unless it asks for it",
    Effect.gen(function*() {
      for (const query of ["", "?sslmode=prefer", "?sslmode=allow", `?sslrootcert=${file("ca.crt")}`]) {
        assert.isFalse(yield* isEncrypted(`${plain.url}${query}`), query)
      }
      for (
        const query of ["sslmode=require", `sslmode=verify-ca&sslrootcert=${file("ca.crt")}`, "sslmode=verify-full"]
      ) {
        assert.match(yield* failure(`${plain.url}?${query}`), /^Misconfigured: .*does not support TLS/, query)
      }
    })
  )

  test(
    "that prefers TLS goes without where pg_hba.conf admits only that, as libpq does",
    Effect.gen(function*() {
      assert.isFalse(yield* isEncrypted(url("127.0.0.1", "", "no_tls")))
      assert.isTrue(yield* isEncrypted(url("127.0.0.1", "", "only_tls")))
      assert.match(yield* failure(url("127.0.0.1", "sslmode=require", "no_tls")), /^Misconfigured: .*pg_hba\.conf/)
      assert.match(yield* failure(url("127.0.0.1", "sslmode=disable", "only_tls")), /^Misconfigured: .*pg_hba\.conf/)
    })
  )

  test(
    "shows the certificate of sslcert, and is let in with it",
    Effect.gen(function*() {
      const own = `sslcert=${file("client.crt")}&sslkey=${file("client.key")}`
      const subject = "select client_dn as subject from pg_stat_ssl where pid = pg_backend_pid()"
      const query = `sslmode=verify-ca&sslrootcert=${file("ca.crt")}&${own}`
      assert.deepStrictEqual(yield* ask(url("127.0.0.1", query, "app"), subject), { subject: "/CN=app" })
      assert.deepStrictEqual(yield* ask(url("127.0.0.1", own, "app"), subject), { subject: "/CN=app" })
      assert.match(yield* failure(url("127.0.0.1", "sslmode=require", "app")), /^Misconfigured: .*certificate/)
    })
  )

  test(
    "lets a connection with TLS wait no longer than one without when its server hangs",
    Effect.gen(function*() {
      const [host] = yield* resolve(Redacted.make(url("127.0.0.1", "sslmode=require")))
      const connections = yield* Effect.provide(
        Connections.make({
          prepare: true,
          dialer: yield* makeDialer,
          connectAtMost: Duration.seconds(2),
          onSilent: () => {}
        }),
        reactivityLayer
      )
      const opened = yield* connections.single(host, "probe", { answerWithin: Duration.seconds(2) })
      let isClosed = false
      opened.connector.onClosed(() => {
        isClosed = true
      })
      yield* opened.client.unsafe("select 1")
      yield* server.hang
      // Not interrupted by anybody: only its socket can end it.
      const statement = yield* Effect.forkChild(Effect.flip(opened.client.unsafe("select 1")))
      const error = yield* Fiber.join(statement)
      assert.strictEqual(Reflect.get(Object(error.reason.cause), "code"), noAnswerCode)
      yield* server.resume
      yield* Connections.close(opened, new Error("the test is over"))
      yield* until(() => isClosed)
    }).pipe(Effect.ensuring(Effect.suspend(() => server.resume)))
  )

  test(
    "believes no answer that was put before TLS by somebody in between, nor another program's",
    Effect.gen(function*() {
      for (const answer of ["SX", "HTTP/1.1 400 Bad Request\r\n\r\n"]) {
        const port = yield* answering(Buffer.from(answer))
        const said = yield* failure(`postgres://u@127.0.0.1:${port}/d?sslmode=require`)
        assert.match(said, /^Misconfigured: the server's answer to SSLRequest is not that of PostgreSQL/)
      }
    })
  )

  test(
    "says what a server says that refuses before TLS",
    Effect.gen(function*() {
      const fields = Buffer.from("SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0")
      const head = Buffer.alloc(5)
      head.write("E")
      head.writeInt32BE(fields.length + 4, 1)
      const port = yield* answering(Buffer.concat([head, fields]))
      assert.match(
        yield* failure(`postgres://u@127.0.0.1:${port}/d`),
        /^Refusing: before TLS.*: sorry, too many clients already/
      )
    })
  )

  test(
    "says nothing more to who answers with the head of an error before TLS",
    Effect.gen(function*() {
      for (const mode of ["prefer", "require", "verify-full"]) {
        let heard = Buffer.alloc(0)
        const server = yield* Effect.acquireRelease(
          Effect.callback<Server>((resume) => {
            const made = createServer((socket) => {
              socket.on("error", () => undefined)
              socket.on("data", (bytes: Buffer) => {
                heard = Buffer.concat([heard, bytes])
              })
              socket.write(Buffer.from([0x45, 0, 0, 0, 0x1e]))
            })
            made.listen(0, "127.0.0.1", () => resume(Effect.succeed(made)))
          }),
          (made) => Effect.sync(() => made.close())
        )
        const address = server.address()
        const port = typeof address === "object" ? address?.port : 0
        assert.match(yield* failure(`postgres://u:secret@127.0.0.1:${port}/d?sslmode=${mode}`), /^Refusing: before TLS/)
        // One request for TLS after another, and nothing else.
        assert.strictEqual(heard.length % 8, 0)
        assert.isFalse(heard.includes("user"))
      }
    })
  )

  test(
    "carries large rows and statements through TLS whole",
    Effect.gen(function*() {
      const opened = yield* open({ url: url("127.0.0.1", "sslmode=require") })
      yield* untilAvailable(opened)
      const rows = yield* opened.query("select repeat(chr(n % 26 + 97), 100000) as text from generate_series(1, 100) n")
      assert.isTrue(rows.every((row, n) => row["text"] === String.fromCharCode((n + 1) % 26 + 97).repeat(100_000)))
      const text = "ab→".repeat(1_000_000)
      assert.deepStrictEqual(yield* opened.query(`select length('${text}') as n`), [{ n: 3_000_000 }])
    })
  )

  const files: ReadonlyArray<readonly [what: string, query: (file: (name: string) => string) => string, RegExp]> = [
    ["an sslrootcert that is missing", (file) => `sslrootcert=${file("none")}`, /sslrootcert cannot be read: ENOENT/],
    ["an sslrootcert that is a directory", (file) => `sslrootcert=${file(".")}`, /sslrootcert cannot be read: EISDIR/],
    [
      "an sslrootcert without certificates",
      (file) => `sslrootcert=${file("nonsense")}`,
      /sslrootcert holds no certificate/
    ],
    [
      "an sslcrl without lists",
      (file) => `sslrootcert=${file("ca.crt")}&sslcrl=${file("nonsense")}`,
      /sslcrl holds no lists of revoked certificates/
    ],
    [
      "an sslcrl that is missing",
      (file) => `sslrootcert=${file("ca.crt")}&sslcrl=${file("none")}`,
      /sslcrl cannot be read: ENOENT/
    ],
    [
      "an sslcert that is missing",
      (file) => `sslcert=${file("none")}&sslkey=${file("client.key")}`,
      /sslcert cannot be read: ENOENT/
    ],
    [
      "an sslkey that is missing",
      (file) => `sslcert=${file("client.crt")}&sslkey=${file("none")}`,
      /sslkey cannot be read: ENOENT/
    ],
    [
      "an sslkey that is none",
      (file) => `sslcert=${file("client.crt")}&sslkey=${file("nonsense")}`,
      /sslkey holds no private key/
    ],
    [
      "an sslkey with a passphrase",
      (file) => `sslcert=${file("client.crt")}&sslkey=${file("locked.key")}`,
      /private key in PEM without a passphrase/
    ],
    [
      "an sslkey of another certificate",
      (file) => `sslcert=${file("client.crt")}&sslkey=${file("server.key")}`,
      /not that of the certificate of sslcert/
    ]
  ]
  for (const [what, query, message] of files) {
    test(
      `refuses ${what} when the layer is built`,
      Effect.suspend(() => Effect.map(refusal(url("localhost", query(file))), (said) => assert.match(said, message)))
    )
  }

  test(
    "and its companions are refused when the layer is built, as is a missing user",
    Effect.gen(function*() {
      assert.match(yield* refusal(url("localhost", "sslmode=no-verify")), /sslmode is not one of disable/)
      assert.match(yield* refusal(url("localhost", "nonsense=1")), /the parameter nonsense is not known/)
      assert.match(yield* refusal("postgres://localhost/db"), /names no user/)
    })
  )
})

describe("docs/connections.md", () => {
  const page = "docs/connections.md"

  test(
    "has examples that work, each at a real server",
    Effect.gen(function*() {
      const certificates = yield* Certificates.make
      const directory = yield* Effect.acquireRelease(
        Effect.sync(() => {
          const made = mkdtempSync(join(tmpdir(), "lull-socket-"))
          chmodSync(made, 0o777)
          return made
        }),
        (made) => Effect.sync(() => rmSync(made, { recursive: true }))
      )
      const server = yield* PostgresServer.make({
        files: certificates.server.files,
        configuration: { ...certificates.server.configuration, unix_socket_directories: directory }
      })
      for (const name of new Set(["app", userInfo().username])) {
        yield* server.execute(`create role ${name} superuser login`)
      }
      yield* server.execute("create database app owner app")
      for (const { code } of examplesOf(page, "sql")) {
        for (const statement of code.trim().split("\n")) yield* server.execute(statement)
      }
      const examples = textsOf(page)
      assert.lengthOf(examples, 7)
      for (const example of examples) {
        const url = example.trim()
          .replaceAll(/(?:db|standby)\.example(?::5432)?/g, `localhost:${server.port}`)
          .replaceAll("/etc/lull/ca", certificates.path("ca"))
          .replaceAll("/etc/lull/app", certificates.path("client"))
          .replace("%2Frun%2Fpostgresql", `${encodeURIComponent(directory)}:${server.port}`)
          .replace("host=/run/postgresql", `host=${directory}&port=${server.port}`)
        const database = yield* ask(url, "select current_database()::text as name")
        assert.deepStrictEqual(database, { name: "app" }, example)
      }
    })
  )

  it("names all parameters and modes", () => {
    const text = readPage(page)
    for (const name of supportedParameters) assert.include(text, `\`${name}\``)
    for (const mode of sslModes) assert.include(text, `\`${mode}\``)
  })
})

describe("lull serve", () => {
  const main = fileURLToPath(new URL("../../src/main.ts", import.meta.url))

  it("says in its last line what is wrong with the URL, and ends", () => {
    const cases: ReadonlyArray<readonly [url: string, line: RegExp]> = [
      ["postgres://u:hush@localhost/db?sslmode=no-verify", /^LULL_DATABASE_URL is wrong: .*one of disable, allow/],
      ["postgres://localhost/db", /names no user/],
      ["postgres://u:hush@localhost/db?sslrootcert=/nowhere/ca", /sslrootcert cannot be read: ENOENT/]
    ]
    for (const [url, line] of cases) {
      const { status, stderr } = spawnSync(process.execPath, [main, "serve"], {
        encoding: "utf8",
        env: { PATH: process.env["PATH"], LULL_LISTEN: "127.0.0.1:0", LULL_LOG_FILE: "none", LULL_DATABASE_URL: url }
      })
      assert.strictEqual(status, 64, stderr)
      assert.match(stderr.trim().split("\n").at(-1) ?? "", line)
      assert.notInclude(stderr, "hush")
    }
  }, 60_000)
})
