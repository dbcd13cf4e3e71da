/**
 * Ends processes: a group by signals, and what has left the group by a marker in its environment.
 *
 * A job's first process leads a group of its own, and whatever it starts belongs to that group, unless it leaves it
 * (`setsid`, a daemon). What left is found on Linux by its environment, which it inherited, in `/proc/<pid>/environ`.
 *
 * Out of reach: processes of another user (`sudo`), processes that left the group *and* were started with an empty
 * environment or overwrote it, and, on systems without `/proc`, all that left the group. Only a control group or a
 * container around the service holds those.
 */
import { Duration, Effect } from "effect"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { monotonicMillis } from "../loop/Monotonic.ts"

export interface ProcessGroup {
  /** The process id of the leader, which is the id of the group. */
  readonly id: number
  /** Whether the leader has ended and its exit status has been collected. */
  readonly hasExited: () => boolean
}

/** How a group came to its end: there was none left, SIGTERM was enough, or SIGKILL was needed. */
export type GroupEnd = "gone" | "terminated" | "killed"

/** Between two looks at a group: short at first, as most processes end at once, then cheap. */
const firstPoll = Duration.millis(5)
const longestPoll = Duration.millis(100)

/** After this long a process that does not go in spite of SIGKILL (it hangs in the kernel) is worth a word. */
const killPatience = Duration.seconds(10)

/**
 * Ends what is left of a group: SIGTERM, SIGKILL after `grace`. Returns once the leader has exited and no other process
 * of the group runs; that is not bounded, as a job that still runs has not ended.
 */
export const terminate = Effect.fnUntraced(function*(group: ProcessGroup, grace: Duration.Duration) {
  const isGone = () => group.hasExited() && !hasMembers(group.id)
  if (isGone()) return "gone" satisfies GroupEnd
  signalGroup(group.id, "SIGTERM")
  // A stopped process acts on no signal but SIGKILL until it is continued.
  signalGroup(group.id, "SIGCONT")
  if (yield* poll(isGone, grace)) return "terminated" satisfies GroupEnd
  const isKilled = () => {
    signalGroup(group.id, "SIGKILL")
    return isGone()
  }
  if (!(yield* poll(isKilled, killPatience))) {
    yield* Effect.logWarning(`process group ${group.id} still runs ${Duration.format(killPatience)} after SIGKILL`)
    yield* poll(isKilled, Duration.infinity)
  }
  return "killed" satisfies GroupEnd
})

/** Searches for marked processes, at most this many times: each search may see children that the last kill came too late for. */
const searches = 20

/** Kills every process with this entry ("NAME=value") in its environment, until none is found. Returns how many there were. */
export const killMarked = Effect.fnUntraced(function*(entry: string, leader: number) {
  if (!hasProc) return 0
  const killed = new Set<number>()
  let unclear = 0
  for (let search = 0; search < searches; search++) {
    const seen = searchMarked(entry, leader)
    for (const pid of seen.marked) {
      killed.add(pid)
      trySignal(pid, "SIGKILL")
    }
    // Kernel threads and zombies stay unreadable, so this is not worth more than a second look.
    if (seen.marked.length === 0 && (!seen.isUnclear || ++unclear > 1)) return killed.size
    yield* Effect.sleep(firstPoll)
  }
  yield* Effect.logWarning(`processes with ${entry} in their environment are still there after ${searches} searches`)
  return killed.size
})

/** Whether `condition` came true within `limit`. */
const poll = Effect.fnUntraced(function*(condition: () => boolean, limit: Duration.Duration) {
  const until = (yield* monotonicMillis) + Duration.toMillis(limit)
  let pause = firstPoll
  while (!condition()) {
    if ((yield* monotonicMillis) >= until) return false
    yield* Effect.sleep(pause)
    pause = Duration.min(Duration.times(pause, 1.5), longestPoll)
  }
  return true
})

/** Whether a process other than a zombie is in the group, as far as this process may signal it. */
const hasMembers = (id: number): boolean => {
  // Also false when all members belong to another user: nothing can be done about them, and waiting would be for ever.
  if (!signalGroup(id, 0)) return false
  // Where nobody collects orphans, as in a container without an init, dead members stay in the group as zombies.
  return !hasProc || processIds().some((pid) => {
    const [state, , group] = statFields(pid)
    return group === String(id) && state !== "Z" && state !== "X"
  })
}

const signalGroup = (id: number, signal: NodeJS.Signals | 0): boolean => trySignal(-id, signal)

/** `process.kill` throws when there is nothing to signal, which is an answer here. */
const trySignal = (pid: number, signal: NodeJS.Signals | 0): boolean => {
  try {
    return process.kill(pid, signal)
  } catch {
    return false
  }
}

const hasProc = existsSync("/proc/self/environ")

const processIds = (): Array<number> => readdirSync("/proc").map(Number).filter((pid) => pid > 0)

/** State, parent and group of a process. */
const statFields = (pid: number): Array<string> => {
  const stat = readProc(pid, "stat")
  // The name before them is in parentheses and may hold anything, parentheses included.
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ", 3)
}

const searchMarked = (entry: string, leader: number) => {
  const marked: Array<number> = []
  let isUnclear = false
  for (const pid of processIds()) {
    if (pid === process.pid) continue
    const environment = readProc(pid, "environ")
    if (environment.split("\0").includes(entry)) marked.push(pid)
    // The environment of a process in the middle of `exec` reads as empty.
    else if (environment === "" && pid > leader) isUnclear = true
  }
  return { marked, isUnclear }
}

/** A process may be gone, or somebody else's: it then reads as empty. */
const readProc = (pid: number, name: "stat" | "environ"): string => {
  try {
    return readFileSync(`/proc/${pid}/${name}`, "latin1")
  } catch {
    return ""
  }
}
