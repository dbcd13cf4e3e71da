/**
 * Requests that were refused for their token: counted all, and said once for each address that gave a wrong one, as long as it goes
 * on. A wrong token is a client that was forgotten when tokens were changed, or somebody who guesses. The token is never shown.
 */
import { Effect, Layer, Metric, Option } from "effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import { passAlways } from "../logging/PassAlways.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { clientAddress, networkOf, type Trusted } from "./ClientAddress.ts"

/** An address that has given no wrong token for so long is said again when it does. */
const episodeMillis = 10 * 60_000

/** Said one by one; who guesses from many addresses is not to fill the log. */
const mostAddresses = 16

/** Pure but for itself: what is said, in an episode, of whom. */
export const makeVoice = () => {
  const lastFailures = new Map<string, number>()
  const isNew = (key: string, now: number) => {
    const last = lastFailures.get(key)
    lastFailures.set(key, now)
    return last === undefined || now - last >= episodeMillis
  }
  const forget = (now: number) => {
    for (const [key, last] of lastFailures) if (now - last >= episodeMillis) lastFailures.delete(key)
  }
  return {
    /** The line that is due, at a time that only goes forward. */
    failed: (address: string, now: number): string | undefined => {
      const network = networkOf(address)
      if (!lastFailures.has(network)) forget(now)
      if (lastFailures.has(network) || lastFailures.size < mostAddresses) {
        return isNew(network, now)
          ? `${address} gave a token that is not accepted; its further attempts are counted in ${metricName}`
          : undefined
      }
      return isNew(others, now)
        ? `more than ${mostAddresses} addresses give tokens that are not accepted; ` +
          `further ones are counted in ${metricName}`
        : undefined
    }
  }
}

/** No address. */
const others = "others"

const metricName = "lull_http_tokens_refused_total"

const refused = (token: "wrong" | "missing") =>
  Metric.counter(metricName, {
    description: "Requests that were refused as their token was wrong, or missing",
    incremental: true,
    attributes: { token }
  })

const counters = { wrong: refused("wrong"), missing: refused("missing") }

/** Counts a request that was refused for want of a token, and says who gave a wrong one. Both counters begin with zero. */
const makeNote = Effect.fnUntraced(function*(trustedProxies: Trusted) {
  for (const counter of Object.values(counters)) yield* Metric.update(counter, 0)
  const voice = makeVoice()
  return Effect.fnUntraced(function*({ headers, remoteAddress }: HttpServerRequest.HttpServerRequest) {
    const hasToken = headers["authorization"] !== undefined
    yield* Metric.update(counters[hasToken ? "wrong" : "missing"], 1)
    if (!hasToken) return
    const address = clientAddress(Option.getOrUndefined(remoteAddress), headers, trustedProxies)
    const line = voice.failed(address, yield* monotonicMillis)
    if (line !== undefined) yield* passAlways(Effect.logWarning(line))
  })
})

const nobody: Trusted = () => false

/** Sees what is answered to every request. */
export const layer = (trustedProxies: Trusted = nobody) =>
  Layer.unwrap(Effect.map(makeNote(trustedProxies), (note) =>
    HttpRouter.middleware(
      (handler) =>
        Effect.tap(handler, ({ status }) =>
          status === 401 ? Effect.flatMap(HttpServerRequest.HttpServerRequest, note) : Effect.void),
      { global: true }
    )))
