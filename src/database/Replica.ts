/** Who this process is among those that share a database. */
import { Context, Effect, Layer } from "effect"
import { SecureRandom } from "effect/crypto/SecureRandom"
import { hostname } from "node:os"
import { pid } from "node:process"

export class Replica extends Context.Service<Replica, {
  /** A UUID, new with each start of the process. Leases and heartbeats are in its name. */
  readonly id: string
  /** For people: the host's name and the process id, by default. */
  readonly name: string
}>()("lull/database/Replica") {
  static readonly layer: Layer.Layer<Replica, never, SecureRandom> = Layer.effect(
    Replica,
    Effect.gen(function*() {
      const random = yield* SecureRandom
      return { id: yield* random.uuidV4(), name: `${hostname()}:${pid}` }
    })
  )
}
