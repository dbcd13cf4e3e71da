/**
 * `npm run bench -- jobs`: the speed of Lull beside that of what people use instead, in one run, so that a busy machine is
 * busy for all of them. Each measurement is a process of its own on a database of its own, on one PostgreSQL with fsync
 * on; Lull and its peers take turns, and the medians are compared.
 *
 *     npm run bench -- jobs [--only throughput|submit|latency|idle] [--jobs 20000] [--runs 3] [--json]
 *
 * `npm run bench -- outage`: a worker of each through the same outage, each on a PostgreSQL of its own, idle and loaded.
 *
 *     npm run bench -- outage [--only idle|loaded] [--fault stop] [--seconds 60] [--runs 1] [--json]
 *
 * `npm run bench -- logging`: the deduplicating logger beside one that does nothing, the log file beside pino, the filter
 * beside `uniq -c`.
 *
 *     npm run bench -- logging [--only call|repeats|file|text|json] [--megabytes 1000] [--runs 3] [--json]
 *
 * `npm run bench -- tailnet`: an update on its way beside a bare WebSocket, and beside a bare NOTIFY; many peers.
 *
 *     npm run bench -- tailnet [--only same|other|rows|scale|recovery|failover] [--runs 3] [--json]
 *
 * `npm run bench -- body`: what the largest submission that is taken does to a service, in many shapes.
 *
 *     npm run bench -- body [--runs 1] [--json]
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Effect } from "effect"
import { execFile, execFileSync } from "node:child_process"
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import * as PostgresServer from "../../test/support/PostgresServer.ts"
import { shapes } from "./body/shapes.ts"

const { positionals: [subject], values: flags } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: "string" },
    jobs: { type: "string", default: "20000" },
    runs: { type: "string" },
    fault: { type: "string", default: "stop" },
    seconds: { type: "string", default: "60" },
    megabytes: { type: "string", default: "1000" },
    json: { type: "boolean", default: false }
  }
})

const path = (file: string) => fileURLToPath(new URL(file, import.meta.url))
const say = (text: string) => Effect.sync(() => process.stderr.write(`${text}\n`))

type Figures = Readonly<Record<string, number>>

interface Candidate {
  readonly name: string
  readonly script: string
  readonly parameters: ReadonlyArray<string>
}

interface Comparison {
  readonly what: string
  readonly prepare?: () => void
  readonly candidates: ReadonlyArray<Candidate>
  /** What is compared of their figures, and whether more of it is better. */
  readonly figures: ReadonlyArray<readonly [name: string, unit: string]>
}

const lull = (what: string, amount: string): Candidate => ({
  name: "lull",
  script: "lull.ts",
  parameters: [what, amount]
})
const peer = (name: string, script: string, ...parameters: ReadonlyArray<string>): Candidate => ({
  name,
  script: `peers/${script}.mjs`,
  parameters
})

const jobs = flags.jobs
const speed: ReadonlyArray<Comparison> = [
  {
    what: "throughput",
    candidates: [
      lull("throughput", jobs),
      peer("graphile-worker localQueue", "throughput", "graphile", "localqueue", jobs),
      peer("graphile-worker default", "throughput", "graphile", "default", jobs),
      peer("pg-boss batch 100", "throughput", "pgboss", "batch100", jobs),
      peer("raw claim+update, batch 100", "raw", "claim+update", jobs),
      peer("raw claim+delete, batch 100", "raw", "claim+delete", jobs)
    ],
    figures: [["perSecond", "jobs/s"], ["cpuSeconds", "CPU s"]]
  },
  {
    what: "submit",
    candidates: [
      lull("submit", jobs),
      peer("graphile-worker", "submit", "graphile", "default", jobs),
      peer("pg-boss", "submit", "pgboss", "batch100", jobs)
    ],
    figures: [["perSecond", "jobs/s in calls of 1,000"], ["singlesPerSecond", "jobs/s one by one"]]
  },
  {
    what: "latency",
    candidates: [lull("latency", "1000"), peer("graphile-worker (NOTIFY)", "latency", "graphile", "default", "1000")],
    figures: [["p50", "ms p50"], ["p99", "ms p99"], ["max", "ms max"]]
  },
  {
    what: "idle",
    candidates: [lull("idle", "20"), peer("graphile-worker", "idle", "graphile", "default", "20")],
    figures: [["transactionsPerSecond", "transactions/s"], ["cpuPercent", "% CPU"]]
  }
]

const through = (load: string, figures: Comparison["figures"]): Comparison => ({
  what: `${load}, ${flags.fault} for ${flags.seconds} s`,
  candidates: ["lull", "graphile:default", "pgboss:batch10"].map((name) => ({
    name,
    script: "outage.ts",
    parameters: [name, load, "--fault", flags.fault, "--seconds", flags.seconds]
  })),
  figures: [
    ["lines", "log lines"],
    ["worstSecond", "worst second"],
    ["connects", "connects"],
    ["cpuSeconds", "CPU s"],
    ["alive", "alive"],
    ...figures
  ]
})

