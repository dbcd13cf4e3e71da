import { assert, describe, it } from "@effect/vitest"
import { Redacted, Result } from "effect"
import { execFileSync } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import * as SecretFile from "../src/SecretFile.ts"
import * as Settings from "../src/Settings.ts"

const oldToken = "old-token-0123456789"
const newToken = "new-token-0123456789"

const files: Readonly<Record<string, string>> = {
  "/run/token": `${newToken}\n`,
  "/run/two": `${newToken}\n${oldToken}\n`,
  "/run/windows": `${newToken}\r\n\r\n${oldToken}\r\n`,
  "/run/three": `${newToken}\n${oldToken}\nthird-token-0123456\n`,
  "/run/short": "hush\n",
  "/run/blanks": "hush hush hush hush hush\n",
  "/run/empty": "",
  "/run/newline": " \n\n",
  "/run/url": "postgres://u:hush@a,b/db\n",
  "/run/urls": "postgres://u:hush@a/db\npostgres://u:hush@b/db\n",
  "/run/nonsense": "postgres://u:hush@/db\n"
}

const read = (environment: Record<string, string>) =>
  Settings.read(
    (name) => environment[name],
    (path) => path in files ? Result.succeed(files[path] ?? "") : Result.fail("there is no such file")
  )

const problems = (environment: Record<string, string>) => {
  const result = read(environment)
  return Result.isFailure(result) ? result.failure.problems : []
}

const tokens = (environment: Record<string, string>) => {
  const { token } = Result.getOrThrow(read(environment))
  return token && Redacted.value(token)
}

