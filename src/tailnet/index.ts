/**
 * `lull/tailnet`: the coordinator, and the peer's loop. Described in `docs/tailnet.md`.
 *
 * The types of other parts of Lull that these are made of are here by the names that they have in `lull`: whoever imports
 * this entry alone can name what it gives.
 */
export type {
  Availability,
  Options as AvailabilityOptions,
  State as AvailabilityState
} from "../database/Availability.ts"
export type { InvalidDatabaseUrl } from "../database/ConnectionUrl.ts"
export type { Database, DoorError, Options as DatabaseOptions, Pass } from "../database/Database.ts"
export type { MemoryOptions, PostgresOptions, Services as FoundationServices } from "../database/Foundation.ts"
export type { ServerIdentity } from "../database/Link.ts"
export type { Event as NotificationEvent, Notifications } from "../database/Notifications.ts"
export type { Options as LinkOptions } from "../database/PostgresLink.ts"
export type { Replica } from "../database/Replica.ts"
export type {
  Classified as ClassifiedFailure,
  DatabaseUnavailable,
  FailureKind,
  QueryFailed,
  Reason as UnavailableReason,
  WorkOutcome
} from "../database/Unavailable.ts"
export type { Counts as ControlLoopCounts, Status as ControlLoopStatus } from "../loop/ControlLoop.ts"
export type { Loops } from "../loop/Loops.ts"
export type { StoreError } from "../provisioner/JobStore.ts"
export type { Fault, Kind as FaultKind, Outage as OutageScript } from "../testing/Outage.ts"
export {
  type Connection,
  ConnectionClosed,
  type CoordinatorConnection,
  type PeerConnection,
  Refused
} from "./Connection.ts"
export {
  Coordinator,
  type End as SessionEnd,
  type Next as SessionNext,
  type Options as CoordinatorOptions,
  type PeerSession,
  type Services
} from "./Coordinator.ts"
export type { Mapping, PeerRow, Tunnel } from "./CoordinatorState.ts"
export * as Peer from "./Peer.ts"
export type { Node, PeerId, PeerUpdate } from "./Peer.ts"
export { type Changes, PeerStore, type Read, type ReplicaRow } from "./PeerStore.ts"
export * as PeerStoreMemory from "./PeerStoreMemory.ts"
export { PeerTable, type Stored as PeerTableRow } from "./PeerStoreMemory.ts"
export * as PeerStorePostgres from "./PeerStorePostgres.ts"
export * as Protocol from "./Protocol.ts"
export type { Event, Hello, RefusalCode, RelayRegion, Request, UnknownRequest } from "./Protocol.ts"
export type { Options as SessionOptions } from "./Session.ts"
export * as TailnetLoop from "./TailnetLoop.ts"
export {
  CoordinatorSilent,
  DialFailed,
  GoingAway,
  type KnownPeer,
  type Options as TailnetLoopOptions,
  type SessionError,
  type TailnetLoop as TailnetLoopHandle,
  type Transport
} from "./TailnetLoop.ts"
export * as Transports from "./Transports.ts"
export type { WebSocketOptions } from "./Transports.ts"
