/** Why a request had no answer, in one sentence: a table. */
import { Duration } from "effect"
import { describeError } from "./errorText.ts"

export interface Explanation {
  /** It may be there the next time. */
  readonly isPassing: boolean
  readonly message: string
}

const hint = "start one with: lull serve (or npm start), or name another address with --url or LULL_URL"

/** The code of the first error in the chain of causes that has one. */
const codeOf = (error: unknown): string => {
  let current = error
  for (let depth = 0; depth < 10 && typeof current === "object" && current !== null; depth++) {
    if ("code" in current && typeof current.code === "string") return current.code
    // Several addresses were tried for one name.
    const first: unknown = "errors" in current && Array.isArray(current.errors) ? current.errors[0] : undefined
    current = first ?? ("cause" in current ? current.cause : undefined) ??
      ("reason" in current ? current.reason : undefined)
  }
  return ""
}

/** By the beginning of the code, the first that fits. */
const table: ReadonlyArray<readonly [code: RegExp, isPassing: boolean, say: (url: string) => string]> = [
  [/^ECONNREFUSED$/, true, (url) => `no service answers at ${url}: the connection was refused; ${hint}`],
  [/^ENOTFOUND$/, true, (url) => `no service answers at ${url}: there is no host of the name ${hostOf(url)}; ${hint}`],
  [/^EAI_/, true, (url) => `no service answers at ${url}: the name ${hostOf(url)} could not be looked up; ${hint}`],
  [/^HPE_/, false, (url) => `what listens at ${url} does not speak HTTP, so it is no Lull service; ${hint}`],
  [
    /^(ECONNRESET|EPIPE)$/,
    true,
    (url) => `what listens at ${url} closed the connection without an answer; if it is no Lull service, ${hint}`
  ],
  [
    /^(EPROTO|ERR_SSL)/,
    false,
    (url) => `what listens at ${url} does not speak TLS: is it ${url.replace("https:", "http:")}?`
  ],
  [
    /CERT|SIGNATURE|SELF_SIGNED/,
    false,
    (url) => `the certificate of ${url} is not trusted; NODE_EXTRA_CA_CERTS names a file with that of its authority`
  ],
  [
    /^E(TIMEDOUT|HOSTUNREACH|NETUNREACH|HOSTDOWN|NETDOWN|ADDRNOTAVAIL)$/,
    true,
    (url) => `no service answers at ${url}: there is no way to the host; ${hint}`
  ]
]

const hostOf = (url: string) => JSON.stringify(new URL(url).hostname)

export const explain = (url: string, error: unknown): Explanation => {
  const code = codeOf(error)
  const found = table.find(([pattern]) => pattern.test(code))
  if (found === undefined) {
    return { isPassing: true, message: `no service answers at ${url}: ${describeError(error)}; ${hint}` }
  }
  const [, isPassing, say] = found
  return { isPassing, message: say(url) }
}

export const silent = (url: string, within: Duration.Duration) =>
  `no service answers at ${url}: nothing has come within ${Duration.format(within)}; ${hint}`
