/**
 * A worker: takes jobs, runs them, keeps their leases, reports them. It has an identity of its own, so that a process may have
 * several; ten slots are ten jobs at a time, taken by one query, never by ten.
 *
 * ```text
 *   posted, poll, due ──▶ acquire ──▶ run (one fiber a job) ──▶ Reporter ──▶ answered
 *                            ▲            ▲                                     │
 *                            │ slot free  │ canceled, lease lost                │ lease ends
 *                            └────────────┴──── heartbeat (one for all) ────────┘
 * ```
 *
 * - With nothing to do it asks nothing: a posting that its tags cover wakes it, and a slow poll is the safety net.
 * - When the answer of an acquire was lost, the next one also asks for what this worker holds and does not know of.
 * - An outage changes nothing for a running job. Its lease may run out meanwhile: the first heartbeat afterwards prolongs
 *   it, and the `Reaper` of no replica counts the time in which that replica could not write.
 * - A lease that is lost is lost: its run is stopped, and nothing is reported of it. A successor in this process begins when it has
 *   ended (`Runs`).
 * - Only types that the executor runs are taken. While the executor can run none (a full disk), jobs are given back as they were,
 *   and no others are taken.
 * - Shutdown: no new jobs; the running ones may end until `shutdownDeadline`, then are canceled, or given back when they
 *   may be started again; then what is to be reported has `reportDeadline`, and what could not be said is logged.
 */
import {
  Cause,
  Context,
  Duration,
  Effect,
  Exit,
  Fiber,
  Latch,
  Layer,
  Option,
  Random,
  Schedule,
  Schema,
  Scope
} from "effect"
import { SecureRandom } from "effect/crypto/SecureRandom"
import { Availability } from "../database/Availability.ts"
import { Notifications } from "../database/Notifications.ts"
import { Replica } from "../database/Replica.ts"
import { DatabaseUnavailable } from "../database/Unavailable.ts"
import { errorText } from "../logging/ErrorText.ts"
import * as Backoff from "../loop/Backoff.ts"
import * as ControlLoop from "../loop/ControlLoop.ts"
import { Loops } from "../loop/Loops.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { Executor, ExecutorUnable } from "./Executor.ts"
import { covers, type JobId, JobType, Tags } from "./Job.ts"
import { JobStore, type StoreError, topics, type UnreadableJob, type Worker } from "./JobStore.ts"
import { LocalWorkers } from "./LocalWorkers.ts"
import { unableOf } from "./Outcome.ts"
import type * as OutputBuffer from "./OutputBuffer.ts"
import * as Reporter from "./Reporter.ts"
import * as Runs from "./Runs.ts"

export interface Options {
  /** Jobs at a time. Default 4. */
  readonly slots?: number | undefined
  /** What kinds of jobs it takes; see `covers` in `Job`. Default: none, so only untagged jobs. */
  readonly tags?: Tags | undefined
  /** For people. Default: the name of the replica, with a number from the second worker of a process on. */
  readonly name?: string | undefined
  /** A worker that is not heard of for longer may lose its jobs. Default 30 seconds. */
  readonly lease?: Duration.Input | undefined
  /** Between two heartbeats of the leases; also how soon a cancel arrives at the latest. Default 5 seconds. */
  readonly heartbeatEvery?: Duration.Input | undefined
  /** The safety net: how often it looks for jobs unasked, plus or minus a fifth. Default 10 seconds. */
  readonly pollEvery?: Duration.Input | undefined
  /** How long running jobs may go on after the beginning of a shutdown. Default 10 seconds. */
  readonly shutdownDeadline?: Duration.Input | undefined
  /** How long the last reports may take after that. Default 5 seconds. */
  readonly reportDeadline?: Duration.Input | undefined
  readonly output?: OutputBuffer.Options | undefined
}

/** Results that wait for the database; at this many, or at so many bytes, the worker takes no new jobs. */
const mostUnanswered = 10_000
const mostUnansweredBytes = 64 * 1_048_576

