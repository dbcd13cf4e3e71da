/**
 * The path of a request, in the one spelling that it has: pure. A router is lenient (double slashes, upper case, `%74`, `;x`), and what
 * guards it compares; so that both see the same, every other spelling is refused before either of them looks at it.
 */
import { Result } from "effect"
import * as Api from "./Api.ts"

/** Segments of letters, digits and `-._~`, none of them `.` or `..`, and nothing after the last. */
const form = /^\/$|^(?:\/(?!\.{1,2}(?:\/|$))[\w.~-]+)+$/

/** Of the target of a request as it came, or why it is refused. */
export const pathOf = (target: string): Result.Result<string, string> => {
  const path = target.split("?", 1)[0] ?? ""
  if (!path.startsWith("/")) {
    return Result.fail("a request names its path alone, as /api/v1/jobs, without a scheme and a host")
  }
  if (!form.test(path)) {
    return Result.fail(
      "a path is written as /openapi.json has it: single slashes and none at the end, nothing encoded, and no ; or \\ or segment of dots"
    )
  }
  const lower = path.toLowerCase()
  return Api.methodsOf(path).length === 0 && Api.methodsOf(lower).length > 0
    ? Result.fail(`a path is written in lower case, as ${lower.length > longestShown ? "/api/v1/jobs" : lower}`)
    : Result.succeed(path)
}

/** A path that is longer is none of ours, but for the id in it. */
const longestShown = 128
