import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import {
  AuthenticationError,
  ConnectionError,
  DeadlockError,
  SerializationError,
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
    ["40P01 deadlock", new DeadlockError({ cause: failure("40P01") }), "Locked"],
    ["40001 conflict", new SerializationError({ cause: failure("40001") }), "Locked"],
    ["42601 syntax error", new SqlSyntaxError({ cause: failure("42601") }), undefined],
    ["55P03 lock not available", unknown("55P03"), "Locked"],
    ["57014 statement timeout", unknown("57014"), "Slow"],
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

  it("says no more of what a server said than fits a line, and no secret of it", () => {
    const said = (message: string, code = "XX000") => {
      const error = new SqlError({ reason: unknown(code, message) })
      const judged = Unavailable.judge(error, false)
      return [Unavailable.describe(error).detail, judged.detail, Unavailable.classify(error)?.detail ?? ""]
    }
    for (const detail of [...said("x".repeat(10_000_000)), ...said("x".repeat(10_000_000), "57P01")]) {
      assert.isAtMost(detail.length, 2_000)
    }
    for (const detail of said("no route to postgres://app:hush@db/lull, password=hush", "57P01")) {
      assert.strictEqual(detail, "no route to postgres://<redacted>@db/lull, password=<redacted>")
    }
    assert.isAtMost((Unavailable.describe(failure("4".repeat(10_000))).code ?? "").length, 64)
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

  const severe = (code: string, severity: string, operation = "query") =>
    new SqlError({
      reason: new UnknownError({
        cause: Object.assign(failure(code), { severity: "TÖDLICH", severityUnlocalized: severity }),
        operation
      })
    })
  const judged = (error: unknown, wasTimeout = false) => {
    const { _tag: tag, ...found } = Unavailable.judge(error, wasTimeout)
    return "reason" in found ? [tag, found.reason] : "kind" in found ? [tag, found.kind, found.trouble] : [tag]
  }

  it("tells a connection that could not be made from one that was lost and from a statement that failed", () => {
    for (const code of ["53300", "28P01", "57P03", "3D000", "08P01", "ECONNREFUSED"]) {
      assert.strictEqual(judged(severe(code, "FATAL", "connect"))[0], "NoConnection", code)
    }
    for (const code of ["57P01", "57P02", "08006", "XX000", "53200"]) {
      assert.strictEqual(judged(severe(code, "FATAL"))[0], "Lost", code)
    }
    assert.deepStrictEqual(judged(new SqlError({ reason: connection("ECONNRESET") })), ["Lost", "Unreachable"])
    assert.deepStrictEqual(judged(new SqlError({ reason: connection(Unavailable.noAnswerCode) })), ["Lost", "Hung"])
    // A foreign server's lost connection, a value too few, and a limit of the session are errors of statements.
    for (const code of ["08001", "08006", "08P01"]) assert.strictEqual(judged(severe(code, "ERROR"))[0], "Statement")
    assert.deepStrictEqual(judged(severe("25P03", "FATAL")), ["Statement", "passing", "Slow"])
  })

  const ofStatements: ReadonlyArray<
    readonly [codes: string, kind: Unavailable.FailureKind, trouble: Unavailable.Reason | undefined]
  > = [
    ["21000 22P02 22003 23505 23P01 27000 44000 54000 54023", "data", undefined],
    ["0B000 25001 25P01 25P02 2D000 3B001 40001 40P01 40003", "passing", undefined],
    ["42P01 42703 42883 42704 3F000", "statement", "SchemaMissing"],
    ["42501", "statement", "Misconfigured"],
    ["42601 0A000 26000 34000", "statement", "Failing"],
    ["28000 3D000", "passing", "Misconfigured"],
    ["25006", "passing", "ReadOnly"],
    ["53100 53200 53000", "passing", "Full"],
    ["53300 57P01 58030 58P01", "passing", "Refusing"],
    ["53400 55000 55006 72000 F0000 HV000 P0001 XX000 XX001 39000 2F000 24000", "passing", "Failing"],
    ["55P03", "passing", "Locked"],
    ["25P04 57P05", "passing", "Slow"],
    ["08001", "passing", "Unreachable"]
  ]
  for (const [codes, kind, trouble] of ofStatements) {
    it(`takes ${codes} of a statement of Lull's for ${trouble ?? "nothing that the next one would meet"}`, () => {
      for (const code of codes.split(" ")) {
        const found = judged(severe(code, "ERROR"))
        assert.strictEqual(found[2], trouble, code)
        assert.strictEqual(found[1], kind, code)
      }
    })
  }

  it("tells a statement that took too long from one that somebody canceled, in any language", () => {
    const canceled = (message: string) => new SqlError({ reason: unknown("57014", message) })
    assert.deepStrictEqual(judged(canceled("canceling statement due to statement timeout"))[2], "Slow")
    assert.deepStrictEqual(judged(canceled("canceling statement due to user request"))[2], undefined)
    assert.deepStrictEqual(judged(canceled("breche Anfrage ab"), true)[2], "Slow")
    assert.deepStrictEqual(judged(canceled("breche Anfrage ab"), false)[2], undefined)
  })

  it("says of a COMMIT that the driver refused that it may succeed another time", () => {
    const error = new SqlError({ reason: new UnknownError({ cause: failure(undefined), operation: "commit" }) })
    assert.deepStrictEqual(judged(error), ["Statement", "passing", undefined])
  })

  it("makes nothing of what is no error of a database", () => {
    for (const value of [undefined, null, "text", 42, new Error("boom"), { code: 7 }]) {
      assert.isUndefined(Unavailable.classify(value))
    }
  })
})
