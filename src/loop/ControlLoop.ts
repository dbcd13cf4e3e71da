/**
 * A control loop runs a session for ever under a policy.
 *
 * A session is anything that is supposed to stay: a subscription, a consumer, a connection. When it ends, with an
 * error, with a defect or by returning, it has failed to stay, and the loop waits for the policy's next delay before it
 * starts another. **Only a session that stayed for `stableAfter` starts the policy anew.** A session that connects, looks
 * well and breaks is still backed off, however often it looks well; the absence of this rule is what made the storm
 * that Lull exists for.
 *
 * A `wake` brings a session before its time, when the cause is known to be gone; it is followed by a random part of
 * `wakeSpread`, so that a thousand loops do not start in the same instant. It never makes the loop hot, whoever wrote it
 * (`Wakes`): if that session fails, the rest of the delay is slept, so that **in any minute there are at most 60 attempts
 * more than the policy alone would make**. Interruption ends a delay at once.
 *
 * A `wake`, a `policy` or a `quiet` that fails does not end the loop either: it goes on without it, and says so once.
 *
 * The loop speaks on changes of state only: a cause that it has not named since it last was stable, and the recovery.
 * Causes for which `quiet` answers true are left to whoever speaks for them (`Availability` speaks for the database). Two
 * causes are the same if their text (`ErrorText`) is, without what is variable in it (`Masking`).
 */
import { Cause, Clock, Duration, Effect, Exit, type Schedule, SubscriptionRef } from "effect"
import * as Composition from "../logging/Composition.ts"
import { errorText } from "../logging/ErrorText.ts"
import { maskText } from "../logging/Masking.ts"
import * as Delays from "./Delays.ts"
import { monotonicMillis } from "./Monotonic.ts"
import * as OwnFiber from "./OwnFiber.ts"
import * as Wakes from "./Wakes.ts"

/** What a loop is doing. Times are milliseconds of the Unix epoch. */
export type Status<E> =
  | { readonly _tag: "Running"; readonly since: number }
  | { readonly _tag: "Waiting"; readonly attempt: number; readonly until: number; readonly cause: Cause.Cause<E> }
  | { readonly _tag: "Stopped" }

export interface Counts {
  /** Sessions started. */
  readonly started: number
  /** Sessions that ended before `stableAfter`. */
  readonly unstable: number
  /** Delays ended early by a wake. */
  readonly woken: number
}

export interface Options<E, R, P> {
  /** Names the loop in logs and metrics. */
  readonly name: string
  /** Runs for as long as all is well. */
  readonly session: Effect.Effect<unknown, E, R>
  /**
   * The delays between sessions. Its input is the cause of the last end. Delays below 10 ms are 10 ms after the first three of
   * a run of failures.
   */
  readonly policy: Schedule.Schedule<P, Cause.Cause<E>>
  /** How long a session has to stay before the policy starts anew. Default 30 seconds. */
  readonly stableAfter?: Duration.Input | undefined
  /**
   * Completes when it is worth trying again before the delay is over. Asked once in each delay; ignored if it completes within
   * 10 ms, and counts once a second. Default: never.
   */
  readonly wake?: Effect.Effect<unknown> | undefined
  /** A wake is followed by a random delay of up to this. Default 250 milliseconds. */
  readonly wakeSpread?: Duration.Input | undefined
  /** Causes of which the loop does not speak, as somebody else does. */
  readonly quiet?: ((cause: Cause.Cause<E>) => boolean) | undefined
}

export interface ControlLoop<E, R> {
  readonly name: string
  /** Runs the loop until it is interrupted. Run it once. */
  readonly run: Effect.Effect<never, never, R>
  readonly status: SubscriptionRef.SubscriptionRef<Status<E>>
  readonly counts: Effect.Effect<Counts>
}

/** Distinct causes that are remembered, and so named once each, between two stable sessions; and faults of the options. */
const rememberedCauses = 16

