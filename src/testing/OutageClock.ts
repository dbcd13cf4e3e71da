/**
 * The clock of a process that an `Outage` hits: its time of day may be wrong, and it may stand still. Over whatever clock there is, as
 * `TestClock`, whose own `setTime` moves the time of day and the elapsed time together.
 *
 * ```ts
 * const outage = Outage.make([{ kind: "clockStep", at: "10 seconds", by: -120_000 }])
 * const replica = Provisioner.layerMemory({ outage }).pipe(Layer.provide(OutageClock.layer(outage)))
 * ```
 *
 * A process that stands still runs no timer. What others call in it does run: who models several processes lets those calls wait for
 * `running`, as the scripted database does.
 */
import { Clock, Duration, Effect, Layer } from "effect"
import { isAt, type Outage } from "./Outage.ts"

const nanosPerMilli = 1_000_000

/** A time in which the process stands still, from the beginning of the script. */
interface Standstill {
  readonly from: number
  readonly to: number
  /** Elapsed time stands still as well. */
  readonly isSuspended: boolean
}

/** In their order, without those that begin within another. */
const standstillsOf = (outage: Outage): ReadonlyArray<Standstill> => {
  const all = outage
    .filter(({ kind }) => kind === "stall" || kind === "suspend")
    .map(({ at, for: lasting, kind }) => ({ from: at, to: at + lasting, isSuspended: kind === "suspend" }))
    .toSorted((one, other) => one.from - other.from)
  return all.filter(({ from }, index) => all.slice(0, index).every(({ to }) => to <= from))
}

/** How much of the time until then the process has not seen pass. */
const unseen = (standstills: ReadonlyArray<Standstill>, at: number): number =>
  standstills.reduce(
    (sum, { from, isSuspended, to }) => isSuspended && at > from ? sum + Math.min(at, to) - from : sum,
    0
  )

/** When a timer ends that is set now for so long. */
const timerEnd = (standstills: ReadonlyArray<Standstill>, now: number, millis: number): number => {
  let end = now + millis
  for (const { from, isSuspended, to } of standstills) {
    if (to <= now || end < from) continue
    end = isSuspended ? end + to - Math.max(from, now) : Math.max(end, to)
  }
  return end
}

class OfProcess implements Clock.Clock {
  readonly outside: Clock.Clock
  readonly #outage: Outage
  readonly #standstills: ReadonlyArray<Standstill>
  readonly #start: number

  constructor(outside: Clock.Clock, outage: Outage) {
    this.outside = outside
    this.#outage = outage
    this.#standstills = standstillsOf(outage)
    this.#start = Number(outside.monotonicTimeNanosUnsafe()) / nanosPerMilli
  }

  /** Since the script began, whatever the process has seen of it. */
  #now(): number {
    return Number(this.outside.monotonicTimeNanosUnsafe()) / nanosPerMilli - this.#start
  }

  #wrongBy(): number {
    const now = this.#now()
    return this.#outage.reduce(
      (sum, fault) => fault.kind === "clockStep" && isAt(fault, now) ? sum + (fault.by ?? defaultStepMillis) : sum,
      0
    )
  }

  currentTimeMillisUnsafe(): number {
    return this.outside.currentTimeMillisUnsafe() + this.#wrongBy()
  }
  readonly currentTimeMillis = Effect.sync(() => this.currentTimeMillisUnsafe())

  currentTimeNanosUnsafe(): bigint {
    return this.outside.currentTimeNanosUnsafe() + nanos(this.#wrongBy())
  }
  readonly currentTimeNanos = Effect.sync(() => this.currentTimeNanosUnsafe())

  monotonicTimeNanosUnsafe(): bigint {
    return this.outside.monotonicTimeNanosUnsafe() - nanos(unseen(this.#standstills, this.#now()))
  }
  readonly monotonicTimeNanos = Effect.sync(() => this.monotonicTimeNanosUnsafe())

  sleep(duration: Duration.Duration): Effect.Effect<void> {
    return Effect.suspend(() => {
      const now = this.#now()
      return this.outside.sleep(Duration.millis(timerEnd(this.#standstills, now, Duration.toMillis(duration)) - now))
    })
  }

  readonly running = Effect.suspend(() => {
    const now = this.#now()
    const within = this.#standstills.find(({ from, to }) => now >= from && now < to)
    return within === undefined ? Effect.void : this.outside.sleep(Duration.millis(within.to - now))
  })
}

/** As far as a clock may be wrong by whose time zone was taken for UTC. */
const defaultStepMillis = 3_600_000

const nanos = (millis: number) => BigInt(Math.round(millis * nanosPerMilli))

/** What it is provided to is the process: its wall time, its elapsed time and its timers are those of the script. */
export const layer = (outage: Outage): Layer.Layer<never> =>
  Layer.effect(Clock.Clock, Effect.map(Clock.Clock, (outside) => new OfProcess(outside, outage)))

/** Completes when the process does not stand still, at once if it does not. */
export const running: Effect.Effect<void> = Effect.flatMap(
  Clock.Clock,
  (clock) => clock instanceof OfProcess ? clock.running : Effect.void
)

/** The clock that no fault of the process touches. */
export const outside: Effect.Effect<Clock.Clock> = Effect.map(
  Clock.Clock,
  (clock) => clock instanceof OfProcess ? clock.outside : clock
)
