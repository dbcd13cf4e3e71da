/**
 * The connections that there are, and those who wait for one of them: a pool that finds out how many it may have.
 *
 * It begins with one. A further one is opened when somebody has waited for a few milliseconds, and when the `Dialer` allows it; so
 * the number follows the load. A login that the server refuses (its connections are all taken, the role's limit is reached, the
 * password was changed) fails nobody while others are open: the number stays what it is, and further ones are tried under the
 * backoff. Only when nothing at all is open do those who wait fail, with the reason. What is not used is closed.
 *
 * A connection is lent for the whole of a piece of work. One that broke, that is older than its lifetime, that was made before
 * `renew`, or through which a statement was canceled, is not lent again: a cancel that comes late would hit the next statement.
 */
import { type Cause, Clock, Duration, Effect, Exit, Latch, type Scope } from "effect"

/**
 * What a connection is opened for: the first, in place of one that was given up a moment ago, for which the server had room; or
 * one more.
 */
export type Place = "first" | "replacement" | "more"

export interface Options<C, E> {
  readonly open: (place: Place) => Effect.Effect<C, E>
  /** Ends a connection: politely, or at once with an error for those who still work with it. Does not wait. */
  readonly close: (connection: C, error: Error | undefined) => void
  /** It may be lent. */
  readonly isSound: (connection: C) => boolean
  /** Calls back when the connection has ended; `isBroken`: not because it was closed. */
  readonly onClosed: (connection: C, closed: (isBroken: boolean) => void) => void
  readonly most: () => number
  /** Milliseconds until it is worth to try to open another. */
  readonly retryAfter: (place: Place) => number
  /** How many may be opened at a time. */
  readonly atOnce: () => number
  /** The server has refused one of late: another is only tried when those that are closing have ended. */
  readonly isScarce: () => boolean
  /** Work that lasts longer has been given up by all who asked for it: its connection is ended under it. */
  readonly lendFor: Duration.Duration
  readonly lifetime: Duration.Duration
}

export interface PoolGate<C, E> {
  readonly use: <A, E2, R>(work: (connection: C) => Effect.Effect<A, E2, R>) => Effect.Effect<A, E | E2, R>
  /** New connections for all work that begins from here on. */
  readonly renew: () => void
  /** Ends all connections at once; who waits fails with this. */
  readonly sever: (error: Error, cause: Cause.Cause<E>) => void
  /** Open connections, those of them that are in use, those who wait. */
  readonly stats: () => { readonly open: number; readonly used: number; readonly waiting: number }
}

/** Who has waited for so long is worth a further connection: as long as a small statement or two take, and nothing that anybody notices. */
export const growAfter = Duration.millis(2)

/** A connection that nobody needed for this long is closed. The last one stays. */
export const idleFor = Duration.seconds(10)

const sweepEvery = Duration.seconds(1)

/**
 * The longest wait before it looks again whether another connection may be opened. When nothing is open, who waits for one bears
 * so much, and fails when it would be longer.
 */
const lookAgainAfter = 250

interface Member<C> {
  readonly connection: C
  readonly generation: number
  readonly openedAt: number
  /** Since when it is lent, or not. */
  since: number
  isLent: boolean
}

interface Waiter<C, E> {
  readonly resume: (effect: Effect.Effect<void, E>) => void
  member: Member<C> | undefined
}

