/** What a user needs to test with outages: `import { Outage } from "lull/testing"`. */
export * as Outage from "./Outage.ts"
