/**
 * LISTEN/NOTIFY for the whole process, over one connection and one channel. A notification is a topic and a payload.
 *
 * Notifications make things fast, not right: they are lost while nobody listens. Whoever subscribes is told when some may
 * have been missed, and then looks for itself, once; and it polls, slowly, all the same.
 *
 * Behind a pooler in transaction mode `LISTEN` succeeds and nothing ever arrives. So each new connection sends a
 * notification to itself; if that does not arrive, it is said once, and polling has to do until the next attempt.
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import { Cause, Context, Deferred, Duration, Effect, Layer, Queue, Ref, type Scope, SubscriptionRef } from "effect"
import { SecureRandom } from "effect/crypto/SecureRandom"
import * as Backoff from "../loop/Backoff.ts"
import * as ControlLoop from "../loop/ControlLoop.ts"
import { Loops } from "../loop/Loops.ts"
import { Availability, epochOf } from "./Availability.ts"
import { Database } from "./Database.ts"
import { Listener } from "./Listener.ts"
import { classify, DatabaseUnavailable } from "./Unavailable.ts"

export const channel = "lull"

export type Event =
  | { readonly _tag: "Notified"; readonly topic: string; readonly payload: string }
  /** Some may have been missed: the listener has just connected. */
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

/** How long a notification to oneself may take. */
const selfTestWithin = Duration.seconds(3)

const selfTestTopic = "listener-test"

const makePostgres = Effect.gen(function*() {
  const availability = yield* Availability
  const { own: database } = yield* Database
  const listener = yield* Listener
  const loops = yield* Loops
  const random = yield* SecureRandom
  const hub = makeHub()
  const saidDeaf = yield* Ref.make(false)

  const epochEnds = (epoch: number) =>
    Effect.gen(function*() {
      // The state is watched, not the socket: what is hung is not noticed by a connection that only listens.
      while (true) {
        if (epochOf(SubscriptionRef.getUnsafe(availability.state)) !== epoch) return
        yield* Effect.sleep("1 second")
      }
    })

  const session = Effect.gen(function*() {
    yield* availability.awaitAvailable
    const epoch = epochOf(SubscriptionRef.getUnsafe(availability.state))
    if (epoch === undefined) return
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
      yield* Ref.set(saidDeaf, false)
      yield* hub.publish({ _tag: "Missed" })
      yield* Effect.raceFirst(Effect.sleep(connectionLifetime), epochEnds(epoch))
    })
    yield* Effect.raceFirst(receive, test)
  }).pipe(
    Effect.scoped,
    Effect.catchTag("TimeoutError", () =>
      Effect.andThen(
        Effect.flatMap(Ref.getAndSet(saidDeaf, true), (said) =>
          said
            ? Effect.void
            : Effect.logWarning(
              "notifications of the database do not arrive, jobs are found by polling; behind a pooler in transaction " +
                "mode set LULL_DATABASE_LISTEN_URL to a direct address"
            )),
        Effect.sleep(connectionLifetime)
      ))
  )

  const loop = yield* ControlLoop.make({
    name: "notifications",
    session,
    policy: Backoff.session,
    // No wake: a session begins by waiting for the database, and one that comes and goes is not met with a listener each time.
    stableAfter: "10 seconds",
    // The database's absence is `Availability`'s to tell, and connections are renewed on purpose.
    quiet: (cause) =>
      cause.reasons.every((reason) =>
        Cause.isDieReason(reason)
          ? reason.defect === ControlLoop.endedByItself
          : Cause.isFailReason(reason) && (isDatabaseUnavailable(reason.error) || classify(reason.error) !== undefined)
      )
  })
  yield* loops.fork(loop.name, loop.run)
  return hub
})

const isDatabaseUnavailable = (error: unknown) => error instanceof DatabaseUnavailable
