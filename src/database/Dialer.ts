/**
 * Every attempt to connect to the database passes here: of the pool, the heartbeat, the listener, the migrations. Whatever goes
 * wrong, and whatever combination of it, a server sees at most 75 attempts in a minute, and ever fewer after that.
 *
 * - **One attempt at a time to each server.** While it is known to be well, the next may begin when the last has its TCP
 *   connection; otherwise when the last is logged in, or refused.
 * - **A failure is the answer for all** who would try, until a backoff has passed (`Backoff.database`). Only the prober goes
 *   on, under its own; its success shows that it is worth trying again. A refused login counts as much as a refused connection,
 *   and so do connections that break again and again soon after they were made.
 * - **A success forgets nothing.** What connects, looks well and breaks would start the backoff from its beginning each time. The
 *   failures of a server are forgotten when 30 seconds have passed without one.
 * - **A minute has a budget** from the first failure on. The prober has all of it, and so has work that finds nothing open, but
 *   what is left last is spread over the rest of the minute; further connections for work, and the listener, have a third.
 */
import { Clock, Deferred, Duration, Effect, Exit, Pull, Schedule } from "effect"
import { ConnectionError, isSqlError, SqlError } from "effect/sql/SqlError"
import * as Backoff from "../loop/Backoff.ts"

/**
 * - `probe`: of the prober; also for the migrations that it makes.
 * - `first`: for work that finds nothing open. Without it nothing is done at all.
 * - `replacement`: for work, in place of a connection that we have given up ourselves: there was room for it.
 * - `work`: one more for work.
 * - `listener`.
 * - `cancel`: asks the server to cancel a statement, over a connection that is never logged in.
 */
export type Kind = "probe" | "first" | "replacement" | "work" | "listener" | "cancel"

export interface Attempt {
  /** The server: each has its own failures. */
  readonly server: string
  readonly kind: Kind
}

export interface Dialer {
  /**
   * Opens a connection in its turn, or fails with the failure of others while it is not worth trying. `open` calls `connected`
   * when it has its TCP connection, and `again` when it knocks once more, in another way.
   *
   * What waits and opens can be interrupted, also for a caller that cannot: so a caller that cannot loses no connection.
   */
  readonly dial: <A, R>(
    attempt: Attempt,
    open: (connected: () => void, again: () => void) => Effect.Effect<A, SqlError, R>
  ) => Effect.Effect<A, SqlError, R>
  /**
   * For what cannot be an Effect. `begin` is called in its turn, or with the reason why not; it returns how to give up, or to end
   * it: with an error, if the server refused it.
   */
  readonly enter: (attempt: Attempt, begin: (refused: Error | undefined) => void) => (failure?: SqlError) => void
  /** A connection has broken, `age` milliseconds after it was made. */
  readonly broke: (server: string, age: number, error: SqlError) => Effect.Effect<void>
  /** The server is in trouble, although it may let us in: it is away for writes, say. */
  readonly suspect: (server: string, error: SqlError) => Effect.Effect<void>
  /** Whether a failure is remembered. */
  readonly isTroubled: (server: string) => boolean
  /** In milliseconds; 0 when it is worth trying now. */
  readonly retryAfter: (attempt: Attempt) => number
}

/** How long a server has to go without a failure before its failures are forgotten. */
const forgottenAfter = 30_000

const minute = 60_000

/** An attempt that is refused for how it began may knock twice more, with less (`SessionSettings`). */
const mostAgain = 2

/** In a minute, from the first failure on: with those, the 75 of promise 2 of the architecture. */
const mostAttempts = 75 - mostAgain

/** From here on those that have all of it make what is left last until the minute is over. */
const sparingFrom = 60

/** Without these nothing is done at all. What the others miss costs some speed: they have a share, and leave some for these. */
const isNeeded = (kind: Kind) => kind === "probe" || kind === "first"
const shareOfOthers = 25
const leftBy = (kind: Kind) => isNeeded(kind) ? 0 : kind === "listener" ? 3 : 6

/** Connections that break together, with their server, broke once. */
const together = 100

/**
 * Between two attempts of a listener, while the server is in trouble: one that comes and goes would get one with each return, and
 * subscribers look for themselves then.
 */
const listenerApart = 3_000

