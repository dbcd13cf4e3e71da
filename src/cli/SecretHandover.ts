/**
 * Takes the secrets out of the environment that others can see. What a process was started with stays readable in
 * `/proc/<pid>/environ` for its whole life, whatever it does to its variables; and the jobs of a service are started by it.
 *
 * So the service starts itself again, in the same process, without them, and gets them through a pipe. Linux only, and only where
 * Node can (`process.execve`, from 22.15 on). It does not hide them from root, nor from a program of the same user that may look into
 * the memory of others: for that there is `LULL_JOB_USER`.
 */
import { spawnSync } from "node:child_process"
import { closeSync, existsSync, readFileSync } from "node:fs"

/** Those of `Settings` that are secret; not taken from there, as this comes before everything else. */
export const secrets = [
  "LULL_DATABASE_URL",
  "LULL_DATABASE_LISTEN_URL",
  "LULL_TOKEN",
  "LULL_PEER_TOKEN"
] as const

/** In the environment of the second life: the descriptor of the pipe. */
export const handedBy = "LULL_SECRETS_DESCRIPTOR"

/** A shell addresses no higher one. */
const descriptor = 9

/** Shells write a text up to this size into a pipe by themselves, and a longer one by a further process. */
const longest = 4_000

type Environment = Readonly<Record<string, string | undefined>>

/** The names that can be handed over. A value of several lines is no secret of ours. */
export const namesToHand = (environment: Environment): ReadonlyArray<string> => {
  const names = secrets.filter((name) => environment[name] !== undefined && !/[\r\n]/.test(environment[name]))
  const size = names.reduce((sum, name) => sum + Buffer.byteLength(`${name}=${environment[name]}\n`), 0)
  return environment[handedBy] === undefined && size <= longest ? names : []
}

/** The shell puts values into the text, and does not look at them again. The words of the command are its arguments. */
export const script = (names: ReadonlyArray<string>): string =>
  `exec ${descriptor}<<END
${names.map((name) => `${name}=$${name}`).join("\n")}
END
unset ${names.join(" ")}
export ${handedBy}=${descriptor}
exec "$@"
`

/** What was handed over, line by line. */
export const parse = (text: string): ReadonlyArray<readonly [string, string]> =>
  text.split("\n").flatMap((line) => {
    const at = line.indexOf("=")
    return at < 1 ? [] : [[line.slice(0, at), line.slice(at + 1)] as const]
  })

/** Whether this is a service, in whose life commands of others are started. */
const isService = (words: ReadonlyArray<string>) => words.slice(0, [...words, "--"].indexOf("--")).includes("serve")

const shell = "/bin/sh"

const handOver = (): void => {
  const names = namesToHand(process.env)
  if (names.length === 0 || !isService(process.argv.slice(2))) return
  if (process.platform !== "linux" || process.execve === undefined || !existsSync(shell)) return
  // Where it may not be executed the process would not come back.
  if (spawnSync(shell, ["-c", ":"]).status !== 0) return
  const command = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  // It does not return.
  process.execve(shell, [shell, "-c", script(names), "lull", ...command], process.env)
}

const receive = (): void => {
  if (process.env[handedBy] !== String(descriptor)) return
  delete process.env[handedBy]
  const text = readFileSync(descriptor, "utf8")
  closeSync(descriptor)
  // From here on they are in the memory of the process alone.
  for (const [name, value] of parse(text)) process.env[name] = value
}

/** Once, at the very beginning of a program. */
export const run = (): void => {
  if (process.env[handedBy] === undefined) handOver()
  else receive()
}
