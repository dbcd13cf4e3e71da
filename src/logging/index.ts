/** `lull/logging`: logs that cannot storm. Needs no database, and nothing else of Lull. */
export * as DedupLogger from "./DedupLogger.ts"
export { PassAlways, passAlways } from "./PassAlways.ts"
export * as Redaction from "./Redaction.ts"
export * as RotatingFile from "./RotatingFile.ts"
export * as StateLog from "./StateLog.ts"
