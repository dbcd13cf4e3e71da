import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { pbkdf2Sync } from "node:crypto"
import * as Authentication from "../../src/database/Authentication.ts"
import { parse } from "../../src/database/ConnectionUrl.ts"
import * as Scram from "../../src/database/Scram.ts"

const channels = {
  clear: { isEncrypted: false, isVerified: false, endPoint: undefined },
  tls: { isEncrypted: true, isVerified: false, endPoint: Buffer.from("hash") },
  verified: { isEncrypted: true, isVerified: true, endPoint: Buffer.from("hash") },
  hashless: { isEncrypted: true, isVerified: false, endPoint: undefined }
} as const

const usual: Authentication.Policy = { requireAuth: undefined, channelBinding: "prefer" }

const policy = (query: string): Authentication.Policy =>
  Result.getOrThrow(parse(`postgres://u:p@h/d?${query}`)).login ?? usual

const login = (query: string, channel: keyof typeof channels): Authentication.Login => ({
  policy: policy(query),
  user: "u",
  password: "hush",
  channel: channels[channel],
  nonce: "nonce"
})

const request = (kind: number, data = "") => Buffer.concat([Buffer.from([0, 0, 0, kind]), Buffer.from(data, "latin1")])
const sasl = (...mechanisms: ReadonlyArray<string>) => request(10, [...mechanisms, "", ""].join("\0").slice(0, -1))
const plus = sasl("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256")

const said = (step: Authentication.Step) =>
  step._tag === "Reply"
    ? Buffer.from(step.bytes).toString("latin1").slice(5)
    : step._tag === "Refuse"
    ? `refused: ${step.problem}`
    : step._tag

const first = (request: Uint8Array, query: string, channel: keyof typeof channels) =>
  said(Authentication.advance(Authentication.begun, request, login(query, channel)))

describe("a login", () => {
  it("gives the password in clear only to a verified server, or where it is asked to", () => {
    const cleartext = request(3)
    for (const channel of ["clear", "tls", "hashless"] as const) {
      assert.match(first(cleartext, "", channel), /^refused: .*in clear.*require_auth=password/, channel)
      assert.match(first(cleartext, "require_auth=!md5", channel), /^refused: .*in clear/, channel)
      assert.strictEqual(first(cleartext, "require_auth=password", channel), "hush\0", channel)
      assert.strictEqual(first(cleartext, "require_auth=scram-sha-256,password", channel), "hush\0", channel)
    }
    assert.strictEqual(first(cleartext, "", "verified"), "hush\0")
    assert.match(first(cleartext, "require_auth=!password", "verified"), /^refused: /)
  })

  it("is bound to TLS where the server offers it, and says that it could be where it does not", () => {
    const scram = sasl("SCRAM-SHA-256")
    const header = (text: string) => text.slice(0, text.indexOf("n=,"))
    assert.match(header(first(plus, "", "tls")), /^SCRAM-SHA-256-PLUS\0.{4}p=tls-server-end-point,,$/s)
    assert.match(header(first(scram, "", "tls")), /^SCRAM-SHA-256\0.{4}y,,$/s)
    assert.match(header(first(plus, "channel_binding=disable", "tls")), /^SCRAM-SHA-256\0.{4}n,,$/s)
    assert.match(header(first(plus, "", "hashless")), /^SCRAM-SHA-256\0.{4}n,,$/s)
    assert.match(header(first(scram, "", "clear")), /^SCRAM-SHA-256\0.{4}n,,$/s)
  })

  it("that has to be bound to TLS is refused where it cannot be", () => {
    const query = "sslmode=require&channel_binding=require"
    assert.match(first(plus, query, "clear"), /no TLS/)
    assert.match(first(sasl("SCRAM-SHA-256"), query, "tls"), /does not offer it/)
    assert.match(first(plus, query, "hashless"), /names no hash/)
    for (const kind of [0, 3, 5]) {
      assert.match(
        first(request(kind, kind === 5 ? "salt" : ""), query, "verified"),
        /^refused: .*channel_binding=require/
      )
    }
    const only = sasl("SCRAM-SHA-256-PLUS")
    assert.match(first(only, "channel_binding=disable", "tls"), /channel_binding=disable/)
  })

  it("is over only when the server has proven that it knows the password", () => {
    const mine = login("", "tls")
    const greeted = Authentication.advance(Authentication.begun, plus, mine)
    assert.ok(greeted._tag === "Reply")
    const challenged = Authentication.advance(greeted.next, request(11, "r=noncemore,s=c2FsdA==,i=4"), mine)
    assert.ok(challenged._tag === "Derive")
    const salted = pbkdf2Sync("hush", challenged.challenge.salt, 4, Scram.saltedLength, "sha256")
    const proof = Scram.prove(challenged.challenge, salted)
    const claimed = challenged.then(salted)
    assert.ok(claimed._tag === "Reply")
    assert.strictEqual(said(claimed), proof.clientFinal)
    assert.match(said(Authentication.advance(claimed.next, request(0), mine)), /^refused: .*without a proof/)
    const signature = Buffer.from(proof.serverSignature).toString("base64")
    const proven = Authentication.advance(claimed.next, request(12, `v=${signature}`), mine)
    assert.ok(proven._tag === "Go")
    assert.strictEqual(Authentication.advance(proven.next, request(0), mine)._tag, "Done")
    for (const wrong of ["", "v=", "v=AAAA", `v=${signature},m=x`, "e=other-error", `v=${signature.slice(4)}`]) {
      assert.match(
        said(Authentication.advance(claimed.next, request(12, wrong), mine)),
        /^refused: .*not proven/,
        wrong
      )
    }
  })

  it("refuses every request out of its order, and what it does not know", () => {
    const requests = [request(3), request(5, "salt"), plus, request(11, "x"), request(12, "x")]
    const answered: Authentication.State = { _tag: "Answered", method: "md5" }
    for (const each of requests) assert.match(said(Authentication.advance(answered, each, login("", "tls"))), /order/)
    for (const kind of [1, 2, 4, 6, 7, 8, 9, 13, 255]) assert.match(first(request(kind), "", "tls"), /Lull cannot do/)
    for (const broken of [Buffer.of(), Buffer.of(0, 0, 0), request(5, "sal"), request(10)]) {
      assert.match(first(broken, "", "tls"), /^refused: /)
    }
  })

  // Of RFC 7677, but for the user's name, which PostgreSQL leaves out: computed with Python's hmac and hashlib.
  it("computes what others compute", () => {
    const mine: Scram.First = { nonce: "rOprNGfwEbeRWgbNEkqO", binding: { _tag: "None" } }
    const challenge = Scram.readChallenge(
      mine,
      "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    assert.ok(challenge !== undefined)
    const proof = Scram.prove(challenge, pbkdf2Sync("pencil", challenge.salt, 4_096, 32, "sha256"))
    assert.strictEqual(
      proof.clientFinal,
      "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=qvT2SWdEH5Q06albL+hjSYuUhCG7VndFyzIb7CK4n9k="
    )
    assert.strictEqual(
      Buffer.from(proof.serverSignature).toString("base64"),
      "3HO6Qt1M4MKJrmlKaoOqLAI0/0TV0HZe7J9H3MBtSOg="
    )
  })
})
