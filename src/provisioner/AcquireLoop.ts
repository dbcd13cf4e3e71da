/**
 * A worker: takes jobs, runs them, keeps their leases, reports them. One per process; ten slots are ten jobs at a time,
 * taken by one query, never by ten.
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
 * - A lease that is lost is lost: its job is stopped, and nothing is reported of it.
 * - Shutdown: no new jobs; the running ones may end until `shutdownDeadline`, then are canceled, or given back when they
 *   may be started again; then what is to be reported has `reportDeadline`, and what could not be said is logged.
 */
import {
  Cause,
  Context,
  Data,
  Duration,
  Effect,
  Exit,
  Fiber,
  Latch,
  Layer,
  Option,
  Random,
  Result,
  Schema,
  Scope,
  Tracer
} from "effect"
import { Availability } from "../database/Availability.ts"
import { Notifications } from "../database/Notifications.ts"
import { Replica } from "../database/Replica.ts"
import { DatabaseUnavailable } from "../database/Unavailable.ts"
import * as Backoff from "../loop/Backoff.ts"
import * as ControlLoop from "../loop/ControlLoop.ts"
import { Loops } from "../loop/Loops.ts"
import { ExecutionFailed, Executor } from "./Executor.ts"
import { HeldLeases } from "./HeldLeases.ts"
import { covers, type JobId, type JobOutcome, type LeasedJob, Tags } from "./Job.ts"
import { JobStore, type StoreError, topics } from "./JobStore.ts"
import type * as OutputBuffer from "./OutputBuffer.ts"
import * as Reporter from "./Reporter.ts"