const directory = mkdtempSync(join(tmpdir(), "lull-bench-"))
process.on("exit", () => rmSync(directory, { recursive: true, force: true }))

const ofLogging = (name: string, ...parameters: ReadonlyArray<string>): Candidate => ({
  name,
  script: "logging.ts",
  parameters
})
/** The first is the one that the others are compared with. */
const filtering = (format: string): Comparison => {
  const file = join(directory, format)
  return {
    what: format,
    prepare: () => void execFileSync(process.execPath, [path("logging.ts"), "generate", format, flags.megabytes, file]),
    candidates: [
      ofLogging("lull filter", "filter", "lull", file),
      ofLogging("lull filter --adjacent", "filter", "adjacent", file),
      ofLogging("uniq -c", "filter", "uniq", file)
    ],
    figures: [["megabytesPerSecond", "MB/s"], ["peakMegabytes", "peak MB"]]
  }
}
const logging: ReadonlyArray<Comparison> = [
  {
    what: "call",
    candidates: [
      ofLogging("held, one text", "call", "held"),
      ofLogging("no-op, one text", "call", "no-op"),
      ofLogging("held, texts that vary", "call", "varied-held"),
      ofLogging("no-op, texts that vary", "call", "varied-no-op")
    ],
    figures: [["nanos", "ns a call"]]
  },
  {
    what: "repeats",
    candidates: [ofLogging("a million repeats of one error", "repeats", "1000000")],
    figures: [["bytes", "bytes written"], ["heapGrownKilobytes", "kB more in use at the end"]]
  },
  {
    what: "file",
    candidates: [
      ofLogging("lull, RotatingFile", "file", "300000"),
      peer("pino, sync, minLength 4096", "pino", "300000")
    ],
    figures: [["perSecond", "records/s"]]
  },
  filtering("text"),
  filtering("json")
]

const ofTailnet = (name: string, ...parameters: ReadonlyArray<string>): Candidate => ({
  name,
  script: "tailnet.ts",
  parameters
})
const millis = [["p50", "ms p50"], ["p99", "ms p99"]] as const
const tailnet: ReadonlyArray<Comparison> = [
  {
    what: "same",
    candidates: [
      ofTailnet("update to a peer of the same replica", "latency", "same", "1000"),
      ofTailnet("bare WebSocket echo", "latency", "echo", "1000")
    ],
    figures: millis
  },
  {
    what: "other",
    candidates: [
      ofTailnet("update to a peer of another replica", "latency", "other", "1000"),
      ofTailnet("bare upsert, NOTIFY, fetch, WebSocket", "latency", "relay", "1000")
    ],
    figures: millis
  },
  {
    what: "rows",
    candidates: [
      ofTailnet("rows of peers", "rows", "lull", "10000"),
      ofTailnet("the upsert alone, batches of 1,000", "rows", "raw", "10000")
    ],
    figures: [["perSecond", "rows/s"]]
  },
  {
    what: "scale",
    candidates: ["1000", "3000", "10000"].map((peers) => ofTailnet(`${peers} peers`, "scale", peers)),
    figures: [
      ["kilobytesPerPeer", "kB a peer"],
      ["connectsPerSecond", "connects/s"],
      ["churnSeconds", "s until all know a change of all"],
      ["storedSeconds", "s until all of it is stored"],
      ["statements", "statements for it"]
    ]
  },
  {
    what: "recovery",
    candidates: ["1000", "3000", "10000"].map((peers) => ofTailnet(`${peers} peers`, "recovery", peers)),
    figures: [["recoverySeconds", "s until all know all"], ["statements", "statements for it"]]
  },
  {
    what: "failover",
    candidates: ["1000", "3000"].map((peers) => ofTailnet(`${peers} peers`, "failover", peers)),
    figures: [
      ["backSeconds", "s until all are on the other replica"],
      ["wholeSeconds", "s until all know all"],
      ["dials", "dials"],
      ["busiestSecond", "in the busiest second"]
    ]
  }
]

const bodies: ReadonlyArray<Comparison> = [{
  what: "body",
  candidates: Object.keys(shapes).map((shape) => ({ name: shape, script: "body.ts", parameters: [shape] })),
  figures: [["status", "status"], ["blockedMillis", "ms blocked"], ["bytes", "bytes"], ["megabytes", "MB taken"], [
    "timesTheLargest",
    "of the largest body"
  ]]
}]

const subjects: Readonly<Record<string, ReadonlyArray<Comparison>>> = {
  jobs: speed,
  logging,
  tailnet,
  body: bodies,
  outage: [
    through("idle", []),
    through("loaded", [
      ["firstJobMillis", "ms to the first job"],
      ["lost", "not run"],
      ["twice", "run twice"],
      ["locked", "still locked"]
    ])
  ]
}

