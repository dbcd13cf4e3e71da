/**
 * The addresses under which a service is known when a proxy stands before it: pure. A proxy may take the prefix of the path off,
 * or pass it: both arrive at the same handler, as it is taken off before anything looks at the path.
 */
import { Result } from "effect"
import type { IncomingMessage, Server } from "node:http"

export interface PublicUrl {
  /** As browsers write them in `Origin`: `https://lull.example`. */
  readonly origins: ReadonlyArray<string>
  /** As `Host` has them, without the port that goes without saying. */
  readonly hosts: ReadonlyArray<string>
  /** As `/lull`, or nothing. */
  readonly prefix: string
}

/** A prefix that begins like this could not be told from what comes after it. */
const own = new Set(["api", "healthz", "readyz", "metrics", "openapi.json"])

const expected =
  "as https://lull.example or https://example.com/lull, several separated by commas, all with the same path"

const readOne = (text: string): Result.Result<URL, string> => {
  // `URL` takes `https:lull.example` and backslashes, too.
  if (!/^https?:\/\/[^\\\s]+$/i.test(text) || !URL.canParse(text)) return Result.fail(expected)
  const url = new URL(text)
  return url.username === "" && url.password === "" && !/[?#]/.test(text)
    ? Result.succeed(url)
    : Result.fail(`${expected}, and without a user, a query or a fragment`)
}

export const read = (text: string): Result.Result<PublicUrl, string> => {
  const urls: Array<URL> = []
  for (const part of text.split(",")) {
    const url = readOne(part.trim())
    if (Result.isFailure(url)) return Result.fail(url.failure)
    urls.push(url.success)
  }
  const [prefix = "", ...others] = new Set(urls.map(({ pathname }) => pathname.replace(/\/$/, "")))
  if (others.length > 0) return Result.fail(expected)
  if (!/^(\/[\w.~-]+)*$/.test(prefix)) {
    return Result.fail("an address whose path has letters, digits and -._~ only, as https://example.com/lull")
  }
  if (own.has(prefix.split("/")[1] ?? "")) {
    return Result.fail(`an address whose path begins otherwise than the service's own: ${[...own].join(", ")}`)
  }
  return Result.succeed({ origins: urls.map(({ origin }) => origin), hosts: urls.map(({ host }) => host), prefix })
}

/** A path and query without the prefix, where it is there. */
export const withoutPrefix = (target: string, prefix: string): string => {
  if (prefix === "" || !target.startsWith(prefix)) return target
  const rest = target.slice(prefix.length)
  return rest.startsWith("/") ? rest : rest === "" || rest.startsWith("?") ? `/${rest}` : target
}

/** Of every request, before guard and router see it: they have to see the same path. Called before others listen. */
export const takeOffPrefix = (server: Server, { prefix }: PublicUrl): void => {
  const takeOff = (request: IncomingMessage) => {
    request.url = withoutPrefix(request.url ?? "", prefix)
  }
  for (const event of ["request", "checkContinue", "upgrade"]) server.prependListener(event, takeOff)
}