/** What is known of a server. Times are those of a monotonic clock. */
interface Server {
  /** The attempts of the last minute, since the first failure. They count until a minute after the last. */
  attempts: Array<{ readonly at: number; readonly kind: Kind }>
  failure: SqlError | undefined
  failedAt: number
  /** Others than the prober try again from here on. */
  retryAt: number
  brokeAt: number
  step: Effect.Success<ReturnType<typeof newStep>> | undefined
}

const newStep = () => Schedule.toStep(Backoff.database)

const newServer = (): Server => ({
  attempts: [],
  failure: undefined,
  failedAt: Number.NEGATIVE_INFINITY,
  retryAt: 0,
  brokeAt: Number.NEGATIVE_INFINITY,
  step: undefined
})

const isForgotten = (server: Server, now: number) => now - server.failedAt >= forgottenAfter

/** How long an attempt of this kind has to wait, in milliseconds. */
const waitOf = (server: Server, kind: Kind, now: number): number => {
  if (server.failure === undefined) return 0
  const { attempts } = server
  const isOver = isForgotten(server, now)
  const others = isNeeded(kind) || isOver ? [] : attempts.filter((attempt) => !isNeeded(attempt.kind))
  const full = Math.max(
    untilFewer(attempts, mostAttempts - (isOver ? 0 : leftBy(kind)), now),
    untilFewer(others, shareOfOthers, now)
  )
  if (full > 0 || isOver) return full
  const backoff = kind === "probe" || kind === "replacement" ? 0 : Math.max(0, server.retryAt - now)
  if (kind === "listener") {
    const last = attempts.findLast((attempt) => attempt.kind === kind)
    return last === undefined ? backoff : Math.max(backoff, last.at + listenerApart - now)
  }
  if (attempts.length < sparingFrom || !isNeeded(kind)) return backoff
  const apart = ((attempts[0]?.at ?? now) + minute - now) / (mostAttempts - attempts.length)
  // Apart from its own last one: who tries first each time would leave nothing to the others.
  return Math.max(backoff, (attempts.findLast((attempt) => attempt.kind === kind)?.at ?? 0) + apart - now)
}

/** How long until fewer than that are in the last minute. */
const untilFewer = (attempts: Server["attempts"], most: number, now: number): number => {
  const { length } = attempts
  return length < most ? 0 : Math.max(1, (attempts[length - most]?.at ?? now) + minute - now)
}

interface Waiting {
  readonly kind: Kind
  readonly begin: () => void
}

/** Who dials a server, and who waits for it. */
interface Turns {
  readonly queue: Array<Waiting>
  current: { readonly kind: Kind; readonly setAside: Deferred.Deferred<never, SqlError> } | undefined
}

