/**
 * Is the database serving us? One prober, one voice.
 *
 * "Available" means: this replica can write its own heartbeat row, Lull's tables take writes, connections can be opened, and
 * none of Lull's own operations fails again and again. The heartbeat is the probe, the sign of life of the replica, and the
 * test for read-only servers and hung ones; there is no separate ping, which a standby would answer.
 *
 * "Degraded" means: the heartbeat gets through, and callers do not. The pool can open no connection, a lock is held on one of
 * the tables, or some of Lull's operations are refused after they failed again and again (`Breakers`).
 *
 * While available it beats every two seconds. A failure that may be the database's is reported, and the next heartbeat, made at
 * once, decides. While unavailable one fiber retries under `Backoff.database`, always over new connections. That policy
 * starts anew only when the database has stayed available for 30 seconds: one that flaps does not reset it. Nobody else
 * in the process tries, and nobody else speaks of it (`OutageVoice`).
 *
 * It does not know what asynchronous replication has lost; after a failover it says that another server answers, and
 * what was cached of the old one has to be compared anew.
 */
import { Cause, Clock, Context, Duration, Effect, Exit, Latch, Layer, Pull, Schedule, SubscriptionRef } from "effect"
import { passAlways } from "../logging/PassAlways.ts"
import * as Backoff from "../loop/Backoff.ts"
import { Loops } from "../loop/Loops.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { type Admission, Admissions, type Caller, type Ended, type Refusal } from "./Admissions.ts"
import * as AskedBeats from "./AskedBeats.ts"
import * as Breakers from "./Breakers.ts"
import { Link, NothingOpen, type ServerIdentity } from "./Link.ts"
import * as OutageVoice from "./OutageVoice.ts"
import * as ServerHistory from "./ServerHistory.ts"
import { type Classified, classify, describe, isSuspicious, judge, type Reason } from "./Unavailable.ts"
import * as WritableTime from "./WritableTime.ts"

/** Times are milliseconds of the Unix epoch: to be shown, and not to be reckoned with, as that clock may be set. */
export type State =
  | { readonly _tag: "Starting"; readonly since: number }
  | {
    readonly _tag: "Available"
    readonly since: number
    readonly server: ServerIdentity | undefined
    /** Grows each time the connections were made anew. */
    readonly epoch: number
  }
  | Trouble & {
    /** The heartbeat is written, and callers are not served, or not all of them. */
    readonly _tag: "Degraded"
    readonly server: ServerIdentity | undefined
    readonly epoch: number
  }
  | Trouble & { readonly _tag: "Unavailable" }

export interface Trouble {
  readonly reason: Reason
  readonly detail: string
  readonly since: number
  readonly attempts: number
  readonly lastError: string
  readonly nextAttempt: number
}

/** The connections of the state, if there are any: the same number means the same ones. */
export const epochOf = (state: State): number | undefined =>
  state._tag === "Available" || state._tag === "Degraded" ? state.epoch : undefined

export interface Options {
  /** Between two heartbeats while available. Default 2 seconds. */
  readonly beatEvery?: Duration.Input | undefined
  /** How long the database has to stay available before its past is forgotten. Default 30 seconds. */
  readonly stableAfter?: Duration.Input | undefined
}

export class Availability extends Context.Service<Availability, {
  readonly state: SubscriptionRef.SubscriptionRef<State>
  /** Completes at once while callers are served, or else when they are. */
  readonly awaitAvailable: Effect.Effect<void>
  /** Completes when the first probe has decided, either way. */
  readonly decided: Effect.Effect<void>
  /** For how many milliseconds the database has been unavailable; 0 while it is not. */
  readonly unavailableMillis: Effect.Effect<number>
  /** Callers are served, and there is no doubt of it. */
  readonly isOpen: () => boolean
  /** Connections are of no use, for a reason that the door does not see. After the next heartbeat they are made anew. */
  readonly report: (failure: Classified) => void
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
    layerWithAdmissions(options)
}

/** Both sides of it: who asks how the database is, and the door, whose calls decide that. */
export const layerWithAdmissions = (
  options: Options = {}
): Layer.Layer<Availability | Admissions, never, Link | Loops> => Layer.effectContext(make(options))

/** A trouble of the pool or of the tables; those of single operations are the breakers'. */
interface Found {
  readonly reason: Reason
  readonly detail: string
}

