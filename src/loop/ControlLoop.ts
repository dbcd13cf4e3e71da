/**
 * A control loop runs a session for ever under a policy.
 *
 * A session is anything that is supposed to stay: a subscription, a consumer, a connection. When it ends, with an
 * error, with a defect or by returning, it has failed to stay, and the loop waits for the policy's next delay before it
 * starts another. **Only a session that stayed for `stableAfter` starts the policy anew.** A session that connects, looks
 * well and breaks is still backed off, however often it looks well; the absence of this rule is what made the storm
 * that Lull exists for.
 *
 * A `wake` ends a delay early, when the cause is known to be gone; it is followed by a random part of `wakeSpread`, so
 * that a thousand loops do not start in the same instant. Interruption ends a delay at once.
 *
 * The loop speaks on changes of state only: a cause that it has not named since it last was stable, and the recovery.
 * Causes for which `quiet` answers true are left to whoever speaks for them (`Availability` speaks for the database).
 */
import { Cause, Clock, Duration, Effect, Exit, Pull, Random, Schedule, SubscriptionRef } from "effect"

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
  /** The delays between sessions. Its input is the cause of the last end. */
  readonly policy: Schedule.Schedule<P, Cause.Cause<E>>
  /** How long a session has to stay before the policy starts anew. Default 30 seconds. */
  readonly stableAfter?: Duration.Input | undefined
  /** Completes when it is worth trying again before the delay is over. Default: never. */
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

/** Distinct causes that are remembered, and so named once each, between two stable sessions. */
const rememberedCauses = 16

export const make = Effect.fnUntraced(function*<E, R, P>(options: Options<E, R, P>) {
  const stableAfter = Duration.fromInputUnsafe(options.stableAfter ?? Duration.seconds(30))
  const wakeSpread = Duration.toMillis(Duration.fromInputUnsafe(options.wakeSpread ?? Duration.millis(250)))
  const quiet = options.quiet ?? (() => false)
  const status = yield* SubscriptionRef.make<Status<E>>({ _tag: "Stopped" })
  let started = 0
  let unstable = 0
  let woken = 0

  // The delay is measured by the policy; a wake that wins the race only shortens it.
  const wake = options.wake === undefined ? Effect.never : options.wake.pipe(
    Effect.andThen(Random.next),
    Effect.tap(() => Effect.sync(() => woken++)),
    Effect.flatMap((random) => Effect.sleep(Duration.millis(random * wakeSpread)))
  )

  /** Sleeps out the delay, or less if woken. */
  const wait = (delay: Duration.Duration) => Effect.raceFirst(Effect.sleep(delay), wake)

  const run = Effect.gen(function*() {
    const spoken = new Set<string>()
    let failures = 0
    let failingSince: number | undefined
    let step = yield* Schedule.toStep(options.policy)

    // Runs beside the session: what stays for `stableAfter` is well again.
    const becomeStable = Effect.gen(function*() {
      yield* Effect.sleep(stableAfter)
      if (spoken.size > 0 && failingSince !== undefined) {
        const lasted = Duration.millis((yield* Clock.currentTimeMillis) - failingSince)
        yield* Effect.logInfo(
          `${options.name} is stable again, ${failures} failed sessions over ${Duration.format(lasted)}`
        )
      }
      spoken.clear()
      failures = 0
      failingSince = undefined
    })

    const speak = Effect.fnUntraced(function*(cause: Cause.Cause<E>) {
      if (quiet(cause)) return
      const text = Cause.prettyErrors(cause).map((error) => error.message).join("; ")
      if (spoken.has(text) || spoken.size >= rememberedCauses) return
      spoken.add(text)
      const hasDefect = cause.reasons.some(Cause.isDieReason)
      yield* hasDefect
        ? Effect.logError(`${options.name} failed unexpectedly and will be started again`, cause)
        : Effect.logWarning(`${options.name} failed and will be started again: ${text}`)
    })

    while (true) {
      const startedAt = yield* Clock.currentTimeMillis
      yield* SubscriptionRef.set(status, { _tag: "Running", since: startedAt })
      started++
      const exit = yield* Effect.scoped(
        Effect.andThen(Effect.forkScoped(becomeStable), Effect.exit(options.session))
      )
      const endedAt = yield* Clock.currentTimeMillis
      const cause = Exit.isFailure(exit) ? exit.cause : Cause.die(endedByItself)
      if (endedAt - startedAt >= Duration.toMillis(stableAfter)) {
        step = yield* Schedule.toStep(options.policy)
      } else {
        unstable++
      }
      failures++
      failingSince ??= endedAt
      yield* speak(cause)
      const [, delay] = yield* step(endedAt, cause).pipe(
        Pull.catchDone(() => Effect.die(new Error(`the policy of ${options.name} has ended, but a loop runs for ever`)))
      )
      yield* SubscriptionRef.set(status, {
        _tag: "Waiting",
        attempt: failures,
        until: endedAt + Duration.toMillis(delay),
        cause
      })
      yield* wait(delay)
    }
  }).pipe(Effect.ensuring(SubscriptionRef.set(status, { _tag: "Stopped" })))

  const loop: ControlLoop<E, R> = {
    name: options.name,
    run,
    status,
    counts: Effect.sync(() => ({ started, unstable, woken }))
  }
  return loop
})

/** A session that returns is as much over as one that fails; this is the defect in its cause. */
export const endedByItself = new Error("the session ended by itself")