/** Of these the candidates are the same with more peers, or other bodies: there is nothing to divide by. */
const growing = new Set(["scale", "recovery", "failover", "body"])

const chosen = (subjects[subject ?? ""] ?? []).filter(({ what }) =>
  flags.only === undefined || what.split(",")[0] === flags.only
)
if (chosen.length === 0) {
  const usages = Object.entries(subjects).map(([name, comparisons]) =>
    `npm run bench -- ${name} [--only ${comparisons.map(({ what }) => what.split(",")[0]).join("|")}]`
  )
  process.stderr.write(`usage: ${usages.join("\n       ")}\n`)
  process.exit(2)
}
const runs = Number(flags.runs ?? (subject === "outage" || subject === "body" || growing.has(flags.only ?? "") ? 1 : 3))

const median = (values: ReadonlyArray<number>) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN

let databases = 0

/** One measurement. Its last line on standard output is its answer. */
const measure = Effect.fnUntraced(function*(server: PostgresServer.PostgresServer | undefined, candidate: Candidate) {
  const database = `bench_${++databases}`
  if (server !== undefined) yield* server.execute(`create database ${database}`)
  const output = yield* Effect.callback<string, Error>((resume) => {
    const child = execFile(
      process.execPath,
      ["--expose-gc", path(candidate.script), ...candidate.parameters],
      {
        env: {
          PATH: process.env["PATH"],
          HOME: process.env["HOME"],
          ...(server === undefined ? {} : { DATABASE_URL: server.url.replace(/\/postgres$/, `/${database}`) })
        },
        timeout: 300_000
      },
      (error, stdout, stderr) =>
        resume(error === null ? Effect.succeed(stdout) : Effect.fail(new Error(`${candidate.name}: ${stderr}`)))
    )
    return Effect.sync(() => child.kill())
  })
  if (server !== undefined) yield* server.execute(`drop database ${database} with (force)`)
  return JSON.parse(output.trim().split("\n").at(-1) ?? "{}") as Figures
})

const compare = Effect.fnUntraced(
  function*(server: PostgresServer.PostgresServer | undefined, { candidates, figures, prepare, what }: Comparison) {
    prepare?.()
    const measured = new Map<string, Array<Figures>>(candidates.map(({ name }) => [name, []]))
    for (let run = 1; run <= runs; run++) {
      for (const candidate of candidates) {
        const found = yield* measure(server, candidate)
        measured.get(candidate.name)?.push(found)
        yield* say(`${what} ${run}: ${candidate.name}: ${JSON.stringify(found)}`)
      }
    }
    const medians = candidates.map(({ name }) => ({
      name,
      figures: Object.fromEntries(figures.map(([figure]) => [
        figure,
        median((measured.get(name) ?? []).map((one) => one[figure] ?? Number.NaN))
      ]))
    }))
    return { what, units: Object.fromEntries(figures), medians }
  }
)

const print = (results: ReadonlyArray<Effect.Success<ReturnType<typeof compare>>>) =>
  results.map(({ medians, units, what }) => {
    const names = Object.keys(units)
    const first = medians[0]?.figures
    const rows = medians.map(({ figures, name }) => [
      name,
      ...names.map((figure) => {
        const value = figures[figure] ?? Number.NaN
        const ratio = (first?.[figure] ?? Number.NaN) / value
        const shown = value >= 100 ? Math.round(value).toLocaleString("en") : String(Math.round(value * 100) / 100)
        return Number.isNaN(value) ?
          "–" :
          subject === "outage" || growing.has(what) || medians[0]?.name === name
          ? shown
          : `${shown} (the first ÷ this = ${ratio.toFixed(2)})`
      })
    ])
    const lines = [[what, ...Object.values(units)], ["---", ...names.map(() => "---")], ...rows]
    return lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n")
  }).join("\n\n")

const program = Effect.gen(function*() {
  if (!existsSync(path("peers/node_modules/pino"))) {
    yield* say("installing the peers into scripts/bench/peers, which has its own package.json")
    execFileSync("npm", ["ci", "--no-audit", "--no-fund"], { cwd: path("peers"), stdio: ["ignore", 2, 2] })
  }
  const server = subject === "logging" ?
    undefined :
    yield* PostgresServer.make({
      fsync: true,
      configuration: {
        shared_buffers: "512MB",
        ...(subject === "tailnet" ? { shared_preload_libraries: "pg_stat_statements" } : {})
      }
    })
  const results = yield* Effect.forEach(chosen, (comparison) => compare(server, comparison))
  process.stdout.write(flags.json ? `${JSON.stringify(results, null, 2)}\n` : `${print(results)}\n`)
})

NodeRuntime.runMain(Effect.scoped(program))
