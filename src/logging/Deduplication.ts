/**
 * Which records pass, which are held back, and when the held ones are told: pure, but for its own state. Who calls it brings
 * the time.
 *
 * - The first of a kind passes at once; so do all up to `first`, and then, if `powersOfTwo`, the 2nd, 4th, 8th, … after them.
 * - The rest is counted, and told by `tick` when the kind's interval is over: 10 s after the first, then after twice as long
 *   each time, up to 10 min. Never by waiting for a next record.
 * - A kind of which nothing came for a whole interval is forgotten: the next of it is a first one again.
 * - A higher level of the same kind is another kind, and tells what is held of the lower ones at once.
 * - New kinds have a budget, for each level its own. What is beyond it is counted too, and told once a `shortest` interval.
 * - Of too many kinds, or too large ones, that of which nothing was heard for longest is told and forgotten.
 *
 * At any time passed + told + still held = received.
 */
export interface Options {
  /** Of each kind that many pass before repeats are held. Default 1. */
  readonly first?: number | undefined
  /** After them the 2nd, 4th, 8th, … repeat passes, for who wants to see some. Default false. */
  readonly powersOfTwo?: boolean | undefined
  /** The first interval, in milliseconds. Default 10,000. */
  readonly shortestMillis?: number | undefined
  /** The interval is doubled up to this, in milliseconds. Default 600,000. */
  readonly longestMillis?: number | undefined
  /** Kinds that are remembered. Default 1,000. */
  readonly kinds?: number | undefined
  /** What they may take in memory, in bytes. Default 4 MiB. */
  readonly bytes?: number | undefined
  /** New kinds of one level a second, and ten times as many at once. Default 100. */
  readonly budgetPerSecond?: number | undefined
}

export interface Received {
  /** Milliseconds of a clock that only goes forward. */
  readonly now: number
  /** Milliseconds of the clock that is shown. */
  readonly at: number
  /** What makes it the same as others, without the level. */
  readonly kind: string
  /** Higher is graver. */
  readonly level: number
}

export interface Held<Sample, Last> {
  /** Of the first that passed. */
  readonly sample: Sample
  /** Of the last that was held, if the caller keeps one. */
  readonly last: Last | undefined
  readonly level: number
  readonly count: number
  /** When the first and the last of them came, by the clock that is shown. */
  readonly firstAt: number
  readonly lastAt: number
  /** The time in which they came, in milliseconds: since the first passed, or since the telling before. */
  readonly lastedMillis: number
  readonly why: "interval" | "escalation" | "eviction" | "end"
}

export interface Overflow {
  readonly level: number
  readonly records: number
  /** At most `countedKinds`. */
  readonly kinds: number
  readonly firstAt: number
  readonly lastAt: number
  readonly lastedMillis: number
}

export interface Counts {
  readonly received: number
  readonly passed: number
  /** Told in summaries, those of the overflow included. */
  readonly told: number
  /** Held and not told yet. */
  readonly held: number
  readonly evicted: number
  readonly overflowed: number
  readonly kinds: number
  readonly bytes: number
}

export interface Deduplication<Sample, Last> {
  /** Whether it passes. `sample` is asked for once for each kind, `last` for each that is held, and may keep nothing. */
  readonly receive: (
    received: Received,
    sample: () => { readonly sample: Sample; readonly bytes: number },
    last?: () => Last | undefined
  ) => boolean
  /** Tells what is due. */
  readonly tick: (now: number) => void
  /** Tells all that is held. */
  readonly flush: (now: number) => void
  /** When the next is due, by the clock that only goes forward; `undefined` if nothing is remembered. */
  readonly nextDue: () => number | undefined
  readonly counts: () => Counts
}

/** Beyond this the kinds of an overflow are not told apart. */
export const countedKinds = 10_000

/** What a kind costs beside its key and its sample. */
const kindOverhead = 256

interface Kind<Sample, Last> {
  readonly kind: string
  readonly level: number
  readonly sample: Sample
  readonly bytes: number
  last: Last | undefined
  /** Since it was opened. */
  seen: number
  held: number
  since: number
  heldAt: number
  lastSeen: number
  lastAt: number
  interval: number
  due: number
}

interface Budget {
  tokens: number
  refilled: number
  records: number
  kinds: Set<string>
  since: number
  firstAt: number
  lastAt: number
}

