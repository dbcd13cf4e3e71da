/**
 * Jobs that wait for a worker that is not there: the submitter is told, and so is the log, once for each type and set of tags.
 *
 * It is a remark, never an error: the worker may come later. What is known is a few seconds old at most.
 */
import { Duration, Effect, type Scope } from "effect"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { type Job, type JobRequest, tagKey } from "./Job.ts"
import type { JobStore } from "./JobStore.ts"
import type { LocalWorkers } from "./LocalWorkers.ts"

type Queue = Pick<JobRequest, "type" | "tags">

export interface Unserved {
  /** Why a pending job is not started for now, if no worker runs such jobs. */
  readonly remark: (job: Queue & Partial<Pick<Job, "status">>) => Effect.Effect<string | undefined>
  /** Says it in the log, if that still is so after a while. Does not wait. */
  readonly watch: (jobs: ReadonlyArray<Queue>) => Effect.Effect<void>
}

/** For so long an answer is believed. */
const freshFor = 5_000

/** A worker that starts together with the submitter is waited for, before anything is said. */
const patience = Duration.seconds(10)

/** Types and sets of tags that are remembered; beyond it, all are forgotten. */
const mostRemembered = 1_000

export const sentence = ({ tags, type }: Queue): string => {
  const pairs = Object.entries(tags).map(([key, value]) => `${key}=${value}`).sort()
  const which = pairs.length === 0
    ? "without tags"
    : `with the ${pairs.length === 1 ? "tag" : "tags"} ${pairs.join(", ")}`
  return `no worker ${which} runs jobs of the type ${JSON.stringify(type)}: they wait for one`
}

export const make = Effect.fnUntraced(function*(
  store: JobStore["Service"],
  local: LocalWorkers["Service"]
): Effect.fn.Return<Unserved, never, Scope.Scope> {
  const scope = yield* Effect.scope
  const known = new Map<string, { readonly isServed: boolean; readonly at: number }>()
  const said = new Set<string>()
  const keyOf = ({ tags, type }: Queue) => `${type} ${tagKey(tags)}`

  const isServed = Effect.fnUntraced(function*(queue: Queue) {
    if (local.serves(queue)) return true
    const now = yield* monotonicMillis
    const before = known.get(keyOf(queue))
    if (before !== undefined && now - before.at < freshFor) return before.isServed
    // What can not be asked is not claimed.
    const [answer = true] = yield* Effect.orElseSucceed(store.served([queue]), () => [true])
    if (known.size >= mostRemembered) known.clear()
    known.set(keyOf(queue), { isServed: answer, at: now })
    return answer
  })

  const sayOnce = Effect.fnUntraced(function*(queue: Queue) {
    yield* Effect.sleep(patience)
    if (yield* isServed(queue)) {
      said.delete(keyOf(queue))
      return
    }
    yield* Effect.logWarning(sentence(queue))
  })

  return {
    remark: (job) =>
      job.status !== undefined && job.status !== "pending"
        ? Effect.undefined
        : Effect.map(isServed(job), (served) => served ? undefined : sentence(job)),
    watch: (jobs) =>
      Effect.suspend(() => {
        const queues = new Map<string, Queue>()
        let last: Queue | undefined
        for (const job of jobs) {
          // Most are like the one before.
          if (last === undefined || last.type !== job.type || last.tags !== job.tags) queues.set(keyOf(job), job)
          last = job
        }
        const fresh = [...queues].filter(([key, queue]) => !said.has(key) && !local.serves(queue)).slice(0, 10)
        if (said.size >= mostRemembered) said.clear()
        return Effect.forEach(fresh, ([key, queue]) => {
          said.add(key)
          return Effect.forkIn(sayOnce(queue), scope)
        }, { discard: true })
      })
  }
})
