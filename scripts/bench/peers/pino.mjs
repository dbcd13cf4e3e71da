// pino, writing six fields a record to a file: synchronously, in pieces of 4 kB.
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import pino from "pino"

const count = Number(process.argv[2] ?? 300_000)
const directory = mkdtempSync(join(tmpdir(), "bench-pino-"))
const destination = pino.destination({ dest: join(directory, "pino.log"), sync: true, minLength: 4096 })
const log = pino(destination)
const write = (records) => {
  for (let n = 0; n < records; n++) {
    log.info({ requestId: `req-${n}`, method: "GET", path: "/api/v1/jobs", status: 200, millis: n % 900 }, "request completed")
  }
}
write(100_000)
const start = performance.now()
write(count)
destination.flushSync()
console.log(JSON.stringify({ perSecond: count / ((performance.now() - start) / 1_000) }))
rmSync(directory, { recursive: true })
