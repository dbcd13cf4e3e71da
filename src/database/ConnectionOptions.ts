/**
 * From a URL to what a connection needs: one `Host` for each address, with its login, TLS and files, and of a host the options of
 * the driver. Whatever can be wrong with a URL is found here, when the service starts.
 */
import { Duration, Effect, Redacted } from "effect"
import { userInfo } from "node:os"
import type { Policy } from "./Authentication.ts"
import * as ConnectionUrl from "./ConnectionUrl.ts"
import * as Tls from "./Tls.ts"

export interface Host {
  /** For messages, and to tell servers apart that do not say who they are. */
  readonly name: string
  readonly host: string
  readonly port: number
  /** Of a Unix socket. */
  readonly path: string | undefined
  readonly tls: Tls.Tls | undefined
  readonly user: string
  readonly password: Redacted.Redacted<string> | undefined
  /** What the server may ask for. */
  readonly login: Policy
  readonly database: string
  readonly applicationName: string
  /** `options` of libpq: command-line options of the server's process. */
  readonly options: string | undefined
  /** How long one attempt to this host may take, if the URL says so. */
  readonly connectTimeout: Duration.Duration | undefined
}

export type Hosts = readonly [Host, ...ReadonlyArray<Host>]

export const resolve = Effect.fnUntraced(function*(url: Redacted.Redacted<string>) {
  const parsed = yield* Effect.fromResult(ConnectionUrl.parse(Redacted.value(url)))
  const trust = yield* Tls.readFiles(parsed)
  const user = parsed.user ?? (yield* systemUser)
  const make = (address: ConnectionUrl.Address): Host => ({
    name: ConnectionUrl.nameOf(address),
    host: address.host,
    port: address.port,
    path: address.isSocket ? ConnectionUrl.socketPath(address.host, address.port) : undefined,
    // Nobody is between the two ends of a Unix socket, and the server offers no TLS on it.
    tls: address.isSocket || trust === undefined ? undefined : Tls.make(parsed, address.host, trust),
    user,
    password: parsed.password === undefined ? undefined : Redacted.make(parsed.password),
    login: parsed.login ?? usualLogin,
    database: parsed.database ?? user,
    applicationName: parsed.applicationName ?? "lull",
    options: parsed.options,
    connectTimeout: parsed.connectTimeoutSeconds === undefined
      ? undefined
      : Duration.seconds(parsed.connectTimeoutSeconds)
  })
  const [first, ...others] = parsed.addresses
  const hosts: Hosts = [make(first), ...others.map(make)]
  return hosts
})

/** Whatever the server asks for, but that the password goes out in clear. */
const usualLogin: Policy = { requireAuth: undefined, channelBinding: "prefer" }

/** The name of the account that we run under, as libpq takes it. */
const systemUser = Effect.try({
  try: () => userInfo().username,
  catch: () =>
    new ConnectionUrl.InvalidDatabaseUrl({ problem: "it names no user, and the account of this process has no name" })
})

/** How long an attempt to connect may take: what the URL says, or else what is usual there. */
export const connectWithin = (host: Host, usual: Duration.Duration): Duration.Duration => host.connectTimeout ?? usual

/**
 * The driver's options for a host, but for those of its work. Nothing is left to the driver's own defaults, and it does not get
 * the password: `answerLogin` has it.
 */
export const forDriver = (host: Host, settings: Readonly<Record<string, string>>, takesOptions: boolean) => ({
  host: host.host,
  port: host.port,
  // The stream has agreed on TLS by itself.
  ssl: false,
  username: host.user,
  database: host.database,
  applicationName: host.applicationName,
  // The driver reads and writes UTF-8, whatever the role or the database would begin with.
  startupParameters: { client_encoding: "UTF8", ...settings },
  ...(takesOptions && host.options !== undefined ? { startupOptions: host.options } : {})
})
