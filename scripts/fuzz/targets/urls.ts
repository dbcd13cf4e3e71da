/**
 * Connection URLs: as they should be, as they are written by hand, and broken. Nothing is thrown, nothing of a password is shown,
 * and what is accepted means the same when its parts are written out.
 */
import { Result } from "effect"
import { describeDatabase } from "../../../src/cli/greeting.ts"
import { refusedParameters } from "../../../src/database/ConnectionParameters.ts"
import { type ConnectionUrl, nameOf, parse, supportedParameters } from "../../../src/database/ConnectionUrl.ts"
import type { Random } from "../Random.ts"
import { holds, type Target } from "../Target.ts"

/** In every password, and nowhere else. */
const secret = "hush"

const hosts = [
  "db.example",
  "10.0.0.1",
  "[::1]",
  "[fe80::1%25eth0]",
  "%2Frun%2Fpostgresql",
  "localhost",
  "a,b",
  "a:1,[::1]:2",
  ""
]
const values = [
  ...[
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
    "REQUIRE",
    "system",
    "/etc/ca.crt",
    "direct",
    "postgres"
  ],
  ...[
    "TLSv1.2",
    "TLSv1.3",
    "0",
    "1",
    "true",
    "md5",
    "!md5",
    "scram-sha-256,none",
    "gss",
    "any",
    "primary",
    "standby",
    "-5",
    "1e3",
    ""
  ],
  ...["/run/postgresql", "@lull", "a,b", "5432", "5432,5433", "65536", "%00", "%", "%2", "a=b", "UTF8"]
]
const specials = [..."@/:#?%&=,;[] +\\\"'\n\t\0", "%40", "%2F", "?a=", "@/", "//", "\u00e4", "\ud800", "x", "12"]
const names = [
  ...supportedParameters,
  ...Object.keys(refusedParameters),
  "ssl",
  "nonsense",
  "SSLMODE",
  "__proto__",
  "constructor"
]

const password = (random: Random) => {
  const some = () => random.several(4, () => random.pick(specials)).join("")
  return `${some()}${secret}${some()}`
}

/** As they should be. */
const right = [
  ...[
    "sslmode=require",
    "sslmode=verify-full",
    "sslrootcert=system",
    "channel_binding=prefer",
    "require_auth=!md5",
    "ssl=true"
  ],
  ...[
    "application_name=shop%201",
    "options=-c%20geqo%3Doff",
    "connect_timeout=7",
    "gssencmode=disable",
    "dbname=other"
  ],
  ...["target_session_attrs=primary", `password=${secret}`, "user=another"]
]

const parameters = (random: Random, isRight: boolean) =>
  random.several(
    4,
    () =>
      isRight ? random.pick(right) : `${random.pick(names)}=${random.oneIn(8) ? random.text(6) : random.pick(values)}`
  )

const login = (random: Random, isRight: boolean) => {
  if (random.oneIn(4)) return "app@"
  const user = random.pick(isRight ? ["app", "a%40b"] : ["app", "a%40b", ""])
  return `${user}:${isRight && random.oneIn(2) ? encodeURIComponent(secret) : password(random)}@`
}

const make = (random: Random): string => {
  // Half of them are right but for their password, so that what is accepted is looked at as often as what is refused.
  const isRight = random.oneIn(2)
  const query = parameters(random, isRight)
  const host = random.pick(isRight ? hosts.filter((each) => each !== "") : hosts)
  const port = host.includes(":1") ? "" : random.pick(isRight ? ["", ":5432"] : ["", ":5432", ":0", ":x"])
  const path = random.pick(["", "/", "/app", "/my%20app", "/a/b"])
  const place = `${host}${port}${path}${query.length === 0 ? "" : `?${query.join("&")}`}`
  const scheme = random.pick(["postgres://", "postgresql://"])
  return `${scheme}${login(random, isRight)}${random.oneIn(3) ? broken(place, random) : place}`
}

/** A character that is lost or added, or an end that is missing. */
const broken = (text: string, random: Random) => {
  const at = random.below(text.length + 1)
  return random.pick([
    text.slice(0, at) + text.slice(at + 1),
    `${text.slice(0, at)}${random.pick(specials)}${text.slice(at)}`,
    text.slice(0, at)
  ])
}

/** With everything percent-encoded, and as parameters where that is the other way. */
const written = ({ addresses, database, password: given, user }: ConnectionUrl) => {
  const parts = { user, password: given, dbname: database }
  const pairs = Object.entries(parts).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${encodeURIComponent(value)}`]
  )
  const list = (each: (address: ConnectionUrl["addresses"][number]) => unknown) =>
    encodeURIComponent(addresses.map(each).join(","))
  const place = [`host=${list(({ host }) => host)}`, `port=${list(({ port }) => port)}`]
  return `postgres:///?${[...place, ...pairs].join("&")}`
}

const wellFormed = /^[^\s/?#@:[\]\\]+$/

export const target: Target = {
  meaning: "connection URLs",
  open: async () => ({
    run: (random) => {
      const url = make(random)
      const parsed = parse(url)
      if (Result.isFailure(parsed)) {
        holds(!parsed.failure.message.includes(secret), `${JSON.stringify(url)}: ${parsed.failure.message}`)
        return
      }
      const { addresses, database, login: _, password: given, user } = parsed.success
      for (const address of addresses) {
        const { host, isSocket } = address
        holds(isSocket || host.includes(":") || wellFormed.test(host), `${JSON.stringify(url)} has the host ${host}`)
        holds(!nameOf(address).includes(secret), `${JSON.stringify(url)} has a host of its password`)
      }
      holds(!describeDatabase(url).includes(secret), `${JSON.stringify(url)} is shown as ${describeDatabase(url)}`)
      const isWritable = [database, user, given].every((part) => part?.isWellFormed() !== false) &&
        addresses.every(({ host }) => !host.includes(","))
      if (!isWritable) return
      const again = parse(written(parsed.success))
      const means = (each: ConnectionUrl) => JSON.stringify([each.addresses, each.user, each.password, each.database])
      holds(
        Result.isSuccess(again) && means(again.success) === means(parsed.success),
        `${JSON.stringify(url)} means something else when it is written out`
      )
    },
    check: async () => {},
    close: async () => {}
  })
}
