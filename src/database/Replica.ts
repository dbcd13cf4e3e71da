/** Who this process is among those that share a database. */
import { Context } from "effect"

export class Replica extends Context.Service<Replica, {
  /** A UUID, new with each start of the process. Leases and heartbeats are in its name. */
  readonly id: string
  /** For people: the host's name and the process id, by default. */
  readonly name: string
}>()("lull/database/Replica") {}
