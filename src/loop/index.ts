/** `lull/loop`: loops that cannot storm, and their delays. Needs no database, and nothing else of Lull. */
export * as Backoff from "./Backoff.ts"
export * as ControlLoop from "./ControlLoop.ts"
export { Loops } from "./Loops.ts"
