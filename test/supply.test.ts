import { assert, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { problemsOf } from "../scripts/supply/lock.ts"
import { readAudit, readSignatures } from "../scripts/supply/registry.ts"
import { root } from "./support/documents.ts"

const read = (file: string): unknown => JSON.parse(readFileSync(join(root, file), "utf8"))

const integrity = `sha512-${"a".repeat(86)}==`
const good = { version: "1.0.0", resolved: "https://registry.npmjs.org/a/-/a-1.0.0.tgz", integrity, license: "MIT" }

const problems = (entry: object, allowScripts: Readonly<Record<string, boolean>> = {}) =>
  problemsOf({ lockfileVersion: 3, packages: { "": {}, "node_modules/a": entry } }, { allowScripts })

describe("the lock", () => {
  for (const folder of ["", "scripts/bench/peers"]) {
    it(`of ${folder === "" ? "the project" : folder} has a hash, a source and a known licence of each package`, () => {
      assert.deepStrictEqual(
        problemsOf(read(join(folder, "package-lock.json")), read(join(folder, "package.json"))),
        []
      )
    })
  }

  const rows: ReadonlyArray<readonly [what: string, entry: object, problem: RegExp]> = [
    ["without a hash", { ...good, integrity: undefined }, /no SHA-512 hash/],
    ["under a weak hash", { ...good, integrity: "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=" }, /no SHA-512 hash/],
    [
      "from another registry",
      { ...good, resolved: "https://registry.example/a.tgz" },
      /comes from https:\/\/registry\.example/
    ],
    ["from a repository", { ...good, resolved: "git+ssh://git@github.com/a/a.git#1" }, /comes from git/],
    ["from a folder", { resolved: "../a", link: true }, /a link to a folder/],
    ["that pretends to be of another platform", { version: "1.0.0", optional: true, os: ["linux"] }, /no SHA-512 hash/],
    ["of this platform that nobody has seen", {
      optional: true,
      os: ["linux"],
      cpu: ["x64"],
      libc: ["glibc"]
    }, /no SHA-512 hash/],
    ["without a licence", { ...good, license: undefined }, /the licence none/],
    ["under a licence that is not known", { ...good, license: "AGPL-3.0" }, /the licence AGPL-3\.0/],
    ["under one more licence that is not known", { ...good, license: "MIT AND GPL-3.0" }, /the licence MIT AND/],
    ["with a script of which nothing was decided", { ...good, hasInstallScript: true }, /a script for its installation/]
  ]
  for (const [what, entry, problem] of rows) {
    it(`may have no package ${what}`, () => {
      const given: unknown = JSON.parse(JSON.stringify(entry))
      assert.match(problems(given as object).join("\n"), problem)
    })
  }

  it("may have a package with a choice of licences, and with a script that was decided on", () => {
    assert.deepStrictEqual(problems({ ...good, license: "(GPL-3.0 OR MIT)" }), [])
    assert.deepStrictEqual(problems({ ...good, hasInstallScript: true }, { a: false }), [])
  })

  it("may have a package of another platform that the registry did not offer, and one without an address", () => {
    assert.deepStrictEqual(problems({ version: "1.0.0", optional: true, os: ["aix"] }), [])
    assert.deepStrictEqual(problems({ version: "1.0.0", optional: true, os: ["linux"], libc: ["musl"] }), [])
    assert.deepStrictEqual(problems({ version: "1.0.0", integrity, license: "MIT" }), [])
  })
})

describe("what the registry says", () => {
  const audit = (severity?: string) =>
    readAudit({
      status: 1,
      output: JSON.stringify({ vulnerabilities: severity === undefined ? {} : { a: { severity } } })
    })

  it("of vulnerabilities counts from moderate on, and is shown", () => {
    assert.deepStrictEqual(audit(), { isWrong: false, text: "none is known" })
    assert.deepStrictEqual(audit("low"), { isWrong: false, text: "a (low)" })
    for (const level of ["moderate", "high", "critical"]) {
      assert.deepStrictEqual(audit(level), { isWrong: true, text: `a (${level})` })
    }
  })

  it("of signatures counts if one is wrong or missing", () => {
    const one = [{ name: "a", version: "1.0.0" }]
    const signatures = (invalid: object, missing: object) =>
      readSignatures({ status: 0, output: JSON.stringify({ invalid, missing }) })
    assert.isFalse(signatures([], []).isWrong)
    assert.strictEqual(signatures(one, []).text, "wrong: a@1.0.0; missing: none")
    assert.isTrue(signatures(one, []).isWrong && signatures([], one).isWrong)
  })

  it("is no failure where it does not answer, and is said", () => {
    for (const read of [readAudit, readSignatures]) {
      const { isWrong, text } = read({ status: 1, output: "{\"error\":{\"code\":\"ENOTFOUND\"}}" })
      assert.isFalse(isWrong)
      assert.match(text, /^not checked, as the registry did not answer: .*ENOTFOUND/)
    }
  })
})
