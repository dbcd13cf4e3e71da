/**
 * LISTEN/NOTIFY for the whole process, over one connection and one channel. A notification is a topic and a payload.
 *
 * Notifications make things fast, not right: they are lost while nobody listens. Subscribers are told when some may have
 * been missed, and then look for themselves, once; and they poll, slowly, all the same. They are told with each return of the
 * database, and again and again while it is there and the listener is not: a listener that is kept waiting, by a server that
 * comes and goes or has no connection left, must not keep the work waiting.
 *
 * Behind a pooler in transaction mode `LISTEN` succeeds and nothing ever arrives. So each new connection sends a
 * notification to itself; if that does not arrive, it is said once, and polling has to do until the next attempt. Other
 * failures that last while the database is there are said as well (`ListenerVoice`), as nobody else speaks of them.
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import {
  Cause,
  Context,
  Deferred,
  Duration,
  Effect,
  Latch,
  Layer,
  Pull,
  Queue,
  Random,
  Schedule,
  type Scope,
  Stream,
  SubscriptionRef
} from "effect"
import { SecureRandom } from "effect/crypto/SecureRandom"
import { passAlways } from "../logging/PassAlways.ts"
import * as Backoff from "../loop/Backoff.ts"
import * as ControlLoop from "../loop/ControlLoop.ts"
import { Loops } from "../loop/Loops.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { Availability, epochOf } from "./Availability.ts"
import { Database } from "./Database.ts"
import { Listener } from "./Listener.ts"
import * as ListenerVoice from "./ListenerVoice.ts"
import { DatabaseUnavailable, describe } from "./Unavailable.ts"

export const channel = "lull"

export type Event =
  | { readonly _tag: "Notified"; readonly topic: string; readonly payload: string }
  /** Some may have been missed: the listener has just connected, or is not connected. */
  | { readonly _tag: "Missed" }

export class Notifications extends Context.Service<Notifications, {
  /** Calls the handler for each event, until the scope closes. A handler must be quick, and must not fail. */
  readonly subscribe: (handler: (event: Event) => void) => Effect.Effect<void, never, Scope.Scope>
  /** Tells the subscribers of this process only; the stores that keep nothing outside it use this. */
  readonly publish: (event: Event) => Effect.Effect<void>
}>()("lull/database/Notifications") {
  /** Within this process: for memory stores. */
  static readonly layerMemory: Layer.Layer<Notifications> = Layer.sync(Notifications, () => makeHub())

  /** Through PostgreSQL. */
  static readonly layerPostgres: Layer.Layer<
    Notifications,
    never,
    Availability | Database | Listener | Loops | SecureRandom
  > = Layer.effect(Notifications, Effect.suspend(() => makePostgres))
}

/** A notification is one line: the topic, a space, the payload. */
export const encode = (topic: string, payload: string): string => `${topic} ${payload}`

const decode = (line: string): Event => {
  const at = line.indexOf(" ")
  return at === -1
    ? { _tag: "Notified", topic: line, payload: "" }
    : { _tag: "Notified", topic: line.slice(0, at), payload: line.slice(at + 1) }
}

const makeHub = () => {
  const handlers = new Set<(event: Event) => void>()
  return Notifications.of({
    subscribe: (handler) =>
      Effect.asVoid(Effect.acquireRelease(
        Effect.sync(() => handlers.add(handler)),
        () => Effect.sync(() => handlers.delete(handler))
      )),
    publish: (event) =>
      Effect.sync(() => {
        for (const handler of handlers) handler(event)
      })
  })
}

/** Connections live five minutes at most, this one too: what has silently died is found by then. */
const connectionLifetime = Duration.minutes(5)

/** Replicas that all see the database return do not look at it in the same instant. */
const returnSpread = Duration.millis(200)

/** Between two hints to look for oneself while nothing is heard: work that is posted then waits a second or two, no longer. */
const deafness = Backoff.exponential({ floor: "500 millis", cap: "10 seconds" })

/**
 * Between two sessions of the listener. It waits for the database, and the `Dialer` bounds its attempts with all others, so
 * that a database that has returned is listened to at once.
 */
const policy = Backoff.exponential({ floor: "50 millis", cap: "1 second" })

/** A session that has lasted for so long is well. */
const stableAfter = Duration.seconds(10)

/** How long a notification to oneself may take. */
const selfTestWithin = Duration.seconds(3)

const selfTestTopic = "listener-test"

interface Session {
  readonly epoch: number
  readonly startedAt: number
  hasHeard: boolean
}