export const make = <Sample, Last = never>(
  options: Options,
  tell: { readonly held: (held: Held<Sample, Last>) => void; readonly overflow: (overflow: Overflow) => void }
): Deduplication<Sample, Last> => {
  const first = Math.max(1, options.first ?? 1)
  const powersOfTwo = options.powersOfTwo ?? false
  const shortest = options.shortestMillis ?? 10_000
  const longest = Math.max(shortest, options.longestMillis ?? 600_000)
  const mostKinds = Math.max(1, options.kinds ?? 1_000)
  const mostBytes = options.bytes ?? 4 * 1_048_576
  const perSecond = Math.max(1, options.budgetPerSecond ?? 100)
  const burst = perSecond * 10

  /** The levels of a kind are few. */
  const remembered = new Map<string, Array<Kind<Sample, Last>>>()
  const budgets = new Map<number, Budget>()
  let count = 0
  let bytes = 0
  let received = 0
  let passed = 0
  let told = 0
  let held = 0
  let evicted = 0
  let overflowed = 0

  const tellHeld = (kind: Kind<Sample, Last>, why: Held<Sample, Last>["why"], now: number) => {
    const { heldAt: firstAt, held: count, last, lastAt, level, sample, since } = kind
    kind.since = now
    if (count === 0) return
    told += count
    held -= count
    kind.held = 0
    kind.last = undefined
    tell.held({ sample, last, level, count, firstAt, lastAt, lastedMillis: now - since, why })
  }

  const forget = (kind: Kind<Sample, Last>) => {
    const levels = remembered.get(kind.kind) ?? []
    const rest = levels.filter((other) => other !== kind)
    if (rest.length === 0) remembered.delete(kind.kind)
    else remembered.set(kind.kind, rest)
    count--
    bytes -= kind.bytes
  }

  const evict = (spare: Kind<Sample, Last>, now: number) => {
    while ((count > mostKinds || bytes > mostBytes) && count > 1) {
      let oldest: Kind<Sample, Last> | undefined
      for (const levels of remembered.values()) {
        for (const kind of levels) {
          if (kind !== spare && (oldest === undefined || kind.lastSeen < oldest.lastSeen)) oldest = kind
        }
      }
      if (oldest === undefined) return
      forget(oldest)
      evicted++
      tellHeld(oldest, "eviction", now)
    }
  }

  const tellOverflow = (level: number, budget: Budget, now: number) => {
    if (budget.records === 0) return
    const { firstAt, kinds, lastAt, records, since } = budget
    told += records
    held -= records
    budget.records = 0
    budget.kinds = new Set()
    tell.overflow({ level, records, kinds: kinds.size, firstAt, lastAt, lastedMillis: now - since })
  }

  const isWithinBudget = ({ at, kind, level, now }: Received) => {
    let budget = budgets.get(level)
    if (budget === undefined) {
      budget = { tokens: burst, refilled: now, records: 0, kinds: new Set(), since: now, firstAt: at, lastAt: at }
      budgets.set(level, budget)
    }
    budget.tokens = Math.min(burst, budget.tokens + (now - budget.refilled) * perSecond / 1_000)
    budget.refilled = now
    if (budget.tokens >= 1) {
      budget.tokens--
      return true
    }
    if (budget.records++ === 0) {
      budget.since = now
      budget.firstAt = at
    }
    budget.lastAt = at
    if (budget.kinds.size < countedKinds) budget.kinds.add(kind)
    overflowed++
    held++
    return false
  }

  const open = (
    { at, kind: key, level, now }: Received,
    sampled: { readonly sample: Sample; readonly bytes: number }
  ) => {
    const kind: Kind<Sample, Last> = {
      kind: key,
      level,
      sample: sampled.sample,
      bytes: 2 * key.length + sampled.bytes + kindOverhead,
      last: undefined,
      seen: 1,
      held: 0,
      since: now,
      heldAt: at,
      lastSeen: now,
      lastAt: at,
      interval: shortest,
      due: now + shortest
    }
    const levels = remembered.get(key)
    if (levels === undefined) remembered.set(key, [kind])
    else {
      for (const lower of levels) if (lower.level < level) tellHeld(lower, "escalation", now)
      levels.push(kind)
    }
    count++
    bytes += kind.bytes
    evict(kind, now)
  }

  const find = (levels: ReadonlyArray<Kind<Sample, Last>> | undefined, level: number) => {
    if (levels === undefined) return undefined
    for (const kind of levels) if (kind.level === level) return kind
    return undefined
  }

  const passesAgain = (seen: number) => {
    if (seen <= first) return true
    const repeat = seen - first
    return powersOfTwo && repeat > 1 && (repeat & (repeat - 1)) === 0
  }

  return {
    receive: (record, sample, last) => {
      received++
      const kind = find(remembered.get(record.kind), record.level)
      if (kind === undefined) {
        if (!isWithinBudget(record)) return false
        open(record, sample())
        passed++
        return true
      }
      kind.seen++
      kind.lastSeen = record.now
      kind.lastAt = record.at
      if (passesAgain(kind.seen)) {
        passed++
        return true
      }
      if (kind.held++ === 0) kind.heldAt = record.at
      held++
      kind.last = last?.()
      return false
    },
    tick: (now) => {
      for (const levels of remembered.values()) {
        for (const kind of [...levels]) {
          if (kind.due > now) continue
          if (kind.held === 0 && kind.lastSeen <= now - kind.interval) {
            forget(kind)
            continue
          }
          kind.interval = Math.min(longest, kind.interval * 2)
          kind.due = now + kind.interval
          tellHeld(kind, "interval", now)
        }
      }
      for (const [level, budget] of budgets) {
        if (budget.records > 0 && now - budget.since >= shortest) tellOverflow(level, budget, now)
      }
    },
    flush: (now) => {
      for (const levels of remembered.values()) for (const kind of levels) tellHeld(kind, "end", now)
      for (const [level, budget] of budgets) tellOverflow(level, budget, now)
    },
    nextDue: () => {
      let next: number | undefined
      for (const levels of remembered.values()) {
        for (const { due } of levels) if (next === undefined || due < next) next = due
      }
      for (const { records, since } of budgets.values()) {
        if (records > 0 && (next === undefined || since + shortest < next)) next = since + shortest
      }
      return next
    },
    counts: () => ({ received, passed, told, held, evicted, overflowed, kinds: count, bytes })
  }
}