/** What was reported since the last heartbeat. */
interface Reports {
  /** For the next heartbeat to decide: if that is well, they count against their operations. */
  readonly undecided: Array<{ readonly operation: string; readonly failure: Breakers.Failure }>
  noConnection: Found | undefined
  /** A connection that is well for its server is of no use to us. */
  hasOldConnection: boolean
}

const noReports = (): Reports => ({ undecided: [], noConnection: undefined, hasOldConnection: false })

const make = Effect.fnUntraced(function*(options: Options) {
  const link = yield* Link
  const loops = yield* Loops
  const beatEvery = Duration.toMillis(Duration.fromInputUnsafe(options.beatEvery ?? Duration.seconds(2)))
  const stableAfter = Duration.toMillis(Duration.fromInputUnsafe(options.stableAfter ?? Duration.seconds(30)))
  const state = yield* SubscriptionRef.make<State>({ _tag: "Starting", since: yield* Clock.currentTimeMillis })
  const served = Latch.makeUnsafe(false)
  const decided = Latch.makeUnsafe(false)
  /** There is something to decide or to say before the next heartbeat is due. */
  const wake = Latch.makeUnsafe(false)
  /** Opened by the heartbeat that begins next, and by the one that is under way. */
  let asked = Latch.makeUnsafe(false)
  let answered = asked
  const breakers = Breakers.make()
  const askedBeats = AskedBeats.make()
  const history = ServerHistory.make()
  const writable = WritableTime.make(beatEvery + longestBeat)
  let voice: OutageVoice.Voice = OutageVoice.silent
  /** The heartbeat gets through. */
  let isUp = false
  /** A failure was reported that shuts the door until a heartbeat has decided. */
  let isDoubted = false
  let isBeatWanted = false
  let poolTrouble: Found | undefined
  let lockTrouble: Found | undefined
  let reports = noReports()
  let refused = 0
  let epoch = 0
  /** Attempts that have not been told yet. */
  let attempts = 0
  /** When the next attempt is made: the wall time of the state is for people. */
  let nextAttemptAt = 0
  let unavailableSince: number | undefined
  /** When work last got through on a connection of the pool. */
  let poolUsedAt = Number.NEGATIVE_INFINITY
  let vitalFailedAt: number | undefined
  let trialStep = yield* Schedule.toStep(Backoff.database)

  const isServed = () => isUp && !isDoubted && poolTrouble === undefined && lockTrouble === undefined

  const trouble = (): Found | undefined => poolTrouble ?? lockTrouble ?? breakers.worst()

  const sayLine = ({ level, text }: OutageVoice.Line) => Effect.logWithLevel(level)(text)

  const say = ([next, lines]: readonly [OutageVoice.Voice, ReadonlyArray<OutageVoice.Line>]) =>
    Effect.suspend(() => {
      voice = next
      // What is worth saying has been decided: a second outage is no repeat of the first.
      return passAlways(Effect.forEach(lines, sayLine, { discard: true }))
    })

  // --- heartbeats

  const probe = (fresh: boolean) =>
    Effect.flatMap(monotonicMillis, (at) => {
      askedBeats.made(at)
      return link.probe(fresh)
    })

  /** A probe over the kept connection; and if that is broken, over a new one before anybody calls it an outage. */
  const beat = Effect.catchCauseIf(
    Effect.map(probe(false), (server) => ({ server, renewed: false })),
    (cause) => !Cause.hasInterrupts(cause) && !isAnswer(classifyCause(cause).reason),
    () => Effect.map(probe(true), (server) => ({ server, renewed: true }))
  )

  /** The heartbeat was written, at this time. */
  const prove = (at: number) => {
    // While leases cannot be renewed here, nobody else's silence means anything.
    if (vitalFailedAt !== undefined && at - vitalFailedAt < vitalFailureCounts) writable.interrupted()
    else writable.written(at)
  }

  /** Whether the connections are few, as the database has come and gone. */
  let isCareful = false
  const renew = Effect.suspend(() => {
    isCareful = OutageVoice.isFlapping(voice)
    return link.renew(isCareful)
  })

  /** New connections for everybody, to the server that has just answered. */
  const renewTo = Effect.fnUntraced(function*(server: ServerIdentity | undefined, at: number) {
    yield* renew
    epoch++
    const line = history.connected(server, at)
    if (line !== undefined) yield* passAlways(sayLine(line))
  })

  /** Who waits for what this heartbeat finds is answered by `decide`; who asks from here on, by the next. */
  const beginBeat = () => {
    isBeatWanted = false
    answered = asked
    asked = Latch.makeUnsafe(false)
  }

  const decide = Effect.suspend(() => Effect.andThen(answered.open, decided.open))

  // --- the pool

  /**
   * Whether the pool can open a connection, asked twice before it is said that it cannot. That all connections are busy is no
   * answer: slow work of an application is nobody's trouble.
   */
  const lookAtPool = Effect.gen(function*() {
    for (let attempt = poolTrouble === undefined ? 1 : 2;; attempt++) {
      const exit = yield* Effect.exit(link.reach)
      if (Exit.isSuccess(exit)) {
        poolTrouble = undefined
        return
      }
      const found = poolTroubleOf(Cause.squash(exit.cause))
      if (found === undefined) return
      if (attempt < 2) continue
      poolTrouble = found
      return
    }
  })

  // --- what is known is told

  /** Brings the state, the voice, and those who wait to what is known. */
  const tell = Effect.fnUntraced(function*(at: number, nextTrial: number) {
    const now = yield* Clock.currentTimeMillis
    unavailableSince = undefined
    nextAttemptAt = nextTrial
    const current = yield* SubscriptionRef.get(state)
    const found = trouble()
    if (found === undefined) {
      const calls = current._tag === "Available" ? 0 : refused
      if (current._tag !== "Available" || current.epoch !== epoch) {
        const since = current._tag === "Available" ? current.since : now
        yield* SubscriptionRef.set(state, { _tag: "Available", since, server: history.last(), epoch })
      }
      refused -= calls
      attempts = 0
      yield* say(OutageVoice.available(voice, at, calls))
    } else {
      const { detail, reason } = found
      const before = current._tag === "Degraded" ? current : undefined
      const tried = before === undefined ? Math.max(1, attempts) : attempts
      attempts = 0
      yield* SubscriptionRef.set(state, {
        _tag: "Degraded",
        reason,
        detail,
        lastError: detail,
        since: before?.since ?? now,
        attempts: (before?.attempts ?? 0) + tried,
        nextAttempt: now + Math.max(0, nextTrial - at),
        server: history.last(),
        epoch
      })
      yield* say(OutageVoice.degraded(voice, { at, reason, detail, attempts: tried }))
    }
    yield* isServed() ? served.open : served.close
  })

  /** Failures of Lull's own operations while the heartbeat is well. */
  const count = Effect.fnUntraced(function*(operation: string, failure: Breakers.Failure) {
    const counted = breakers.failed(operation, failure)
    if (counted === "Counted") return
    attempts++
    breakers.pace(failure.at + (yield* nextDelay(trialStep, failure.at)))
    if (counted === "Opened") wake.openUnsafe()
  })

  const enterAvailable = Effect.fnUntraced(function*(server: ServerIdentity | undefined) {
    const at = yield* monotonicMillis
    breakers.clear()
    vitalFailedAt = undefined
    beginBeat()
    reports = noReports()
    lockTrouble = undefined
    poolTrouble = undefined
    prove(at)
    yield* renewTo(server, at)
    yield* lookAtPool
    isUp = true
    isDoubted = false
    yield* tell(at, at)
    yield* decide
  })

  /** A heartbeat, and what follows from it. Answers with the cause if the database is away. */
  const beatOnce = Effect.fnUntraced(function*(at: number, mayTry: boolean) {
    beginBeat()
    let exit = yield* Effect.exit(beat)
    // Short locks are everyday: of changes to a table, or of a vacuum that gives room back.
    if (lockTrouble === undefined && isLocked(exit)) exit = yield* Effect.exit(beat)
    if (Exit.isFailure(exit) && !isLocked(exit)) return exit.cause
    const { hasOldConnection, noConnection, undecided } = reports
    reports = noReports()
    if (Exit.isFailure(exit)) {
      const { detail, reason } = classifyCause(exit.cause)
      lockTrouble = { reason, detail }
      writable.interrupted()
    } else {
      const { renewed, server } = exit.value
      lockTrouble = undefined
      prove(yield* monotonicMillis)
      const isAnother = history.heard(server, at)
      if (renewed || isAnother || hasOldConnection || isBroken(noConnection)) {
        // The database is well and our connections were not: they are made anew, and nothing is said.
        yield* renewTo(server, at)
      }
      // What broke together with the heartbeat's own connection was one event, and is over.
      if (!renewed) { for (const { failure, operation } of undecided.splice(0)) yield* count(operation, failure) }
    }
    // Each call that was admitted has its answer, or a breaker would wait for it.
    for (const { operation } of undecided) breakers.withoutEvidence(operation)
    // While no work gets through, nobody else would find out.
    const isIdle = at - poolUsedAt > unusedAfter && poolTrouble === undefined
    if (noConnection !== undefined || isIdle || (mayTry && poolTrouble !== undefined)) yield* lookAtPool
    if (poolTrouble !== undefined || lockTrouble !== undefined) attempts++
    // What was reported meanwhile needs another heartbeat.
    isDoubted = isDoubted && isBeatWanted
    return undefined
  })

  /** Of a full disk somebody has to have written what needs new space, before it is forgotten. */
  const testSpace = Effect.fnUntraced(function*(at: number) {
    const exit = yield* Effect.exit(link.takeSpace)
    // Who may not make the test has only the silence to go by.
    const isFull = Exit.isFailure(exit) && classifyCause(exit.cause).reason === "Full"
    breakers.forget(at, !isFull)
  })

  /** Beats until a beat fails; answers with the cause. */
  const stayAvailable = Effect.gen(function*() {
    let at = yield* monotonicMillis
    let wellSince = at
    let nextBeat = at + beatEvery
    let step = yield* Schedule.toStep(Backoff.database)
    let nextTrial = trouble() === undefined ? at : at + (yield* nextDelay(step, at))
    while (true) {
      const dues = [
        ...(lockTrouble === undefined ? [nextBeat] : []),
        ...(trouble() === undefined ? [] : [nextTrial]),
        ...(isBeatWanted ? [askedBeats.dueAt()] : [])
      ]
      const wait = Math.min(...dues) - (yield* monotonicMillis)
      if (wait > 0) yield* Effect.raceFirst(Effect.sleep(Math.ceil(wait)), wake.await)
      wake.closeUnsafe()
      at = yield* monotonicMillis
      const mayTry = trouble() !== undefined && at >= nextTrial
      const isTrial = mayTry && (poolTrouble !== undefined || lockTrouble !== undefined)
      const isAsked = isBeatWanted && at >= askedBeats.dueAt()
      if (isAsked || isTrial || (lockTrouble === undefined && at >= nextBeat)) {
        const cause = yield* beatOnce(at, mayTry)
        if (cause !== undefined) return { cause, startedAt: at, stayed: at - wellSince }
        nextBeat = at + beatEvery
      }
      if (mayTry && breakers.needsSpaceTest(at)) yield* testSpace(at)
      breakers.forget(at, false)
      if (trouble() !== undefined) {
        wellSince = at
        if (nextTrial <= at) nextTrial = at + (yield* nextDelay(step, at))
      } else if (at - wellSince >= stableAfter) {
        step = yield* Schedule.toStep(Backoff.database)
        trialStep = yield* Schedule.toStep(Backoff.database)
      }
      yield* tell(at, breakerTrial() ?? nextTrial)
      yield* decide
      if (trouble() === undefined && at - wellSince >= stableAfter) yield* say(OutageVoice.settled(voice, at))
      if (isCareful && voice === OutageVoice.silent) yield* renew
    }
  })

  /** When the next trial of an operation may be made, if it is only operations that are in trouble. */
  const breakerTrial = () =>
    poolTrouble === undefined && lockTrouble === undefined ? breakers.worst()?.nextTrial : undefined

  const enterUnavailable = Effect.fnUntraced(function*(cause: Cause.Cause<unknown>, at: number, delay: number) {
    const now = yield* Clock.currentTimeMillis
    const { detail, reason } = classifyCause(cause)
    isUp = false
    isDoubted = false
    poolTrouble = undefined
    lockTrouble = undefined
    attempts = 0
    nextAttemptAt = at + delay
    unavailableSince ??= at
    writable.interrupted()
    yield* served.close
    const current = yield* SubscriptionRef.get(state)
    const before = current._tag === "Unavailable" ? current : undefined
    yield* SubscriptionRef.set(state, {
      _tag: "Unavailable",
      reason,
      detail,
      lastError: detail,
      since: before?.since ?? now,
      attempts: (before?.attempts ?? 0) + 1,
      nextAttempt: now + delay
    })
    if (before === undefined) yield* link.sever(new Error(`the database is unavailable: ${detail}`))
    yield* decide
    yield* asked.open
    yield* say(OutageVoice.unavailable(voice, { at, reason, detail }))
  })

  const run = Effect.gen(function*() {
    let step = yield* Schedule.toStep(Backoff.database)
    while (true) {
      let startedAt = yield* monotonicMillis
      const attempt = yield* Effect.exit(link.probe(true))
      let cause: Cause.Cause<unknown>
      if (Exit.isSuccess(attempt)) {
        yield* enterAvailable(attempt.value)
        const ended = yield* stayAvailable
        cause = ended.cause
        startedAt = ended.startedAt
        if (ended.stayed >= stableAfter) step = yield* Schedule.toStep(Backoff.database)
      } else {
        cause = attempt.cause
      }
      const at = yield* monotonicMillis
      // From the beginning of an attempt to that of the next: how long it takes to be refused is not added.
      const delay = Math.max(0, startedAt + (yield* nextDelay(step, at)) - at)
      yield* enterUnavailable(cause, at, delay)
      yield* Effect.sleep(delay)
    }
  })

  // --- what the door asks and tells

  const wantBeat = () => {
    if (isBeatWanted) return
    isBeatWanted = true
    wake.openUnsafe()
  }

  const doubt = () => {
    if (!isUp) return
    isDoubted = true
    served.closeUnsafe()
    wantBeat()
  }

  const refusal = Effect.gen(function*() {
    const current = SubscriptionRef.getUnsafe(state)
    if (current._tag === "Unavailable" || (current._tag === "Degraded" && !isServed())) {
      const { attempts, detail, reason, since } = current
      const left = nextAttemptAt - (yield* monotonicMillis)
      return { reason, detail, since, attempts, retryAfter: Duration.millis(Math.max(0, left)) }
    }
    if (current._tag === "Starting") return { ...notReached, since: current.since }
    const found = reports.noConnection ?? reports.undecided[0]?.failure
    return isDoubted
      ? {
        ...inDoubt,
        ...found && { reason: found.reason, detail: found.detail },
        since: yield* Clock.currentTimeMillis
      }
      : undefined
  })

  const refuse = (refusal: Refusal): Admission => {
    refused++
    return { _tag: "Refused", refusal }
  }

  const refuseAll = Effect.map(refusal, (known) => refuse(known ?? { ...inDoubt, since: 0 }))

  const refuseOne = Effect.fnUntraced(function*({ detail, nextTrial, reason, since }: Breakers.Open, at: number) {
    const now = yield* Clock.currentTimeMillis
    return refuse({
      reason,
      detail,
      since: now - (at - since),
      attempts: 0,
      retryAfter: Duration.millis(Math.max(0, nextTrial - at))
    })
  })

  const admit = ({ operation, whose }: Caller) =>
    Effect.suspend(() => {
      if (!isUp) return refuseAll
      if (whose === "vital" && (isDoubted || poolTrouble !== undefined)) return heartbeatOnly
      if (isDoubted || poolTrouble !== undefined) return refuseAll
      if (whose === "application") return passes
      if (lockTrouble !== undefined) return refuseAll
      if (breakers.isEmpty()) return passes
      return Effect.flatMap(monotonicMillis, (at) => {
        const admission = breakers.call(operation, at)
        return admission._tag === "Refused" ? refuseOne(admission, at) : passes
      })
    })

  const failed = Effect.fnUntraced(function*({ operation, whose }: Caller, ended: Ended, isByOthers: boolean) {
    const at = yield* monotonicMillis
    if (whose === "vital" && !isHarmless(ended)) vitalFailedAt = at
    if (ended._tag === "NoConnection") {
      reports.noConnection = { reason: ended.reason, detail: ended.detail }
      breakers.withoutEvidence(operation)
      return doubt()
    }
    if (whose === "application" || isByOthers) {
      breakers.withoutEvidence(operation)
      if (ended._tag === "Overdue" || isSuspicious(ended)) wantBeat()
      return
    }
    if (ended._tag === "Statement") {
      if (ended.trouble === undefined) return breakers.withoutEvidence(operation)
      const failure = { at, reason: ended.trouble, detail: ended.detail }
      if (!needsVerdict(ended.trouble)) return yield* Effect.andThen(count(operation, failure), Effect.sync(wantBeat))
      reports.undecided.push({ operation, failure })
      reports.hasOldConnection ||= ended.trouble === "ReadOnly"
      return doubt()
    }
    const reason = ended._tag === "Overdue" ? "Slow" : ended.reason
    reports.undecided.push({ operation, failure: { at, reason, detail: ended.detail } })
    reports.hasOldConnection ||= reason === "Hung"
    doubt()
  })

  yield* loops.fork("availability", run)

  const availability = Availability.of({
    state,
    awaitAvailable: served.await,
    decided: decided.await,
    unavailableMillis: Effect.map(monotonicMillis, (at) => unavailableSince === undefined ? 0 : at - unavailableSince),
    isOpen: isServed,
    report: ({ detail, reason }) => {
      reports.hasOldConnection = true
      reports.noConnection ??= { reason, detail }
      doubt()
    },
    writableMillis: writable.total,
    history: history.count
  })
  const admissions = Admissions.of({
    admit,
    succeeded: ({ operation, whose }, { at, lane }) => {
      if (lane === "pool") poolUsedAt = at
      if (whose === "application") return
      if (whose === "vital") vitalFailedAt = undefined
      if (breakers.succeeded(operation)) wake.openUnsafe()
    },
    failed,
    withoutEvidence: ({ operation }) => breakers.withoutEvidence(operation),
    refusal,
    verdict: (within) =>
      Effect.suspend(() => {
        if (!isUp) return Effect.void
        const waiting = asked
        wantBeat()
        // That of a heartbeat which is under way is enough, if it is a trouble.
        const known = Effect.flatMap(answered.await, () => isServed() ? waiting.await : Effect.void)
        return Effect.asVoid(Effect.timeoutOption(known, within))
      })
  })
  return Context.make(Availability, availability).pipe(Context.add(Admissions, admissions))
})

