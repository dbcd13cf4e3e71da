/**
 * What an embedding application imports. Everything here is a contract; see `CHANGELOG.md` for what changed.
 *
 * Start with `Provisioner`: the whole of it in one layer. The rest is its parts.
 *
 * Every type in a public signature has a name of its own here, also those of the modules that are exported whole (`Job`,
 * `ControlLoop`): a compiler that writes the declarations of an application finds names in the exports of an entry
 * point, and not inside of what is exported. Where the module has taken the name, it is longer: `Job.Job` is `JobRecord`.
 */
export {
  Availability,
  type Options as AvailabilityOptions,
  type State as AvailabilityState
} from "./database/Availability.ts"
export { InvalidDatabaseUrl } from "./database/ConnectionUrl.ts"
export { Database, type DoorError, type Options as DatabaseOptions, type Pass } from "./database/Database.ts"
export type { Step as EmbeddedPostgresStep } from "./database/embedded/Failures.ts"
export {
  AccountCannotReach,
  DataVersionMismatch,
  DirectoryInUse,
  EmbeddedPostgres,
  type EmbeddedPostgresError,
  EmbeddedPostgresFailed,
  EmbeddedPostgresMissing,
  type Options as EmbeddedPostgresOptions
} from "./database/EmbeddedPostgres.ts"
export type { MemoryOptions, PostgresOptions, Services as FoundationServices } from "./database/Foundation.ts"
export { Link, type ServerIdentity, type Work } from "./database/Link.ts"
export { Listener } from "./database/Listener.ts"
export { MigrationFailed, SchemaBlocked, type SchemaError } from "./database/Migrations.ts"
export { type Event as NotificationEvent, Notifications } from "./database/Notifications.ts"
export type { Options as LinkOptions } from "./database/PostgresLink.ts"
export { Replica } from "./database/Replica.ts"
export {
  type Classified as ClassifiedFailure,
  DatabaseUnavailable,
  type FailureKind,
  QueryFailed,
  type Reason as UnavailableReason,
  type WorkOutcome
} from "./database/Unavailable.ts"
export * as Backoff from "./loop/Backoff.ts"
export type { Options as BackoffOptions } from "./loop/Backoff.ts"
export * as ControlLoop from "./loop/ControlLoop.ts"
export type {
  ControlLoop as ControlLoopHandle,
  Counts as ControlLoopCounts,
  Options as ControlLoopOptions,
  Status as ControlLoopStatus
} from "./loop/ControlLoop.ts"
export { Loops } from "./loop/Loops.ts"
export { AcquireLoop, type Options as AcquireLoopOptions } from "./provisioner/AcquireLoop.ts"
export { CommandInput } from "./provisioner/ChildProcess.ts"
export { ExecutionFailed, Executor, ExecutorUnable, type JobOutput, type Run } from "./provisioner/Executor.ts"
export * as Job from "./provisioner/Job.ts"
export {
  type FieldProblem as JobProblem,
  InvalidJob,
  type Job as JobRecord,
  type JobId,
  type JobOutcome,
  type JobRequest,
  type JobStatus,
  type Lease,
  type LeasedJob,
  type OutputLine,
  type Tags
} from "./provisioner/Job.ts"
export {
  type Acquired,
  type AcquireOptions,
  IdempotencyConflict,
  JobEnded,
  JobNotFound,
  JobStore,
  type KnownLease,
  type LeaseStatus,
  type ListOptions,
  type NewJob,
  type OutputBatch,
  type OutputPosition,
  type QueryError,
  type Report,
  type StoredLine,
  type StoreError,
  type UnreadableJob,
  type Verdict,
  type Worker
} from "./provisioner/JobStore.ts"
export * as JobStoreMemory from "./provisioner/JobStoreMemory.ts"
export { JobTable, type Row as JobTableRow } from "./provisioner/JobStoreMemory.ts"
export * as JobStorePostgres from "./provisioner/JobStorePostgres.ts"
export type { JobUser } from "./provisioner/JobUser.ts"
export { type LocalWorker, LocalWorkers } from "./provisioner/LocalWorkers.ts"
export type { Options as OutputOptions } from "./provisioner/OutputBuffer.ts"
export {
  Provisioner,
  ResultUnreadable,
  type Services,
  type Submission,
  type WorkerOptions
} from "./provisioner/Provisioner.ts"
export { type Options as ReaperOptions, Reaper } from "./provisioner/Reaper.ts"
export type { Fault, FaultInput, Kind as FaultKind, Outage as OutageScript } from "./testing/Outage.ts"
