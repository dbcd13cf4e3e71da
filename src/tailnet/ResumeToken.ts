/**
 * Proves that who says hello is the peer that was welcomed before. Signed, bound to the peer, and it expires. Pure.
 *
 * It expires by the time of day, as it is checked by another replica, or after a restart, which have no other clock in common. It is
 * meant for days: a clock that is wrong by minutes changes nothing, and one that is wrong by days costs a second hello.
 */
import { createHmac, timingSafeEqual } from "node:crypto"
import type { PeerId } from "./Peer.ts"

/** A peer that was away for longer says hello as a new one. */
const validMillis = 7 * 86_400_000

const sign = (key: string, peer: PeerId, expires: number) =>
  createHmac("sha256", key).update(`${peer} ${expires}`).digest("base64url")

export const make = (key: string, peer: PeerId, now: number): string => {
  const expires = now + validMillis
  return `${expires}.${sign(key, peer, expires)}`
}

/** What is wrong with a token; `undefined`: nothing. */
export const check = (key: string, peer: PeerId, token: string, now: number): string | undefined => {
  const at = token.indexOf(".")
  const expires = Number(token.slice(0, at))
  const given = Buffer.from(token.slice(at + 1))
  const right = Buffer.from(sign(key, peer, expires))
  if (at < 1 || given.length !== right.length || !timingSafeEqual(given, right)) {
    return "the resume token was not made for this peer; say hello without one"
  }
  return expires < now ? "the resume token has expired; say hello without one" : undefined
}
