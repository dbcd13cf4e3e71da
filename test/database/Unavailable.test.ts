import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import {
  AuthenticationError,
  ConnectionError,
  DeadlockError,
  SqlError,
  type SqlErrorReason,
  SqlSyntaxError,
  UniqueViolation,
  UnknownError
} from "effect/sql/SqlError"
import { NoAnswer } from "../../src/database/Deadline.ts"
import { MigrationFailed, SchemaBlocked } from "../../src/database/Migrations.ts"
import { SchemaDamaged, SchemaForbidden, SchemaTooNew } from "../../src/database/SchemaState.ts"
import * as Unavailable from "../../src/database/Unavailable.ts"

const failure = (code: string | undefined, message = "…") =>
  Object.assign(new Error(message), code === undefined ? {} : { code })
const unknown = (code: string, message?: string) => new UnknownError({ cause: failure(code, message) })
const connection = (code: string | undefined, message?: string) =>
  new ConnectionError({ cause: failure(code, message), message: message ?? "PgConnection: Failed to connect" })

const table: ReadonlyArray<readonly [what: string, reason: SqlErrorReason, expected: Unavailable.Reason | undefined]> =
  [
    ["connection refused", connection("ECONNREFUSED"), "Unreachable"],
    ["connection reset", connection("ECONNRESET"), "Unreachable"],
    ["broken pipe", connection("EPIPE"), "Unreachable"],
    ["connect timed out in the kernel", connection("ETIMEDOUT"), "Unreachable"],
    ["no route", connection("EHOSTUNREACH"), "Unreachable"],
    ["name not found", connection("ENOTFOUND"), "Unreachable"],
    ["resolver away", connection("EAI_AGAIN"), "Unreachable"],
    ["closed without a word", connection(undefined, "Connection closed"), "Unreachable"],
    ["no answer on a socket", connection(Unavailable.noAnswerCode), "Hung"],
    ["connect timed out in the driver", connection(undefined, "PgConnection: Connection timed out"), "Hung"],
    ["certificate expired", connection("CERT_HAS_EXPIRED"), "Misconfigured"],
    ["certificate self-signed", connection("DEPTH_ZERO_SELF_SIGNED_CERT"), "Misconfigured"],
    ["certificate for another name", connection("ERR_TLS_CERT_ALTNAME_INVALID"), "Misconfigured"],
    ["a TLS error without a row of its own", connection("ERR_SSL_SOMETHING_NEW"), "Misconfigured"],
    ["the server has no TLS", connection(undefined, "PgConnection: Server refused TLS"), "Misconfigured"],
    ["08006 connection failure", connection("08006"), "Unreachable"],
    ["08P01 protocol violation", connection("08P01"), "Misconfigured"],
    ["25006 read-only", unknown("25006"), "ReadOnly"],
    ["25P03 idle in transaction", unknown("25P03"), "Unreachable"],
    ["28P01 wrong password", new AuthenticationError({ cause: failure("28P01") }), "Misconfigured"],
    ["28000 no entry in pg_hba.conf", new AuthenticationError({ cause: failure("28000") }), "Misconfigured"],
    ["password needed and none given", new AuthenticationError({ cause: failure(undefined) }), "Misconfigured"],
    ["3D000 no such database", unknown("3D000"), "Misconfigured"],
    ["3F000 no such schema", unknown("3F000"), "SchemaMissing"],
    ["42P01 no such table", new SqlSyntaxError({ cause: failure("42P01") }), "SchemaMissing"],
    ["53100 disk full", unknown("53100"), "Full"],
    ["53200 out of memory", unknown("53200"), "Full"],
    ["53300 too many connections", unknown("53300"), "Refusing"],
    ["57P01 shutdown by an administrator", unknown("57P01"), "Refusing"],
    ["57P02 crash of another backend", unknown("57P02"), "Refusing"],
    ["57P03 starting up", unknown("57P03"), "Refusing"],
    ["57P04 database dropped", unknown("57P04"), "Misconfigured"],
    ["57P05 idle session", unknown("57P05"), "Unreachable"],
    ["58030 I/O error", unknown("58030"), "Refusing"],
    ["58P01 file lost", unknown("58P01"), "Refusing"],
    ["23505 unique violation", new UniqueViolation({ cause: failure("23505"), constraint: "c" }), undefined],
    ["40P01 deadlock", new DeadlockError({ cause: failure("40P01") }), undefined],
    ["42601 syntax error", new SqlSyntaxError({ cause: failure("42601") }), undefined],
    ["57014 statement canceled", unknown("57014"), undefined],
    ["22P02 bad text", unknown("22P02"), undefined],
    ["XX000 internal error", unknown("XX000"), undefined]
  ]

describe("Unavailable", () => {
  for (const [what, reason, expected] of table) {
    it(`takes ${what} for ${expected ?? "a failure of the statement"}`, () => {
      assert.strictEqual(Unavailable.classify(new SqlError({ reason }))?.reason, expected)
    })
  }

  it("takes a deadline that passed for a hang", () => {
    assert.strictEqual(Unavailable.classify(new NoAnswer({ within: Duration.seconds(5) }))?.reason, "Hung")
  })

  it("knows what is wrong with Lull's own tables, whatever the server said to it", () => {
    const cause = new SqlError({ reason: unknown("42P07", "already exists") })
    const reasons = [
      new SchemaTooNew({ schema: 3, known: 2 }),
      new SchemaDamaged({ problem: "…" }),
      new SchemaForbidden({ role: "app", problem: "…" }),
      new MigrationFailed({ migration: "…", sqlState: "42P07", detail: "already exists", cause }),
      new SchemaBlocked({ from: 1, to: 2, blockers: "…" })
    ].map((error) => Unavailable.classify(error)?.reason)
    assert.deepStrictEqual(reasons, ["Misconfigured", "Misconfigured", "Misconfigured", "Misconfigured", "Refusing"])
  })

  it("passes on the server's own words, not the driver's", () => {
    const error = new SqlError({ reason: unknown("53300", "sorry, too many clients already") })
    assert.deepStrictEqual(Unavailable.describe(error), { code: "53300", detail: "sorry, too many clients already" })
  })

  it("knows what was certainly not done: refused connections and refused statements", () => {
    const certain = (reason: SqlErrorReason) =>
      Unavailable.isCertainlyNotDone(Unavailable.classify(new SqlError({ reason }))!)
    for (const code of ["25006", "53100", "53300", "57P03", "3D000", "42P01"]) {
      assert.isTrue(certain(unknown(code)), code)
    }
    assert.isTrue(certain(connection("ECONNREFUSED")))
    for (const code of ["57P01", "58030"]) assert.isFalse(certain(unknown(code)), code)
    assert.isFalse(certain(connection("ECONNRESET")))
    assert.isFalse(certain(connection(Unavailable.noAnswerCode)))
  })

  it("makes nothing of what is no error of a database", () => {
    for (const value of [undefined, null, "text", 42, new Error("boom"), { code: 7 }]) {
      assert.isUndefined(Unavailable.classify(value))
    }
  })
})
