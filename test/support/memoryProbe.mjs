/**
 * For `node --import`: on SIGUSR2 the process collects its garbage, and writes how many bytes are in use into `MEMORY_FILE`.
 * The file is there when it is whole.
 */
import { renameSync, writeFileSync } from "node:fs"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

setFlagsFromString("--expose-gc")
const collect = runInNewContext("gc")

process.on("SIGUSR2", () => {
  collect()
  const { external, heapUsed } = process.memoryUsage()
  const file = process.env.MEMORY_FILE
  writeFileSync(`${file}.part`, String(heapUsed + external))
  renameSync(`${file}.part`, file)
})
