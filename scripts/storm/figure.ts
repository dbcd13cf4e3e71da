/**
 * Draws one outage from the storm's JSON: the log lines of each process, second by second, on a logarithmic scale.
 *
 *     npm run --silent storm -- --fault stop --peers 200 --replicas 2 --json > storm.json
 *     node scripts/storm/figure.ts storm.json > docs/storm.svg
 */
import { readFileSync } from "node:fs"
import type { Result } from "./report.ts"

const width = 860
const height = 330
const left = 64
const right = 16
const top = 40
const bottom = 58
const decades = 4
const beforeSeconds = 5

const results: ReadonlyArray<Result> = JSON.parse(readFileSync(process.argv[2] ?? 0, "utf8"))
const [result] = results
if (result === undefined) throw new Error("there is no outage in this file")

const series = result.rows.filter(({ perSecond }) => perSecond !== undefined)
const seconds = Math.max(...series.map(({ perSecond }) => perSecond?.length ?? 0))
const x = (second: number) => left + second * (width - left - right) / seconds
/** A second without a line is on the axis; one line is a little above it. */
const y = (lines: number) =>
  height - bottom - (lines === 0 ? 0 : (0.25 + Math.log10(lines)) / (decades + 0.25)) * (height - top - bottom)

const styles: Readonly<Record<string, { readonly color: string; readonly dash?: string }>> = {
  lull: { color: "#0a7d4f" },
  "lull, replica 2": { color: "#5bbf95" },
  "naive loops": { color: "#c0392b" },
  "naive loops, deduplicated": { color: "#d9912b" }
}

const path = (values: ReadonlyArray<number>) =>
  values.map((value, second) =>
    `${second === 0 ? "M" : "H"}${x(second).toFixed(1)}${
      second === 0 ? ` ${y(value).toFixed(1)}` : `V${y(value).toFixed(1)}`
    }`
  ).join("") + `H${x(values.length).toFixed(1)}`

const grid = Array.from({ length: decades + 1 }, (_, decade) => 10 ** decade).map((lines) =>
  `<line x1="${left}" x2="${width - right}" y1="${y(lines)}" y2="${y(lines)}" stroke="#ddd"/>` +
  `<text x="${left - 8}" y="${y(lines) + 4}" text-anchor="end">${lines.toLocaleString("en")}</text>`
)
const ticks = Array.from({ length: Math.floor((seconds - beforeSeconds) / 10) + 1 }, (_, at) => at * 10).map((second) =>
  `<text x="${x(second + beforeSeconds)}" y="${height - bottom + 18}" text-anchor="middle">${second} s</text>`
)
const total = (values: ReadonlyArray<number> = []) => values.reduce((sum, value) => sum + value, 0).toLocaleString("en")
const legend = series.map(({ perSecond, process: name }, at) => {
  const from = left + at * (width - left) / series.length
  return `<rect x="${from}" y="${height - 22}" width="12" height="4" fill="${styles[name]?.color ?? "#555"}"/>` +
    `<text x="${from + 18}" y="${height - 16}">${name}: ${total(perSecond)}</text>`
})

process.stdout.write(
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12" fill="#333">
<rect width="${width}" height="${height}" fill="#fff"/>
<text x="${left}" y="20" font-size="14">Log lines a second, while PostgreSQL is away for ${
    Math.round(result.seconds)
  } s</text>
<rect x="${x(beforeSeconds)}" y="${top}" width="${x(beforeSeconds + result.seconds) - x(beforeSeconds)}" height="${
    height - top - bottom
  }" fill="#f3f3f3"/>
${grid.join("\n")}
<line x1="${left}" x2="${width - right}" y1="${y(0)}" y2="${y(0)}" stroke="#999"/>
<text x="${left - 8}" y="${y(0) + 4}" text-anchor="end">0</text>
${ticks.join("\n")}
${
    series.toReversed().map(({ perSecond, process: name }) =>
      `<path d="${path(perSecond ?? [])}" fill="none" stroke-width="1.8" stroke="${styles[name]?.color ?? "#555"}"/>`
    ).join("\n")
  }
${legend.join("\n")}
</svg>
`
)