/** Jobs in one acquire: with more slots than that, the next are taken while these are started. */
const jobsAtOnce = 1_000

/** A database that is there and does not take the heartbeat is asked again this much later, and not at once. */
const beatAgainAfter = Duration.seconds(1)

/** Leases in one heartbeat statement. */
const leasesAtOnce = 1_000

/** Those who have waited for the database do not all come back in the same instant. */
const wakeSpread = Duration.millis(200)

/** Between two looks whether an executor that was unable can run jobs again. */
const recovery = Backoff.exponential({ floor: "100 millis", cap: "5 seconds" })

/** To say that this worker is gone, when it ends. */
const farewellWithin = Duration.seconds(1)

export class AcquireLoop extends Context.Service<AcquireLoop, {
  /** Who it is, as the store knows it. */
  readonly worker: Worker
  readonly slots: number
  readonly tags: Tags
  /** Jobs that run now. */
  readonly running: () => ReadonlyArray<JobId>
  /** Jobs that have ended here, and whose end is not stored yet. */
  readonly unanswered: () => ReadonlyArray<JobId>
  /** Why it takes no jobs, while its executor can run none. */
  readonly unable: () => string | undefined
}>()("lull/provisioner/AcquireLoop") {
  static readonly layer = (
    options: Options = {}
  ): Layer.Layer<
    AcquireLoop,
    never,
    Availability | Executor | LocalWorkers | JobStore | Loops | Notifications | Replica | SecureRandom
  > => Layer.effect(AcquireLoop, make(options))
}

const identify = Effect.fnUntraced(function*(options: Options) {
  const executor = yield* Executor
  const replica = yield* Replica
  const number = yield* (yield* LocalWorkers).nextNumber
  const worker: Worker = {
    id: yield* (yield* SecureRandom).uuidV4(),
    replica: replica.id,
    name: options.name ?? (number === 1 ? replica.name : `${replica.name}/${number}`),
    tags: options.tags ?? {},
    types: executor.types,
    slots: options.slots ?? 4
  }
  return worker
})

