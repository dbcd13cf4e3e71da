/** Where notifications come from: a connection of its own, so that no pooled one is held. */
import type { Notification } from "@effect/sql-pg/PgConnection"
import { Context, type Effect, type Queue, type Scope } from "effect"
import type { SqlError } from "effect/sql/SqlError"

export class Listener extends Context.Service<Listener, {
  /** Opens a connection and returns once `LISTEN` is confirmed. */
  readonly listen: (
    channel: string
  ) => Effect.Effect<Queue.Dequeue<Notification, SqlError>, SqlError, Scope.Scope>
}>()("lull/database/Listener") {}
