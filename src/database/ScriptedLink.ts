/**
 * A link that obeys an `Outage`: in front of nothing, for the memory stores, or around another link, so that the same
 * script hits a real PostgreSQL.
 */
import { make as makePool, PgClient } from "@effect/sql-pg/PgClient"
import { Deferred, Duration, Effect, Fiber, Layer } from "effect"
import { layer as reactivityLayer } from "effect/reactivity/Reactivity"
import {
  ConnectionError,
  DeadlockError,
  LockTimeoutError,
  SqlError,
  type SqlErrorReason,
  StatementTimeoutError,
  UnknownError
} from "effect/sql/SqlError"
import * as Outage from "../testing/Outage.ts"
import * as OutageClock from "../testing/OutageClock.ts"
import { within } from "./Deadline.ts"
import { Link, NothingOpen, type Work } from "./Link.ts"

/** As long as a probe of a real server may take. */
const probeWithin = Duration.seconds(3)

/** As long as it may take to take a connection of the pool of a real one. */
const reachWithin = Duration.seconds(1)

const socketError = (code: string, message: string) =>
  new SqlError({
    reason: new ConnectionError({ cause: Object.assign(new Error(message), { code }), operation: "query" })
  })

interface Props {
  readonly cause: unknown
  readonly operation: string
}

const serverError = (
  code: string,
  message: string,
  make: (props: Props) => SqlErrorReason = (props) => new UnknownError(props),
  operation = "query"
) => new SqlError({ reason: make({ cause: Object.assign(new Error(message), { code }), operation }) })

const refused = new SqlError({
  reason: new ConnectionError({
    cause: Object.assign(new Error("connect ECONNREFUSED (scripted)"), { code: "ECONNREFUSED" }),
    operation: "connect"
  })
})
const broken = socketError("ECONNRESET", "read ECONNRESET (scripted)")
const readOnly = serverError("25006", "cannot execute INSERT in a read-only transaction")
const full = serverError("53100", "could not extend file: No space left on device")
const locked = serverError(
  "55P03",
  "canceling statement due to lock timeout",
  (props) => new LockTimeoutError(props)
)
const timedOut = serverError(
  "57014",
  "canceling statement due to statement timeout",
  (props) => new StatementTimeoutError(props)
)
const canceled = serverError(
  "57014",
  "canceling statement due to user request",
  (props) => new StatementTimeoutError(props)
)
const conflict = serverError("40P01", "deadlock detected", (props) => new DeadlockError(props))
const poolRefused = serverError("53300", "sorry, too many clients already", undefined, "connect")

/** As long as a write waits for a lock, at most. */
const lockTimeout = Duration.millis(500)

/** The heartbeat has a connection of its own, and statements that nobody cancels. */
const concerns = ({ kind }: Outage.Fault, what: Work): boolean => {
  const isOfPool = kind === "poolRefused" || kind === "poolHung"
  if (what === reachWork) return isOfPool
  if (isOfPool) return what !== probeWork && what.lane !== "heartbeat"
  return what !== probeWork || (kind !== "timedOut" && kind !== "canceled" && kind !== "conflict")
}

