/**
 * Who has sent a request, where proxies stand before the service: pure. A proxy adds the address that it was called from to the
 * right of `X-Forwarded-For`; what stands further left is what it was told. So the list is read from the right, as long as those
 * who added to it are trusted.
 */
import { Result } from "effect"
import { BlockList, isIP } from "node:net"

/** Which addresses are those of proxies that are believed. */
export type Trusted = (address: string) => boolean

type Headers = Readonly<Record<string, string | undefined>>

/** More proxies than any chain has. What is further left is not looked at. */
const mostProxies = 16

/** Where there is no address: the connection is gone already. */
export const unknown = "unknown"

/**
 * The address of the client, in one spelling. Behind proxies that are not trusted it is theirs.
 *
 * `Forwarded` is read where there is no `X-Forwarded-For`: a proxy that writes only the first has to remove the second.
 */
export const clientAddress = (remote: string | undefined, headers: Headers, trusted: Trusted): string => {
  let address = canonical(remote ?? "")
  if (address === undefined) return unknown
  for (const hop of hops(headers)) {
    if (!trusted(address)) break
    const next = canonical(hop)
    // A proxy that does not know, or does not say: all that is known is the proxy.
    if (next === undefined) break
    address = next
  }
  return address
}

/** From the nearest on. */
const hops = (headers: Headers): ReadonlyArray<string> => {
  const listed = headers["x-forwarded-for"]
  if (listed !== undefined) return lastOf(listed)
  // Also at commas in quotes, which no address has: else a quote that a client opens would swallow what the proxy says.
  return lastOf(headers["forwarded"] ?? "").map((element) =>
    element.split(";").flatMap((pair) => /^\s*for\s*=\s*"?([^"]*)"?\s*$/i.exec(pair)?.[1] ?? [])[0] ?? ""
  )
}

const lastOf = (list: string) => list.split(",").slice(-mostProxies).toReversed()

/** With brackets, the name of a zone and a port. */
const longestAddress = 80

/** Without port, brackets and zone; IPv4 in IPv6 as IPv4, and IPv6 in its shortest form. `undefined`: it is no address. */
export const canonical = (text: string): string | undefined => {
  const trimmed = text.trim()
  if (trimmed.length > longestAddress) return undefined
  const inBrackets = /^\[([^\]]*)\](?::\d{1,5})?$/.exec(trimmed)?.[1]
  const withZone = inBrackets ?? trimmed.replace(/^([\d.]+):\d{1,5}$/, "$1")
  const address = withZone.replace(/%.*$/, "")
  if (isIP(address) === 4) return inBrackets === undefined ? address : undefined
  if (isIP(address) !== 6) return undefined
  const short = new URL(`http://[${address}]`).hostname.slice(1, -1)
  const [, high, low] = /^::ffff:([\da-f]{1,4}):([\da-f]{1,4})$/.exec(short) ?? []
  if (high === undefined || low === undefined) return short
  const bits = [Number.parseInt(high, 16), Number.parseInt(low, 16)]
  return bits.flatMap((part) => [part >> 8, part & 0xff]).join(".")
}

/** Who has one IPv6 address has all of its network, and is counted as one. */
export const networkOf = (address: string): string => {
  if (isIP(address) !== 6) return address
  const [before = "", after] = address.split("::")
  const groups = before === "" ? [] : before.split(":")
  const missing = after === undefined ? 0 : 8 - groups.length - (after === "" ? 0 : after.split(":").length)
  const all = [...groups, ...Array.from({ length: missing }, () => "0"), ...(after ?? "").split(":")]
  return `${all.slice(0, 4).join(":")}::/64`
}

const familyOf = (address: string) => isIP(address) === 4 ? "ipv4" : "ipv6"

interface Range {
  readonly address: string
  readonly bits: number
}

const readRange = (text: string): Range | undefined => {
  const [, before = "", bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(text) ?? []
  const address = isIP(before) === 0 ? undefined : canonical(before)
  if (address === undefined) return undefined
  const all = familyOf(address) === "ipv4" ? 32 : 128
  const asWritten = isIP(before) === 4 ? 32 : 128
  // Of IPv4 in IPv6, whose first 96 bits are given.
  const size = Number(bits ?? asWritten) - (asWritten - all)
  return size >= 0 && size <= all ? { address, bits: size } : undefined
}

/** The addresses and networks of a setting, or what would be right. */
export const readTrusted = (text: string): Result.Result<ReadonlyArray<string>, string> => {
  const parts = text.split(",").map((part) => part.trim()).filter((part) => part !== "")
  return parts.every((part) => readRange(part) !== undefined)
    ? Result.succeed(parts)
    : Result.fail("addresses and networks separated by commas, as 127.0.0.1, ::1, 10.0.0.0/8")
}

/** Of what `readTrusted` has found to be right. */
export const trusting = (networks: ReadonlyArray<string>): Trusted => {
  const list = new BlockList()
  for (const range of networks.flatMap((text) => readRange(text) ?? [])) {
    list.addSubnet(range.address, range.bits, familyOf(range.address))
  }
  return (address) => isIP(address) !== 0 && list.check(address, familyOf(address))
}
