/**
 * What is kept of leases, by job *and* token. A job has one lease, except for a moment after its worker stood still and took
 * it again. So the id is the key, of which the hash is known: a text of both would have to be made and hashed at each look.
 */
import type { JobId, Lease } from "./Job.ts"

export class LeaseMap<A> {
  readonly #leaseOf: (value: A) => Lease
  readonly #newest = new Map<JobId, A>()
  /** Of the same job, set before, the newest first. */
  readonly #older = new Map<JobId, ReadonlyArray<A>>()

  constructor(leaseOf: (value: A) => Lease) {
    this.#leaseOf = leaseOf
  }

  get size(): number {
    let size = this.#newest.size
    for (const older of this.#older.values()) size += older.length
    return size
  }

  get(lease: Lease): A | undefined {
    const newest = this.#newest.get(lease.job)
    if (newest === undefined || this.#leaseOf(newest).token === lease.token) return newest
    return this.#older.get(lease.job)?.find((value) => this.#leaseOf(value).token === lease.token)
  }

  has(lease: Lease): boolean {
    return this.get(lease) !== undefined
  }

  set(value: A): void {
    const { job, token } = this.#leaseOf(value)
    const newest = this.#newest.get(job)
    if (newest !== undefined && this.#leaseOf(newest).token !== token) {
      this.#keepOlder(job, [newest, ...this.#olderThan(job, token)])
    }
    this.#newest.set(job, value)
  }

  delete({ job, token }: Lease): void {
    const newest = this.#newest.get(job)
    if (newest === undefined) return
    const older = this.#olderThan(job, token)
    if (this.#leaseOf(newest).token !== token) return this.#keepOlder(job, older)
    const [next, ...others] = older
    if (next === undefined) this.#newest.delete(job)
    else {
      this.#newest.set(job, next)
      this.#keepOlder(job, others)
    }
  }

  /** The newest of this job for which the condition holds. */
  newest(job: JobId, condition: (value: A) => boolean): A | undefined {
    const newest = this.#newest.get(job)
    return newest === undefined || condition(newest) ? newest : this.#older.get(job)?.find(condition)
  }

  values(): ReadonlyArray<A> {
    return this.#older.size === 0
      ? [...this.#newest.values()]
      : [...this.#newest.values(), ...[...this.#older.values()].flat()]
  }

  /** The older ones of a job, but for that token. */
  #olderThan(job: JobId, token: number): ReadonlyArray<A> {
    const older = this.#older.size === 0 ? undefined : this.#older.get(job)
    return older === undefined ? none : older.filter((value) => this.#leaseOf(value).token !== token)
  }

  #keepOlder(job: JobId, older: ReadonlyArray<A>): void {
    if (older.length > 0) this.#older.set(job, older)
    else if (this.#older.size > 0) this.#older.delete(job)
  }
}

const none: ReadonlyArray<never> = []
