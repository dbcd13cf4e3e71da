/**
 * What a store of jobs remembers of queues: one for each type and set of tags that was ever asked for.
 *
 * - **A submission** writes a queue once, and not with each job.
 * - **An acquire** looks only into queues that its worker covers, and finds new ones by the number of the transaction that
 *   made them: nothing that was committed since the last look is missed, and how many queues there are for others does not
 *   matter.
 *
 * All of it is forgotten when the database may have another history: a queue that was known may be lost.
 */
import type { PgClient } from "@effect/sql-pg/PgClient"
import { Effect, Option } from "effect"
import { type JobRequest, tagKey } from "./Job.ts"
import { queueId } from "./JobSql.ts"
import type { Worker } from "./JobStore.ts"

interface Queue {
  readonly id: string
  readonly type: string
  readonly key: string
}

/** The queues that a worker covers, up to a snapshot of the database. */
interface Covered {
  readonly ids: ReadonlyArray<string>
  /** Queues of this transaction and later ones have not been looked at. */
  readonly snapshot: string
}

/** Beyond it, all are forgotten: they are written again, which changes nothing. */
const mostRemembered = 10_000

const nothing: Covered = { ids: [], snapshot: "0" }

/** Workers with the same tags and types cover the same queues. */
const coverOf = ({ tags, types }: Pick<Worker, "tags" | "types">) => `${tagKey(tags)} ${JSON.stringify(types ?? null)}`

export const make = (history: () => number) => {
  let seen = history()
  const stored = new Set<string>()
  const covered = new Map<string, Covered>()
  /** By type and tags, so that an id is hashed once, and not with each submission. */
  const byName = new Map<string, Queue>()

  const find = (type: string, key: string): Queue => {
    const name = `${type}\0${key}`
    const known = byName.get(name)
    if (known !== undefined) return known
    const queue = { id: queueId(type, key), type, key }
    if (byName.size >= mostRemembered) byName.clear()
    byName.set(name, queue)
    return queue
  }

  const forgetAnotherHistory = () => {
    if (history() === seen) return
    seen = history()
    stored.clear()
    covered.clear()
  }

  return {
    /** The queue of each job, and all of these once. Most jobs have the same as the one before. */
    ofJobs: (jobs: ReadonlyArray<Pick<JobRequest, "type">>, tagKeys: ReadonlyArray<string>) => {
      const distinct = new Map<string, Queue>()
      let last: Queue | undefined
      const ids = jobs.map(({ type }, at) => {
        const key = tagKeys[at] ?? "{}"
        if (last === undefined || last.type !== type || last.key !== key) {
          last = find(type, key)
          distinct.set(last.id, last)
        }
        return last.id
      })
      return { ids, distinct: [...distinct.values()] }
    },
    unknown: (queues: ReadonlyArray<Queue>) => {
      forgetAnotherHistory()
      return queues.filter(({ id }) => !stored.has(id))
    },
    /** They were written; unless that was in a transaction, which may still be rolled back. */
    noteStored: (sql: PgClient, queues: ReadonlyArray<Queue>) =>
      Effect.map(Effect.serviceOption(sql.transactionService), (transaction) => {
        if (Option.isSome(transaction) || history() !== seen) return
        for (const { id } of queues) {
          if (stored.size >= mostRemembered) stored.clear()
          stored.add(id)
        }
      }),
    of: (worker: Pick<Worker, "tags" | "types">): Covered => {
      forgetAnotherHistory()
      return covered.get(coverOf(worker)) ?? nothing
    },
    noteFresh: (
      worker: Pick<Worker, "tags" | "types">,
      before: Covered,
      found: { readonly fresh: ReadonlyArray<string>; readonly snapshot: string } | undefined
    ) => {
      if (found === undefined || history() !== seen) return
      const isKnown = found.fresh.every((id) => before.ids.includes(id))
      const ids = isKnown ? before.ids : [...new Set([...before.ids, ...found.fresh])]
      covered.set(coverOf(worker), { ids, snapshot: found.snapshot })
    }
  }
}
