import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { pbkdf2Sync } from "node:crypto"
import { Duplex } from "node:stream"
import { answerLogin, LoginRefused } from "../../src/database/answerLogin.ts"
import * as Scram from "../../src/database/Scram.ts"
import { clear } from "../../src/database/TlsStream.ts"
import * as LoginServer from "../support/LoginServer.ts"

const { cleartext, error, md5, notice, ok, ready, sasl, saslContinue, saslFinal } = LoginServer.says

const joined = (...parts: ReadonlyArray<Uint8Array>) => Buffer.concat(parts)

/** A stream with a server at its other end, and a driver that reads it. */
const connect = (password?: string) => {
  const written: Array<Uint8Array> = []
  const read: Array<Uint8Array> = []
  const errors: Array<unknown> = []
  const stream = new Duplex({
    read: () => {},
    write: (chunk: Uint8Array, _, done) => {
      written.push(chunk)
      done()
    }
  })
  answerLogin(stream, {
    policy: { requireAuth: undefined, channelBinding: "prefer" },
    user: "u",
    password: password === undefined ? undefined : Redacted.make(password),
    channel: () => clear
  })
  stream.on("data", (chunk: Uint8Array) => read.push(chunk)).on("error", (failed) => errors.push(failed))
  const send = async (bytes: Uint8Array, size: number) => {
    for (let at = 0; at < bytes.length; at += size) {
      stream.push(bytes.subarray(at, at + size))
      await Effect.runPromise(Effect.yieldNow)
    }
    // PBKDF2 is another thread's.
    for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve))
  }
  return {
    stream,
    send,
    errors,
    written: () => Buffer.concat(written).toString("latin1"),
    read: () => Buffer.concat(read),
    until: async (isSo: () => boolean) => {
      while (!isSo()) await new Promise((resolve) => setImmediate(resolve))
    }
  }
}

describe("a stream on which a login is answered", () => {
  for (const size of [1, 3, 1_000]) {
    it(`passes on all but the requests, in pieces of ${size} bytes`, async () => {
      const other = connect("hush")
      await other.send(joined(notice("hello"), sasl("SCRAM-SHA-256")), size)
      const nonce = /n=,r=(\S+)$/.exec(other.written())?.[1] ?? ""
      const serverFirst = `r=${nonce}x,s=c2FsdA==,i=2`
      await other.send(saslContinue(serverFirst), size)
      await other.until(() => other.written().includes(",p="))
      const challenge = Scram.readChallenge({ nonce, binding: { _tag: "None" } }, serverFirst)
      assert.ok(challenge !== undefined)
      const proof = Scram.prove(challenge, pbkdf2Sync("hush", "salt", 2, Scram.saltedLength, "sha256"))
      assert.include(other.written(), proof.clientFinal)
      const signature = Buffer.from(proof.serverSignature).toString("base64")
      const rest = joined(ok, ready, Buffer.from("R\0\0\0\x08\0\0\0\x03", "latin1"))
      await other.send(joined(saslFinal(`v=${signature}`), rest), size)
      assert.deepStrictEqual(other.read(), joined(notice("hello"), rest))
      assert.deepStrictEqual(other.errors, [])
    })
  }

  it("passes on the server's error, and asks for nothing after it", async () => {
    const other = connect("hush")
    await other.send(joined(md5, error("28P01", "password authentication failed")), 7)
    assert.match(other.written(), /^p\0\0\0\x28md5[0-9a-f]{32}\0$/)
    assert.deepStrictEqual(other.read(), error("28P01", "password authentication failed"))
  })

  it("ends with the refusal, and passes on nothing that came after it", async () => {
    for (
      const [bytes, words] of [
        [joined(notice("hello"), cleartext, ok, ready), /in clear/],
        [joined(notice("hello"), ready), /not PostgreSQL/]
      ] as const
    ) {
      const other = connect("hush")
      await other.send(bytes, 1_000)
      assert.strictEqual(other.written(), "")
      assert.notInclude(other.read().toString("latin1"), ready.toString())
      const [refused] = other.errors
      assert.instanceOf(refused, LoginRefused)
      assert.match(String(refused), words)
      assert.isTrue(other.stream.destroyed)
    }
  })

  it("says that there is no password before it begins with one", async () => {
    const other = connect()
    await other.send(sasl("SCRAM-SHA-256"), 1_000)
    assert.strictEqual(other.written(), "")
    assert.match(String(other.errors[0]), /asks for a password \(SCRAM-SHA-256\), and the URL has none/)
  })
})