const makePostgres = Effect.gen(function*() {
  const availability = yield* Availability
  const { own: database } = yield* Database
  const listener = yield* Listener
  const loops = yield* Loops
  const random = yield* SecureRandom
  const hub = makeHub()
  const voice = ListenerVoice.make()

  /** Open while nothing is heard. */
  const isDeaf = Latch.makeUnsafe(true)

  /** The state is watched, not the socket: a listener on a server that is no longer ours hears nothing, and is well. */
  const epochEnds = (epoch: number) =>
    SubscriptionRef.changes(availability.state).pipe(
      Stream.filter((state) => epochOf(state) !== epoch),
      Stream.take(1),
      Stream.runDrain
    )

  /** From one return of the database to its end. */
  const hintWhileDeaf = Effect.gen(function*() {
    const step = yield* Schedule.toStep(deafness)
    yield* Effect.sleep(Duration.times(returnSpread, yield* Random.next))
    while (true) {
      yield* hub.publish({ _tag: "Missed" })
      const [, delay] = yield* step(0, undefined).pipe(
        Pull.catchDone(() => Effect.die(new Error("the policy of the hints ended")))
      )
      yield* Effect.sleep(delay)
      yield* isDeaf.await
    }
  })

  const hints = Effect.gen(function*() {
    yield* availability.awaitAvailable
    const epoch = epochOf(SubscriptionRef.getUnsafe(availability.state))
    if (epoch !== undefined) yield* Effect.raceFirst(hintWhileDeaf, epochEnds(epoch))
  }).pipe(Effect.forever)

  /** What fails while the database is away, or serves nobody, is `Availability`'s to tell. */
  const tellFailure = (session: Session, text: string, isCertain: boolean) =>
    Effect.flatMap(monotonicMillis, (at) => {
      const isStill = epochOf(SubscriptionRef.getUnsafe(availability.state)) === session.epoch && availability.isOpen()
      if (!isStill) return Effect.void
      const deafSince = session.hasHeard ? at : session.startedAt
      const line = voice.failed({ at, deafSince, epoch: session.epoch, text, isCertain })
      return line === undefined ? Effect.void : passAlways(Effect.logWarning(line))
    })

  const tellWell = Effect.suspend(() => {
    const line = voice.well()
    return line === undefined ? Effect.void : passAlways(Effect.logInfo(line))
  })

  const listen = Effect.fnUntraced(function*(session: Session) {
    const queue = yield* listener.listen(channel)
    const heard = yield* Deferred.make<void>()
    const token = yield* random.uuidV4()
    const receive = Effect.forever(Effect.flatMap(Queue.take(queue), ({ payload }) => {
      const event = decode(payload)
      if (event._tag !== "Notified" || event.topic !== selfTestTopic) return hub.publish(event)
      return event.payload === token ? Deferred.succeed(heard, undefined) : Effect.void
    }))
    const test = Effect.gen(function*() {
      yield* database.write(
        "Notifications.test",
        Effect.flatMap(PgClient, (sql) => sql.notify(channel, encode(selfTestTopic, token)))
      )
      yield* Effect.timeout(Deferred.await(heard), selfTestWithin)
      isDeaf.closeUnsafe()
      session.hasHeard = true
      yield* hub.publish({ _tag: "Missed" })
      yield* Effect.forkScoped(Effect.delay(tellWell, stableAfter))
      yield* Effect.raceFirst(Effect.sleep(connectionLifetime), epochEnds(session.epoch))
    })
    yield* Effect.raceFirst(receive, test)
  })

  const session = Effect.gen(function*() {
    if (!availability.isOpen()) voice.interrupted()
    yield* availability.awaitAvailable
    const epoch = epochOf(SubscriptionRef.getUnsafe(availability.state))
    if (epoch === undefined) return
    const session: Session = { epoch, startedAt: yield* monotonicMillis, hasHeard: false }
    yield* listen(session).pipe(
      Effect.ensuring(Effect.sync(() => isDeaf.openUnsafe())),
      Effect.scoped,
      Effect.tapError((error) =>
        error._tag === "TimeoutError"
          ? tellFailure(session, unheard, true)
          : error instanceof DatabaseUnavailable
          ? Effect.void
          : tellFailure(session, describe(error).detail, false)
      ),
      Effect.catchTag("TimeoutError", () => Effect.sleep(connectionLifetime))
    )
  })

  const loop = yield* ControlLoop.make({
    name: "notifications",
    session,
    policy,
    // No wake: a session begins by waiting for the database.
    stableAfter,
    // What fails is told by the voice, and connections are renewed on purpose.
    quiet: (cause) =>
      cause.reasons.every((reason) =>
        Cause.isDieReason(reason) ? reason.defect === ControlLoop.endedByItself : Cause.isFailReason(reason)
      )
  })
  yield* loops.fork(loop.name, loop.run)
  yield* loops.fork("missed", hints)
  return hub
})

const unheard =
  "none that was sent to itself was heard; behind a pooler in transaction mode set LULL_DATABASE_LISTEN_URL to a direct address"