export interface Options {
  /** Jobs at a time. Default 4. */
  readonly slots?: number | undefined
  /** What kinds of jobs it takes; see `covers` in `Job`. Default: none, so only untagged jobs. */
  readonly tags?: Tags | undefined
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

/** Results that wait for the database; at this many the worker takes no new jobs. */
const mostUnanswered = 10_000

/** Jobs in one acquire: with more slots than that, the next are taken while these are started. */
const jobsAtOnce = 1_000

/** Leases in one heartbeat statement. */
const leasesAtOnce = 1_000

/** Who has waited for the database does not come back in the same instant as all others. */
const wakeSpread = Duration.millis(200)

export class AcquireLoop extends Context.Service<AcquireLoop, {
  readonly slots: number
  readonly tags: Tags
  /** Jobs that run now. */
  readonly running: () => ReadonlyArray<JobId>
  /** Jobs that have ended here, and whose end is not stored yet. */
  readonly unanswered: () => ReadonlyArray<JobId>
}>()("lull/provisioner/AcquireLoop") {
  static readonly layer = (
    options: Options = {}
  ): Layer.Layer<
    AcquireLoop,
    never,
    Availability | Executor | HeldLeases | JobStore | Loops | Notifications | Replica
  > => Layer.effect(AcquireLoop, make(options))
}

class TimeLimitReached extends Data.TaggedError("TimeLimitReached")<{ readonly limit: Duration.Duration }> {}

interface Held {
  readonly job: LeasedJob
  fiber: Fiber.Fiber<unknown, unknown> | undefined
  /** Why it is being stopped. */
  stop: "canceled" | "lost" | "shutdown" | undefined
  running: boolean
}

const make = Effect.fnUntraced(function*(options: Options) {
  const availability = yield* Availability
  const executor = yield* Executor
  const loops = yield* Loops
  const notifications = yield* Notifications
  const replica = yield* Replica
  const store = yield* JobStore
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  // Spans are made where somebody looks at them.
  const isTraced = (yield* Effect.tracer) !== Context.get(Context.empty(), Tracer.Tracer)
  // An acquire outlives the beginning of a shutdown: its fiber is in a scope that is closed at the end of it.
  const runScope = yield* Scope.make()

  const slots = options.slots ?? 4
  const tags = options.tags ?? {}
  const lease = Duration.fromInputUnsafe(options.lease ?? Duration.seconds(30))
  const heartbeatEvery = Duration.fromInputUnsafe(options.heartbeatEvery ?? Duration.seconds(5))
  const pollEvery = Duration.fromInputUnsafe(options.pollEvery ?? Duration.seconds(10))
  const shutdownDeadline = Duration.fromInputUnsafe(options.shutdownDeadline ?? Duration.seconds(10))
  const reportDeadline = Duration.fromInputUnsafe(options.reportDeadline ?? Duration.seconds(5))

  const held = new Map<JobId, Held>()
  /** Stopped for a lost lease, and results that were refused: said in one line at the next heartbeat. */
  const lost: Array<JobId> = []
  const refused: Array<JobId> = []
  let running = 0
  const posted = Latch.makeUnsafe(false)
  const slotFree = Latch.makeUnsafe(true)
  const beatNow = Latch.makeUnsafe(false)
  const noneRunning = Latch.makeUnsafe(true)

  yield* (yield* HeldLeases).add(({ job, token }) => held.get(job)?.job.token === token)

  const reporter = yield* Reporter.make({
    buffer: options.output,
    onAnswered: ({ job, token }, accepted) => {
      if (held.get(job)?.job.token === token) held.delete(job)
      if (!accepted) refused.push(job)
      slotFree.openUnsafe()
    }
  })

  // --- running

  const attempt = ({ job }: Held) => {
    const run = Effect.suspend(() => executor.run(job, reporter.output(job)))
    const limited = job.timeout === undefined ? run : Effect.timeoutOrElse(run, {
      duration: Duration.millis(job.timeout),
      orElse: () => Effect.fail(new TimeLimitReached({ limit: Duration.millis(job.timeout ?? 0) }))
    })
    return isTraced
      ? Effect.withSpan(limited, "Executor.run", {
        root: true,
        attributes: { job: job.job, type: job.type, attempt: job.attempt }
      })
      : limited
  }

  const ended = (entry: Held, exit: Exit.Exit<unknown, ExecutionFailed | TimeLimitReached>) => {
    const { job } = entry
    entry.running = false
    if (entry.stop === "lost") {
      held.delete(job.job)
      reporter.forget(job.job)
    } else {
      if (Exit.isFailure(exit) && exit.cause.reasons.some(Cause.isDieReason)) {
        runFork(Effect.logError(`the executor died of job ${job.job}`, exit.cause))
      }
      reporter.report(job, outcomeOf(exit, entry))
    }
    // Only now: a shutdown that waits for the last job then also waits for its report.
    running--
    if (running === 0) noneRunning.openUnsafe()
    slotFree.openUnsafe()
  }

  /** From now on it takes a slot, and its lease is kept. */
  const enlist = (job: LeasedJob): Held => {
    const entry: Held = { job, fiber: undefined, stop: undefined, running: true }
    held.set(job.job, entry)
    running++
    noneRunning.closeUnsafe()
    return entry
  }

  // Whoever ends at once, as most jobs of an application in the same process do, costs one fiber and no turn of the
  // scheduler. Jobs outlive the beginning of a shutdown, so they belong to no scope.
  const start = (entry: Held) =>
    Effect.map(Effect.forkDetach(attempt(entry), { startImmediately: true }), (fiber) => {
      entry.fiber = fiber
      if (entry.stop !== undefined) fiber.interruptUnsafe()
      fiber.addObserver((exit) => ended(entry, exit))
    })

  const stop = (entry: Held, why: Exclude<Held["stop"], undefined>) => {
    if (entry.stop === "lost" || !entry.running) return
    entry.stop = why
    entry.fiber?.interruptUnsafe()
  }

  // --- taking

  /** What was asked for may have been given although no answer came. */
  let unsure = false

  /** Jobs that may be taken now. */
  const room = () => Math.min(slots - running, mostUnanswered - held.size, jobsAtOnce)

  /** Whether more jobs are wanted: as long as the session lives. */
  let isTaking = false

  interface Acquired {
    /** There may be more: the limit was reached. */
    readonly perhapsMore: boolean
    readonly nextDue: Duration.Duration | undefined
    /** The acquire that was sent before these jobs were started. */
    readonly next: Fiber.Fiber<Acquired, StoreError> | undefined
  }

  const acquire: Effect.Effect<Acquired, StoreError> = Effect.gen(function*() {
    const limit = room()
    // Closed before the query: a posting that comes during it opens the latch again, and is looked for afterwards.
    posted.closeUnsafe()
    const { jobs, nextDue } = yield* store.acquire({
      worker: replica.id,
      tags,
      limit,
      lease,
      reclaim: unsure ? [...held.keys()] : undefined
    }).pipe(Effect.tapError(() =>
      Effect.sync(() => {
        unsure = true
      })
    ))
    unsure = false
    const entries = jobs.map(enlist)
    const perhapsMore = jobs.length >= limit
    // The database looks for the next jobs while these are started.
    const next = perhapsMore && isTaking && room() > 0 ? yield* send : undefined
    yield* Effect.forEach(entries, start, { discard: true })
    return { perhapsMore, nextDue, next }
  })

  let inFlight: Fiber.Fiber<Acquired, StoreError> | undefined

  /** An acquire that has begun is never given up: what it brings has to be run. */
  const send = Effect.suspend(() =>
    Effect.tap(Effect.forkIn(acquire, runScope, { startImmediately: true }), (fiber) =>
      Effect.sync(() => {
        inFlight = fiber
      }))
  )

  const takeJobs = Effect.gen(function*() {
    isTaking = true
    let sent: Fiber.Fiber<Acquired, StoreError> | undefined
    while (true) {
      if (sent === undefined) {
        while (room() <= 0) {
          slotFree.closeUnsafe()
          yield* slotFree.await
        }
        if (!availability.isOpen()) yield* waitForDatabase
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

  const beatLeases = Effect.gen(function*() {
    const entries = [...held.values()]
    for (let from = 0; from < entries.length; from += leasesAtOnce) {
      const part = entries.slice(from, from + leasesAtOnce)
      const verdicts = yield* store.heartbeat(part.map(({ job }) => ({ job: job.job, token: job.token })), lease)
      for (const [at, entry] of part.entries()) {
        if (verdicts[at] === "canceling") stop(entry, "canceled")
        // Of a job that has ended here the answer to its report will tell.
        if (verdicts[at] === "lost" && entry.running) {
          stop(entry, "lost")
          lost.push(entry.job.job)
        }
      }
    }
  })

  const keepLeases = Effect.forever(Effect.gen(function*() {
    yield* Effect.raceFirst(Effect.sleep(heartbeatEvery), beatNow.await)
    beatNow.closeUnsafe()
    yield* sayWhatWasLost
    if (held.size === 0) return
    // The failure of a heartbeat in an outage is nobody's fault, and no job's end: it comes as soon as it can.
    yield* Effect.catchTag(
      beatLeases,
      "DatabaseUnavailable",
      // Leases can be kept where nobody else is served, so that its return is not all that is waited for.
      () =>
        Effect.andThen(
          Effect.raceFirst(waitForDatabase, Effect.sleep(heartbeatEvery)),
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

  const runningJobs = () => [...held.values()].filter((entry) => entry.running).map((entry) => entry.job.job)

  /** Sets of tags that were posted, and whether they are for this worker. */
  const known = new Map<string, boolean>()
  const isForUs = (key: string): boolean => {
    const answer = known.get(key)
    if (answer !== undefined) return answer
    if (known.size > 1_000) known.clear()
    const decided = Option.match(decodeTags(key), { onNone: () => true, onSome: (posted) => covers(tags, posted) })
    known.set(key, decided)
    return decided
  }

  yield* notifications.subscribe((event) => {
    if (event._tag === "Missed") {
      posted.openUnsafe()
      beatNow.openUnsafe()
    } else if (event.topic === topics.posted) {
      if (event.payload === "*" || isForUs(event.payload)) posted.openUnsafe()
    } else if (event.topic === topics.canceling && runningJobs().some((job) => job === event.payload)) {
      beatNow.openUnsafe()
    }
  })

  // --- shutdown

  const shutdown = Effect.gen(function*() {
    if (inFlight !== undefined) yield* Effect.timeoutOption(Fiber.await(inFlight), shutdownDeadline)
    if (running > 0) {
      yield* Effect.logInfo(
        `waiting for ${jobsNamed(runningJobs())} to end, at most ${Duration.format(shutdownDeadline)}`
      )
      yield* Effect.timeoutOption(noneRunning.await, shutdownDeadline)
    }
    for (const entry of held.values()) stop(entry, "shutdown")
    // An executor has to come to an end by itself; the deadline is for one that does not.
    yield* Effect.timeoutOption(noneRunning.await, shutdownDeadline)
    const reported = yield* Effect.timeoutOption(reporter.drained, reportDeadline)
    if (reported._tag === "None") {
      yield* Effect.logError(
        `the end of ${jobsNamed(reporter.unanswered())} could not be stored: the database is away; ` +
          "other workers will find the lease expired"
      )
    }
    yield* Scope.close(runScope, Exit.void)
  })

  // Whoever was started last is stopped first: the acquire loop, then this, then all that it needs.

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

  return AcquireLoop.of({ slots, tags, running: runningJobs, unanswered: reporter.unanswered })
})

const decodeTags = Schema.decodeUnknownOption(Schema.fromJsonString(Tags))

const outcomeOf = (exit: Exit.Exit<unknown, ExecutionFailed | TimeLimitReached>, entry: Held): JobOutcome => {
  if (Exit.isSuccess(exit)) {
    const result = exit.value ?? null
    return isJson(result)
      ? { status: "succeeded", result }
      : { status: "failed", result: null, error: "its result is not a JSON value" }
  }
  for (const reason of exit.cause.reasons) {
    if (Cause.isFailReason(reason)) {
      return reason.error instanceof ExecutionFailed
        ? {
          status: entry.stop === "canceled" ? "canceled" : "failed",
          result: isJson(reason.error.result) ? reason.error.result : null,
          error: storable(reason.error.error)
        }
        : {
          status: "failed",
          result: null,
          error: `stopped at its time limit of ${Duration.format(reason.error.limit)}`
        }
    }
    if (Cause.isDieReason(reason)) {
      return { status: "failed", result: null, error: storable(`its executor died: ${String(reason.defect)}`) }
    }
  }
  if (entry.stop === "canceled") return { status: "canceled", result: null, error: "canceled while it was running" }
  const error = "stopped, as its worker was shut down"
  return entry.job.attempt < entry.job.maxAttempts
    ? { status: "failed", result: null, error }
    : { status: "canceled", result: null, error }
}

/** PostgreSQL's text knows neither NUL nor half a surrogate pair. */
const storable = (text: string) => text.replaceAll("\0", "\uFFFD").toWellFormed()

const isJson = (value: unknown): boolean =>
  Result.isSuccess(Result.try(() => {
    if (JSON.stringify(value) === undefined) throw new TypeError("not a JSON value")
  }))

/** Up to this many are named in a line. */
const mostNamed = 5

const jobsNamed = (jobs: ReadonlyArray<JobId>): string => {
  const named = jobs.slice(0, mostNamed).join(", ")
  const more = jobs.length > mostNamed ? ` and ${jobs.length - mostNamed} more` : ""
  return `${jobs.length === 1 ? "job" : `${jobs.length} jobs`} ${named}${more}`
}
