/**
 * Ends the jobs of a service that was killed itself. A process that dies by SIGKILL cannot clean up, so a small shell
 * does: it is told through a pipe which groups run, and when the pipe ends without a farewell, it ends them.
 *
 * One guard serves all jobs of an executor, starts with the first job and is started anew when it is missing. It runs
 * beside the jobs, not around them, so it touches neither their exit status nor their streams. It needs `/bin/sh`; to
 * find processes that left their group also `/proc` and a `grep` with `-z`. Without `/bin/sh` there is a warning, once.
 */
import { Duration, Effect } from "effect"
import { type ChildProcess, spawn } from "node:child_process"

export interface ProcessGuard {
  /** From now on the group, and processes with `entry` in their environment, end with this process. No white space in `entry`. */
  readonly watch: (group: number, entry: string) => Effect.Effect<void>
  /** The group has ended. */
  readonly forget: (group: number) => Effect.Effect<void>
}

/** `$1` is the grace in seconds. Signals are ignored: whoever stops the service by its control group means the service. */
const script = `
trap '' HUP INT TERM
jobs=
while read -r change group entry; do
  if [ "$change" = + ]; then
    jobs="$jobs $group:$entry"
  else
    left=
    for job in $jobs; do
      [ "\${job%%:*}" = "$group" ] || left="$left $job"
    done
    jobs=$left
  fi
done
[ -n "$jobs" ] || exit 0
for job in $jobs; do
  kill -s TERM -- "-\${job%%:*}"
  kill -s CONT -- "-\${job%%:*}"
done
sleep "$1"
for job in $jobs; do
  kill -s KILL -- "-\${job%%:*}"
  for round in 1 2 3; do
    for file in $(grep -lszxF -e "\${job#*:}" /proc/[0-9]*/environ); do
      file=\${file#/proc/}
      kill -s KILL "\${file%/environ}"
    done
  done
done
`

/** A guard that ends with the scope. */
export const make = Effect.fnUntraced(function*(grace: Duration.Duration) {
  const watched = new Map<number, string>()
  let shell: ChildProcess | undefined
  let isWarned = false

  const start = () => {
    const started = spawnShell(grace)
    started?.once("exit", () => {
      if (shell === started) shell = undefined
    })
    return started
  }

  const tell = (change: string) => shell?.stdin?.write(`${change}\n`)

  const watch = Effect.fnUntraced(function*(group: number, entry: string) {
    watched.set(group, entry)
    if (shell !== undefined) {
      tell(`+ ${group} ${entry}`)
      return
    }
    shell = start()
    for (const [id, marker] of watched) tell(`+ ${id} ${marker}`)
    if (shell === undefined && !isWarned) {
      isWarned = true
      yield* Effect.logWarning(
        "jobs are not guarded: they go on if this process is killed, as /bin/sh cannot be started"
      )
    }
  })

  const forget = (group: number) =>
    Effect.sync(() => {
      watched.delete(group)
      tell(`- ${group}`)
    })

  // At the end of its input a guard that watches nothing just ends.
  yield* Effect.addFinalizer(() => Effect.sync(() => shell?.stdin?.end()))
  return { watch, forget } satisfies ProcessGuard
})

/** Some errors of a spawn are thrown, others leave a child without an id. */
const spawnShell = (grace: Duration.Duration): ChildProcess | undefined => {
  try {
    const shell = spawn("/bin/sh", ["-c", script, "lull-guard", String(Math.ceil(Duration.toSeconds(grace)))], {
      cwd: "/",
      detached: true,
      env: { PATH: process.env["PATH"] ?? "/usr/bin:/bin" },
      stdio: ["pipe", "ignore", "ignore"]
    })
    // Both come with the end of the guard, which the next job notices.
    shell.on("error", () => {})
    shell.stdin?.on("error", () => {})
    return shell.pid === undefined ? undefined : shell
  } catch {
    return undefined
  }
}
