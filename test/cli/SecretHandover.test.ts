import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import * as SecretHandover from "../../src/cli/SecretHandover.ts"
import { secretSettings } from "../../src/Settings.ts"

describe("the secrets that a service does not keep in its environment", () => {
  it("are all the settings that are secret", () => {
    assert.sameMembers([...SecretHandover.secrets], [...secretSettings])
  })

  it("are those that are set, and of one line, and not too long for a pipe; and none the second time", () => {
    assert.deepStrictEqual(SecretHandover.namesToHand({ LULL_TOKEN: "a", LULL_PEER_TOKEN: "", PATH: "/bin" }), [
      "LULL_TOKEN",
      "LULL_PEER_TOKEN"
    ])
    assert.deepStrictEqual(SecretHandover.namesToHand({ LULL_TOKEN: "a\nb" }), [])
    assert.deepStrictEqual(SecretHandover.namesToHand({ LULL_TOKEN: "a".repeat(5_000) }), [])
    assert.deepStrictEqual(SecretHandover.namesToHand({ LULL_TOKEN: "a", [SecretHandover.handedBy]: "9" }), [])
  })

  it("pass a shell as they are, whatever is in them, and are gone from the environment", () => {
    const secrets = {
      LULL_TOKEN: "$(id) `id` \\$HOME \"'!*~ #=ä",
      LULL_PEER_TOKEN: "END",
      LULL_DATABASE_URL: "postgres://u:p%20$$@h/d?a=b\\"
    }
    const script = SecretHandover.script(Object.keys(secrets))
    const { stderr, stdout } = spawnSync("/bin/sh", ["-c", script, "lull", "sh", "-c", "env; echo ---; cat <&9"], {
      encoding: "utf8",
      env: { PATH: process.env["PATH"], KEPT: "yes", ...secrets }
    })
    assert.strictEqual(stderr, "")
    const [environment = "", handed = ""] = stdout.split("---\n")
    assert.include(environment, "KEPT=yes")
    assert.notInclude(environment, "LULL_TOKEN")
    assert.notInclude(environment, "LULL_PEER_TOKEN")
    assert.notInclude(environment, "LULL_DATABASE_URL")
    assert.deepStrictEqual(Object.fromEntries(SecretHandover.parse(handed)), secrets)
  })
})
