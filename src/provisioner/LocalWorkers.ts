/**
 * The workers of this process: what they can run, and what they hold. A process knows of its own jobs whether they run, whatever
 * the database says of their leases: nobody here takes them away.
 */
import { Context, Effect, Layer, type Scope } from "effect"
import { covers, type JobRequest, type Lease } from "./Job.ts"
import type { Worker } from "./JobStore.ts"

export interface LocalWorker {
  readonly worker: Worker
  readonly holds: (lease: Lease) => boolean
}

export class LocalWorkers extends Context.Service<LocalWorkers, {
  /** A worker of this process, for as long as the scope is open. */
  readonly add: (worker: LocalWorker) => Effect.Effect<void, never, Scope.Scope>
  /** Numbers the workers of this process, from 1. */
  readonly nextNumber: Effect.Effect<number>
  /** Whether a worker of this process has the job under this token. */
  readonly holds: (lease: Lease) => boolean
  /** Whether a worker of this process runs such jobs. */
  readonly serves: (job: Pick<JobRequest, "type" | "tags">) => boolean
}>()("lull/provisioner/LocalWorkers") {
  static readonly layer: Layer.Layer<LocalWorkers> = Layer.sync(LocalWorkers, () => {
    const workers = new Set<LocalWorker>()
    let number = 0
    return LocalWorkers.of({
      add: (worker) =>
        Effect.asVoid(Effect.acquireRelease(
          Effect.sync(() => workers.add(worker)),
          () => Effect.sync(() => workers.delete(worker))
        )),
      nextNumber: Effect.sync(() => ++number),
      holds: (lease) => [...workers].some(({ holds }) => holds(lease)),
      serves: (job) => [...workers].some(({ worker }) => serves(worker, job))
    })
  })
}

/** Whether a worker takes jobs of this type with these tags. */
export const serves = (worker: Worker, { tags, type }: Pick<JobRequest, "type" | "tags">): boolean =>
  worker.slots > 0 && covers(worker.tags, tags) && (worker.types?.includes(type) ?? true)
