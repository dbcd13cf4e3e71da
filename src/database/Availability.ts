/**
 * Is the database taking our writes? One prober, one voice.
 *
 * "Available" means: this replica can write its own heartbeat row. That write is the probe, the heartbeat of the replica,
 * and the test for read-only servers, full disks and hung ones; there is no separate ping, which a standby would answer.
 *
 * While available it beats every two seconds. A store may `report` a failure that means "unavailable"; then work is
 * refused until a probe, made at once, has decided. While unavailable one fiber retries under `Backoff.database`, always
 * over new connections. That policy starts anew only when the database has stayed available for 30 seconds: one that
 * flaps does not reset it. Nobody else in the process tries, and nobody else speaks of it (`OutageVoice`).
 *
 * It does not know what asynchronous replication has lost; after a failover it says that another server answers, and
 * what was cached of the old one has to be compared anew.
 */
import { Cause, Clock, Context, Duration, Effect, Latch, Layer, Pull, Schedule, SubscriptionRef } from "effect"
import { passAlways } from "../logging/PassAlways.ts"
import * as Backoff from "../loop/Backoff.ts"
import { Loops } from "../loop/Loops.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { Link, type ServerIdentity } from "./Link.ts"
import * as OutageVoice from "./OutageVoice.ts"
import { type Classified, classify, describe, type Reason } from "./Unavailable.ts"
import * as WritableTime from "./WritableTime.ts"

/** Times are milliseconds of the Unix epoch. */
export type State =
  | { readonly _tag: "Starting"; readonly since: number }
  | {
    readonly _tag: "Available"
    readonly since: number
    readonly server: ServerIdentity | undefined
    /** Grows each time the connections were made anew. */
    readonly epoch: number
  }
  | {
    readonly _tag: "Unavailable"
    readonly reason: Reason
    readonly since: number
    readonly attempts: number
    readonly lastError: string
    readonly nextAttempt: number
  }

export interface Options {
  /** Between two heartbeats while available. Default 2 seconds. */
  readonly beatEvery?: Duration.Input | undefined
  /** How long the database has to stay available before its past is forgotten. Default 30 seconds. */
  readonly stableAfter?: Duration.Input | undefined
}

export class Availability extends Context.Service<Availability, {
  readonly state: SubscriptionRef.SubscriptionRef<State>
  /** Completes at once while available, or else when it is. */
  readonly awaitAvailable: Effect.Effect<void>
  /** Completes when the first probe has decided, either way. */
  readonly decided: Effect.Effect<void>
  /** Work may pass: available, and not in doubt. Read by the door on each call. */
  readonly isOpen: () => boolean
  /** A failure that means "unavailable" has been seen. The next probe is made at once. */
  readonly report: (failure: Classified) => void
  /** A call was refused, and is counted for the line at the end. */
  readonly countRefused: () => void
  /**
   * Milliseconds so far in which the database was seen to take our writes: time between two heartbeats that both were
   * written. What is judged by silence (`Reaper`) counts only these: one's own outage proves nothing about others, nor do
   * the clocks of anybody. Only differences mean something.
   */
  readonly writableMillis: () => number
  /**
   * Grows whenever the rows may be those of another history: another server, another timeline, or a server of which it is
   * not known. What was seen of rows before proves nothing about these.
   */
  readonly history: () => number
}>()("lull/database/Availability") {
  static readonly layer = (options: Options = {}): Layer.Layer<Availability, never, Link | Loops> =>
    Layer.effect(Availability, make(options))
}

