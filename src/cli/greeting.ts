/** What the service says of itself when it starts: pure. */
import { Result } from "effect"
import * as ConnectionUrl from "../database/ConnectionUrl.ts"
import type { Tags } from "../provisioner/Job.ts"

/** Host, port, name and role of a URL that was found to be one; of its other parts, nothing, as they may be secret. */
export const describeDatabase = (url: string): string =>
  Result.match(ConnectionUrl.parse(url), {
    onFailure: () => "database",
    onSuccess: ({ addresses, database, user }) => {
      const role = user === undefined ? "" : ` as role ${user}`
      return `database ${database ?? user ?? ""} at ${addresses.map(ConnectionUrl.nameOf).join(", ")}${role}`
    }
  })

export interface WorkerSettings {
  readonly slots: number
  readonly tags: Tags
}

const pairs = (tags: Tags) => Object.entries(tags).map(([key, value]) => `${key}=${value}`)

/** Which jobs are run here, and how many. */
export const describeWorker = ({ slots, tags }: WorkerSettings): string => {
  if (slots === 0) return "runs no jobs here"
  const which = Object.keys(tags).length === 0 ? "untagged" : `whose tags are of ${pairs(tags).join(",")}`
  return `runs ${slots === 1 ? "1 job" : `${slots} jobs`} at a time, ${which}`
}

/** Where the service is called from the same machine. */
export const localAddress = (host: string, port: number): string => {
  const reachable = host === "0.0.0.0" ? "127.0.0.1" : /^[0:]+$/.test(host) ? "::1" : host
  return `http://${hostInUrl(reachable)}:${port}`
}

export const hostInUrl = (host: string) => host.includes(":") ? `[${host}]` : host

/** As a shell has to be given it. */
export const quoted = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`

export interface Invocation {
  /** The program that runs, and its first argument. */
  readonly program: string
  readonly script: string
  readonly environment: Readonly<Record<string, string | undefined>>
}

/** How another command of this program is called from a second terminal. */
export const commandOf = ({ environment, program, script }: Invocation): string => {
  const isByNpm = environment["npm_lifecycle_event"] !== undefined
  // In the project itself, which has a script of the name.
  const project = environment["npm_package_json"]?.replace(/[^/]*$/, "")
  if (isByNpm && environment["npm_package_name"] === "lull" && project && script === `${project}src/main.ts`) {
    return "npm run lull --"
  }
  const [, directory = "", name = ""] = /^(.*)\/([^/]*)$/.exec(script) ?? []
  if (name !== "lull") return `${quoted(program)} ${quoted(script)}`
  // What npm adds to the path is not in that of another terminal.
  return !isByNpm && environment["PATH"]?.split(":").includes(directory) === true ? "lull" : quoted(script)
}

/** A command to try, which works as it is printed. */
export const suggestion = (options: {
  readonly command: string
  readonly address: string
  readonly asksForToken: boolean
  readonly worker: WorkerSettings
}): string => {
  const { address, asksForToken, command, worker } = options
  const wish = worker.slots === 0
    ? ["list", "--url", address]
    : ["submit", "--url", address, ...pairs(worker.tags).flatMap((pair) => ["--tag", pair]), "--wait", "--follow"]
  const words = [command, "job", ...wish.map(quoted), ...worker.slots === 0 ? [] : ["--", "echo", "hello"]]
  const token = asksForToken ? ", with LULL_TOKEN set to the token of this service" : ""
  return `try${token}: ${words.join(" ")}`
}
