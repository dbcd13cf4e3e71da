import { assert, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import { createHash, X509Certificate } from "node:crypto"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { certificateHash } from "../../src/database/certificateHash.ts"

const certificate = (parameters: ReadonlyArray<string>) => {
  const directory = mkdtempSync(join(tmpdir(), "lull-certificate-"))
  try {
    const common = ["req", "-x509", "-nodes", "-keyout", "key", "-out", "crt", "-days", "2", "-subj", "/CN=x"]
    execFileSync("openssl", [...common, ...parameters], { cwd: directory, stdio: ["ignore", "ignore", "pipe"] })
    return new X509Certificate(readFileSync(join(directory, "crt"))).raw
  } finally {
    rmSync(directory, { recursive: true })
  }
}

const ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
const rsa = ["-newkey", "rsa:2048"]
const pss = [...rsa, "-sigopt", "rsa_padding_mode:pss"]

describe("the hash of a certificate", () => {
  const rows: ReadonlyArray<readonly [what: string, parameters: ReadonlyArray<string>, hash: string]> = [
    ["ECDSA with SHA-256", [...ec, "-sha256"], "sha256"],
    ["ECDSA with SHA-384", [...ec, "-sha384"], "sha384"],
    ["ECDSA with SHA-512", [...ec, "-sha512"], "sha512"],
    ["RSA with SHA-256", [...rsa, "-sha256"], "sha256"],
    ["RSA with SHA-512", [...rsa, "-sha512"], "sha512"],
    ["RSA with SHA-1, which is replaced", [...rsa, "-sha1"], "sha256"],
    ["RSASSA-PSS with SHA-384", [...pss, "-sha384"], "sha384"]
  ]
  for (const [what, parameters, hash] of rows) {
    it(`is by the algorithm of its signature: ${what}`, () => {
      const raw = certificate(parameters)
      assert.deepStrictEqual(certificateHash(raw), createHash(hash).update(raw).digest())
    })
  }

  it("is none where the signature has no hash of its own", () => {
    assert.isUndefined(certificateHash(certificate(["-newkey", "ed25519"])))
  })

  it("is none of what is no certificate", () => {
    const raw = certificate([...ec, "-sha256"])
    for (let length = 0; length < 40; length++) assert.isUndefined(certificateHash(raw.subarray(0, length)))
    assert.isUndefined(certificateHash(Buffer.from("HTTP/1.1 400 Bad Request")))
  })
})
