/** Certificates that `openssl` makes for a test: two authorities, a server's, a client's. In a directory that the scope removes. */
import { Effect } from "effect"
import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

export const make = Effect.gen(function*() {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "lull-certificates-"))),
    (made) => Effect.sync(() => rmSync(made, { recursive: true, force: true }))
  )
  const path = (name: string) => join(directory, name)
  const openssl = (...parameters: ReadonlyArray<string>) =>
    execFileSync("openssl", parameters, { cwd: directory, stdio: ["ignore", "ignore", "pipe"] })
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
  const authority = (name: string) =>
    openssl(
      "req",
      "-x509",
      ...newKey,
      "-keyout",
      `${name}.key`,
      "-out",
      `${name}.crt`,
      "-days",
      "2",
      "-subj",
      `/CN=${name}`
    )
  const signed = (name: string, subject: string, names?: string) => {
    openssl("req", ...newKey, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=${subject}`)
    writeFileSync(path(`${name}.ext`), names === undefined ? "" : `subjectAltName = ${names}\n`)
    const issuer = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
    openssl(
      "x509",
      "-req",
      "-in",
      `${name}.csr`,
      "-out",
      `${name}.crt`,
      ...issuer,
      "-days",
      "2",
      "-extfile",
      `${name}.ext`
    )
  }
  yield* Effect.sync(() => {
    authority("ca")
    authority("other-ca")
    signed("server", "localhost", "DNS:localhost")
    signed("client", "app")
    openssl("pkey", "-in", "client.key", "-aes256", "-passout", "pass:hush", "-out", "locked.key")
    writeFileSync(path("nonsense"), "hush\n")
    writeFileSync(path("index"), "")
    writeFileSync(
      path("ca.cnf"),
      "[ca]\ndefault_ca=own\n[own]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=2\n"
    )
    const asAuthority = ["ca", "-config", "ca.cnf", "-cert", "ca.crt", "-keyfile", "ca.key"]
    openssl(...asAuthority, "-gencrl", "-out", "none-revoked.crl")
    const asOther = ["ca", "-config", "ca.cnf", "-cert", "other-ca.crt", "-keyfile", "other-ca.key"]
    openssl(...asOther, "-gencrl", "-out", "other.crl")
    openssl(...asAuthority, "-revoke", "server.crt")
    openssl(...asAuthority, "-gencrl", "-out", "server-revoked.crl")
  })
  const read = (name: string) => readFileSync(path(name), "utf8")
  return {
    path,
    /** What `PostgresServer.make` needs to offer TLS. */
    server: {
      configuration: { ssl: "on", ssl_ca_file: "root.crt" },
      files: { "server.key": read("server.key"), "server.crt": read("server.crt"), "root.crt": read("ca.crt") }
    }
  }
})

export type Certificates = Effect.Success<typeof make>
