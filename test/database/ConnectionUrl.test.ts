import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import { describeDatabase } from "../../src/cli/greeting.ts"
import { parse } from "../../src/database/ConnectionUrl.ts"
import * as Redaction from "../../src/logging/Redaction.ts"
import * as Settings from "../../src/Settings.ts"

const read = (text: string) => Result.getOrThrow(parse(text))
const hosts = (text: string) => read(text).addresses.map(({ host, port }) => `${host} ${port}`)
const problem = (text: string) => {
  const result = parse(text)
  assert.isTrue(Result.isFailure(result), text)
  return Result.isFailure(result) ? result.failure.message : ""
}

describe("ConnectionUrl", () => {
  it("reads all parts of a URL", () => {
    assert.deepStrictEqual(
      read(
        "postgres://us%40er:p%3Ass%2Fw%25@db.example:6543/my%20app?sslmode=verify-full&sslrootcert=%2Fca.pem&sslcert=c.pem" +
          "&sslkey=k.pem&application_name=shop+1&options=-c%20search_path%3Dx&connect_timeout=7&target_session_attrs=read-write"
      ),
      {
        addresses: [{ host: "db.example", port: 6543, isSocket: false }],
        user: "us@er",
        password: "p:ss/w%",
        database: "my app",
        sslMode: "verify-full",
        sslRootCert: "/ca.pem",
        sslCert: "c.pem",
        sslKey: "k.pem",
        applicationName: "shop+1",
        options: "-c search_path=x",
        connectTimeoutSeconds: 7
      }
    )
  })

  const lists: ReadonlyArray<readonly [what: string, url: string, hosts: ReadonlyArray<string>]> = [
    ["several hosts", "postgresql://u@a:1,b,[::1]:3/app", ["a 1", "b 5432", "::1 3"]],
    ["an IPv6 address with a zone", "postgres://u@[fe80::1%25eth0]:1/app", ["fe80::1%eth0 1"]],
    ["hosts as a parameter", "postgres://u@/app?host=a,b&port=1,2", ["a 1", "b 2"]],
    ["one port for all hosts", "postgres://u@/app?host=a,::1,%2Frun&port=7", ["a 7", "::1 7", "/run 7"]],
    ["an empty port", "postgres://u@a:,b:2/app", ["a 5432", "b 2"]],
    ["a host without a database", "postgres://u@a", ["a 5432"]],
    ["parameters right after the host", "postgres://u@a?sslmode=disable", ["a 5432"]],
    ["a Unix socket as a parameter", "postgres://u@/app?host=/run/postgresql", ["/run/postgresql 5432"]],
    ["a Unix socket as the host", "postgres://u@%2Frun%2Fpostgresql:6/app", ["/run/postgresql 6"]],
    ["a port beside a Unix socket", "postgres://u@:6/app?host=/run/postgresql", ["/run/postgresql 6"]],
    ["several Unix sockets", "postgres://u@%2Fa,%2Fb:2,h/app", ["/a 5432", "/b 2", "h 5432"]],
    ["an abstract Unix socket", "postgres://u@/app?host=@lull", ["@lull 5432"]],
    ["names of other scripts", "postgres://u@b\u00fccher.example,\u6570\u636e_1/app", [
      "b\u00fccher.example 5432",
      "\u6570\u636e_1 5432"
    ]],
    ["white space around the URL", " postgres://u@a/app\n", ["a 5432"]]
  ]
  for (const [what, url, expected] of lists) {
    it(`reads ${what}`, () => assert.deepStrictEqual(hosts(url), expected))
  }

  it("reads a login as libpq does, whose password may hold characters that end a host", () => {
    const { password, user } = read("postgres://u:p?a#b:c,d@h/db")
    assert.deepStrictEqual([user, password], ["u", "p?a#b:c,d"])
  })

  it("takes parameters before the same parts of the URL, and the last of several", () => {
    const { addresses, database, password, user } = read(
      "postgres://a:b@c:1/d?user=e&password=f&host=g&dbname=x&dbname=h&port=2"
    )
    assert.deepStrictEqual([user, password, database], ["e", "f", "h"])
    assert.deepStrictEqual(addresses, [{ host: "g", port: 2, isSocket: false }])
  })

  it("leaves out what is empty", () => {
    const { applicationName, database, password, user } = read("postgres://:@/?host=/run/postgresql&application_name=")
    assert.deepStrictEqual([user, password, database, applicationName], [undefined, undefined, undefined, undefined])
  })

  it("asks for a user, but for Unix sockets, where the account is known", () => {
    assert.isUndefined(read("postgres:///?host=/run/postgresql").user)
    for (const text of ["postgres://h/d", "postgres://:p@h/d", "postgres://%2Frun%2Fpostgresql,h/d"]) {
      assert.match(problem(text), /names no user/)
    }
  })

  it("takes the mode of TLS from sslmode, and prefers it without", () => {
    assert.strictEqual(read("postgres://u@h/d").sslMode, "prefer")
    for (const mode of ["disable", "allow", "prefer", "require", "verify-full"] as const) {
      assert.strictEqual(read(`postgres://u@h/d?sslmode=${mode}`).sslMode, mode)
    }
    assert.strictEqual(read("postgres://u@h/d?sslmode=verify-ca&sslrootcert=ca").sslMode, "verify-ca")
    assert.strictEqual(read("postgres://u@h/d?sslrootcert=system").sslMode, "verify-full")
    assert.strictEqual(read("postgres://u@h/d?ssl=true").sslMode, "require")
    assert.strictEqual(read("postgres://u@h/d?ssl=true&sslmode=verify-full").sslMode, "verify-full")
  })

  it("takes a connect_timeout of 0 or less as none", () => {
    assert.isUndefined(read("postgres://u@h/d?connect_timeout=0").connectTimeoutSeconds)
    assert.isUndefined(read("postgres://u@h/d?connect_timeout=-1").connectTimeoutSeconds)
  })

  it("takes every target that has a server which takes writes", () => {
    for (const attributes of ["any", "read-write", "primary"]) {
      read(`postgres://u@h/d?target_session_attrs=${attributes}`)
    }
  })

  it("takes what the server may ask for from require_auth and channel_binding", () => {
    const login = (query: string) => {
      const { channelBinding, requireAuth } = read(`postgres://u@h/d?${query}`).login ?? {}
      return [channelBinding, requireAuth && [...requireAuth.allowed].join(" ")]
    }
    assert.isUndefined(read("postgres://u@h/d?require_auth=").login)
    assert.deepStrictEqual(login("channel_binding=require"), ["require", undefined])
    assert.deepStrictEqual(login("require_auth=scram-sha-256"), ["prefer", "scram-sha-256"])
    assert.deepStrictEqual(login("require_auth=none,md5"), ["prefer", "none md5"])
    assert.deepStrictEqual(login("require_auth=!password,!md5,!gss"), ["prefer", "none scram-sha-256"])
  })

  it("takes how TLS is made from its parameters", () => {
    const parameters = "sslmode=require&sslnegotiation=direct&sslsni=0&ssl_min_protocol_version=TLSv1.2" +
      "&ssl_max_protocol_version=TLSv1.3&sslcertmode=disable&sslcert=c&sslkey=k"
    const { isDirect, isWithoutName, maxVersion, minVersion, sslCert, sslKey } = read(`postgres://u@h/d?${parameters}`)
    assert.deepStrictEqual([isDirect, isWithoutName, minVersion, maxVersion], [true, true, "TLSv1.2", "TLSv1.3"])
    assert.deepStrictEqual([sslCert, sslKey], [undefined, undefined])
  })

  it("takes values that say what is done anyway", () => {
    const idle = "gssencmode=disable&sslnegotiation=postgres&sslsni=1&sslcompression=0&load_balance_hosts=disable" +
      "&sslcertmode=allow&keepalives=1&client_encoding=utf8&channel_binding=prefer"
    assert.deepStrictEqual(hosts(`postgres://u@h/d?${idle}`), ["h 5432"])
  })

  const refused: ReadonlyArray<readonly [url: string, problem: RegExp]> = [
    ["", /does not start with postgres:\/\//],
    ["mysql://u@h/db", /does not start with postgres:\/\//],
    ["h:5432/db", /does not start with postgres:\/\//],
    ["postgres://u:hush@/db", /names no host: use localhost, or host=\/run\/postgresql/],
    ["postgres:///db", /names no host/],
    ["postgres://u:hush@h:0/db", /the port of host 1 is not a number from 1 to 65535/],
    ["postgres://u:hush@h:99999/db", /the port of host 1 is not/],
    ["postgres://u:hush@a,b:x/db", /the port of host 2 is not/],
    ["postgres://u:hush@a,,b/db", /host 2 is empty/],
    ["postgres://u:hush@a b/db", /host 1 is neither a name/],
    ["postgres://u:hush@a%1b%5Bb/db", /host 1 is neither a name/],
    ["postgres://u:hush@%2Frun%0A/db", /host 1 is neither a name/],
    ["postgres://u:hush@::1/db", /IPv6 address stands in \[\]/],
    ["postgres://u:hush@[a]/db", /no IPv6 address in its \[\]/],
    ["postgres://u:p@hush@h/db", /%40/],
    ["postgres://u:p/hush@h/db", /%2F/],
    ["postgres://u:1/hush@h/db", /in a user or password \/ is written %2F/],
    ["postgres://u:p@x?hush=1@h/db", /a parameter/],
    ["postgres://u:p@x?hush@h/db", /a parameter has no value/],
    ["postgres://u:hu%sh@h/db", /the password has a %/],
    ["postgres://u:hush%00@h/db", /the password has a %00/],
    ["postgres://u@h/db?sslmod=hush", /the parameter sslmod is not known: there are host, port/],
    ["postgres://u@h/db?channel_binding=hush", /channel_binding is not one of disable, prefer, require$/],
    ["postgres://u@h/db?hostaddr=1.2.3.4", /the parameter hostaddr is not supported/],
    ["postgres://u@h/db?sslmode", /the parameter sslmode has no value/],
    ["postgres://u@h/db?options=a=hush", /the parameter options has an = too many/],
    ["postgres://u@h/db?&", /a parameter has no value/],
    ["postgres://u@h/db?sslmode=no-verify", /one of disable, allow, prefer, require, verify-ca, verify-full/],
    ["postgres://u@h/db?sslmode=REQUIRE", /one of disable.*: write sslmode=require/],
    ["postgres://u@h/db?sslmode=Verify-Full", /write sslmode=verify-full/],
    ["postgres://u@h/db?SSLMODE=require", /the parameter SSLMODE is not known: write sslmode, in lower case/],
    ["postgres://u@h/db?sslRootCert=hush", /the parameter sslRootCert is not known: write sslrootcert/],
    ["postgres://u@h/db?Channel_Binding=require", /write channel_binding, in lower case/],
    ["postgres://u@h/db?channel_binding=Require", /write channel_binding=require/],
    ["postgres://u@h/db?channel_binding=", /channel_binding is not one of/],
    ["postgres://u@h/db?channel_binding=require&sslmode=disable", /binds the login to TLS, and there is none/],
    ["postgres://u@/db?host=/run/postgresql&channel_binding=require", /binds the login to TLS, and there is none/],
    ["postgres://u@h/db?require_auth=SCRAM-SHA-256", /write require_auth=scram-sha-256/],
    ["postgres://u@h/db?require_auth=scram", /require_auth is not one of none, password, md5, scram-sha-256$/],
    ["postgres://u@h/db?require_auth=md5,", /require_auth is not one of/],
    ["postgres://u@h/db?require_auth=md5,md5", /names a method twice/],
    ["postgres://u@h/db?require_auth=md5,!none", /with and without !/],
    ["postgres://u@h/db?require_auth=!none,!password,!md5,!scram-sha-256", /excludes every method/],
    ["postgres://u@h/db?require_auth=gss", /require_auth=gss is not supported/],
    ["postgres://u@h/db?require_auth=scram-sha-256,sspi", /require_auth=sspi is not supported/],
    ["postgres://u@h/db?require_auth=oauth", /require_auth=oauth is not supported/],
    ["postgres://u@h/db?sslnegotiation=direct", /sslnegotiation=direct needs sslmode=require/],
    ["postgres://u@h/db?sslnegotiation=Direct&sslmode=require", /write sslnegotiation=direct/],
    ["postgres://u@/db?host=/run&sslmode=require&sslnegotiation=direct", /none on a Unix socket/],
    ["postgres://u@h/db?ssl_min_protocol_version=TLSv1", /ssl_min_protocol_version is not one of TLSv1.2, TLSv1.3/],
    ["postgres://u@h/db?ssl_max_protocol_version=tlsv1.2", /write ssl_max_protocol_version=TLSv1.2/],
    [
      "postgres://u@h/db?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
      /no version is left/
    ],
    ["postgres://u@h/db?sslcertmode=require", /sslcertmode=require is not supported: let the server require/],
    ["postgres://u@h/db?sslcertmode=Allow", /write sslcertmode=allow/],
    ["postgres://u@h/db?sslsni=true", /sslsni is not one of 1, 0/],
    ["postgres://u@h/db?gssencmode=require", /the parameter gssencmode is not supported with this value: .*sslmode/],
    ["postgres://u@h/db?gssencmode=DISABLE", /use gssencmode=disable/],
    ["postgres://u@h/db?load_balance_hosts=random", /load_balance_hosts is not supported with this value/],
    ["postgres://u@h/db?krbsrvname=hush", /the parameter krbsrvname is not supported: Lull does not speak GSSAPI/],
    ["postgres://u@h/db?sslcrl=hush", /sslcrl needs sslrootcert/],
    ["postgres://u@h/db?sslcrldir=hush", /the parameter sslcrldir is not supported: use sslcrl/],
    ["postgres://u@h/db?requirepeer=hush", /the parameter requirepeer is not supported: .*use a directory/],
    ["postgres://u@h/db?passfile=hush", /the parameter passfile is not supported: .*write into the URL/],
    ["postgres://u@h/db?service=hush", /the parameter service is not supported: .*write into the URL/],
    ["postgres://u@h/db?sslpassword=hush", /the parameter sslpassword is not supported: .*without a passphrase/],
    ["postgres://u@h/db?sslcompression=1", /the parameter sslcompression is not supported/],
    ["postgres://u@h/db?sslkeylogfile=hush", /the parameter sslkeylogfile is not supported/],
    ["postgres://u@h/db?scram_client_key=hush", /scram_client_key is not supported: use password/],
    ["postgres://u@h/db?requiressl=1", /use sslmode=require/],
    ["postgres://u@h/db?target_session_attrs=Primary", /write target_session_attrs=primary/],
    ["postgres://h/db?user=u&password=a&hush=1", /a parameter is not known/],
    ["postgres://h/db?user=u&password=a&hush", /a parameter has no value/],
    ["postgres://h/db?user=u&password=a@hush", /the parameters have an @/],
    ["postgres://h?user=u&password=a@hush", /before the first @ is a \? with a =/],
    ["postgres://h:5432?user=u&password=a@hush", /before the first @ is a \? with a =/],
    ["postgres://u:p@hush?dbname=x@h/db", /the parameters have an @/],
    ["postgres://u@h/db&password=hush", /the database has a =/],
    ["postgres://u@h/password=hush", /the database has a =/],
    ["postgres://u@h&password=hush/db", /the host has a =/],
    ["postgres://user=u&password=hush@h/db", /the user has a =/],
    ["postgres://u:p@h&hush/db", /host 1 is neither a name/],
    ["postgres://u:p@h%3Dhush/db", /host 1 is neither a name/],
    ["postgres://u:p@/hush?host=@h/db", /the parameters have an @/],
    ["postgres://u@h/db?sslmode=", /one of disable/],
    ["postgres://u@h/db?ssl=1", /ssl has only the value true/],
    ["postgres://u@h/db?sslmode=verify-ca", /verify-ca needs sslrootcert/],
    ["postgres://u@h/db?sslmode=require&sslrootcert=system", /sslrootcert=system is for sslmode=verify-full/],
    ["postgres://u@h/db?sslcert=c", /sslcert needs sslkey/],
    ["postgres://u@h/db?sslkey=k", /sslkey needs sslcert/],
    ["postgres://u@h/db?connect_timeout=1.5", /whole number of seconds/],
    ["postgres://u@h/db?connect_timeout=9999999", /up to 3600/],
    ["postgres://u@/db?host=a,b&port=1,2,3", /2 hosts and 3 ports/],
    ["postgres://u@a:1,b:2/db?host=a,b,c", /3 hosts and 2 ports/],
    [`postgres://u@/db?host=/${"x".repeat(100)}`, /path of more than 107 bytes/],
    [
      "postgres://u@h/db?target_session_attrs=standby",
      /target_session_attrs=standby asks for a server that takes no writes/
    ],
    ["postgres://u@h/db?target_session_attrs=prefer-standby", /takes no writes/],
    ["postgres://u@h/db?target_session_attrs=read-only", /takes no writes/],
    ["postgres://u@h/db?target_session_attrs=hush", /not one of any, read-write, primary/]
  ]
  for (const [url, expected] of refused) {
    it(`refuses ${JSON.stringify(url)}, and keeps the password to itself`, () => {
      const message = problem(url)
      assert.match(message, expected)
      assert.notInclude(message, "hush")
    })
  }

  /** What nobody may see of a login, and all that makes nonsense of a URL where it is not percent-encoded. */
  const secrets = ["hush", "shh"]
  const pieces = [..."@/:#?%&=,;[] +\\\"'", ...secrets, "%40", "12", "?a=", "@/", "x"]
  const Pieces = Schema.Array(Schema.Literals(pieces)).check(Schema.isMaxLength(8))
  const places: ReadonlyArray<(secret: string) => string> = [
    (secret) => `postgres://app:${secret}@db.example/app`,
    (secret) => `postgres://app:${secret}@db.example:5432,other.example/app?sslmode=require`,
    (secret) => `postgres://app:${secret}@[::1]:5432/app`,
    (secret) => `postgres://app:${secret}@/app?host=db.example`,
    (secret) => `postgres://app@db.example/app?password=${secret}`,
    (secret) => `postgres://app@db.example/app?password=${secret}&sslmode=disable`,
    (secret) => `postgres://db.example/app?user=app&password=${secret}`,
    (secret) => `postgres://db.example?user=app&password=${secret}`,
    (secret) => `postgres://db.example:5432?password=${secret}&user=app`
  ]
  const known = new Set(["db.example", "other.example", "::1"])

  it.prop(
    "shows nothing of a password, however it is written, and looks for none of it as a host",
    [Pieces, Pieces],
    ([before, after]) => {
      for (const place of places) {
        const url = place([...before, "hush", ...after].join(""))
        const parsed = parse(url)
        const shown = [describeDatabase(url)]
        if (Result.isFailure(parsed)) {
          shown.push(parsed.failure.message, JSON.stringify(parsed.failure))
          for (const name of ["LULL_DATABASE_URL", "LULL_DATABASE_LISTEN_URL"]) {
            const settings = Settings.read((each) => each === name ? url : undefined)
            assert.ok(Result.isFailure(settings))
            assert.match(settings.failure.message, new RegExp(`^${name} is wrong`))
            shown.push(settings.failure.message)
          }
        } else {
          const { password: _, ...others } = parsed.success
          shown.push(JSON.stringify(others))
          for (const { host } of parsed.success.addresses) assert.isTrue(known.has(host), url)
        }
        for (const secret of secrets) for (const text of shown) assert.notInclude(text, secret, url)
      }
    },
    { arbitrary: { runs: 1_000 } }
  )

  it.prop(
    "that names a user with such characters has the hosts that it should, or is refused without the user",
    [Pieces],
    ([parts]) => {
      for (const rest of ["@db.example/app", ":pass@db.example/app"]) {
        const url = `postgres://${["hush", ...parts].join("")}${rest}`
        const parsed = parse(url)
        if (Result.isFailure(parsed)) assert.notInclude(parsed.failure.message, "hush", url)
        else assert.deepStrictEqual(hosts(url), ["db.example 5432"], url)
      }
    },
    { arbitrary: { runs: 1_000 } }
  )

  it.prop(
    "in another program's words loses its login on the way to a log",
    [Pieces],
    ([parts]) => {
      const word = ["hush", ...parts].join("").replaceAll(/[\s"']/g, "")
      const text = Redaction.make().text(`invalid connection string: postgres://app:${word}@db.example/app`)
      assert.strictEqual(text, "invalid connection string: postgres://<redacted>@db.example/app")
    },
    { arbitrary: { runs: 1_000 } }
  )
})
