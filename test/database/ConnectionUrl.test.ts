import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { parse } from "../../src/database/ConnectionUrl.ts"

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
    ["postgres://u@h/db?channel_binding=hush", /the parameter channel_binding is not supported/],
    ["postgres://u@h/db?hostaddr=1.2.3.4", /the parameter hostaddr is not supported/],
    ["postgres://u@h/db?sslmode", /the parameter sslmode has no value/],
    ["postgres://u@h/db?options=a=hush", /the parameter options has an = too many/],
    ["postgres://u@h/db?&", /a parameter has no value/],
    ["postgres://u@h/db?sslmode=no-verify", /one of disable, allow, prefer, require, verify-ca, verify-full/],
    ["postgres://u@h/db?sslmode=REQUIRE", /one of disable/],
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
})
