/**
 * What probes and monitoring ask: `/healthz`, `/readyz`, `/metrics`. None of them asks the database.
 *
 * A probe carries no token. To it, and to anybody else without one, the state and the reason are said, which are Lull's own words.
 * What the server, the system or an executor said in theirs may name users, databases, addresses and paths: that is for who
 * shows the token, and in the log. Where no token is set nobody can show it.
 */
import { Effect, Metric, SubscriptionRef } from "effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as Response from "effect/http/HttpServerResponse"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import { Availability, type State } from "../database/Availability.ts"
import { reasons } from "../database/Unavailable.ts"
import { AcquireLoop } from "../provisioner/AcquireLoop.ts"
import { Draining } from "./Draining.ts"
import * as Guard from "./Guard.ts"

export const layer = (options: Guard.Options) =>
  HttpRouter.use(Effect.fnUntraced(function*(router) {
    const availability = yield* Availability
    const worker = yield* AcquireLoop
    const draining = yield* Draining

    const ready = Effect.map(HttpServerRequest.HttpServerRequest, ({ headers }) =>
      readiness({
        state: SubscriptionRef.getUnsafe(availability.state),
        stoppingSince: draining.since(),
        unable: worker.unable(),
        isTrusted: showsToken(headers, options)
      }))

    const metrics = Effect.gen(function*() {
      const state = SubscriptionRef.getUnsafe(availability.state)
      yield* Metric.update(available, state._tag === "Available" ? 1 : 0)
      yield* Metric.update(unavailableSince, (yield* availability.unavailableMillis) / 1_000)
      for (const reason of reasons) {
        const isReason = state._tag === "Degraded" && state.reason === reason
        yield* Metric.update(Metric.withAttributes(degraded, { reason }), isReason ? 1 : 0)
      }
      yield* Metric.update(running, worker.running().length)
      yield* Metric.update(unanswered, worker.unanswered().length)
      yield* Metric.update(slots, worker.slots)
      return Response.text(yield* PrometheusMetrics.format(), {
        contentType: "text/plain; version=0.0.4; charset=utf-8"
      })
    })

    yield* router.add("GET", "/healthz", Effect.succeed(Response.text("ok\n")))
    yield* router.add("GET", "/readyz", ready)
    yield* router.add("GET", "/metrics", metrics)
  }))

/** The token makes a difference: without it the guard would refuse something else that is asked for in the same way. */
const showsToken = (headers: Guard.Request["headers"], options: Guard.Options): boolean => {
  const { authorization: _, ...others } = headers
  const isAdmitted = (shown: Guard.Request["headers"]) =>
    Guard.refuse({ method: "GET", target: "/metrics", headers: shown }, options) === undefined
  return isAdmitted(headers) && !isAdmitted(others)
}

interface Known {
  readonly state: State
  readonly stoppingSince: number | undefined
  /** In the words of an executor. */
  readonly unable: string | undefined
  readonly isTrusted: boolean
}

/** Another replica, or this one when it has been started again, is there within seconds. */
const retrySoon = { "retry-after": "5" } as const

const at = (millis: number) => new Date(millis).toISOString()

const readiness = ({ isTrusted, state, stoppingSince, unable }: Known): Response.HttpServerResponse => {
  const unready = (document: object, headers: Readonly<Record<string, string>> = {}) =>
    Response.jsonUnsafe(document, { status: 503, headers })
  if (stoppingSince !== undefined) return unready({ status: "stopping", since: at(stoppingSince) }, retrySoon)
  switch (state._tag) {
    case "Available":
      return unable === undefined
        ? Response.jsonUnsafe({ status: "ready", since: at(state.since) })
        : unready({ status: "unable to run jobs", ...(isTrusted ? { reason: unable } : {}) }, retrySoon)
    case "Starting":
      return unready({ status: "starting", since: at(state.since) })
    case "Degraded":
    case "Unavailable": {
      const { attempts, lastError, reason, since } = state
      const status = state._tag === "Degraded" ? "degraded" : "unavailable"
      const shown = { status, reason, since: at(since), attempts }
      return unready(isTrusted ? { ...shown, lastError } : shown, { "retry-after": "1" })
    }
  }
}

const available = Metric.gauge("lull_database_available", {
  description: "1 while the database takes our writes and callers are served"
})
const unavailableSince = Metric.gauge("lull_database_unavailable_seconds", {
  description: "How long the database has been away, 0 while it is there"
})
const degraded = Metric.gauge("lull_database_degraded", {
  description: "1 while the heartbeat is written and callers are not served, by reason"
})
const running = Metric.gauge("lull_worker_running", { description: "Jobs that run in this process" })
const unanswered = Metric.gauge("lull_worker_unanswered", { description: "Jobs whose end is not stored yet" })
const slots = Metric.gauge("lull_worker_slots", { description: "Jobs that may run in this process at a time" })