describe("secrets", () => {
  it("are in files, without the end of their last line", () => {
    assert.deepStrictEqual(tokens({ LULL_TOKEN_FILE: "/run/token" }), [newToken])
    const { databaseListenUrl, databaseUrl, peerToken, tokenFiles } = Result.getOrThrow(read({
      LULL_DATABASE_URL_FILE: "/run/url",
      LULL_DATABASE_LISTEN_URL_FILE: "/run/url",
      LULL_PEER_TOKEN_FILE: "/run/token"
    }))
    for (const url of [databaseUrl, databaseListenUrl]) {
      assert.strictEqual(url && Redacted.value(url), "postgres://u:hush@a,b/db")
    }
    assert.deepStrictEqual(peerToken && Redacted.value(peerToken), [newToken])
    assert.deepStrictEqual(tokenFiles, { token: undefined, peerToken: "/run/token" })
  })

  it("may be two tokens, each on a line of its file, or separated by a comma", () => {
    const both = [newToken, oldToken] as const
    assert.deepStrictEqual(tokens({ LULL_TOKEN_FILE: "/run/two" }), both)
    assert.deepStrictEqual(tokens({ LULL_TOKEN_FILE: "/run/windows" }), both)
    assert.deepStrictEqual(tokens({ LULL_TOKEN: `${newToken},${oldToken}` }), both)
  })

  it("are not in both places, not unreadable, and not empty", () => {
    for (
      const [environment, problem] of [
        [
          { LULL_TOKEN: newToken, LULL_TOKEN_FILE: "/run/token" },
          "LULL_TOKEN and LULL_TOKEN_FILE are both set: it should be one of them"
        ],
        [
          { LULL_DATABASE_URL: "postgres://u:hush@a/db", LULL_DATABASE_URL_FILE: "/run/url" },
          "LULL_DATABASE_URL and LULL_DATABASE_URL_FILE are both set: it should be one of them"
        ],
        [
          { LULL_PEER_TOKEN_FILE: "/run/gone" },
          "LULL_PEER_TOKEN_FILE=\"/run/gone\" cannot be read: there is no such file"
        ],
        [
          { LULL_TOKEN_FILE: "/run/empty" },
          "LULL_TOKEN_FILE=\"/run/empty\" is an empty file: write the value of LULL_TOKEN into it"
        ],
        [
          { LULL_DATABASE_URL_FILE: "/run/newline" },
          "LULL_DATABASE_URL_FILE=\"/run/newline\" is an empty file: write the value of LULL_DATABASE_URL into it"
        ],
        [
          { LULL_TOKEN_FILE: " " },
          "LULL_TOKEN_FILE is set, and empty: give it its value, or do not set it at all"
        ],
        [
          { LULL_DATABASE_URL_FILE: "/run/urls" },
          "LULL_DATABASE_URL_FILE=\"/run/urls\" has more than one line: it should have LULL_DATABASE_URL alone"
        ]
      ] as ReadonlyArray<readonly [Record<string, string>, string]>
    ) {
      assert.deepStrictEqual(problems(environment), [problem])
    }
  })

  it("that are wrong are never shown", () => {
    for (
      const environment of [
        { LULL_TOKEN_FILE: "/run/short" },
        { LULL_TOKEN_FILE: "/run/blanks" },
        { LULL_TOKEN_FILE: "/run/three" },
        { LULL_PEER_TOKEN_FILE: "/run/short" },
        { LULL_DATABASE_URL_FILE: "/run/nonsense" },
        { LULL_DATABASE_LISTEN_URL_FILE: "/run/nonsense" },
        { LULL_TOKEN: `${newToken},hush` },
        { LULL_TOKEN: `${newToken},` },
        { LULL_TOKEN: `${newToken}, ${oldToken}` },
        { LULL_TOKEN: `${newToken}\n` },
        { LULL_TOKEN: `${newToken},${oldToken},third-token-0123456` }
      ]
    ) {
      const [problem = "", ...others] = problems(environment)
      assert.deepStrictEqual(others, [])
      assert.match(problem, /^LULL_\w+(="[^"]*")? is wrong: it should be /)
      assert.notMatch(problem, /hush|token-0123/)
    }
  })

  it("of which the file is named are settings that there are, and are in the help", () => {
    const names = ["LULL_TOKEN_FILE", "LULL_PEER_TOKEN_FILE", "LULL_DATABASE_URL_FILE", "LULL_DATABASE_LISTEN_URL_FILE"]
    assert.deepStrictEqual(Settings.unknownSettings([...names, "LULL_LISTEN_FILE"]), ["LULL_LISTEN_FILE"])
    for (const name of names) assert.include(Settings.describeSettings(), name)
  })

  it("in a file open the API beyond the loopback, and nothing less does", () => {
    assert.deepStrictEqual(problems({ LULL_LISTEN: "0.0.0.0:7070", LULL_TOKEN_FILE: "/run/token" }), [])
    assert.notDeepEqual(problems({ LULL_LISTEN: "0.0.0.0:7070", LULL_TOKEN_FILE: "/run/empty" }), [])
  })
})

describe("a file with a secret", () => {
  const directory = mkdtempSync(join(tmpdir(), "lull-secrets-"))
  const path = (name: string) => join(directory, name)
  afterAll(() => rmSync(directory, { recursive: true, force: true }))

  it("is read, also through a link", () => {
    writeFileSync(path("secret"), "hush\n")
    symlinkSync("secret", path("link"))
    assert.deepStrictEqual(SecretFile.read(path("link")), Result.succeed("hush\n"))
  })

  it("is an ordinary one of moderate size, and what else there is is said in words at once", () => {
    mkdirSync(path("directory"))
    execFileSync("mkfifo", [path("pipe")])
    symlinkSync("circle", path("circle"))
    writeFileSync(path("large"), Buffer.alloc(100_000, "x"))
    for (
      const [name, reason] of [
        ["gone", "there is no such file"],
        ["secret/below", "there is no such file"],
        ["directory", "it is a directory"],
        ["pipe", "it is no ordinary file"],
        ["circle", "its links lead in a circle"],
        ["large", "it has more than 65536 bytes"]
      ] as const
    ) {
      assert.deepStrictEqual(SecretFile.read(path(name)), Result.fail(reason))
    }
    assert.deepStrictEqual(SecretFile.read("/dev/zero"), Result.fail("it is no ordinary file"))
    assert.isTrue(Result.isFailure(SecretFile.read("a\0b")))
  })
})
