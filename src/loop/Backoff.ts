/**
 * The retry policies, as Schedules. All of them grow exponentially from a floor to a cap, and the jitter only ever
 * shortens a delay, so that the cap is never exceeded and replicas that stand at the cap still do not move in step.
 *
 * The n-th delay is `min(floor × factor^(n-1), cap)`, times a random factor between `1 - jitter` and 1:
 *
 * | policy              | 1st    | 2nd    | 3rd    | 4th    | 5th    | 6th    | 7th    | 8th    | 9th    | cap |
 * | ------------------- | ------ | ------ | ------ | ------ | ------ | ------ | ------ | ------ | ------ | --- |
 * | `database`          | 50 ms  | 100 ms | 200 ms | 400 ms | 800 ms | 1 s    | 1 s    | 1 s    | 1 s    | 1 s, or 1.5 % of the outage if that is more, and at most 5 s |
 * | `acquire`           | 10 ms  | 20 ms  | 40 ms  | 80 ms  | 160 ms | 320 ms | 640 ms | 1 s    | 1 s    | 1 s |
 *
 * In its first minute `database` makes at most 75 attempts (at its fastest, with every jitter drawn at its most, 73);
 * after it ever fewer: 333 s into it, it has reached the 5 s at which it stays. Of the 2 % of an outage that nobody has to wait
 * beyond it, the probe takes 1.5; the rest is for the work to wake up, spread out.
 *
 * No policy ends, and none starts anew by itself: who uses one decides when a stay was long enough to forget the past
 * (`ControlLoop`, `stableAfter`). That decision, taken too early, is what makes a storm.
 */
import { Duration, Effect, Random, Schedule } from "effect"

export interface Options {
  /** The first delay. */
  readonly floor: Duration.Input
  /** The longest delay: a constant, or decided by the time since the first failure. */
  readonly cap: Duration.Input | ((elapsed: Duration.Duration) => Duration.Duration)
  /** Default 2. */
  readonly factor?: number | undefined
  /** The share of a delay that chance may take off, between 0 and 1. Default 0.2. */
  readonly jitter?: number | undefined
}

/** Exponential from `floor` to `cap`, for ever. The cap holds with the jitter included. */
export const exponential = (options: Options): Schedule.Schedule<Duration.Duration> => {
  const jitter = options.jitter ?? 0.2
  const cap = typeof options.cap === "function"
    ? options.cap
    : ((fixed) => () => fixed)(Duration.fromInputUnsafe(options.cap))
  return Schedule.exponential(options.floor, options.factor ?? 2).pipe(
    Schedule.modifyDelay(({ duration, elapsed }) =>
      Effect.map(
        Random.next,
        (random) => Duration.times(Duration.min(duration, cap(Duration.millis(elapsed))), 1 - jitter * random)
      )
    )
  )
}

/** While the database is away. Jitter is small, as at most 75 attempts fit into the first minute. */
export const database = exponential({
  floor: "50 millis",
  cap: (elapsed) =>
    Duration.clamp(Duration.times(elapsed, 0.015), { minimum: Duration.seconds(1), maximum: Duration.seconds(5) }),
  jitter: 0.15
})

/** Between failed attempts to take jobs from a database that is there. */
export const acquire = exponential({ floor: "10 millis", cap: "1 second" })

/** For sessions over the network: subscriptions, listeners. */
export const session = exponential({ floor: "50 millis", cap: "10 seconds" })
