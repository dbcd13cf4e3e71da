/**
 * What can be said about a process by its id. The id alone proves little: it may belong to another process by now. On
 * Linux `/proc` tells them apart; elsewhere a process that exists counts as the one that is meant.
 */
import { Duration, Effect } from "effect"
import { execFileSync } from "node:child_process"
import { readFileSync, statSync } from "node:fs"
import { monotonicMillis } from "../../loop/Monotonic.ts"

/** `process.kill` throws when there is nothing to signal, which is an answer here. */
export const signal = (pid: number, name: NodeJS.Signals): boolean => {
  try {
    return process.kill(pid, name)
  } catch {
    return false
  }
}

/** Whether it runs: a zombie does not. */
export const isRunning = (pid: number): boolean => {
  const [state] = statFields(pid)
  if (state !== undefined) return state !== "Z" && state !== "X"
  try {
    return process.kill(pid, 0)
  } catch (error) {
    // Another user's process does exist.
    return error instanceof Error && "code" in error && error.code === "EPERM"
  }
}

/** The boot and the moment in it at which the process started, or "" if that cannot be known. */
export const birth = (pid: number): string => {
  // Field 22 of the line, counted from the process id.
  const start = statFields(pid)[19]
  return start === undefined ? "" : `${readOr("/proc/sys/kernel/random/boot_id").trim()}/${start}`
}

/** The words of its command line with something between them, or "". */
export const commandLine = (pid: number): string => {
  const words = readOr(`/proc/${pid}/cmdline`)
  if (words !== "" || readOr("/proc/self/stat") !== "") return words
  try {
    return execFileSync("ps", ["-o", "command=", "-p", String(pid)], { encoding: "utf8" })
  } catch {
    return ""
  }
}

/** Whether it works in this directory, under whatever name; `undefined` if that cannot be known. */
export const worksIn = (pid: number, directory: string): boolean | undefined => {
  try {
    const [own, other] = [statSync(directory), statSync(`/proc/${pid}/cwd`)]
    return own.ino === other.ino && own.dev === other.dev
  } catch {
    return undefined
  }
}

/** Whether `condition` came true within `limit`. */
export const waitUntil = Effect.fnUntraced(function*(condition: () => boolean, limit: Duration.Input) {
  const until = (yield* monotonicMillis) + Duration.toMillis(limit)
  while (!condition()) {
    if ((yield* monotonicMillis) >= until) return false
    yield* Effect.sleep(poll)
  }
  return true
})

/** Between two looks: short against the tenths of a second that PostgreSQL takes for anything. */
export const poll = Duration.millis(20)

/** From the state on: the name before it is in parentheses and may hold anything, parentheses included. */
const statFields = (pid: number): Array<string> => {
  const stat = readOr(`/proc/${pid}/stat`)
  return stat === "" ? [] : stat.slice(stat.lastIndexOf(")") + 2).split(" ")
}

const readOr = (path: string): string => {
  try {
    return readFileSync(path, "latin1")
  } catch {
    return ""
  }
}