/** Milliseconds that a heartbeat may take, and a little more for a process that is busy. */
const longestBeat = 4_000

/** Milliseconds without any work on the pool after which the prober uses it: what is wrong there is known within 5 s. */
const unusedAfter = 500

/** A lease that could not be renewed is evidence for so long: workers renew theirs more often. */
const vitalFailureCounts = 15_000

const passes = Effect.succeed<Admission>({ _tag: "Pass" })
const heartbeatOnly = Effect.succeed<Admission>({ _tag: "HeartbeatOnly" })

const notReached = {
  reason: "Unreachable",
  detail: "it has not been reached since the start",
  attempts: 0,
  retryAfter: Duration.zero
} as const

const inDoubt = {
  reason: "Unreachable",
  detail: "a connection was lost, and the next heartbeat will decide",
  attempts: 0,
  retryAfter: Duration.zero
} as const

/** An answer of the server, or that it does not answer: another connection would bring the same. */
const isAnswer = (reason: Reason) => reason === "Hung" || reason === "Locked"

const isLocked = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isFailure(exit) && classifyCause(exit.cause).reason === "Locked"

const poolTroubleOf = (error: unknown): Found | undefined => {
  if (error instanceof NothingOpen) return { reason: "Hung", detail: "a new connection gets no answer" }
  const failure = judge(error, false)
  return failure._tag === "NoConnection" ? { reason: failure.reason, detail: failure.detail } : undefined
}

/** The way to the server was broken, so that a pool may go on being refused by its own memory. */
const isBroken = (found: Found | undefined) => found?.reason === "Unreachable" || found?.reason === "Hung"

/** Of these the heartbeat knows more: whether the server takes writes, whether the tables are there. */
const needsVerdict = (reason: Reason) => reason === "ReadOnly" || reason === "SchemaMissing"

const isHarmless = (ended: Ended) => ended._tag === "Statement" && ended.trouble === undefined

/** The next delay of a policy that does not end, in milliseconds. */
const nextDelay = (step: Step, at: number) =>
  Effect.map(
    step(at, undefined).pipe(Pull.catchDone(() => Effect.die(new Error("the policy of the database ended")))),
    ([, delay]) => Duration.toMillis(delay)
  )

type Step = Effect.Success<ReturnType<typeof newStep>>
const newStep = () => Schedule.toStep(Backoff.database)

/** A probe that fails is an outage, whatever it failed with: what the table does not know, somebody has to look at. */
const classifyCause = (cause: Cause.Cause<unknown>): Classified => {
  const error = Cause.squash(cause)
  return classify(error) ?? { reason: "Misconfigured", ...describe(error) }
}
