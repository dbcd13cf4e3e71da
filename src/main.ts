#!/usr/bin/env node
/**
 * The `lull` command. A filter stands in front of another program and has to be there at once: it loads nothing of the
 * service, and is ready in a third of the time.
 */
// First of all: it looks who has started us.
import "./cli/ParentWatch.ts"
import { run as handOverSecrets } from "./cli/SecretHandover.ts"

handOverSecrets()
// It asks a service to look at its files again, also while it is still starting.
if (process.argv.includes("serve") && !process.stderr.isTTY) process.on("SIGHUP", () => undefined)

await (process.argv[2] === "filter" ? import("./cli/lullFilter.ts") : import("./cli/lull.ts")).catch(
  explainMissingPackage
)

/** The packages of the service are optional, as an application may want the rest without them. */
function explainMissingPackage(error: unknown) {
  const isMissing = error instanceof Error && "code" in error && error.code === "ERR_MODULE_NOT_FOUND"
  const name = isMissing ? /package '([^']+)'/.exec(error.message)?.[1] : undefined
  if (name === undefined) throw error
  process.stderr.write(
    `The command lull needs the package ${name}, which is not installed: npm install @effect/platform-node @effect/sql-pg\n`
  )
  process.exitCode = 1
}
