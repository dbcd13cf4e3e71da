/**
 * What npm has started does not outlive it. npm passes some signals on to a shell, which ends without its child, and others
 * not at all; nothing is left that could, when npm is killed. So whoever was started by npm looks whether npm is still there.
 *
 * Only npm and its like are watched, and a shell between us that runs nothing else. A service that was started by systemd, in
 * a container, with nohup, or from a script in the background, stays when its parent ends, as it always does.
 */
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { isatty } from "node:tty"

export interface Ancestor {
  readonly pid: number
  readonly command: string
}

const isRunner = ({ command }: Ancestor) => /(^|[\s/])(npm|npx|pnpm|yarn|bun)(-cli)?(\.c?js)?(\s|$)/.test(command)

/** One command, which is waited for. In the background, or without a terminal's signals, it is meant to stay. */
const isPlain = (script: string) => !/[&;|\n]|\b(nohup|setsid|disown)\b/.test(script)

/** A shell that runs one command and waits for it. */
const isBetween = ({ command }: Ancestor) => /^(\S*\/)?(da|ba|z|k|a)?sh -c /.test(command) && isPlain(command)

/** Whose end is ours, of the processes above, nearest first. */
export const watched = (ancestors: ReadonlyArray<Ancestor>): ReadonlyArray<Ancestor> => {
  const [parent, above] = ancestors
  if (parent === undefined) return []
  if (isRunner(parent) && !isBetween(parent)) return [parent]
  return isBetween(parent) && above !== undefined && isRunner(above) ? [parent, above] : []
}

/** Who becomes the parent of a process whose own has gone. */
const isAdoptive = ({ command, pid }: Ancestor) =>
  pid === 1 || /^(\S*\/)?(systemd|init|tini|dumb-init|containerd-shim\S*)(\s|$)/.test(command)

/** Whether npm has gone before anybody looked: nobody else waits for us, although its script is nothing but us. */
export const isAbandoned = (script: string, program: string, [parent]: ReadonlyArray<Ancestor>): boolean => {
  const name = program.slice(program.lastIndexOf("/") + 1)
  const isOurs = isPlain(script) && script.split(/[\s/]+/).includes(name)
  return isOurs && (parent === undefined || isAdoptive(parent) && watched([parent]).length === 0)
}

interface Process extends Ancestor {
  readonly parent: number
  /** Tells two processes of the same id apart. */
  readonly startedAt: string
}

/** `undefined`: it is not there, or has ended and only waits to be collected. */
const look = (pid: number): Process | undefined => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8")
    // The second field is a name in parentheses, in which there may be blanks and parentheses.
    const [state, parent, ...others] = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    if (state === "Z" || state === "X") return undefined
    const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim()
    return { pid, parent: Number(parent), startedAt: others[17] ?? "", command }
  } catch {
    return process.platform === "linux" ? undefined : lookElsewhere(pid)
  }
}

/** Where there is no `/proc`, as on macOS. */
const lookElsewhere = (pid: number): Process | undefined => {
  const { status, stdout } = spawnSync("ps", ["-o", "ppid=,state=,lstart=,command=", "-p", String(pid)], {
    encoding: "utf8"
  })
  const [, parent, state = "", startedAt = "", command = ""] =
    /^\s*(\d+)\s+(\S+)\s+(\S+\s+\S+\s+\d+\s+\S+\s+\d+)\s+(.*)/.exec(stdout ?? "") ?? []
  return status !== 0 || state.startsWith("Z") ? undefined : { pid, parent: Number(parent), startedAt, command }
}

const ancestorsOf = (pid: number): ReadonlyArray<Process> => {
  const parent = look(pid)
  const above = parent === undefined ? undefined : look(parent.parent)
  return [parent, above].filter((each) => each !== undefined)
}

/** Taken when this module is loaded, before the rest of the program is: npm may be gone by the time that it runs. */
const isByNpm = process.env["npm_lifecycle_event"] !== undefined
const parentAtStart = process.ppid
const processesAtStart = isByNpm ? ancestorsOf(parentAtStart) : []

/** Often enough that nobody starts another service meanwhile, and costs nothing. */
const lookEvery = 500

/** Calls back once, with what has gone. */
export const watch = (onGone: (what: string) => void): void => {
  if (isByNpm && isAbandoned(process.env["npm_lifecycle_script"] ?? "", process.argv[1] ?? "", processesAtStart)) {
    return onGone("its parent has gone")
  }
  const parents = processesAtStart.filter((each) => watched(processesAtStart).includes(each))
  if (parents.length === 0) return
  const hadTerminal = isatty(2)
  const gone = () => {
    if (hadTerminal && !isatty(2)) return "its terminal was closed"
    const missing = process.ppid === parentAtStart
      ? parents.find(({ pid, startedAt }) => look(pid)?.startedAt !== startedAt)
      : parents[0]
    return missing && `its parent has gone (${missing.command}, process ${missing.pid})`
  }
  // Not by Effect's clock: this is about processes, and has to go on whatever the program does.
  const timer = setInterval(() => {
    const what = gone()
    if (what === undefined) return
    clearInterval(timer)
    onGone(what)
  }, lookEvery)
  timer.unref()
}
