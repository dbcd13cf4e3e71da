/**
 * Brings to the store how jobs ended: in batches, for as long as it takes. What is sent again under the same token is stored
 * once.
 *
 * ```text
 *  results ──▶ two senders, in batches ──▶ answered
 *                     │ fails, or is locked, and is not at fault for sure
 *                     ▼
 *                  apart: alone, with a delay that grows, past what is locked
 * ```
 *
 * A value that the database refuses is the only failure that is final, and final for one job only: a batch that fails so is
 * halved until the job is found. Whatever else fails is taken aside, so that it holds back nobody, and is named once.
 */
import { Effect, Latch, type Scope } from "effect"
import { Availability } from "../database/Availability.ts"
import type { QueryFailed } from "../database/Unavailable.ts"
import { errorText } from "../logging/ErrorText.ts"
import { Loops } from "../loop/Loops.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
import type { JobId, JobOutcome, Lease } from "./Job.ts"
import { JobStore, type Report, type Verdict } from "./JobStore.ts"
import { retryDelay, throughOutages } from "./Retrying.ts"

/** How a run ended: its outcome; or that it was never begun, and the job is given back. */
export type Ending = Ended | "notStarted"

export interface Ended {
  readonly outcome: JobOutcome
  /** The result as JSON, where it has been made already. */
  readonly json?: string | undefined
}

export interface ResultSender {
  readonly send: (lease: Lease, ending: Ending) => void
  /** Nothing of it is sent any more. */
  readonly forget: (lease: Lease) => void
  readonly unanswered: () => ReadonlyArray<JobId>
  /** How many of them. */
  readonly size: () => number
  /** Bytes of results that wait, about. */
  readonly bytes: () => number
}

/** Results in one statement, and their bytes. */
const resultsAtOnce = 1_000
const bytesAtOnce = 4 * 1_048_576

/** Statements with results in flight: while one waits for its commit, the next is being made. */
const senders = 2

/** What is sent of one run: a report, or that its job is given back. */
type Item = ReportItem | ReleaseItem

interface ReportItem extends Report, Sent {}

interface ReleaseItem extends Lease, Sent {
  readonly outcome: undefined
  readonly json: undefined
}

interface Sent {
  readonly bytes: number
  /** A warning named it. */
  isNamed: boolean
}

/** Items that are tried again together, until they are known to be at fault alone. */
interface Apart extends How {
  readonly items: ReadonlyArray<Item>
  /** Monotonic. */
  readonly due: number
}

interface How {
  readonly isApart: boolean
  /** How often these have failed. */
  readonly attempt: number
  /** How many statements had been answered when they failed last. */
  readonly answered: number
}

const atFirst: How = { isApart: false, attempt: 0, answered: 0 }

const toItem = ({ job, token }: Lease, ending: Ending): Item =>
  ending === "notStarted"
    ? { job, token, outcome: undefined, json: undefined, bytes: rowBytes, isNamed: false }
    : { job, token, outcome: ending.outcome, json: ending.json, bytes: bytesOf(ending), isNamed: false }

const isReport = (item: Item): item is ReportItem => item.outcome !== undefined

/** What a row's other columns weigh, about. */
const rowBytes = 100

const bytesOf = ({ json, outcome }: Ended): number => rowBytes + (json ?? JSON.stringify(outcome.result ?? null)).length

