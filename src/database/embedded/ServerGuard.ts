/**
 * Runs a server so that it does not outlive this process, however this process ends: its parent is a small shell in a
 * session of its own (where a terminal's Ctrl-C does not reach it), whose input is a pipe from here. When the pipe ends,
 * because we asked for it or because we are gone, a second shell ends the server: SIGINT, after five seconds SIGQUIT,
 * after twelve SIGKILL. To PostgreSQL these mean a fast shutdown, an immediate one, and the end.
 *
 * The shell that waits ends with the server's status, so that we see the end of the server as its end. Either shell may
 * be killed: without the first the second still stops the server at once (our end of the pipe is closed when the first
 * is gone), without the second the server only outlives us if we are killed as well.
 */
import { Deferred, Effect, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { detail } from "./Failures.ts"
import * as Processes from "./Processes.ts"
import type { Account } from "./ServerAccount.ts"
import * as ServerAccount from "./ServerAccount.ts"

/** How a command ends that did what it should. */
export const success = "exit code 0"

export interface Guarded {
  /** Of the server itself. */
  readonly pid: number
  /** Completes with how it ended. */
  readonly exited: Effect.Effect<string>
  readonly hasExited: () => boolean
  /** Completes when its output was read, or does not end. Only for one that has exited. */
  readonly outputRead: Effect.Effect<unknown>
}

/**
 * The words of the shell are the command. What it must not do: hold the pipe open in the server (`3<&-`), read from the
 * `/dev/null` that a background process gets as its input (`<&3`), or wait for a server whose parent is gone and which
 * nobody collects (300 rounds). SIGINT is sent in each round, as a server that has just begun ignores it; to PostgreSQL
 * a second one is no news. SIGCONT goes to the server and its children: one that is stopped cannot end.
 */
const script = `
trap '' HUP INT TERM PIPE
exec 3<&0
"$@" </dev/null >&2 3<&- &
server=$!
(
  while read -r line; do :; done
  round=0
  while [ $round -lt 300 ] && kill -0 "$server"; do
    signal=INT
    [ $round -lt 50 ] || signal=QUIT
    [ $round -lt 120 ] || signal=KILL
    kill -s $signal "$server"
    kill -s CONT "$server" $(cat "/proc/$server/task/$server/children")
    round=$((round + 1))
    sleep 0.1 || sleep 1
  done
) <&3 >/dev/null 2>&1 &
watcher=$!
exec 3<&- </dev/null
echo "$server"
exec >/dev/null
wait "$server"
status=$?
kill -s KILL "$watcher"
exit $status
`

/** Above the twelve seconds of the script. */
const patience = "20 seconds"

/** Output that was written before the end is read after it; children of a server that was killed may hold the pipe for longer. */
const outputPatience = "1 second"

/** The place of `Options.directory` among the descriptors of the command: the shell uses those before it. */
const directoryDescriptor = 4

export interface Options {
  /** What it works on, for who looks at the processes. */
  readonly label: string
  /** Gets the output. */
  readonly write: (text: string) => void
  /** A directory that the command has open, as `heldDirectory`. */
  readonly directory?: number | undefined
}

/** How the command reaches the directory that it has open, whatever is around that. Linux only. */
export const heldDirectory = `/proc/self/fd/${directoryDescriptor}`

/** Starts a command under the account. It ends with the scope. */
export const run = (
  account: Account,
  command: ReadonlyArray<string>,
  options: Options
): Effect.Effect<Guarded, string, Scope.Scope> =>
  Effect.acquireRelease(begin(account, command, options), ({ end }) => end).pipe(
    Effect.flatMap(({ guarded }) => guarded)
  )

const begin = (account: Account, command: ReadonlyArray<string>, options: Options) =>
  Effect.try({ try: () => beginUnsafe(account, command, options), catch: detail })

const beginUnsafe = (account: Account, command: ReadonlyArray<string>, { directory, label, write }: Options) => {
  const exited = Deferred.makeUnsafe<string>()
  const started = Deferred.makeUnsafe<number, string>()
  const { args, file, ids } = ServerAccount.invocation(account, [
    "/bin/sh",
    "-c",
    script,
    `lull-guard ${label}`,
    ...command
  ])
  const shell = spawn(file, args, {
    ...ids,
    cwd: "/",
    detached: true,
    env: ServerAccount.environment,
    stdio: ["pipe", "pipe", "pipe", ...directory === undefined ? [] : ["ignore" as const, directory]]
  })
  let isRead = false
  shell.stderr?.setEncoding("utf8").on("data", write).once("close", () => isRead = true)
  let pid: number | undefined
  let hasExited = false
  const ended = (how: string) => {
    hasExited = true
    Deferred.doneUnsafe(started, Effect.fail(how))
    Deferred.doneUnsafe(exited, Effect.succeed(how))
  }
  firstLine(shell, (line) => {
    pid = Number(line)
    Deferred.doneUnsafe(started, Effect.succeed(pid))
  })
  shell.on("error", (error) => {
    if (shell.pid === undefined) ended(error.message)
  })
  shell.once("exit", (code, signal) => ended(signal === null ? `exit code ${code}` : signal))
  // Comes with the end of the shell.
  shell.stdin?.on("error", () => {})

  const read = Effect.andThen(
    Processes.waitUntil(() => isRead, outputPatience),
    Effect.sync(() => {
      shell.stdout?.destroy()
      shell.stderr?.destroy()
    })
  )
  const isGone = () => hasExited && (pid === undefined || !Processes.isRunning(pid))
  const end = Effect.gen(function*() {
    shell.stdin?.end()
    if (yield* Processes.waitUntil(isGone, patience)) return yield* read
    if (pid !== undefined) Processes.signal(pid, "SIGKILL")
    if (shell.pid !== undefined) Processes.signal(-shell.pid, "SIGKILL")
    if (yield* Processes.waitUntil(isGone, patience)) return yield* read
    yield* Effect.logWarning(`PostgreSQL, process ${pid}, still runs in spite of SIGKILL`)
  })
  const guarded = Effect.map(
    Deferred.await(started),
    (pid): Guarded => ({
      pid,
      exited: Deferred.await(exited),
      hasExited: () => hasExited,
      outputRead: Processes.waitUntil(() => isRead, outputPatience)
    })
  )
  return { guarded, end }
}

const firstLine = (shell: ChildProcess, use: (line: string) => void) => {
  let text = ""
  shell.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk
    const end = text.indexOf("\n")
    if (end >= 0) use(text.slice(0, end))
  })
}