export const make = Effect.fnUntraced(function*<E, R, P>(options: Options<E, R, P>) {
  const { name } = options
  // What ended sooner than the shortest delay has stayed for nothing, whatever is called stable.
  const stableMillis = Math.max(
    Delays.shortestMillis,
    Duration.toMillis(Duration.fromInputUnsafe(options.stableAfter ?? Duration.seconds(30)))
  )
  const status = yield* SubscriptionRef.make<Status<E>>({ _tag: "Stopped" })
  let started = 0
  let unstable = 0
  let woken = 0

  /** A logger that throws hurts no loop. */
  const log = (level: "Info" | "Warn" | "Error", ...message: ReadonlyArray<unknown>) =>
    Effect.asVoid(Effect.exit(Effect.logWithLevel(level)(...message)))

  const faults = makeFaults((text, cause) => log("Error", text, cause))

  const isQuiet = (cause: Cause.Cause<E>) =>
    options.quiet === undefined
      ? Effect.succeed(false)
      : Effect.suspend(() => Effect.succeed(options.quiet?.(cause) ?? false)).pipe(
        Effect.catchCause((fault) =>
          Effect.as(faults.say(`what ${name} is quiet about cannot be decided, it is not quiet`, fault), false)
        )
      )

  const wakes = options.wake === undefined ? undefined : Wakes.make({
    wake: options.wake,
    spreadMillis: Duration.toMillis(Duration.fromInputUnsafe(options.wakeSpread ?? Duration.millis(250))),
    onFault: (fault) => faults.say(`the wake of ${name} has failed, delays are slept out`, fault)
  })

  /** Sleeps out the delay, or less if woken. */
  const sleep = (millis: number) =>
    wakes === undefined ? Effect.as(Effect.sleep(Duration.millis(millis)), false) : wakes.sleep(millis)

  const run = Effect.gen(function*() {
    yield* Composition.check
    const spoken = new Set<string>()
    let failures = 0
    let failingSince: number | undefined
    /** When the policy wants the next session, by the clock that only goes forward. */
    let dueAt: number | undefined
    const delays = yield* Delays.make(options.policy, (fault, millis) => {
      const about = Duration.format(Duration.millis(millis))
      return faults.say(`the policy of ${name} gives no delay, ${name} is started again after about ${about}`, fault)
    })

    // Runs beside the session: what stays for `stableAfter` is well again.
    const becomeStable = Effect.gen(function*() {
      yield* Effect.sleep(Duration.millis(stableMillis))
      const lasted = failingSince === undefined ? 0 : (yield* monotonicMillis) - failingSince
      const text = `${name} is stable again, ${failures} failed sessions over ${
        Duration.format(Duration.millis(Math.round(lasted)))
      }`
      const hasSpoken = spoken.size > 0
      spoken.clear()
      failures = 0
      failingSince = undefined
      if (hasSpoken) yield* log("Info", text)
    })

    const speak = Effect.fnUntraced(function*(cause: Cause.Cause<E>) {
      if (yield* isQuiet(cause)) return
      const text = errorText(cause)
      const kind = maskText(text)
      if (spoken.has(kind) || spoken.size >= rememberedCauses) return
      spoken.add(kind)
      const hasDefect = cause.reasons.some(Cause.isDieReason)
      yield* hasDefect
        ? log("Error", `${name} failed unexpectedly and will be started again: ${text}`, cause)
        : log("Warn", `${name} failed and will be started again: ${text}`)
    })

    /** One session; answers why it has ended, and whether it had stayed. */
    const runSession = Effect.gen(function*() {
      yield* SubscriptionRef.set(status, { _tag: "Running", since: yield* Clock.currentTimeMillis })
      const startedAt = yield* monotonicMillis
      started++
      const exit = yield* Effect.scoped(
        Effect.andThen(Effect.forkScoped(becomeStable), OwnFiber.exitOf(Effect.suspend(() => options.session)))
      )
      const endedAt = yield* monotonicMillis
      const cause = Exit.isFailure(exit) ? exit.cause : Cause.die(endedByItself)
      return { cause, endedAt, hasStayed: endedAt - startedAt >= stableMillis }
    })

    while (true) {
      const { cause, endedAt, hasStayed } = yield* runSession
      if (hasStayed) {
        yield* delays.restart
        dueAt = undefined
      } else {
        unstable++
      }
      failures++
      failingSince ??= endedAt
      yield* speak(cause)
      // A session that a wake has brought is beside the policy: after it, the rest of the delay is slept.
      if (dueAt === undefined || dueAt <= endedAt) dueAt = endedAt + (yield* delays.next(cause))
      const left = Math.max(0, dueAt - (yield* monotonicMillis))
      const until = (yield* Clock.currentTimeMillis) + left
      yield* SubscriptionRef.set(status, { _tag: "Waiting", attempt: failures, until, cause })
      if (yield* sleep(left)) woken++
      else dueAt = undefined
    }
  }).pipe(Effect.ensuring(SubscriptionRef.set(status, { _tag: "Stopped" })))

  const loop: ControlLoop<E, R> = {
    name,
    run,
    status,
    counts: Effect.sync(() => ({ started, unstable, woken }))
  }
  return loop
})

/** A session that returns is as much over as one that fails; this is the defect in its cause. */
export const endedByItself = new Error("the session ended by itself")

/** What is wrong with the options, each said once: the loop goes on without it. */
const makeFaults = (log: (text: string, cause: Cause.Cause<unknown>) => Effect.Effect<void>) => {
  const said = new Set<string>()
  return {
    say: (what: string, cause: Cause.Cause<unknown>) =>
      Effect.suspend(() => {
        const text = `${what}: ${errorText(cause)}`
        const kind = maskText(text)
        if (said.has(kind) || said.size >= rememberedCauses) return Effect.void
        said.add(kind)
        return log(text, cause)
      })
  }
}
