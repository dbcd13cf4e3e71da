/** Which connections and requests are counted as those of one: pure. */
import { BlockList, isIPv6 } from "node:net"
import { canonical, clientAddress, networkOf, type Trusted, unknown } from "./ClientAddress.ts"

const loopback = new BlockList()
loopback.addSubnet("127.0.0.0", 8)
loopback.addAddress("::1", "ipv6")

export interface Source {
  /** What is counted together. `undefined`: the loopback, which is not counted. */
  readonly owner: string | undefined
  /** Its connections are those of many; its requests say of which. */
  readonly isProxy: boolean
}

/** Whose a connection is. */
export const ofConnection = (remote: string | undefined, trusted: Trusted): Source => {
  const address = canonical(remote ?? "")
  if (address === undefined) return { owner: undefined, isProxy: false }
  if (trusted(address)) return { owner: undefined, isProxy: true }
  const isLocal = loopback.check(address, isIPv6(address) ? "ipv6" : "ipv4")
  return { owner: isLocal ? undefined : networkOf(address), isProxy: false }
}

/** Whose a request is that came through a trusted proxy; `undefined`: no proxy says it. */
export const ofRequest = (
  remote: string | undefined,
  headers: Readonly<Record<string, string | undefined>>,
  trusted: Trusted
): string | undefined => {
  const address = clientAddress(remote, headers, trusted)
  return address === unknown || trusted(address) ? undefined : networkOf(address)
}