export const make = Effect.gen(function*() {
  const clock = yield* Clock.Clock
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const servers = new Map<string, Server>()
  const turnsOf = new Map<string, Turns>()

  /** As it is known now: what is long past is forgotten. */
  const known = (name: string): Server => {
    let server = servers.get(name)
    if (server === undefined || (server.failure !== undefined && now() - server.failedAt >= minute)) {
      server = newServer()
      servers.set(name, server)
    }
    const from = now() - minute
    while ((server.attempts[0]?.at ?? now()) <= from) server.attempts.shift()
    return server
  }

  const retryAfter = ({ kind, server }: Attempt) => waitOf(known(server), kind, now())

  const isTroubled = (server: string) => !isForgotten(known(server), now())

  const refusal = (attempt: Attempt) => retryAfter(attempt) > 0 ? known(attempt.server).failure : undefined

  // --- turns

  /** The prober goes before all others, also before one whose attempt is under way. */
  const takeTurn = (
    { kind, server }: Attempt,
    granted: (end: () => void, setAside: Deferred.Deferred<never, SqlError>) => void
  ) => {
    const turns = turnsOf.get(server) ?? { queue: [], current: undefined }
    turnsOf.set(server, turns)
    const { current, queue } = turns
    let isOver = false
    const waiting: Waiting = {
      kind,
      begin: () => {
        const turn = { kind, setAside: Deferred.makeUnsafe<never, SqlError>() }
        turns.current = turn
        granted(() => {
          if (isOver) return
          isOver = true
          if (turns.current !== turn) return
          turns.current = undefined
          queue.shift()?.begin()
        }, turn.setAside)
      }
    }
    if (current === undefined) waiting.begin()
    else if (kind === "probe") {
      queue.unshift(waiting)
      if (current.kind !== "probe") Deferred.doneUnsafe(current.setAside, Effect.fail(wentFirst))
    } else queue.push(waiting)
    /** Leaves the queue, if it is still there. */
    return () => {
      const at = queue.indexOf(waiting)
      if (at !== -1) queue.splice(at, 1)
    }
  }

  // --- what came of it

  const count = ({ kind, server }: Attempt, at: number) => {
    const { attempts } = known(server)
    attempts.push({ at, kind })
    attempts.sort((one, other) => one.at - other.at)
  }

  const fail = Effect.fnUntraced(function*(name: string, error: SqlError) {
    const server = known(name)
    const at = now()
    if (server.step === undefined || isForgotten(server, at)) server.step = yield* newStep()
    const [, delay] = yield* server.step(at, undefined).pipe(
      Pull.catchDone(() => Effect.die(new Error("the policy of the dialer ended")))
    )
    server.failure = error
    server.failedAt = at
    server.retryAt = at + Duration.toMillis(delay)
  })

  const dial = <A, R>(
    attempt: Attempt,
    open: (connected: () => void, again: () => void) => Effect.Effect<A, SqlError, R>
  ) =>
    Effect.uninterruptible(
      Effect.gen(function*() {
        const refused = refusal(attempt)
        if (refused !== undefined) return yield* Effect.fail(refused)
        let end = () => {}
        const setAside = yield* Effect.interruptible(
          Effect.callback<Deferred.Deferred<never, SqlError>>((resume) => {
            const leave = takeTurn(attempt, (ending, aside) => {
              end = ending
              resume(Effect.succeed(aside))
            })
            return Effect.sync(leave)
          })
        ).pipe(Effect.onError(() => Effect.sync(() => end())))
        // The attempt before this one may have failed.
        const refusedNow = refusal(attempt)
        if (refusedNow !== undefined) {
          end()
          return yield* Effect.fail(refusedNow)
        }
        const startedAt = now()
        const isCounted = known(attempt.server).failure !== undefined
        if (isCounted) count(attempt, startedAt)
        const connected = () => {
          if (!isTroubled(attempt.server)) end()
        }
        const again = () => count(attempt, now())
        const exit = yield* Effect.exit(
          Effect.interruptible(Effect.raceFirst(open(connected, again), Deferred.await(setAside)))
        )
        if (Exit.isSuccess(exit)) {
          if (attempt.kind === "probe") known(attempt.server).retryAt = 0
        } else {
          const error = sqlErrorOf(exit)
          if (error !== undefined && error !== wentFirst) {
            yield* fail(attempt.server, error)
            if (!isCounted) count(attempt, startedAt)
          }
        }
        end()
        return yield* exit
      })
    )

  const dialer: Dialer = {
    dial,
    enter: (attempt, begin) => {
      const refused = refusal(attempt)
      if (refused !== undefined) {
        begin(refused)
        return () => {}
      }
      let end = () => {}
      const leave = takeTurn(attempt, (ending) => {
        end = ending
        const refusedNow = refusal(attempt)
        if (refusedNow !== undefined) end()
        else if (known(attempt.server).failure !== undefined) count(attempt, now())
        begin(refusedNow)
      })
      return (failure) => {
        leave()
        end()
        if (failure !== undefined) runFork(fail(attempt.server, failure))
      }
    },
    broke: (name, age, error) =>
      Effect.suspend(() => {
        if (age >= forgottenAfter) return Effect.void
        const server = known(name)
        const since = now() - server.brokeAt
        if (since < together) return Effect.void
        server.brokeAt = now()
        // Once is bad luck, or somebody's intention. While others are waiting out a failure, it adds nothing.
        return since >= forgottenAfter || server.retryAt > now() ? Effect.void : fail(name, error)
      }),
    suspect: (name, error) => Effect.suspend(() => known(name).retryAt > now() ? Effect.void : fail(name, error)),
    isTroubled,
    retryAfter
  }
  return dialer
})

const sqlErrorOf = (exit: Exit.Exit<unknown, SqlError>): SqlError | undefined => {
  if (Exit.isSuccess(exit)) return undefined
  for (const reason of exit.cause.reasons) {
    if (reason._tag === "Fail" && isSqlError(reason.error)) return reason.error
  }
  return undefined
}

const wentFirst = new SqlError({
  reason: new ConnectionError({
    cause: Object.assign(new Error("given up for an attempt of the prober"), { code: "ECONNABORTED" }),
    operation: "connect"
  })
})
