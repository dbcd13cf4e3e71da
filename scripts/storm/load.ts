/**
 * The load: 20 jobs a second over HTTP, before, during and after the outage, and a backlog that is there when the
 * database comes back. Each job writes its start and its end to a ledger on disk, which no outage reaches.
 */
import { appendFileSync, readFileSync, writeFileSync } from "node:fs"

export interface Ledger {
  /** Times of the starts of each job, by its key. */
  readonly starts: ReadonlyMap<string, ReadonlyArray<number>>
  readonly ends: ReadonlyMap<string, ReadonlyArray<number>>
}

export const readLedger = (file: string): Ledger => {
  const starts = new Map<string, Array<number>>()
  const ends = new Map<string, Array<number>>()
  for (const line of readFileSync(file, "utf8").split("\n").filter(Boolean)) {
    const [event, key = "", at] = line.split(" ")
    const times = event === "s" ? starts : ends
    times.set(key, [...times.get(key) ?? [], Number(at) / 1e6])
  }
  return { starts, ends }
}

/** What a job does: it works for 300 ms, and writes down when. */
const command = `echo "s $1 $(date +%s%N)" >> "$2"; sleep 0.3; echo "e $1 $(date +%s%N)" >> "$2"`

export interface Load {
  /** Keys of the jobs that were accepted. */
  readonly accepted: ReadonlySet<string>
  /** Answers to requests, by status; 0 is no answer. */
  readonly statuses: ReadonlyMap<number, number>
  /** When each request that was refused as unavailable began, and what its answer took, in milliseconds. */
  readonly refusals: ReadonlyArray<{ readonly at: number; readonly millis: number }>
  readonly submit: (count: number) => Promise<void>
  /** Submits one job each `everyMillis`, until it is told to stop. */
  readonly begin: (everyMillis: number) => () => Promise<void>
  /** Submits again what was not accepted, under the same keys, until all of it is. */
  readonly settle: () => Promise<void>
}

export const make = (address: string, ledger: string): Load => {
  writeFileSync(ledger, "")
  const accepted = new Set<string>()
  const open = new Set<string>()
  const statuses = new Map<number, number>()
  const refusals: Array<{ readonly at: number; readonly millis: number }> = []
  let next = 0

  const post = async (key: string) => {
    open.add(key)
    const at = Date.now()
    const before = performance.now()
    let status = 0
    try {
      const response = await fetch(`${address}/api/v1/jobs`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({
          type: "command",
          idempotencyKey: key,
          input: { command: ["sh", "-c", command, "job", key, ledger] }
        }),
        signal: AbortSignal.timeout(15_000)
      })
      status = response.status
      await response.text()
    } catch (error) {
      appendFileSync(`${ledger}.errors`, `${String(error)}\n`)
    }
    statuses.set(status, (statuses.get(status) ?? 0) + 1)
    if (status === 503) refusals.push({ at, millis: performance.now() - before })
    if (status === 201) {
      accepted.add(key)
      open.delete(key)
    }
  }

  return {
    accepted,
    statuses,
    refusals,
    submit: async (count) => {
      for (let index = 0; index < count; index++) await post(`job-${next++}`)
    },
    begin: (everyMillis) => {
      const requests = new Set<Promise<void>>()
      const timer = setInterval(() => {
        const request = post(`job-${next++}`).finally(() => requests.delete(request))
        requests.add(request)
      }, everyMillis)
      return async () => {
        clearInterval(timer)
        await Promise.all(requests)
      }
    },
    settle: async () => {
      for (let round = 0; open.size > 0 && round < 20; round++) {
        for (const key of open) await post(key)
      }
    }
  }
}
