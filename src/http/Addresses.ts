/**
 * From which address a request comes: pure. Behind a proxy it is the one that the proxy says, if the proxy is one that is trusted; what
 * stands further left in `X-Forwarded-For` anybody can have written.
 */
import { BlockList, isIP, isIPv6 } from "node:net"

const loopback = new BlockList()
loopback.addSubnet("127.0.0.0", 8)
loopback.addAddress("::1", "ipv6")

const family = (address: string) => isIPv6(address) ? "ipv6" : "ipv4"

/** As a socket of both families has it. */
const mapped = /^::ffff:(?=\d+\.)/i

/** An address without what only one notation has: the prefix of a mapped one, a zone, brackets, a port. */
const plain = (text: string): string | undefined => {
  const trimmed = text.trim()
  const address = (/^\[([^\]]*)\](?::\d+)?$/.exec(trimmed)?.[1] ??
    (/^[\d.]+:\d+$/.test(trimmed) ? trimmed.split(":", 1)[0] : trimmed))
    ?.replace(/%.*$/, "").replace(mapped, "")
  return address !== undefined && isIP(address) !== 0 ? address : undefined
}

/** Which addresses are those of proxies that are believed. */
export type Trusted = (address: string) => boolean

/** Who holds one IPv6 address holds the 64 bits behind its network, too. */
const ownerOf = (address: string): string => {
  if (!isIPv6(address)) return address
  const [head = "", tail] = address.toLowerCase().split("::")
  const parts = head === "" ? [] : head.split(":")
  const last = tail === undefined || tail === "" ? [] : tail.split(":")
  const zeros = tail === undefined ? [] : Array.from({ length: Math.max(0, 8 - parts.length - last.length) }, () => "0")
  return `${[...parts, ...zeros, ...last].slice(0, 4).map((part) => part.replace(/^0+(?=.)/, "")).join(":")}::/64`
}

export interface Source {
  /** What is counted together. `undefined`: the loopback, which is not counted. */
  readonly owner: string | undefined
  /** Its connections are those of many; its requests say of which. */
  readonly isProxy: boolean
}

/** Whose a connection is. */
export const ofConnection = (remote: string | undefined, trusted: Trusted): Source => {
  const address = plain(remote ?? "")
  if (address === undefined) return { owner: undefined, isProxy: false }
  if (trusted(address)) return { owner: undefined, isProxy: true }
  return { owner: loopback.check(address, family(address)) ? undefined : ownerOf(address), isProxy: false }
}

/** Whose a request is that came through a trusted proxy: the last in its list that is none of them. */
export const ofForwarded = (forwardedFor: string | undefined, trusted: Trusted): string | undefined => {
  const client = (forwardedFor ?? "").split(",").map(plain).findLast((address) =>
    address === undefined || !trusted(address)
  )
  return client === undefined ? undefined : ownerOf(client)
}
