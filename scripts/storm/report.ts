/** The table of a storm, as Markdown, so that it can be pasted. */
export interface Row {
  readonly process: string
  readonly lines: number
  readonly worstSecond: number
  readonly connects: number
  readonly connectsFirstMinute: number
  readonly cpuSeconds: number | undefined
  readonly alive: boolean
  readonly firstJobMillis?: number
  readonly jobs?: number
  readonly lost?: number
  readonly notSucceeded?: number
  readonly twice?: number
  readonly locked?: number
  readonly refusals?: number
  readonly slowestRefusalMillis?: number
  /** Log lines in each second, from five seconds before the outage until five after it. */
  readonly perSecond?: ReadonlyArray<number>
}

/** What the peers of a tailnet knew of each other. */
export interface Tailnet {
  readonly peers: number
  readonly replicas: number
  /** The oldest that a peer knew of one on its own replica while the database was away. */
  readonly lagSameMillis: number
  /** From the end of the outage until every peer knew the newest of each of its partners. */
  readonly convergedMillis: number | undefined
  /** How often a peer was told that another had gone. Nobody had. */
  readonly left: number
  /** Sessions that were begun anew. */
  readonly sessions: number
  readonly lines: number
}

export interface Result {
  readonly kind: string
  readonly seconds: number
  readonly rows: ReadonlyArray<Row>
  readonly tailnet?: Tailnet
}

const columns: ReadonlyArray<readonly [title: string, cell: (row: Row, result: Result) => string]> = [
  ["fault", (_, result) => result.kind],
  ["seconds away", (_, result) => String(result.seconds)],
  ["process", (row) => row.process],
  ["log lines", (row) => row.lines.toLocaleString("en")],
  ["worst second", (row) => row.worstSecond.toLocaleString("en")],
  ["connects in the first minute", (row) => row.connectsFirstMinute.toLocaleString("en")],
  ["CPU seconds", (row) => row.cpuSeconds === undefined ? "–" : row.cpuSeconds.toFixed(2)],
  ["first job after", (row) => row.firstJobMillis === undefined ? "–" : `${row.firstJobMillis} ms`],
  ["jobs", (row) => String(row.jobs ?? "–")],
  ["lost", (row) => String(row.lost ?? "–")],
  ["run twice", (row) => String(row.twice ?? "–")],
  ["still locked", (row) => String(row.locked ?? "–")],
  ["slowest 503 once known", (row) => row.slowestRefusalMillis === undefined ? "–" : `${row.slowestRefusalMillis} ms`],
  ["process", (row) => row.alive ? "alive" : "ended"]
]

export const print = (results: ReadonlyArray<Result>): string => {
  const rows = results.flatMap((result) => result.rows.map((row) => columns.map(([, cell]) => cell(row, result))))
  const lines = [columns.map(([title]) => title), columns.map(() => "---"), ...rows]
  return `${lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n")}\n`
}

/** The second table, where there was a tailnet. */
export const printTailnet = (results: ReadonlyArray<Result>): string => {
  const rows = results.flatMap(({ kind, tailnet }) =>
    tailnet === undefined ? [] : [[
      kind,
      String(tailnet.peers),
      String(tailnet.replicas),
      String(tailnet.left),
      String(tailnet.sessions),
      String(tailnet.lines),
      `${tailnet.lagSameMillis} ms`,
      tailnet.convergedMillis === undefined ? "never" : `${tailnet.convergedMillis} ms`
    ]]
  )
  if (rows.length === 0) return ""
  const titles = [
    "fault",
    "peers",
    "replicas",
    "told that one had gone",
    "sessions begun anew",
    "log lines of all peers",
    "oldest known on one replica",
    "all up to date after"
  ]
  return `\n${[titles, titles.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n")}\n`
}
