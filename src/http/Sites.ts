/**
 * Which sites a request may be of: pure. The API runs commands, so a browser may bring it nothing but what comes from the
 * service's own address.
 *
 * - A foreign `Host`: a name that was made to point here, as in DNS rebinding.
 * - A foreign `Origin`: a page of another site.
 * - A foreign `Sec-Fetch-Site`: what a page loads without an `Origin`, as a picture or a frame. Also `same-site`: another port of
 *   the same host is another program.
 *
 * `X-Forwarded-Host` and the like are never looked at: anybody can send them.
 */
import { isIP } from "node:net"
import type { PublicUrl } from "./PublicUrl.ts"

export interface Options {
  /** Names under which it may be called. `undefined`: any, as it listens beyond the loopback, and asks for a token. */
  readonly hosts: ReadonlyArray<string> | undefined
  /** And any address: probes call by one, and only a name can be made to point somewhere else. */
  readonly takesAddresses?: boolean | undefined
  /** Those of the proxy before it. */
  readonly publicUrl?: PublicUrl | undefined
}

type Headers = Readonly<Record<string, string | undefined>>

/** Why it is refused; `undefined`: it is not. */
export const refuse = (headers: Headers, options: Options): string | undefined => {
  const host = (headers["host"] ?? "").toLowerCase()
  const name = nameOf(host)
  // A probe by HTTP/1.0 has none. Every browser has.
  const isNamed = headers["host"] !== undefined || headers["origin"] !== undefined ||
    headers["sec-fetch-site"] !== undefined
  if (isNamed && !isCalledRightly(name, options)) {
    return `the host ${JSON.stringify(name)} is not one that this service is called by`
  }
  const origin = headers["origin"]
  if (origin !== undefined && !isOwn(origin, host, options.publicUrl)) {
    return `requests from the origin ${JSON.stringify(origin)} are not accepted`
  }
  const site = headers["sec-fetch-site"]
  if (site !== undefined && !ownSites.has(site)) {
    return `requests of web pages that are ${JSON.stringify(site)} are not accepted`
  }
  return undefined
}

/** `none` is an address that somebody typed. */
const ownSites = new Set(["same-origin", "none"])

const nameOf = (host: string) => host.replace(/:\d+$/, "")

const isCalledRightly = (name: string, { hosts, publicUrl, takesAddresses = false }: Options) =>
  hosts === undefined || hosts.includes(name) || (takesAddresses && isAddress(name)) ||
  publicUrl?.hosts.some((own) => nameOf(own) === name) === true

/** By which names a service is called that listens at a host, as URLs have it. Who says the public ones means no others. */
export const namesOf = (
  host: string,
  isLoopback: boolean,
  publicUrl: PublicUrl | undefined
): Options => ({
  hosts: isLoopback || publicUrl !== undefined
    ? ["localhost", "127.0.0.1", "[::1]", host.toLowerCase()]
    : undefined,
  takesAddresses: !isLoopback,
  publicUrl
})

const isAddress = (name: string) => isIP(name) === 4 || (/^\[.*\]$/.test(name) && isIP(name.slice(1, -1)) === 6)

/** Under a public address that of the proxy, by its protocol, too: what was sent without TLS may be anybody's. */
const isOwn = (text: string, host: string, publicUrl: PublicUrl | undefined) => {
  if (!URL.canParse(text)) return false
  const origin = new URL(text)
  if (publicUrl?.origins.includes(origin.origin) === true) return true
  return origin.host === host && publicUrl?.hosts.includes(host) !== true
}
