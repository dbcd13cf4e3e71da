/**
 * Which requests are refused before anything is done: pure. The API runs commands, so no web page may reach it, not even
 * one that the operator has open on the same machine.
 *
 * - A path in another spelling than the one that the API has: whoever compares paths, and whoever routes them, see the same.
 * - A foreign `Host`: a name that was rebound to the loopback.
 * - A foreign `Origin`: a page of another site.
 * - A body that is not declared as JSON: what a form can send without asking.
 * - Without the token, where one is set.
 */
import { Result } from "effect"
import { createHash, timingSafeEqual } from "node:crypto"
import { path as tailnetPath } from "../tailnet/Protocol.ts"
import * as Api from "./Api.ts"
import * as Paths from "./Paths.ts"

export interface Request {
  readonly method: string
  /** As it came: a path with its query, if all is well. */
  readonly target: string
  readonly headers: Readonly<Record<string, string | undefined>>
}

export interface Options {
  readonly token: string | undefined
  /** Admits to the tailnet, and to nothing else; beside the token, which admits to all. */
  readonly peerToken?: string | undefined
  /** Names under which it may be called. `undefined`: any, as it listens beyond the loopback, and asks for a token. */
  readonly hosts: ReadonlyArray<string> | undefined
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
  const host = hostName(headers["host"] ?? "")
  if (options.hosts !== undefined && !options.hosts.includes(host)) {
    return { status: 403, detail: `the host ${JSON.stringify(host)} is not one that this service is called by` }
  }
  const origin = headers["origin"]
  if (origin !== undefined && !isOwn(origin, headers["host"] ?? "")) {
    return { status: 403, detail: `requests from the origin ${JSON.stringify(origin)} are not accepted` }
  }
  const read = Paths.pathOf(request.target)
  if (Result.isFailure(read)) return { status: 400, detail: read.failure }
  const path = read.success
  const isPeer = path === tailnetPath
  if ((options.token !== undefined || (isPeer && options.peerToken !== undefined)) && !open.has(path)) {
    const given = /^Bearer (.+)$/i.exec(headers["authorization"] ?? "")?.[1] ?? ""
    const accepted = isPeer ? [options.token, options.peerToken] : [options.token]
    if (!accepted.some((token) => token !== undefined && isSame(given, token))) {
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

export const nothingHere: Refusal = { status: 404, detail: "there is nothing here; see /openapi.json" }

const hostName = (host: string) => host.replace(/:\d+$/, "").toLowerCase()

const isOwn = (origin: string, host: string) => URL.canParse(origin) && new URL(origin).host === host.toLowerCase()

/** In a time that tells nothing of where they differ, nor of the length. */
const isSame = (a: string, b: string) =>
  timingSafeEqual(createHash("sha256").update(a).digest(), createHash("sha256").update(b).digest())
