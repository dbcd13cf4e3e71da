/** `lull/logging`: logs that cannot storm. Needs no database, and nothing else of Lull. */
export type { Counts as DedupCounts } from "./Deduplication.ts"
export * as DedupLogger from "./DedupLogger.ts"
export type { DedupLogger as DedupLoggerHandle, Options as DedupOptions } from "./DedupLogger.ts"
export { PassAlways, passAlways } from "./PassAlways.ts"
export * as Redaction from "./Redaction.ts"
export type { Options as RedactionOptions, Redaction as RedactionHandle } from "./Redaction.ts"
export * as RotatingFile from "./RotatingFile.ts"
export {
  type Counts as LogFileCounts,
  LogFileUnusable,
  type Options as RotatingFileOptions,
  type RotatingFile as RotatingFileHandle
} from "./RotatingFile.ts"
export * as StateLog from "./StateLog.ts"
export type { Options as StateLogOptions, StateLog as StateLogHandle } from "./StateLog.ts"
