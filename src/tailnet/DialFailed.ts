/** Why a coordinator could not be reached, in words, and whether it is worth to try again. Pure. */
import { Data } from "effect"
import type { SocketError } from "effect/socket/Socket"
import { errorText } from "../logging/ErrorText.ts"

export class DialFailed extends Data.TaggedError("DialFailed")<{
  readonly address: string
  readonly reason: string
  /** Of the HTTP answer, where there was one that is not the tailnet's. */
  readonly status?: number | undefined
}> {
  override get message() {
    return `cannot connect to ${this.address}: ${this.reason}`
  }

  /** The same request will be refused again: somebody has to change the token, the address or the service. */
  get isPermanent(): boolean {
    return this.status !== undefined && permanent.has(this.status)
  }
}

const permanent = new Set([400, 401, 403, 404, 405, 410, 426])

/** What a service, or a proxy before it, means by its answer. */
const answers: Readonly<Record<number, string>> = {
  401: "the service refused the token",
  403: "the service does not let this peer in",
  404: "there is no tailnet at this address",
  426: "something between does not pass WebSockets on",
  429: "the service has too many connections from here",
  503: "the service is not available"
}

const codes: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nobody listens there",
  ENOTFOUND: "there is no host of that name",
  EAI_AGAIN: "the host's name can not be looked up now",
  ECONNRESET: "the connection was closed at once",
  EHOSTUNREACH: "the host can not be reached",
  ENETUNREACH: "the network can not be reached",
  ETIMEDOUT: "no answer"
}

/** `ws` names the answer in its message; Node's own WebSocket says nothing, by its specification. */
const answered = /Unexpected server response: (\d{3})/

export const dialFailure = (address: string, error: SocketError, hasToken: boolean): DialFailed => {
  const problem = problemOf(error)
  const status = Number(answered.exec(problem.message)?.[1] ?? 0)
  if (status === 401 && !hasToken) {
    return new DialFailed({ address, status, reason: "the service asks for a token (401)" })
  }
  if (status > 0) {
    return new DialFailed({ address, status, reason: `${answers[status] ?? "the service refused"} (${status})` })
  }
  const known = codes[problem.code]
  if (known !== undefined) return new DialFailed({ address, reason: `${known} (${problem.code})` })
  return new DialFailed({ address, reason: problem.message === "" ? errorText(error) : problem.message })
}

/** The innermost that says something: an event, which has an error, which may have several. */
const problemOf = (error: SocketError): { readonly message: string; readonly code: string } => {
  let found = { message: "", code: "" }
  let next: unknown = "cause" in error.reason ? error.reason.cause : undefined
  for (let depth = 0; depth < 5 && typeof next === "object" && next !== null; depth++) {
    const code = "code" in next && typeof next.code === "string" ? next.code : found.code
    const message = "message" in next && typeof next.message === "string" && next.message !== ""
      ? next.message
      : found.message
    found = { message, code }
    next = "error" in next ? next.error : "cause" in next ? next.cause : "errors" in next && Array.isArray(next.errors)
      ? next.errors[0]
      : undefined
  }
  return found
}
