/**
 * Two lines for a trouble, however long it is: when a named thing begins to fail, and when it is well again. For what is
 * tried over and over: a push to a collector, a backup, a peer that is polled.
 *
 * ```ts
 * const push = yield* StateLog.make("metrics push")
 * yield* Effect.repeat(Effect.ignore(push.watch(send)), Schedule.spaced("10 seconds"))
 * // WARN metrics push is failing: connect ECONNREFUSED 127.0.0.1:4318
 * // INFO metrics push is well again after 3m 20s: 20 failures
 * ```
 */
import { Cause, Clock, Duration, Effect, Exit, type LogLevel } from "effect"
import { errorText } from "./ErrorText.ts"
import { passAlways } from "./PassAlways.ts"

export interface Options {
  /** Of the line that says that it fails. Default `Warn`. */
  readonly failingLevel?: LogLevel.Severity | undefined
  /** Of the line that says that it is well again. Default `Info`. */
  readonly okLevel?: LogLevel.Severity | undefined
}

export interface StateLog {
  /** It has failed. Said if it was well before, else counted. */
  readonly failing: (cause: Cause.Cause<unknown>) => Effect.Effect<void>
  /** It has worked. Said if it failed before, with how often and for how long. */
  readonly ok: Effect.Effect<void>
  /** Tells of the end of each run of an effect, which is not changed. An interruption is neither. */
  readonly watch: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

/** A time of day that jumps says nothing about how long it failed. */
const monotonicMillis = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos) / 1e6)

export const make = (name: string, options: Options = {}): Effect.Effect<StateLog> =>
  Effect.sync(() => {
    let since: number | undefined
    let failures = 0

    const failing = (cause: Cause.Cause<unknown>) =>
      Effect.flatMap(monotonicMillis, (now) => {
        failures++
        if (since !== undefined) return Effect.void
        since = now
        return passAlways(
          Effect.logWithLevel(options.failingLevel ?? "Warn")(`${name} is failing: ${errorText(cause)}`)
        )
      })

    const ok = Effect.flatMap(monotonicMillis, (now) => {
      if (since === undefined) return Effect.void
      const lasted = Duration.format(Duration.millis(Math.round(now - since)))
      const many = failures === 1 ? "1 failure" : `${failures} failures`
      since = undefined
      failures = 0
      return passAlways(
        Effect.logWithLevel(options.okLevel ?? "Info")(`${name} is well again after ${lasted}: ${many}`)
      )
    })

    return {
      failing,
      ok,
      watch: (effect) =>
        Effect.onExit(effect, (exit) =>
          Exit.isSuccess(exit) ? ok : Cause.hasInterruptsOnly(exit.cause) ? Effect.void : failing(exit.cause))
    }
  })
