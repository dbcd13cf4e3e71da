/**
 * Brings to the store what jobs write: in batches of many jobs, in order, for as long as it takes. What is sent again is stored
 * once, by its position.
 *
 * A batch that fails takes nobody with it: its jobs are sent one by one by a sender of their own, each with a delay that grows,
 * while the others go on. Only what the database refuses for its value is cut, line by line until the line is found, and the
 * cut is marked.
 */
import { Duration, Effect, Latch, type Scope } from "effect"
import { Availability } from "../database/Availability.ts"
import type { QueryFailed } from "../database/Unavailable.ts"
import { errorText } from "../logging/ErrorText.ts"
import { Loops } from "../loop/Loops.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { type JobId, type Lease, type LeasedJob, type OutputLine } from "./Job.ts"
import { JobStore, type OutputBatch } from "./JobStore.ts"
import { LeaseMap } from "./LeaseMap.ts"
import * as OutputBuffer from "./OutputBuffer.ts"
import type { Ending } from "./ResultSender.ts"
import { retryDelay, throughOutages } from "./Retrying.ts"

/** Output of one job in one batch: small enough that no job's output delays another's by much. */
const batchBytes = 64 * 1024

/** Jobs whose output goes into one statement. */
const batchesAtOnce = 16

/** Lines are collected for this long: ten statements a second, however many jobs talk. */
const collectFor = Duration.millis(100)

/** A failure that passes at once is nobody's business. */
const namedAfter = 3

export interface OutputSender {
  /** The output of a run, which begins with its first line. */
  readonly open: (job: LeasedJob) => Effect.Effect<Entry>
  readonly find: (lease: Lease) => Entry | undefined
  /** There are lines, or it has ended. */
  readonly talk: (entry: Entry) => void
  /** Nothing of it is sent any more. */
  readonly forget: (lease: Lease) => void
  /** Jobs that have ended, and whose output is not stored to the end. */
  readonly ended: () => ReadonlyArray<JobId>
  readonly isIdle: () => boolean
}

export interface Entry {
  readonly job: LeasedJob
  readonly buffer: OutputBuffer.OutputBuffer
  /** Set when it has ended. */
  ending: Ending | undefined
  /** How often it has failed in a row, and when it is tried again. */
  failures: number
  due: number
}

interface Batch {
  readonly entry: Entry
  readonly lines: ReadonlyArray<OutputLine>
}

const toBatch = ({ entry: { job }, lines }: Batch): OutputBatch => ({
  job: job.job,
  token: job.token,
  attempt: job.attempt,
  lines
})

