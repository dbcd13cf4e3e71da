/** An update of one peer, until another has it; beside the least that could carry it. */
import { bare, connect, node } from "./clients.ts"
import { pause, portOf, serve, start } from "./processes.ts"

const quantiles = (times: ReadonlyArray<number>) => {
  const sorted = times.toSorted((a, b) => a - b)
  return { p50: sorted[Math.floor(sorted.length * 0.5)]!, p99: sorted[Math.floor(sorted.length * 0.99)]! }
}

interface Line {
  readonly send: (asOf: number) => void
  readonly received: (resolve: (asOf: number) => void) => void
}

/** One update after the other: from sending it until it is received. */
const timeEach = async (count: number, { received, send }: Line, pauseMillis: number) => {
  const times: Array<number> = []
  let arrived: (asOf: number) => void = () => undefined
  received((asOf) => arrived(asOf))
  for (let asOf = 2; asOf < count + 2; asOf++) {
    const sent = performance.now()
    await new Promise<void>((resolve) => {
      arrived = (found) => {
        if (found === asOf) resolve()
      }
      send(asOf)
    })
    times.push(performance.now() - sent)
    if (pauseMillis > 0) await pause(pauseMillis)
  }
  return times
}

/** Warmed up, as a service that runs for hours is: by other peers, as one alone may not say so much in a few seconds. */
const timeWarm = async (count: number, makeLine: (index: number) => Promise<Line>) => {
  for (let line = 1; line <= 3; line++) await timeEach(500, await makeLine(line), 0)
  return quantiles(await timeEach(count, await makeLine(4), 2))
}

export const latency = async (which: string, count: number) => {
  if (which === "echo" || which === "relay") {
    const first = await portOf(start(which === "echo" ? "peers/echo.mjs" : "peers/relay.mjs", ["write"]))
    const second = which === "echo" ? first : await portOf(start("peers/relay.mjs", ["read"]))
    return timeWarm(count, async () => {
      const from = await bare(first)
      const to = which === "echo" ? from : await bare(second)
      return {
        send: (asOf) => from.send(JSON.stringify({ type: "node", node: node(1, asOf) })),
        received: (resolve) => {
          to.onMessage = (text) => resolve(JSON.parse(text).node.asOf)
        }
      }
    })
  }
  const one = await serve()
  const two = which === "other" ? await serve() : one
  return timeWarm(count, async (line) => {
    const from = await connect(one.url, 2 * line, [2 * line + 1])
    const to = await connect(two.url, 2 * line + 1, [])
    await pause(1_000)
    return {
      send: (asOf) => from.send({ type: "node", node: node(2 * line, asOf) }),
      received: (resolve) => {
        to.onNode = (_, asOf) => resolve(asOf)
      }
    }
  })
}