export const make = Effect.fnUntraced(function*(
  onAnswered: (lease: Lease, verdict: Verdict) => void
): Effect.fn.Return<ResultSender, never, Availability | JobStore | Loops | Scope.Scope> {
  const store = yield* JobStore
  const persistently = throughOutages(yield* Availability)
  const loops = yield* Loops
  /** All whose answer is awaited; `queue` is what has not been sent. */
  const unanswered = new Set<Item>()
  const queue: Array<Item> = []
  const hasResults = Latch.makeUnsafe(false)
  let bytes = 0
  const apart: Array<Apart> = []
  const hasApart = Latch.makeUnsafe(false)
  /** Statements that were answered: while others are, what fails is at fault itself. */
  let answered = 0

  const add = (item: Item) => {
    unanswered.add(item)
    bytes += item.bytes
  }

  const remove = (item: Item) => {
    const isFirst = unanswered.delete(item)
    if (isFirst) bytes -= item.bytes
    return isFirst
  }

  const settle = (item: Item, verdict: Verdict) => {
    if (remove(item)) onAnswered(item, verdict)
  }

  const takeAside = Effect.fnUntraced(function*(items: ReadonlyArray<Item>, attempt: number, delay = attempt) {
    if (items.length === 0) return
    const due = (yield* monotonicMillis) + (yield* retryDelay(delay))
    apart.push({ items, isApart: true, attempt, answered, due })
    hasApart.openUnsafe()
  })

  /** The one job that is at fault ends all the same, without what the database refuses. */
  const replace = Effect.fnUntraced(function*(item: Item, error: QueryFailed) {
    if (!isReport(item) || item.outcome.result === null) {
      yield* Effect.logError(`the end of job ${item.job} could not be stored: ${errorText(error)}`)
      return settle(item, "refused")
    }
    const problem = `its result could not be stored: ${error.detail}`
    const replaced = toItem(item, { outcome: { status: "failed", result: null, error: problem } })
    remove(item)
    add(replaced)
    yield* deliver([replaced], { ...atFirst, isApart: true })
  })

  const nameOnce = (items: ReadonlyArray<Item>, error: QueryFailed) => {
    const isKnown = items.every((item) => item.isNamed)
    for (const item of items) item.isNamed = true
    const [first] = items
    if (isKnown || first === undefined) return Effect.void
    const what = items.length === 1 ? `the end of job ${first.job}` : `the ends of ${items.length} jobs`
    return Effect.logWarning(`${what} can not be stored yet, and will be tried again: ${errorText(error)}`)
  }

  const failed = (items: ReadonlyArray<Item>, how: How, error: QueryFailed): Effect.Effect<void> => {
    const half = Math.ceil(items.length / 2)
    const [first, second] = [items.slice(0, half), items.slice(half)]
    if (error.kind === "data") {
      const [only] = items
      if (items.length > 1) return Effect.andThen(deliver(first, how), deliver(second, how))
      return only === undefined ? Effect.void : replace(only, error)
    }
    // At first all of them wait: a statement that was canceled, or a table that was locked, says nothing of the jobs. Then they are
    // halved: once, to find out, and again as long as others are answered. What fails for all is not sent in ever more pieces.
    const isOfThese = how.isApart && (how.attempt === 1 || answered > how.answered)
    if (!isOfThese || items.length === 1) {
      // A failure that passes at once is nobody's business.
      const named = how.attempt < 2 ? Effect.void : nameOnce(items, error)
      return Effect.andThen(named, takeAside(items, how.attempt + 1))
    }
    return Effect.andThen(takeAside(first, 2, 0), takeAside(second, 2, 0))
  }

  const deliver = (given: ReadonlyArray<Item>, how: How): Effect.Effect<void> =>
    Effect.suspend(() => {
      const reports: Array<ReportItem> = []
      const releases: Array<ReleaseItem> = []
      for (const item of given) {
        if (!unanswered.has(item)) continue
        if (isReport(item)) reports.push(item)
        else releases.push(item)
      }
      return Effect.andThen(deliverReports(reports, how), deliverReleases(releases, how))
    })

  const deliverReports = (items: ReadonlyArray<ReportItem>, how: How) =>
    items.length === 0 ?
      Effect.void :
      persistently(store.finish(items, { skipLocked: how.isApart })).pipe(
        Effect.flatMap((verdicts) => {
          answered++
          const locked = items.filter((_, at) => verdicts[at] === "locked")
          items.forEach((item, at) => {
            const verdict = verdicts[at] ?? "refused"
            if (verdict !== "locked") settle(item, verdict)
          })
          return takeAside(locked, how.attempt + 1)
        }),
        Effect.catchTag("QueryFailed", (error) => failed(items, how, error))
      )

  const deliverReleases = (items: ReadonlyArray<ReleaseItem>, how: How) =>
    items.length === 0 ? Effect.void : persistently(store.release(items)).pipe(
      Effect.map((accepted) => items.forEach((item, at) => settle(item, accepted[at] === true ? "again" : "refused"))),
      Effect.catchTag("QueryFailed", (error) => failed(items, how, error))
    )

  const nextBatch = () => {
    let count = 0
    let size = 0
    while (count < queue.length && count < resultsAtOnce) {
      size += queue[count]?.bytes ?? 0
      if (size > bytesAtOnce && count > 0) break
      count++
    }
    return queue.splice(0, count)
  }

  const sender = Effect.forever(Effect.gen(function*() {
    if (queue.length === 0) {
      hasResults.closeUnsafe()
      yield* hasResults.await
      // Jobs that were started together often end together: in one statement, as long as each turn brings more of them.
      let known = 0
      while (queue.length > known && queue.length < resultsAtOnce) {
        known = queue.length
        yield* Effect.yieldNow
      }
    }
    yield* deliver(nextBatch(), atFirst)
  }))

  /** One after another, those that were tried least first: what fails again and again comes last. */
  const apartSender = Effect.forever(Effect.gen(function*() {
    if (apart.length === 0) {
      hasApart.closeUnsafe()
      yield* hasApart.await
    }
    const now = yield* monotonicMillis
    const due = apart.filter((each) => each.due <= now).toSorted((a, b) => a.attempt - b.attempt)[0]
    if (due === undefined) {
      hasApart.closeUnsafe()
      const soonest = Math.min(...apart.map((each) => each.due))
      return yield* Effect.raceFirst(Effect.sleep(Math.max(1, soonest - now)), hasApart.await)
    }
    apart.splice(apart.indexOf(due), 1)
    yield* deliver(due.items, due)
  }))

  yield* Effect.forEach(Array.from({ length: senders }), () => loops.fork("results", sender), { discard: true })
  yield* loops.fork("results tried again", apartSender)

  return {
    send: (lease, ending) => {
      const item = toItem(lease, ending)
      add(item)
      queue.push(item)
      hasResults.openUnsafe()
    },
    forget: ({ job, token }) => {
      for (const item of unanswered) if (item.job === job && item.token === token) remove(item)
    },
    unanswered: () => Array.from(unanswered, ({ job }) => job),
    size: () => unanswered.size,
    bytes: () => bytes
  }
})