export const make = Effect.fnUntraced(function*(options: {
  readonly buffer: OutputBuffer.Options | undefined
  /** Called when all of its output is stored, or can not be. */
  readonly onDrained: (lease: Lease, ending: Ending) => void
}): Effect.fn.Return<OutputSender, never, Availability | JobStore | Loops | Scope.Scope> {
  const store = yield* JobStore
  const persistently = throughOutages(yield* Availability)
  const loops = yield* Loops
  const entries = new LeaseMap<Entry>(({ job }) => job)
  const talking = new Set<Entry>()
  const hasOutput = Latch.makeUnsafe(false)
  const apart = new Set<Entry>()
  const hasApart = Latch.makeUnsafe(false)

  const talk = (entry: Entry) => {
    if (entry.failures > 0) {
      apart.add(entry)
      hasApart.openUnsafe()
    } else {
      talking.add(entry)
      hasOutput.openUnsafe()
    }
  }

  const drained = (entry: Entry) => {
    if (entry.ending === undefined || entries.get(entry.job) !== entry) return
    entries.delete(entry.job)
    options.onDrained(entry.job, entry.ending)
  }

  const nextBatch = (entry: Entry): Effect.Effect<ReadonlyArray<Batch>> =>
    Effect.map(entry.buffer.take(batchBytes), (lines) => {
      if (lines.length > 0) return [{ entry, lines }]
      drained(entry)
      return []
    })

  /** Sends batches together. Answers of those that failed. */
  const send = (batches: ReadonlyArray<Batch>): Effect.Effect<void, QueryFailed> =>
    Effect.flatMap(
      persistently(store.appendOutput(batches.map(toBatch))),
      (answers) =>
        Effect.forEach(batches, ({ entry, lines }, at) => {
          entry.failures = 0
          // The lease is lost; the heartbeat will say so to the job.
          if (answers[at] === false) return Effect.sync(() => drained(entry))
          return Effect.andThen(
            entry.buffer.acknowledge((lines.at(-1)?.index ?? -1) + 1),
            // Whether there is more is found in its next turn.
            Effect.sync(() => {
              if (entries.get(entry.job) === entry) talk(entry)
            })
          )
        }, { discard: true })
    )

  const takeAside = Effect.fnUntraced(function*({ entry }: Batch, error: QueryFailed) {
    if (entry.failures === namedAfter) {
      yield* Effect.logWarning(
        `the output of job ${entry.job.job} can not be stored yet, and will be tried again: ${errorText(error)}`
      )
    }
    entry.due = (yield* monotonicMillis) + (yield* retryDelay(entry.failures))
    entry.failures++
    talk(entry)
  })

  /** A value was refused: the half that is well is stored, and of the other the line that is not is cut. */
  const sendHalves = (batch: Batch, error: QueryFailed): Effect.Effect<void> => {
    const { entry, lines } = batch
    const [only] = lines
    if (lines.length > 1) {
      const half = Math.ceil(lines.length / 2)
      // The second half is taken again with what comes after it.
      return sendAlone({ entry, lines: lines.slice(0, half) })
    }
    if (only === undefined) return Effect.void
    return Effect.logError(`a line of the output of job ${entry.job.job} could not be stored: ${errorText(error)}`)
      .pipe(
        Effect.andThen(entry.buffer.refuse(only.index + 1, error.detail)),
        Effect.andThen(Effect.sync(() => talk(entry)))
      )
  }

  const sendAlone = (batch: Batch): Effect.Effect<void> =>
    Effect.catch(send([batch]), (error) => error.kind === "data" ? sendHalves(batch, error) : takeAside(batch, error))

  const sender = Effect.forever(Effect.gen(function*() {
    if (talking.size === 0) {
      hasOutput.closeUnsafe()
      yield* hasOutput.await
    }
    yield* Effect.sleep(collectFor)
    const turn = [...talking].slice(0, batchesAtOnce)
    for (const entry of turn) talking.delete(entry)
    const batches = (yield* Effect.forEach(turn, nextBatch)).flat()
    if (batches.length === 0) return
    const [first] = batches
    if (batches.length === 1 && first !== undefined) return yield* sendAlone(first)
    yield* Effect.catch(send(batches), () =>
      // Which of them was at fault is found by sending each alone, where nobody waits for it.
      Effect.forEach(batches, ({ entry }) => Effect.sync(() => setAside(entry)), { discard: true }))
  }))

  const setAside = (entry: Entry) => {
    entry.failures = 1
    entry.due = 0
    talk(entry)
  }

  /** One after another, those that failed least first. */
  const apartSender = Effect.forever(Effect.gen(function*() {
    if (apart.size === 0) {
      hasApart.closeUnsafe()
      yield* hasApart.await
    }
    const now = yield* monotonicMillis
    const entry = [...apart].filter(({ due }) => due <= now).toSorted((a, b) => a.failures - b.failures)[0]
    if (entry === undefined) {
      hasApart.closeUnsafe()
      const soonest = Math.min(...[...apart].map(({ due }) => due))
      return yield* Effect.raceFirst(Effect.sleep(Math.max(1, soonest - now)), hasApart.await)
    }
    apart.delete(entry)
    for (const batch of yield* nextBatch(entry)) yield* sendAlone(batch)
  }))

  yield* loops.fork("output", sender)
  yield* loops.fork("output tried again", apartSender)

  return {
    open: (job) =>
      Effect.map(OutputBuffer.make(options.buffer), (buffer) => {
        const entry: Entry = { job, buffer, ending: undefined, failures: 0, due: 0 }
        entries.set(entry)
        return entry
      }),
    find: (lease) => entries.get(lease),
    talk,
    forget: (lease) => {
      const entry = entries.get(lease)
      if (entry === undefined) return
      entries.delete(lease)
      talking.delete(entry)
      apart.delete(entry)
    },
    ended: () => entries.values().filter(({ ending }) => ending !== undefined).map(({ job }) => job.job),
    isIdle: () => entries.size === 0
  }
})
