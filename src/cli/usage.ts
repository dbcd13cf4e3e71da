/** How help and errors of usage are shown: help on stdout when it was asked for, everything else on stderr. */
import { Console, Context, Effect } from "effect"
import * as CliOutput from "effect/cli/CliOutput"
import * as TerminalCapabilities from "effect/cli/TerminalCapabilities"
import { visible, visibleJson } from "../logging/VisibleText.ts"
import { usageError } from "./run.ts"

/** The words of the command line up to `--`: what follows is a job's. */
const asksForJson = (words: ReadonlyArray<string>) => {
  const end = words.indexOf("--")
  return (end < 0 ? words : words.slice(0, end)).includes("--json")
}

/** With errors only they are shown, and where help is: a page of help would hide them. */
export const presenter = (words: ReadonlyArray<string>): CliOutput.Presenter => ({
  present: Effect.fnUntraced(function*(event) {
    if (event._tag === "InvalidInvocation") {
      const messages = event.errors.map(({ message }) => message)
      if (asksForJson(words)) {
        return yield* Console.error(visibleJson(JSON.stringify({ error: messages.join("; "), status: usageError })))
      }
      return yield* Console.error(
        [...messages.map((message) => visible(message, "lines")), `see: ${event.commandPath.join(" ")} --help`].join(
          "\n"
        )
      )
    }
    if (event._tag === "Help" && event.reason === "Implicit") {
      const { canColor } = Context.get(yield* Effect.context<never>(), TerminalCapabilities.TerminalCapabilities)
      return yield* Console.error(CliOutput.defaultFormatter({ colors: canColor }).formatHelpDoc(event.helpDoc))
    }
    return yield* CliOutput.defaultPresenter.present(event)
  })
})
