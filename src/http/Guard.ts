/**
 * Which requests are refused before anything is done: pure. The API runs commands, so no web page may reach it, not even
 * one that the operator has open on the same machine.
 *
 * - What belongs to another site: see `Sites`.
 * - A path in another spelling than the one that the API has: whoever compares paths, and whoever routes them, see the same.
 * - A body that is not declared as JSON: what a form can send without asking.
 * - Without the token, where one is set.
 */
import { Result } from "effect"
import { createHash, timingSafeEqual } from "node:crypto"
import { path as tailnetPath } from "../tailnet/Protocol.ts"
import * as Api from "./Api.ts"
import type { Trusted } from "./ClientAddress.ts"
import * as Paths from "./Paths.ts"
import * as Sites from "./Sites.ts"

export interface Request {
  readonly method: string
  /** As it came: a path with its query, if all is well. */
  readonly target: string
  readonly headers: Readonly<Record<string, string | undefined>>
}

/** One, none, or those that are accepted at the time of a request: they may change while the service runs. */
export type Tokens = string | undefined | (() => ReadonlyArray<string>)

export interface Options extends Sites.Options {
  readonly token: Tokens
  /** Admits to the tailnet, and to nothing else; beside the token, which admits to all. */
  readonly peerToken?: Tokens
  /** Proxies that are believed when they say who has called them. */
  readonly trustedProxies?: Trusted | undefined
}

export interface Refusal {
  readonly status: 400 | 401 | 403 | 404 | 405 | 413 | 415
  readonly detail: string
  readonly headers?: Readonly<Record<string, string>>
}

/** Enough for as many jobs as one submission may have, of 800 bytes each. It is parsed in one piece, and nothing else is done meanwhile. */
export const largestBody = 8 * 1024 * 1024

/** Probes carry no token, and learn nothing that needs one. */
const open = new Set(["/healthz", "/readyz"])

export const refuse = (request: Request, options: Options): Refusal | undefined => {
  const { headers } = request
  const foreign = Sites.refuse(headers, options)
  if (foreign !== undefined) return { status: 403, detail: foreign }
  const read = Paths.pathOf(request.target)
  if (Result.isFailure(read)) return { status: 400, detail: read.failure }
  const path = read.success
  const isPeer = path === tailnetPath
  const accepted = [...tokensNow(options.token), ...isPeer ? tokensNow(options.peerToken) : []]
  if (accepted.length > 0 && !open.has(path)) {
    const given = /^Bearer (.+)$/i.exec(headers["authorization"] ?? "")?.[1] ?? ""
    if (!accepted.some((token) => isSame(given, token))) {
      return {
        status: 401,
        detail: "a token is needed: Authorization: Bearer …",
        headers: { "www-authenticate": "Bearer" }
      }
    }
  }
  const allowed = Api.methodsOf(path)
  if (allowed.length === 0) return nothingHere
  if (!allowed.includes(request.method)) {
    const allow = allowed.join(", ")
    return { status: 405, detail: `${request.method} is not possible here, only ${allow}`, headers: { allow } }
  }
  if (request.method !== "POST") return undefined
  if (Number(headers["content-length"] ?? 0) > largestBody) {
    return { status: 413, detail: `a body has at most ${largestBody} bytes` }
  }
  const hasBody = headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0
  if (hasBody && !/^application\/json\s*(;|$)/i.test(headers["content-type"] ?? "")) {
    return { status: 415, detail: "a body has to be declared as application/json" }
  }
  return undefined
}

const tokensNow = (tokens: Tokens) => typeof tokens === "function" ? tokens() : tokens === undefined ? [] : [tokens]

export const nothingHere: Refusal = { status: 404, detail: "there is nothing here; see /openapi.json" }

/** In a time that tells nothing of where they differ, nor of the length. */
const isSame = (a: string, b: string) =>
  timingSafeEqual(createHash("sha256").update(a).digest(), createHash("sha256").update(b).digest())
