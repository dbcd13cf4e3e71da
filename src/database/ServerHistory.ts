/**
 * Which server answers, and whether its rows continue those that were seen before. Pure but for its own memory.
 */
import type { ServerIdentity } from "./Link.ts"
import type { Line } from "./OutageVoice.ts"

export interface ServerHistory {
  /** This server answers over new connections. Answers with what is worth saying of it. */
  readonly connected: (server: ServerIdentity | undefined, at: number) => Line | undefined
  /** The heartbeat's connection goes on. Answers whether another server is behind it: a pooler may have changed it. */
  readonly heard: (server: ServerIdentity | undefined, at: number) => boolean
  /** The last one that said who it is. */
  readonly last: () => ServerIdentity | undefined
  /** Grows whenever the rows may be those of another history. */
  readonly count: () => number
}

/** Of a server that does not say who it is, nobody knows whether it is still the same: it counts as another so often. */
export const unknownLasts = 300_000

export const make = (): ServerHistory => {
  let last: ServerIdentity | undefined
  let count = 0
  let unknownSince: number | undefined

  return {
    connected: (server, at) => {
      const before = last
      last = server ?? before
      unknownSince = server === undefined ? at : undefined
      if (server === undefined || before === undefined || isOther(server, before)) count++
      return server === undefined || before === undefined ? undefined : tell(server, before)
    },
    heard: (server, at) => {
      if (server === undefined && unknownSince !== undefined && at - unknownSince >= unknownLasts) {
        unknownSince = at
        count++
      }
      return server !== undefined && last !== undefined && isOther(server, last)
    },
    last: () => last,
    count: () => count
  }
}

const isOther = (one: ServerIdentity, other: ServerIdentity) =>
  one.systemIdentifier !== other.systemIdentifier || one.timeline !== other.timeline

const tell = (server: ServerIdentity, before: ServerIdentity): Line | undefined => {
  if (server.systemIdentifier !== before.systemIdentifier) {
    return {
      level: "Warn",
      text: `another database server answers: system identifier ${server.systemIdentifier}, before ` +
        before.systemIdentifier
    }
  }
  if (server.timeline < before.timeline) {
    return { level: "Warn", text: `the database went back from timeline ${before.timeline} to ${server.timeline}` }
  }
  if (server.timeline > before.timeline) {
    return {
      level: "Info",
      text: `the database was promoted: timeline ${server.timeline} answers, before ${before.timeline}`
    }
  }
  return undefined
}
