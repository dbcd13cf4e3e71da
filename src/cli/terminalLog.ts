/** Log lines on stderr, in any format: none of them can be forged by a text in a record, or moves the cursor of a terminal. */
import { Logger } from "effect"
import { formatJson } from "../logging/JsonLines.ts"
import * as PrettyLines from "../logging/PrettyLines.ts"
import { visible, visibleJson } from "../logging/VisibleText.ts"
import type { LogFormat } from "../Settings.ts"

/** Also for a file: it is looked at with `cat` and `tail`. */
export const logfmt = Logger.map(Logger.formatLogFmt, (line) => visible(line))

export const json = Logger.map(formatJson, visibleJson)

/** By `withConsoleError`, as `consoleLogFmt` and `consoleJson` write to stdout whatever `LogToStderr` says. */
export const logger = (format: LogFormat, isTerminal: boolean): Logger.Logger<unknown, void> => {
  switch (format) {
    case "pretty":
      return Logger.withConsoleError(PrettyLines.make({ colors: isTerminal }))
    case "logfmt":
      return Logger.withConsoleError(logfmt)
    case "json":
      return Logger.withConsoleError(json)
  }
}
