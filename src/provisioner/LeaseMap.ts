/**
 * What is kept of leases, by job *and* token. A job has one lease, except for a moment after its worker stood still and took
 * it again. So the id is the key, of which the hash is known: a text of both would have to be made and hashed at each look.
 */
import type { JobId, Lease } from "./Job.ts"

interface Entry<A> {
  readonly token: number
  value: A
  /** Of the same job, set before. */
  older: Entry<A> | undefined
}

const find = <A>(newest: Entry<A> | undefined, token: number): Entry<A> | undefined => {
  let entry = newest
  while (entry !== undefined && entry.token !== token) entry = entry.older
  return entry
}

export class LeaseMap<A> {
  readonly #newest = new Map<JobId, Entry<A>>()
  #size = 0

  get size(): number {
    return this.#size
  }

  get({ job, token }: Lease): A | undefined {
    return find(this.#newest.get(job), token)?.value
  }

  has({ job, token }: Lease): boolean {
    return find(this.#newest.get(job), token) !== undefined
  }

  set({ job, token }: Lease, value: A): void {
    const newest = this.#newest.get(job)
    const entry = find(newest, token)
    if (entry !== undefined) {
      entry.value = value
      return
    }
    this.#newest.set(job, { token, value, older: newest })
    this.#size++
  }

  delete({ job, token }: Lease): void {
    const newest = this.#newest.get(job)
    const entry = find(newest, token)
    if (newest === undefined || entry === undefined) return
    this.#size--
    if (entry !== newest) {
      let newer = newest
      while (newer.older !== undefined && newer.older !== entry) newer = newer.older
      newer.older = entry.older
    } else if (entry.older === undefined) this.#newest.delete(job)
    else this.#newest.set(job, entry.older)
  }

  /** The newest of this job for which the condition holds. */
  newest(job: JobId, condition: (value: A) => boolean): A | undefined {
    let entry = this.#newest.get(job)
    while (entry !== undefined && !condition(entry.value)) entry = entry.older
    return entry?.value
  }

  values(): ReadonlyArray<A> {
    const values: Array<A> = []
    for (const newest of this.#newest.values()) {
      for (let entry: Entry<A> | undefined = newest; entry !== undefined; entry = entry.older) values.push(entry.value)
    }
    return values
  }
}
