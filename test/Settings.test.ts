import { assert, describe, it } from "@effect/vitest"
import { Redacted, Result } from "effect"
import * as Settings from "../src/Settings.ts"

const read = (environment: Record<string, string>) => Settings.read((name) => environment[name])

describe("Settings", () => {
  it("have defaults", () => {
    const settings = Result.getOrThrow(read({}))
    assert.deepStrictEqual(settings.listen, { host: "127.0.0.1", port: 7070 })
    assert.isUndefined(settings.databaseUrl)
    assert.strictEqual(settings.workerSlots, 4)
    assert.isTrue(settings.databasePrepare)
  })

  it("are read", () => {
    const settings = Result.getOrThrow(read({
      LULL_DATABASE_URL: "postgres://u:p@a,b/db",
      LULL_LISTEN: "[::1]:80",
      LULL_WORKER_TAGS: "os=linux, size=a=b",
      LULL_DATABASE_PREPARE: "FALSE",
      LULL_LOG_FORMAT: "json",
      LULL_RELAY_MAP: `[{"id":1,"name":"europe","hosts":["relay.example:443"]}]`,
      LULL_SHUTDOWN_DEADLINE: "1.5 minutes"
    }))
    assert.strictEqual(settings.databaseUrl && Redacted.value(settings.databaseUrl), "postgres://u:p@a,b/db")
    assert.deepStrictEqual(settings.listen, { host: "::1", port: 80 })
    assert.deepStrictEqual(settings.workerTags, { os: "linux", size: "a=b" })
    assert.isFalse(settings.databasePrepare)
    assert.deepStrictEqual(settings.relayMap, [{ id: 1, name: "europe", hosts: ["relay.example:443"] }])
    assert.strictEqual(settings.logFormat, "json")
  })

  it("that are wrong are all named, each with what would be right, and without secrets", () => {
    const wrong = {
      LULL_DATABASE_URL: "postgres://u:hush@/db",
      LULL_LISTEN: "everywhere",
      LULL_WORKER_SLOTS: "-1",
      LULL_WORKER_TAGS: "linux",
      LULL_JOB_USER: "two words",
      LULL_LOG_LEVEL: "loud",
      LULL_LOG_FORMAT: "xml",
      LULL_TOKEN: "hush",
      LULL_SHUTDOWN_DEADLINE: "soon",
      LULL_DATABASE_PREPARE: "maybe",
      LULL_RELAY_MAP: `[{"name":"europe"}]`,
      LULL_DATABASE_CONNECTIONS: "0"
    }
    const result = read(wrong)
    assert.isTrue(Result.isFailure(result))
    if (Result.isSuccess(result)) return
    assert.strictEqual(result.failure.problems.length, Object.keys(wrong).length)
    for (const name of Object.keys(wrong)) {
      assert.isTrue(result.failure.problems.some((line) => line.startsWith(name)), name)
    }
    assert.notInclude(result.failure.message, "hush")
  })

  it("are told from names that only look like them", () => {
    const names = ["PATH", "LULL_LISTEN", "LULL_LISTEN_URL", "LULL_URL", "lull_token"]
    assert.deepStrictEqual(Settings.unknownSettings(names), ["LULL_LISTEN_URL"])
  })

  it("that Kubernetes or Docker set for a service named lull are not taken for misspelt ones", () => {
    const injected = [
      "LULL_SERVICE_HOST",
      "LULL_SERVICE_PORT",
      "LULL_SERVICE_PORT_HTTP",
      "LULL_PORT",
      "LULL_PORT_7070_TCP",
      "LULL_PORT_7070_TCP_PROTO",
      "LULL_PORT_7070_TCP_PORT",
      "LULL_PORT_7070_TCP_ADDR",
      "LULL_PORT_7070_UDP",
      "LULL_PORT_7070_TCP_START",
      "LULL_NAME",
      "LULL_ENV_NODE_VERSION",
      "LULL_POSTGRESQL_SERVICE_HOST",
      "LULL_POSTGRESQL_SERVICE_PORT_TCP_POSTGRESQL",
      "LULL_POSTGRESQL_PORT",
      "LULL_POSTGRESQL_PORT_5432_TCP_ADDR",
      "LULL_DB_PORT_5432_TCP",
      "LULL_DB_NAME",
      "LULL_DB_ENV_POSTGRES_PASSWORD"
    ]
    assert.deepStrictEqual(Settings.unknownSettings(injected), [])
    const misspelt = ["LULL_HOST", "LULL_LISTEN_PORT", "LULL_WORKER_NAME", "LULL_SERVICE"]
    assert.deepStrictEqual(Settings.unknownSettings([...injected, ...misspelt]), misspelt)
  })

  it("that are secret are never empty, as an empty one is one that is missing", () => {
    for (const name of ["LULL_DATABASE_URL", "LULL_DATABASE_LISTEN_URL", "LULL_TOKEN", "LULL_PEER_TOKEN"]) {
      for (const text of ["", " ", "\t", "\n"]) {
        const result = read({ [name]: text })
        assert.deepStrictEqual(Result.isFailure(result) && result.failure.problems, [
          `${name} is set, and empty: give it its value, or do not set it at all`
        ])
      }
    }
    const others = {
      LULL_LISTEN: "",
      LULL_WORKER_TAGS: " ",
      LULL_WORKER_SLOTS: "",
      LULL_LOG_FILE: "",
      LULL_DATA_DIR: " "
    }
    assert.deepStrictEqual(read(others), read({}))
  })

  it("let nobody listen off the loopback without a token", () => {
    assert.isTrue(Result.isFailure(read({ LULL_LISTEN: "0.0.0.0:7070" })))
    assert.isTrue(Result.isSuccess(read({ LULL_LISTEN: "0.0.0.0:7070", LULL_TOKEN: "0123456789abcdef" })))
    assert.isTrue(Result.isSuccess(read({ LULL_LISTEN: "127.1.2.3:7070" })))
    assert.isTrue(Result.isFailure(read({ LULL_LISTEN: "127.evil.example:7070" })))
  })

  it("let nobody be public without a token", () => {
    const token = { LULL_TOKEN: "0123456789abcdef" }
    for (
      const url of [
        "https://lull.example",
        "https://127.lull.example",
        "http://127.0.0.1:8080,https://lull.example",
        "https://10.0.0.1/lull"
      ]
    ) {
      const result = read({ LULL_PUBLIC_URL: url })
      assert.deepStrictEqual(Result.isFailure(result) && result.failure.problems, [
        `LULL_PUBLIC_URL=${JSON.stringify(url)} is not on the loopback: set LULL_TOKEN, as the API runs commands`
      ])
      assert.isTrue(Result.isSuccess(read({ LULL_PUBLIC_URL: url, ...token })))
    }
    for (const url of ["http://localhost:8080/lull", "https://127.0.0.1,https://[::1]:8443", ""]) {
      assert.isTrue(Result.isSuccess(read({ LULL_PUBLIC_URL: url })), url)
    }
  })

  it("of proxies are read, and what is none is named with what would be right", () => {
    const settings = Result.getOrThrow(read({
      LULL_PUBLIC_URL: "http://localhost:8080/lull/",
      LULL_TRUSTED_PROXIES: "127.0.0.1, fd00::/8"
    }))
    assert.deepStrictEqual(settings.publicUrl, {
      origins: ["http://localhost:8080"],
      hosts: ["localhost:8080"],
      prefix: "/lull"
    })
    assert.deepStrictEqual(settings.trustedProxies, ["127.0.0.1", "fd00::/8"])
    const secret = read({ LULL_PUBLIC_URL: "https://user:hu/sh@lull.example" })
    assert.isTrue(Result.isFailure(secret) && !/hu|sh@/.test(secret.failure.message))
    const wrong = read({ LULL_PUBLIC_URL: "lull.example", LULL_TRUSTED_PROXIES: "nginx" })
    assert.deepStrictEqual(
      Result.isFailure(wrong) && wrong.failure.problems.map((line) => /^(.*) is wrong: it should be /.exec(line)?.[1]),
      ["LULL_PUBLIC_URL=\"lull.example\"", "LULL_TRUSTED_PROXIES=\"nginx\""]
    )
  })

  it("are all described", () => {
    const help = Settings.describeSettings()
    for (const name of ["LULL_DATABASE_URL", "LULL_TOKEN", "LULL_WORKER_SLOTS"]) assert.include(help, name)
  })
})