const makeFaults = Effect.fnUntraced(function*(outage: Outage.Outage) {
  // The faults of the process are none of the database's: it neither stands still with it nor has its clock.
  const clock = yield* OutageClock.outside
  const elapsed = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const start = elapsed()
  const left = outage.map((fault) => fault.times ?? Number.POSITIVE_INFINITY)
  let severed = yield* Deferred.make<never, SqlError>()

  const next = (now: number, what: Work): Outage.Fault | undefined => {
    const index = outage.findIndex((fault, at) =>
      left[at]! > 0 && Outage.strikes(fault, now, what.operation) && concerns(fault, what)
    )
    if (index === -1) return undefined
    left[index]!--
    return outage[index]
  }

  const apply = <A, E, R>(what: Work, work: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError, R> =>
    Effect.flatMap(OutageClock.running, (): Effect.Effect<A, E | SqlError, R> => {
      const now = elapsed() - start
      const fault = next(now, what)
      switch (fault?.kind) {
        case undefined:
        case "clockStep":
        case "stall":
        case "suspend":
          return work
        case "refused":
        case "flapping":
          return Effect.fail(refused)
        case "connectionDropped":
          return Effect.fail(broken)
        case "readOnly":
          return what.kind === "write" ? Effect.fail(readOnly) : work
        case "full":
          return what.kind === "write" ? Effect.fail(full) : work
        case "locked":
          return what.kind === "write" ? Effect.andThen(Effect.sleep(lockTimeout), Effect.fail(locked)) : work
        case "timedOut":
          return Effect.andThen(Effect.sleep(fault.delay ?? 1_000), Effect.fail(timedOut))
        case "canceled":
          return Effect.fail(canceled)
        case "conflict":
          return Effect.fail(conflict)
        case "poolRefused":
          return Effect.fail(poolRefused)
        case "poolHung":
          return Effect.andThen(
            Effect.raceFirst(Effect.sleep(fault.at + fault.for - now), Deferred.await(severed)),
            work
          )
        case "slow":
          return Effect.andThen(Effect.sleep(fault.delay ?? 1_000), work)
        case "ackLost":
          return Effect.andThen(work, Effect.fail(broken))
        case "hung": {
          // The server has the statement in its socket already: it will be done, whether somebody waits or not.
          const late = Effect.andThen(Effect.sleep(fault.at + fault.for - now), work)
          return Effect.flatMap(
            Effect.forkDetach(late),
            (fiber) => Effect.raceFirst(Fiber.join(fiber), Deferred.await(severed))
          )
        }
      }
    })

  const sever = Effect.gen(function*() {
    yield* Deferred.fail(severed, broken)
    severed = yield* Deferred.make<never, SqlError>()
  })
  const reach = Effect.catchTag(
    within(apply(reachWork, Effect.void), reachWithin),
    "NoAnswer",
    () => Effect.fail(new NothingOpen())
  )
  return { apply, reach, sever }
})

const probeWork: Work = { kind: "write", operation: "Availability.probe" }
const reachWork: Work = { kind: "read", operation: "Availability.reach" }
const spaceWork: Work = { kind: "write", operation: "Availability.takeSpace" }

/** In front of nothing. A store that talks SQL fails on its first statement: memory stores belong here. */
export const layer = (outage: Outage.Outage): Layer.Layer<Link> =>
  Layer.effect(
    Link,
    Effect.gen(function*() {
      const { apply, reach, sever } = yield* makeFaults(outage)
      const noServer = yield* Effect.orDie(makePool({
        stream: () => {
          throw new Error("there is no server behind a scripted database: use the memory stores with it")
        }
      }))
      return Link.of({
        probe: () => within(apply(probeWork, Effect.undefined), probeWithin),
        run: (what, work) => Effect.provideService(apply(what, work), PgClient, noServer),
        inTransaction: Effect.succeed(false),
        reach,
        takeSpace: within(apply(spaceWork, Effect.void), probeWithin),
        renew: () => Effect.void,
        sever: () => sever
      })
    })
  ).pipe(Layer.provide(reactivityLayer))

/** Around another link. */
export const decorate = (outage: Outage.Outage): Layer.Layer<Link, never, Link> =>
  Layer.effect(
    Link,
    Effect.gen(function*() {
      const inner = yield* Link
      const { apply, reach, sever } = yield* makeFaults(outage)
      return Link.of({
        probe: (fresh) => within(apply(probeWork, inner.probe(fresh)), probeWithin),
        run: (what, work) => inner.run(what, apply(what, work)),
        inTransaction: inner.inTransaction,
        reach: Effect.andThen(reach, inner.reach),
        takeSpace: within(apply(spaceWork, inner.takeSpace), probeWithin),
        renew: inner.renew,
        sever: (cause) => Effect.andThen(sever, inner.sever(cause))
      })
    })
  )
