/** The door in front of a real PostgreSQL, in a scope of its own, with what a test looks at. */
import { PgClient } from "@effect/sql-pg/PgClient"
import { Context, Effect, Exit, Layer, Redacted, Scope, SubscriptionRef } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { Availability } from "../../src/database/Availability.ts"
import { Database, type Options as DoorOptions } from "../../src/database/Database.ts"
import { Notifications } from "../../src/database/Notifications.ts"
import type * as PostgresLink from "../../src/database/PostgresLink.ts"
import { Replica } from "../../src/database/Replica.ts"
import { Loops } from "../../src/loop/Loops.ts"
import { JobStore } from "../../src/provisioner/JobStore.ts"
import * as JobStorePostgres from "../../src/provisioner/JobStorePostgres.ts"

export type Options = Partial<Omit<PostgresLink.Options, "url" | "listenUrl">> & DoorOptions & {
  readonly url: string
  readonly listenUrl?: string
  readonly replica?: string
}

export const open = Effect.fnUntraced(function*({ listenUrl, replica, url, ...options }: Options) {
  const random = yield* SecureRandom.SecureRandom
  const id = replica ?? (yield* random.uuidV4())
  const layer = Notifications.layerPostgres.pipe(
    Layer.provideMerge(JobStorePostgres.layer),
    Layer.provideMerge(Database.layerPostgres({
      ...options,
      url: Redacted.make(url),
      ...(listenUrl === undefined ? {} : { listenUrl: Redacted.make(listenUrl) })
    })),
    Layer.provide(Loops.layer),
    Layer.provide(Layer.succeed(Replica, { id, name: "test" })),
    Layer.fresh
  )
  const scope = yield* Scope.make()
  const services = yield* Layer.buildWithScope(layer, scope)
  const close = Scope.close(scope, Exit.void)
  yield* Effect.addFinalizer(() => close)
  const availability = Context.get(services, Availability)
  const database = Context.get(services, Database)
  return {
    id,
    availability,
    database,
    notifications: Context.get(services, Notifications),
    store: Context.get(services, JobStore),
    state: Effect.sync(() => SubscriptionRef.getUnsafe(availability.state)),
    /** One statement through the door. */
    query: (text: string) =>
      database.write("test.query", Effect.flatMap(PgClient, (sql) => sql.unsafe<Record<string, unknown>>(text))),
    close
  }
})

/** Polls on the real clock; a test that waits for ever is ended by its own timeout. */
export const until = (condition: () => boolean) => Effect.repeat(Effect.sleep("10 millis"), { until: condition })

export const untilAvailable = (opened: { readonly availability: Availability["Service"] }) =>
  until(() => opened.availability.isOpen())

export const untilUnavailable = (opened: { readonly availability: Availability["Service"] }) =>
  until(() => SubscriptionRef.getUnsafe(opened.availability.state)._tag === "Unavailable")
