/**
 * What an embedding application imports. Everything here is a contract; see `CHANGELOG.md` for what changed.
 *
 * Start with `Provisioner`: the whole of it in one layer. The rest is its parts.
 */
export {
  Availability,
  type Options as AvailabilityOptions,
  type State as AvailabilityState
} from "./database/Availability.ts"
export { InvalidDatabaseUrl } from "./database/ConnectionUrl.ts"
export { Database, type DoorError } from "./database/Database.ts"
export { EmbeddedPostgres } from "./database/EmbeddedPostgres.ts"
export { MigrationFailed, SchemaBlocked, type SchemaError } from "./database/Migrations.ts"
export { type Event as NotificationEvent, Notifications } from "./database/Notifications.ts"
export { Replica } from "./database/Replica.ts"
export { SchemaDamaged, SchemaForbidden, SchemaTooNew } from "./database/SchemaState.ts"
export { DatabaseUnavailable, QueryFailed, type Reason as UnavailableReason } from "./database/Unavailable.ts"
export * as Backoff from "./loop/Backoff.ts"
export * as ControlLoop from "./loop/ControlLoop.ts"
export { Loops } from "./loop/Loops.ts"
export { AcquireLoop, type Options as AcquireLoopOptions } from "./provisioner/AcquireLoop.ts"
export { CommandInput } from "./provisioner/ChildProcess.ts"
export { ExecutionFailed, Executor, type JobOutput } from "./provisioner/Executor.ts"
export * as Job from "./provisioner/Job.ts"
export { IdempotencyConflict, JobEnded, JobNotFound, JobStore } from "./provisioner/JobStore.ts"
export * as JobStoreMemory from "./provisioner/JobStoreMemory.ts"
export * as JobStorePostgres from "./provisioner/JobStorePostgres.ts"
export { Provisioner } from "./provisioner/Provisioner.ts"
export { type Options as ReaperOptions, Reaper } from "./provisioner/Reaper.ts"