export const make = Effect.fnUntraced(function*<C, E>(options: Options<C, E>): Effect.fn.Return<
  PoolGate<C, E>,
  never,
  Scope.Scope
> {
  const clock = yield* Clock.Clock
  const scope = yield* Effect.scope
  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const lifetime = Duration.toMillis(options.lifetime)
  const lendFor = Duration.toMillis(options.lendFor)
  const members = new Set<Member<C>>()
  /** The one that was used last is at the end, and is used next. */
  const idle: Array<Member<C>> = []
  const waiters = new Set<Waiter<C, E>>()
  const wanted = Latch.makeUnsafe(false)
  const untidy = Latch.makeUnsafe(false)
  let opening = 0
  /** Connections that are not lent any more, and that the server may not have let go yet. */
  let closing = 0
  /** One of ours has ended, and nothing has been opened in its place. */
  let isPlaceFree = false
  let generation = 0

  const isUsable = (member: Member<C>) =>
    members.has(member) && member.generation === generation && now() - member.openedAt < lifetime &&
    options.isSound(member.connection)

  const remove = (member: Member<C>) => {
    members.delete(member)
    const at = idle.indexOf(member)
    if (at !== -1) idle.splice(at, 1)
    if (waiters.size > 0) wanted.openUnsafe()
  }

  const discard = (member: Member<C>, error?: Error) => {
    if (members.has(member)) {
      closing++
      options.onClosed(member.connection, (isBroken) => {
        closing--
        // What was ended for a reason may be refused for the same.
        isPlaceFree ||= !isBroken && error === undefined
        if (waiters.size > 0) wanted.openUnsafe()
      })
    }
    remove(member)
    options.close(member.connection, error)
  }

  const lend = (member: Member<C>) => {
    member.isLent = true
    member.since = now()
    untidy.openUnsafe()
    return member
  }

  const takeIdle = () => {
    for (let member = idle.pop(); member !== undefined; member = idle.pop()) {
      if (isUsable(member)) return lend(member)
      discard(member)
    }
    return undefined
  }

  /** To who has waited longest, or to the others that are idle. */
  const offer = (member: Member<C>) => {
    if (!isUsable(member)) return discard(member)
    for (const waiter of waiters) {
      waiters.delete(waiter)
      waiter.member = lend(member)
      return waiter.resume(Effect.void)
    }
    member.isLent = false
    member.since = now()
    idle.push(member)
    if (members.size > 1) untidy.openUnsafe()
  }

  const takeWaiters = () => {
    const taken = [...waiters]
    waiters.clear()
    return taken
  }

  const fail = (failed: ReadonlyArray<Waiter<C, E>>, cause: Cause.Cause<E>) => {
    for (const waiter of failed) waiter.resume(Effect.failCause(cause))
  }

  // --- more of them

  const nextPlace = (): Place => members.size > 0 ? "more" : isPlaceFree ? "replacement" : "first"

  const openOne = Effect.gen(function*() {
    const begun = generation
    const place = nextPlace()
    isPlaceFree = false
    const exit = yield* Effect.exit(options.open(place))
    opening--
    if (Exit.isSuccess(exit)) {
      const member: Member<C> = {
        connection: exit.value,
        generation: begun,
        openedAt: now(),
        since: now(),
        isLent: false
      }
      members.add(member)
      options.onClosed(member.connection, () => member.isLent ? remove(member) : discard(member))
      offer(member)
      // One of ours that is closing may be what it was refused for.
    } else if (members.size === 0 && opening === 0 && closing === 0) fail(takeWaiters(), exit.cause)
    if (waiters.size > 0) wanted.openUnsafe()
  }).pipe(Effect.uninterruptible)

  const grow = Effect.gen(function*() {
    yield* wanted.await
    // Where one is open, it may soon be free; the first one is opened at once.
    if (members.size + opening > 0) yield* Effect.sleep(growAfter)
    const isAtMost = members.size + opening >= options.most()
    // What is being opened, or closed, opens this again when it is done.
    if (waiters.size === 0 || isAtMost || opening >= options.atOnce() || opening >= waiters.size) {
      wanted.closeUnsafe()
      return
    }
    if (closing > 0 && (options.isScarce() || members.size + opening + closing >= options.most())) {
      wanted.closeUnsafe()
      return
    }
    const after = options.retryAfter(nextPlace())
    if (after > 0 && (members.size > 0 || after <= lookAgainAfter)) {
      yield* Effect.sleep(Duration.millis(Math.min(after, lookAgainAfter)))
      return
    }
    opening++
    yield* Effect.forkIn(openOne, scope, { startImmediately: true })
  })

  // --- and less

  const sweep = Effect.gen(function*() {
    yield* untidy.await
    yield* Effect.sleep(sweepEvery)
    const at = now()
    for (const member of [...members]) {
      if (member.isLent) {
        if (at - member.since >= lendFor) discard(member, new Error("the work took longer than its deadline"))
      } else if (!isUsable(member) || (members.size > 1 && at - member.since >= Duration.toMillis(idleFor))) {
        discard(member)
      }
    }
    if (members.size <= 1 && idle.length === members.size) untidy.closeUnsafe()
  })

  yield* Effect.forkScoped(Effect.forever(grow))
  yield* Effect.forkScoped(Effect.forever(sweep))

  // --- lending

  const lent = <A, E2, R>(
    member: Member<C>,
    work: (connection: C) => Effect.Effect<A, E2, R>,
    restore: <A2, E3, R2>(effect: Effect.Effect<A2, E3, R2>) => Effect.Effect<A2, E3, R2>
  ) => Effect.onExit(restore(work(member.connection)), () => Effect.sync(() => offer(member)))

  const wait = (restore: <A2, E3, R2>(effect: Effect.Effect<A2, E3, R2>) => Effect.Effect<A2, E3, R2>) =>
    Effect.suspend(() => {
      let waiter: Waiter<C, E> | undefined
      return restore(Effect.callback<void, E>((resume) => {
        waiter = { resume, member: undefined }
        waiters.add(waiter)
        if (members.size + opening < options.most()) wanted.openUnsafe()
      })).pipe(
        Effect.flatMap(() => waiter?.member === undefined ? Effect.die(nothingLent) : Effect.succeed(waiter.member)),
        Effect.onError(() =>
          Effect.sync(() => {
            if (waiter === undefined) return
            waiters.delete(waiter)
            if (waiter.member !== undefined) offer(waiter.member)
          })
        )
      )
    })

  return {
    use: (work) =>
      Effect.uninterruptibleMask((restore) => {
        const member = takeIdle()
        return member === undefined
          ? Effect.flatMap(wait(restore), (given) => lent(given, work, restore))
          : lent(member, work, restore)
      }),
    renew: () => {
      generation++
      for (const member of idle.splice(0)) discard(member)
    },
    sever: (error, cause) => {
      generation++
      // First, as a connection that goes makes room for who waits, at once.
      const failed = takeWaiters()
      for (const member of [...members]) discard(member, error)
      fail(failed, cause)
    },
    stats: () => ({ open: members.size, used: members.size - idle.length, waiting: waiters.size })
  }
})

const nothingLent = new Error("a waiter was resumed without a connection")
