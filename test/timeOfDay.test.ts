/**
 * The time of day is set, also while the service runs, so that what lasts is measured by `monotonicMillis`. Who reads the time of day
 * is named here, with the reason; the tests beside the modules set it, forwards and backwards.
 */
import { assert, describe, it } from "@effect/vitest"
import { readdirSync, readFileSync } from "node:fs"
import { join, relative } from "node:path"
import { fileURLToPath } from "node:url"

const sources = fileURLToPath(new URL("../src", import.meta.url))

const shown = "it is shown"

const readers: Readonly<Record<string, string>> = {
  "cli/filter.ts": "the times of the records in summaries are shown",
  "cli/peer.ts": "the node of a peer carries when it was so, by the peer's own clock",
  "cli/serve.ts": shown,
  "database/Availability.ts": "since when, and when it is tried again, are shown",
  "database/Database.ts": shown,
  "logging/DedupLogger.ts": "the dates of records",
  "logging/RotatingFile.ts": "the dates of records; the days of files",
  "loop/ControlLoop.ts": "the times in its status are shown",
  "loop/Delays.ts": "a policy may be a cron; what has elapsed since its start is added by the monotonic clock",
  "provisioner/JobIds.ts": "ids carry it; when it goes back, their counter goes on",
  "provisioner/JobStoreMemory.ts": "it stands for the clock of the database",
  "provisioner/OutputBuffer.ts": "the times of lines are shown",
  "tailnet/Coordinator.ts": "a resume token expires, and no other clock is common to replicas",
  "tailnet/PeerStoreMemory.ts": "it stands for the clock of the database",
  "tailnet/TailnetLoop.ts": "the node of a peer carries when it was so, by the peer's own clock",
  "testing/OutageClock.ts": "it is a clock"
}

const inDatabase: Readonly<Record<string, string>> = {
  "database/PostgresLink.ts": "replicas that were not heard of for a day, by the clock that wrote their rows",
  "provisioner/JobStorePostgres.ts":
    "when a job may start; a remark on workers; leases, of which only their change counts",
  "tailnet/PeerStorePostgres.ts": "peers that were lost for a day, by the clock that wrote their rows"
}

const filesWith = (pattern: RegExp): ReadonlyArray<string> =>
  readdirSync(sources, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name, parentPath }) => join(parentPath, name))
    .filter((file) => pattern.test(withoutComments(readFileSync(file, "utf8"))))
    .map((file) => relative(sources, file))
    .toSorted()

const withoutComments = (source: string) => source.replaceAll(/\/\*[^]*?\*\/|\/\/.*/g, "")

describe("the time of day", () => {
  it("is read where there is a reason for it, and nowhere else", () => {
    const found = filesWith(/currentTime(Millis|Nanos)|DateTime\.now|Date\.now\(|new Date\(\)/)
    assert.deepStrictEqual(found, Object.keys(readers).toSorted())
  })

  it("of the database is compared where there is a reason for it, and nowhere else", () => {
    // In TypeScript `now()` may be anything; in SQL it stands beside an interval, or a column with an underscore.
    const found = filesWith(/now\(\) [-+] (interval|make_interval|\$\{)|_(at|before|until) *[<>]=? *now\(\)/)
    assert.deepStrictEqual(found, Object.keys(inDatabase).toSorted())
  })

  it("decides no delay, and forgets nothing, in what is taken from Effect", () => {
    assert.deepStrictEqual(
      filesWith(
        /Schedule\.(upTo|during|fixed|windowed)|cached(Invalidate)?WithTTL|\b(Cache|ScopedCache|RcMap|Pool)\.make/
      ),
      []
    )
  })
})
