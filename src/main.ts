#!/usr/bin/env node
/**
 * The `lull` command. A filter stands in front of another program and has to be there at once: it loads nothing of the
 * service, and is ready in a third of the time.
 */
// First of all: it looks who has started us.
import "./cli/ParentWatch.ts"

await (process.argv[2] === "filter" ? import("./cli/lullFilter.ts") : import("./cli/lull.ts"))
