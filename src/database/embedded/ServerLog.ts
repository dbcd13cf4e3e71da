/**
 * What the programs of PostgreSQL write, line by line: into a log file with a quota, and the last of it into errors. It comes through
 * a pipe, as a program that has the file open itself would fill the disk, however often the file is looked at.
 */
import { Cause, Effect, Logger } from "effect"
import * as RotatingFile from "../../logging/RotatingFile.ts"

export interface ServerLog {
  /** Without its end of line. */
  readonly write: (line: string) => void
}

/** A line that is longer is written in parts: one statement in the log may be as long as the server's memory. */
const longestLine = 16_384

/** A log file in a directory of its own. */
export const make = Effect.fnUntraced(function*(path: string, quota: number) {
  const file = yield* RotatingFile.make({ path, quota, format: plain })
  const fiber = yield* Effect.withFiber(Effect.succeed)
  return {
    write: (line) =>
      file.logger.log({
        message: [line],
        // Written at once: the last lines of a server that dies are those that are looked for.
        logLevel: "Error",
        cause: Cause.empty,
        fiber,
        // Not shown: the server writes the time.
        date: new Date(0)
      })
  } satisfies ServerLog
})

const plain = Logger.make(({ message }) => (Array.isArray(message) ? message : [message]).map(String).join(" "))

/** Takes text as it comes, and gives whole lines. */
export const lines = (use: (line: string) => void) => {
  let rest = ""
  const cut = () => {
    for (; rest.length >= longestLine; rest = rest.slice(longestLine)) use(rest.slice(0, longestLine))
  }
  return {
    push: (text: string) => {
      const whole = text.split("\n")
      whole[0] = rest + whole[0]
      rest = whole.pop() ?? ""
      for (const line of whole) {
        for (let at = 0; at === 0 || at < line.length; at += longestLine) use(line.slice(at, at + longestLine))
      }
      cut()
    },
    end: () => {
      if (rest !== "") use(rest)
      rest = ""
    }
  }
}
