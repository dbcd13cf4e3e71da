/** `lull/loop`: loops that cannot storm, and their delays. Needs no database, and nothing else of Lull. */
export * as Backoff from "./Backoff.ts"
export type { Options as BackoffOptions } from "./Backoff.ts"
export * as ControlLoop from "./ControlLoop.ts"
export type {
  ControlLoop as ControlLoopHandle,
  Counts as ControlLoopCounts,
  Options as ControlLoopOptions,
  Status as ControlLoopStatus
} from "./ControlLoop.ts"
export { Loops } from "./Loops.ts"
