import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import { everything, make, missing, withLess } from "../../src/database/SessionSettings.ts"

const settings = (options?: string) => make(Duration.seconds(5), options)
const refusal = (code: string, message: string) => Object.assign(new Error(message), { code })

describe("SessionSettings", () => {
  it("let the server answer before the deadline, so that the two do not race", () => {
    assert.deepStrictEqual(settings(), {
      lock_timeout: "2000ms",
      statement_timeout: "4000ms",
      idle_in_transaction_session_timeout: "10000ms",
      enable_seqscan: "off",
      jit: "off",
      tcp_keepalives_idle: "10",
      tcp_keepalives_interval: "5",
      tcp_keepalives_count: "3",
      tcp_user_timeout: "30s"
    })
  })

  for (
    const [options, name] of [
      ["-c statement_timeout=0", "statement_timeout"],
      ["-cstatement_timeout=0", "statement_timeout"],
      ["-c geqo=off --statement-timeout=1min", "statement_timeout"],
      ["-c JIT=on", "jit"]
    ] as const
  ) {
    it(`leave ${name} to the options ${options}`, () => assert.notProperty(settings(options), name))
  }

  it("do not take a name within another for theirs", () => {
    assert.deepStrictEqual(settings("-c my.jit=1 -c jit_above_cost=3"), settings())
  })

  it("are left out where a pooler names one of them, and the options where it names those", () => {
    const cases: ReadonlyArray<readonly [code: string, text: string, less: Partial<typeof everything> | undefined]> = [
      ["08P01", "unsupported startup parameter: statement_timeout", { settings: false }],
      ["08P01", "unsupported startup parameter in options: jit", { settings: false }],
      ["08P01", "unsupported startup parameter: options", { options: false }],
      ["08P01", "unsupported startup parameter in options: search_path", { options: false }],
      ["0A000", "RDS Proxy currently doesn't support command-line options", { options: false }],
      ["42704", "unrecognized configuration parameter \"enable_seqscan\"", { settings: false }],
      ["42704", "unrecognized configuration parameter \"nosuch\"", undefined],
      ["08P01", "no such database: app", undefined],
      ["57014", "canceling statement due to statement_timeout", undefined],
      ["ECONNREFUSED", "connect ECONNREFUSED", undefined]
    ]
    for (const [code, text, less] of cases) {
      const expected = less === undefined ? undefined : { ...everything, ...less }
      assert.deepStrictEqual(withLess(refusal(code, text), everything, false), expected, text)
    }
    const without = { ...everything, settings: false }
    assert.isUndefined(withLess(refusal("08P01", "unsupported startup parameter: statement_timeout"), without, false))
  })

  it("go without TLS only where that is optional, and a certificate is not the reason", () => {
    const rejected = refusal(
      "28000",
      "no pg_hba.conf entry for host \"::1\", user \"u\", database \"d\", SSL encryption"
    )
    assert.deepStrictEqual(withLess(rejected, everything, true), { ...everything, tls: false })
    assert.isUndefined(withLess(rejected, everything, false))
    assert.isUndefined(withLess(rejected, { ...everything, tls: false }, true))
    assert.isDefined(withLess(refusal("ERR_SSL_UNSUPPORTED_PROTOCOL", "unsupported protocol"), everything, true))
    assert.isUndefined(withLess(refusal("28000", "role \"u\" does not exist"), everything, true))
    assert.isUndefined(withLess(refusal("SELF_SIGNED_CERT_IN_CHAIN", "self-signed certificate"), everything, true))
  })

  it("are missing where there is no limit at all, or another plan", () => {
    const actual = new Map<string, string | undefined>([
      ["statement_timeout", "1min"],
      ["lock_timeout", "1s"],
      ["idle_in_transaction_session_timeout", "0"],
      ["enable_seqscan", "on"]
    ])
    assert.deepStrictEqual(missing(settings(), actual), [
      "idle_in_transaction_session_timeout",
      "enable_seqscan",
      "jit"
    ])
  })
})
