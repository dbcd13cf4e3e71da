/** What a user needs to test with outages: `import { Outage, OutageClock } from "lull/testing"`. */
export * as Outage from "./Outage.ts"
export type { Fault, FaultInput, Kind as FaultKind, Outage as OutageScript } from "./Outage.ts"
export * as OutageClock from "./OutageClock.ts"
