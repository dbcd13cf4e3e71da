/**
 * What the workers of this process hold. A process knows of its own jobs whether they run, whatever the database says of
 * their leases: nobody here takes them away.
 */
import { Context, Effect, Layer, type Scope } from "effect"
import type { Lease } from "./Job.ts"

export class HeldLeases extends Context.Service<HeldLeases, {
  /** A worker of this process, for as long as the scope is open. */
  readonly add: (holds: (lease: Lease) => boolean) => Effect.Effect<void, never, Scope.Scope>
  /** Numbers the workers of this process, from 1. */
  readonly nextNumber: Effect.Effect<number>
  /** Whether a worker of this process has the job under this token. */
  readonly holds: (lease: Lease) => boolean
}>()("lull/provisioner/HeldLeases") {
  static readonly layer: Layer.Layer<HeldLeases> = Layer.sync(HeldLeases, () => {
    const workers = new Set<(lease: Lease) => boolean>()
    let number = 0
    return HeldLeases.of({
      nextNumber: Effect.sync(() => ++number),
      add: (holds) =>
        Effect.asVoid(Effect.acquireRelease(
          Effect.sync(() => workers.add(holds)),
          () => Effect.sync(() => workers.delete(holds))
        )),
      holds: (lease) => [...workers].some((holds) => holds(lease))
    })
  })
}