const make = Effect.fnUntraced(function*(options: Options) {
  const availability = yield* Availability
  const executor = yield* Executor
  const localWorkers = yield* LocalWorkers
  const loops = yield* Loops
  const notifications = yield* Notifications
  const store = yield* JobStore
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  // An acquire outlives the beginning of a shutdown: its fiber is in a scope that is closed at the end of it.
  const runScope = yield* Scope.make()

  const worker = yield* identify(options)
  const { slots, tags } = worker
  const lease = Duration.fromInputUnsafe(options.lease ?? Duration.seconds(30))
  const heartbeatEvery = Duration.fromInputUnsafe(options.heartbeatEvery ?? Duration.seconds(5))
  const pollEvery = Duration.fromInputUnsafe(options.pollEvery ?? Duration.seconds(10))
  const shutdownDeadline = Duration.fromInputUnsafe(options.shutdownDeadline ?? Duration.seconds(10))
  const reportDeadline = Duration.fromInputUnsafe(options.reportDeadline ?? Duration.seconds(5))

  /** Stopped for a lost lease, and results that were refused: said in one line at the next heartbeat. */
  const lost: Array<JobId> = []
  const refused: Array<JobId> = []
  const posted = Latch.makeUnsafe(false)
  const slotFree = Latch.makeUnsafe(true)
  const beatNow = Latch.makeUnsafe(false)
  const isAble = Latch.makeUnsafe(true)
  let unable: ExecutorUnable | undefined
  /** Its executor was unable, and has begun no job since: one is tried before others are taken. */
  let isUnproven = false

  const reporter = yield* Reporter.make({
    buffer: options.output,
    onAnswered: (answered, verdict) => {
      runs.drop(answered)
      if (verdict === "refused") refused.push(answered.job)
      slotFree.openUnsafe()
    }
  })

  const runs: Runs.Runs = yield* Runs.make({
    executor,
    reporter,
    onEnd: (_, failure) => {
      if (failure === undefined) isUnproven = false
      else if (unable === undefined) runFork(recover(failure))
      slotFree.openUnsafe()
    }
  })
  yield* localWorkers.add({ worker, holds: runs.holds })

  // --- an executor that can run no jobs

  // A check that dies is a check that fails: what it was about to find is not there.
  const ready = Effect.catchCause(
    executor.ready ?? Effect.void,
    (cause) => Effect.fail(unableOf(Exit.failCause(cause)) ?? new ExecutorUnable({ reason: errorText(cause) }))
  )
  let retries = yield* Schedule.toStepWithMetadata(recovery)

  /** Takes no jobs until the executor says that it can run them. */
  const recover = Effect.fnUntraced(function*(failure: ExecutorUnable) {
    const since = yield* monotonicMillis
    if (!isUnproven) {
      retries = yield* Schedule.toStepWithMetadata(recovery)
      yield* Effect.logWarning(`this worker can not run jobs, and takes none until it can: ${failure.reason}`)
    }
    unable = failure
    isUnproven = true
    isAble.closeUnsafe()
    let isReady = false
    while (!isReady) {
      yield* Effect.ignore(retries(undefined))
      isReady = yield* Effect.match(ready, {
        onFailure: (still) => {
          unable = still
          return false
        },
        onSuccess: () => true
      })
    }
    const lasted = Duration.millis((yield* monotonicMillis) - since)
    yield* Effect.logInfo(`this worker can run jobs again, after ${Duration.format(lasted)}`)
    unable = undefined
    isAble.openUnsafe()
    slotFree.openUnsafe()
  })

  const checkGround = Effect.catch(ready, (failure) => unable === undefined ? recover(failure) : Effect.void)

  // --- taking

  /** What was asked for may have been given although no answer came. */
  let unsure = false

  /** Jobs that may be taken now. */
  const room = () => {
    if (unable !== undefined || reporter.unansweredBytes() >= mostUnansweredBytes) return 0
    const free = Math.min(slots - runs.running(), mostUnanswered - runs.size(), jobsAtOnce)
    return isUnproven ? Math.min(free, 1 - runs.running()) : free
  }

  /** Whether more jobs are wanted: as long as the session lives. */
  let isTaking = false

  interface Acquired {
    /** There may be more: the limit was reached. */
    readonly perhapsMore: boolean
    readonly nextDue: Duration.Duration | undefined
    /** The acquire that was sent before these jobs were started. */
    readonly next: Fiber.Fiber<Acquired, StoreError> | undefined
  }

  /** A job that can not be read ends alone, and is named. */
  const refuse = ({ problem, ...held }: UnreadableJob) =>
    Effect.andThen(
      Effect.logError(`job ${held.job} can not be run: ${problem}`),
      Effect.sync(() => {
        const job = { ...held, type: "", input: null, tags: {}, timeout: undefined, maxAttempts: held.attempt }
        runs.hold(job)
        reporter.report(job, { outcome: { status: "failed", result: null, error: problem } })
      })
    )

  const acquire: Effect.Effect<Acquired, StoreError> = Effect.gen(function*() {
    const limit = room()
    // Closed before the query: a posting that comes during it opens the latch again, and is looked for afterwards.
    posted.closeUnsafe()
    const { isMore, jobs, nextDue, unreadable } = yield* store.acquire({
      worker,
      limit,
      lease,
      reclaim: unsure ? runs.all().map(({ job }) => job) : undefined
    }).pipe(Effect.tapError(() =>
      Effect.sync(() => {
        unsure = true
      })
    ))
    unsure = false
    const entries = jobs.map(runs.enlist)
    // The database looks for the next jobs while these are started.
    const next = isMore && isTaking && room() > 0 ? yield* send : undefined
    yield* Effect.forEach(entries, runs.start, { discard: true })
    yield* Effect.forEach(unreadable, refuse, { discard: true })
    return { perhapsMore: isMore, nextDue, next }
  })

  let inFlight: Fiber.Fiber<Acquired, StoreError> | undefined

  /** An acquire that has begun is never given up: what it brings has to be run. */
  const send = Effect.suspend(() =>
    Effect.tap(Effect.forkIn(acquire, runScope, { startImmediately: true }), (fiber) =>
      Effect.sync(() => {
        inFlight = fiber
      }))
  )

  /** The history of the database in which this worker is registered. */
  let registered: number | undefined
  const register = Effect.suspend(() => {
    const history = availability.history()
    if (registered === history) return Effect.void
    return Effect.map(store.register(worker), () => {
      registered = history
    })
  })

  const waitForRoom = Effect.gen(function*() {
    yield* isAble.await
    while (room() <= 0) {
      slotFree.closeUnsafe()
      yield* slotFree.await
    }
    if (!availability.isOpen()) yield* waitForDatabase
    yield* register
    // After standing still for longer than a lease: what was lost meanwhile is stopped before anything is taken.
    const since = (yield* monotonicMillis) - confirmedAt
    if (runs.running() > 0 && since > Duration.toMillis(lease)) yield* beatLeases
  })

  const takeJobs = Effect.gen(function*() {
    isTaking = true
    let sent: Fiber.Fiber<Acquired, StoreError> | undefined
    yield* checkGround
    while (true) {
      if (sent === undefined) {
        yield* waitForRoom
        sent = yield* send
      }
      const { next, nextDue, perhapsMore }: Acquired = yield* Fiber.join(sent)
      sent = next
      if (perhapsMore) continue
      const jitter = 0.8 + 0.4 * (yield* Random.next)
      const poll = Duration.times(pollEvery, jitter)
      yield* Effect.raceFirst(posted.await, Effect.sleep(nextDue === undefined ? poll : Duration.min(poll, nextDue)))
    }
  }).pipe(Effect.ensuring(Effect.sync(() => {
    isTaking = false
  })))

  const waitForDatabase = availability.awaitAvailable.pipe(
    Effect.andThen(Random.next),
    Effect.flatMap((random) => Effect.sleep(Duration.times(wakeSpread, random)))
  )

  // --- leases

  /** When the leases were last known to be held, on a monotonic clock. */
  let confirmedAt = yield* monotonicMillis

  const beatLeases = Effect.gen(function*() {
    const asked = yield* monotonicMillis
    const entries = runs.all()
    for (let from = 0; from < entries.length; from += leasesAtOnce) {
      const part = entries.slice(from, from + leasesAtOnce)
      const verdicts = yield* store.heartbeat(part.map(({ job }) => ({ job: job.job, token: job.token })), lease)
      for (const [at, run] of part.entries()) {
        if (verdicts[at] === "canceling") runs.stop(run, "canceled")
        // Of a job that has ended here the answer to its report will say it.
        if (verdicts[at] === "lost" && run.isRunning && run.stop !== "lost") {
          runs.stop(run, "lost")
          lost.push(run.job.job)
        }
      }
    }
    confirmedAt = asked
  })

  const keepLeases = Effect.forever(Effect.gen(function*() {
    yield* Effect.raceFirst(Effect.sleep(heartbeatEvery), beatNow.await)
    beatNow.closeUnsafe()
    yield* sayWhatWasLost
    if (runs.size() === 0) return
    // The failure of a heartbeat in an outage is nobody's fault, and no job's end: it comes as soon as it can.
    yield* Effect.catchTag(
      beatLeases,
      "DatabaseUnavailable",
      // Leases can be kept where nobody else is served, so that its return is not all that is waited for.
      () =>
        Effect.andThen(
          Effect.raceFirst(Effect.andThen(Effect.sleep(beatAgainAfter), waitForDatabase), Effect.sleep(heartbeatEvery)),
          Effect.sync(() => beatNow.openUnsafe())
        )
    )
    yield* sayWhatWasLost
  }))

  const sayWhatWasLost = Effect.suspend(() => {
    const stopped = lost.splice(0)
    const unheard = refused.splice(0)
    return Effect.andThen(
      stopped.length === 0
        ? Effect.void
        : Effect.logWarning(
          `${jobsNamed(stopped)} stopped: the lease was lost to another worker, or the job was ended`
        ),
      unheard.length === 0
        ? Effect.void
        : Effect.logWarning(`the result of ${jobsNamed(unheard)} was refused: the lease had been lost`)
    )
  })

  /** Postings that were seen, and whether they are for this worker. */
  const known = new Map<string, boolean>()
  const isForUs = (payload: string): boolean => {
    const answer = known.get(payload)
    if (answer !== undefined) return answer
    if (known.size > 1_000) known.clear()
    const decided = Option.match(decodePosting(payload), {
      onNone: () => true,
      onSome: ([type, wanted]) => covers(tags, wanted) && (worker.types?.includes(type) ?? true)
    })
    known.set(payload, decided)
    return decided
  }

  yield* notifications.subscribe((event) => {
    if (event._tag === "Missed") {
      posted.openUnsafe()
      beatNow.openUnsafe()
    } else if (event.topic === topics.posted) {
      if (event.payload === "*" || isForUs(event.payload)) posted.openUnsafe()
    } else if (event.topic === topics.canceling && runs.runningJobs().some((job) => job === event.payload)) {
      beatNow.openUnsafe()
    }
  })

  // --- shutdown

  const shutdown = Effect.gen(function*() {
    if (inFlight !== undefined) yield* Effect.timeoutOption(Fiber.await(inFlight), shutdownDeadline)
    if (runs.running() > 0) {
      yield* Effect.logInfo(
        `waiting for ${jobsNamed(runs.runningJobs())} to end, at most ${Duration.format(shutdownDeadline)}`
      )
      yield* Effect.timeoutOption(runs.noneRunning, shutdownDeadline)
    }
    for (const run of runs.all()) runs.stop(run, "shutdown")
    // An executor has to come to an end by itself; the deadline is for one that does not.
    yield* Effect.timeoutOption(runs.noneRunning, shutdownDeadline)
    const reported = yield* Effect.timeoutOption(reporter.drained, reportDeadline)
    if (reported._tag === "None") {
      yield* Effect.logError(
        `the end of ${jobsNamed(reporter.unanswered())} could not be stored: the database is away; ` +
          "other workers will find the lease expired"
      )
    }
    if (registered !== undefined) {
      yield* Effect.ignore(Effect.timeout(store.register({ ...worker, slots: 0 }), farewellWithin))
    }
    yield* Scope.close(runScope, Exit.void)
  })

  // What was started last is stopped first: the acquire loop, then this, then all that it needs.

  const keeper = yield* ControlLoop.make({
    name: "leases",
    session: keepLeases,
    policy: Backoff.acquire
  })
  yield* loops.fork(keeper.name, keeper.run)

  yield* Effect.addFinalizer(() => shutdown)

  const taker = yield* ControlLoop.make({
    name: "acquire",
    session: takeJobs,
    policy: Backoff.acquire,
    wake: Effect.suspend(() => availability.isOpen() ? Effect.never : availability.awaitAvailable),
    wakeSpread,
    quiet: (cause) =>
      cause.reasons.every((reason) => Cause.isFailReason(reason) && reason.error instanceof DatabaseUnavailable)
  })
  yield* loops.fork(taker.name, taker.run)

  return AcquireLoop.of({
    worker,
    slots,
    tags,
    running: runs.runningJobs,
    unanswered: reporter.unanswered,
    unable: () => unable?.reason
  })
})

/** Type and tags; of the version before, tags alone, which are then looked for whatever their type. */
const decodePosting = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Tuple([JobType, Tags])))

/** Up to this many are named in a line. */
const mostNamed = 5

const jobsNamed = (jobs: ReadonlyArray<JobId>): string => {
  const named = jobs.slice(0, mostNamed).join(", ")
  const more = jobs.length > mostNamed ? ` and ${jobs.length - mostNamed} more` : ""
  return `${jobs.length === 1 ? "job" : `${jobs.length} jobs`} ${named}${more}`
}