const make = Effect.fnUntraced(function*(options: Options) {
  const link = yield* Link
  const loops = yield* Loops
  const beatEvery = Duration.fromInputUnsafe(options.beatEvery ?? Duration.seconds(2))
  const stableAfter = Duration.toMillis(Duration.fromInputUnsafe(options.stableAfter ?? Duration.seconds(30)))
  const state = yield* SubscriptionRef.make<State>({ _tag: "Starting", since: yield* Clock.currentTimeMillis })
  const availableLatch = Latch.makeUnsafe(false)
  const decided = Latch.makeUnsafe(false)
  const doubt = Latch.makeUnsafe(false)
  let open = false
  /** What was reported since the last beat. */
  let reported: Classified | undefined
  let refused = 0
  let epoch = 0
  let voice: OutageVoice.Voice = OutageVoice.silent
  let lastServer: ServerIdentity | undefined
  const writable = WritableTime.make(Duration.toMillis(beatEvery) + longestBeat)
  let history = 0

  const say = ([next, lines]: readonly [OutageVoice.Voice, ReadonlyArray<OutageVoice.Line>]) =>
    Effect.suspend(() => {
      voice = next
      // What is worth saying has been decided: a second outage is no repeat of the first.
      return passAlways(Effect.forEach(lines, ({ level, text }) => Effect.logWithLevel(level)(text), { discard: true }))
    })

  /** A probe over the kept connection; and if that is broken, over a new one before anybody calls it an outage. */
  const beat = Effect.catchCauseIf(
    Effect.map(link.probe(false), (server) => ({ server, renewed: false })),
    (cause) => !Cause.hasInterrupts(cause) && classifyCause(cause).reason !== "Hung",
    () => Effect.map(link.probe(true), (server) => ({ server, renewed: true }))
  )

  const prove = Effect.flatMap(monotonicMillis, (at) => {
    writable.written(at)
    return Clock.currentTimeMillis
  })

  const compareServer = Effect.fnUntraced(function*(server: ServerIdentity | undefined) {
    const last = lastServer
    lastServer = server ?? last
    if (
      server === undefined || server.systemIdentifier !== last?.systemIdentifier || server.timeline !== last.timeline
    ) history++
    if (server === undefined || last === undefined) return
    if (server.systemIdentifier !== last.systemIdentifier) {
      yield* Effect.logWarning(
        `another database server answers: system identifier ${server.systemIdentifier}, before ${last.systemIdentifier}`
      )
    } else if (server.timeline < last.timeline) {
      yield* Effect.logWarning(`the database went back from timeline ${last.timeline} to ${server.timeline}`)
    } else if (server.timeline > last.timeline) {
      yield* Effect.logInfo(`another server was promoted: the timeline is ${server.timeline}, before ${last.timeline}`)
    }
  })

  /** Whether the connections are few, as the database has come and gone. */
  let isCareful = false
  const renew = Effect.suspend(() => {
    isCareful = OutageVoice.isFlapping(voice)
    return link.renew(isCareful)
  })

  const enterAvailable = Effect.fnUntraced(function*(server: ServerIdentity | undefined) {
    yield* renew
    yield* compareServer(server)
    const now = yield* prove
    epoch++
    open = true
    yield* SubscriptionRef.set(state, { _tag: "Available", since: now, server, epoch })
    yield* say(OutageVoice.available(voice, now, refused))
    refused = 0
    yield* availableLatch.open
    yield* decided.open
  })

  /** Beats until a beat fails; answers with the cause. */
  const stayAvailable = Effect.gen(function*() {
    const since = yield* Clock.currentTimeMillis
    while (true) {
      yield* Effect.raceFirst(Effect.sleep(beatEvery), doubt.await)
      doubt.closeUnsafe()
      const doubted = reported
      reported = undefined
      const exit = yield* Effect.exit(beat)
      if (exit._tag === "Failure") return { cause: exit.cause, stayed: (yield* Clock.currentTimeMillis) - since }
      const now = yield* prove
      if (exit.value.renewed || (doubted !== undefined && concernsConnections(doubted.reason))) {
        // The database is well and our connections were not: they are made anew, and nothing is said.
        yield* renew
        yield* compareServer(exit.value.server)
        epoch++
        yield* SubscriptionRef.update(
          state,
          (current) => current._tag === "Available" ? { ...current, server: exit.value.server, epoch } : current
        )
      }
      open = reported === undefined
      yield* say(now - since >= stableAfter ? OutageVoice.settled(voice, now) : OutageVoice.available(voice, now, 0))
      if (isCareful && voice === OutageVoice.silent) yield* renew
    }
  })

  const enterUnavailable = Effect.fnUntraced(function*(cause: Cause.Cause<unknown>, delayed: number) {
    const now = yield* Clock.currentTimeMillis
    const failure = classifyCause(cause)
    open = false
    writable.interrupted()
    yield* availableLatch.close
    const current = yield* SubscriptionRef.get(state)
    yield* SubscriptionRef.set(state, {
      _tag: "Unavailable",
      reason: failure.reason,
      since: current._tag === "Unavailable" ? current.since : now,
      attempts: current._tag === "Unavailable" ? current.attempts + 1 : 1,
      lastError: failure.detail,
      nextAttempt: now + delayed
    })
    if (current._tag !== "Unavailable") yield* link.sever(new Error(`the database is unavailable: ${failure.detail}`))
    yield* decided.open
    yield* say(OutageVoice.unavailable(voice, { at: now, reason: failure.reason, detail: failure.detail }))
  })

  const run = Effect.gen(function*() {
    let step = yield* Schedule.toStep(Backoff.database)
    while (true) {
      const attempt = yield* Effect.exit(link.probe(true))
      let cause: Cause.Cause<unknown>
      if (attempt._tag === "Success") {
        yield* enterAvailable(attempt.value)
        const ended = yield* stayAvailable
        cause = ended.cause
        if (ended.stayed >= stableAfter) step = yield* Schedule.toStep(Backoff.database)
      } else {
        cause = attempt.cause
      }
      const [, delay] = yield* step(yield* Clock.currentTimeMillis, undefined).pipe(
        Pull.catchDone(() => Effect.die(new Error("the policy of the database ended")))
      )
      yield* enterUnavailable(cause, Duration.toMillis(delay))
      yield* Effect.sleep(delay)
    }
  })

  yield* loops.fork("availability", run)

  return Availability.of({
    state,
    awaitAvailable: availableLatch.await,
    decided: decided.await,
    isOpen: () => open,
    report: (failure) => {
      reported = failure
      open = false
      doubt.openUnsafe()
    },
    countRefused: () => {
      refused++
    },
    writableMillis: writable.total,
    history: () => history
  })
})

/** Milliseconds that a heartbeat may take, and a little more for a process that is busy. */
const longestBeat = 4_000

/** Whether a failure of this kind, while the heartbeat is written, shows that the other connections lead to another server. */
const concernsConnections = (reason: Reason) => reason === "ReadOnly"

/** A probe that fails is an outage, whatever it failed with: what the table does not know, somebody has to look at. */
const classifyCause = (cause: Cause.Cause<unknown>): Classified => {
  const error = Cause.squash(cause)
  return classify(error) ?? { reason: "Misconfigured", ...describe(error) }
}
