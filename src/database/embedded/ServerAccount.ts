/**
 * Under which account PostgreSQL runs. For an ordinary user it is the user's own. PostgreSQL refuses to run as root: then
 * it is the owner of the data, or for new data the account `postgres`, which is created if need be, or else `nobody`.
 *
 * Whatever Lull may do, the server may do nothing beyond its account: no capabilities, no groups of ours, no new ones by a program
 * that would give some. A superuser of the database can read any file that the server can read.
 *
 * That account may be unable to reach the data or the programs, as `/root` and what `mktemp -d` makes are closed to it. Then it gets
 * the directory of the data as an open file (`ServerGuard.heldDirectory`), and runs a copy of the programs in a place that it can reach.
 */
import { Effect } from "effect"
import { execFile } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { chmod, constants, cp, stat } from "node:fs/promises"
import { dirname, join } from "node:path"
import { errorText } from "../../logging/ErrorText.ts"
import { type Binaries, inDirectory } from "./Binaries.ts"
import { AccountCannotReach, EmbeddedPostgresFailed } from "./Failures.ts"
import * as TemporaryDirectory from "./TemporaryDirectory.ts"

export interface Account {
  readonly name: string
  /** `undefined` is our own. */
  readonly ids: Ids | undefined
  /** What a command begins with that is to run under it, and have no privileges; nothing where Node does that by `ids`. */
  readonly prefix: ReadonlyArray<string>
}

interface Ids {
  readonly uid: number
  readonly gid: number
}

/**
 * The whole environment of the server. Ours holds secrets which are none of its business. `PATH` is needed to find
 * `sleep`, `cat` and `setpriv`, `TZ` for the times in its log; they are read here and nowhere else.
 */
export const environment: Readonly<Record<string, string>> = {
  PATH: process.env["PATH"] ?? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  LANG: "C",
  LC_ALL: "C",
  ...(process.env["TZ"] === undefined ? {} : { TZ: process.env["TZ"] })
}

/** What to start so that the command runs under the account. Node clears the supplementary groups with `uid`. */
export const invocation = ({ ids, prefix }: Account, command: ReadonlyArray<string>) => {
  const [file = "", ...args] = [...prefix, ...command]
  return { file, args, ids: prefix.length === 0 && ids !== undefined ? ids : {} }
}

/** Chooses the account for the data, which need not be there yet, and the programs that it can start. */
export const choose = Effect.fnUntraced(function*(binaries: Binaries, data: string) {
  const isRoot = process.getuid?.() === 0
  const chosen = isRoot ? ((yield* ownerOf(data)) ?? (yield* serverIds(data))) : undefined
  const ids = chosen === undefined ? undefined : { uid: chosen.uid, gid: chosen.gid }
  yield* makeExecutable(binaries)
  const account: Account = { name: chosen?.name ?? "of this process", ids, prefix: yield* withoutPrivileges(ids) }
  const programs = yield* reachablePrograms(binaries, data, account)
  const isReachable = ids === undefined || (yield* unreachable(ids, dirname(data), pass)) === undefined ||
    !existsSync("/proc/self/fd")
  return { account, isReachable, ...programs }
})

/**
 * `setpriv` of util-linux also takes what a program could use to get privileges again. Where it is missing or too old, the kernel takes
 * the capabilities of root with its user id. An ordinary user has none, but what systemd may have given to the service (`AmbientCapabilities`).
 */
const withoutPrivileges = Effect.fnUntraced(function*(ids: Ids | undefined) {
  if (ids === undefined && !hasCapabilities()) return []
  const words = [
    "setpriv",
    ...ids === undefined
      ? []
      : [`--reuid=${ids.uid}`, `--regid=${ids.gid}`, "--clear-groups", "--bounding-set=-all"],
    "--inh-caps=-all",
    "--ambient-caps=-all",
    "--no-new-privs",
    "--"
  ]
  return yield* Effect.match(output(words[0] ?? "", [...words.slice(1), "/bin/sh", "-c", ":"]), {
    onFailure: () => [],
    onSuccess: () => words
  })
})

/** Of this process: those that a program started by it would have. */
const hasCapabilities = () => {
  try {
    return /^Cap(Inh|Amb):\s*0*[1-9a-f]/m.test(readFileSync("/proc/self/status", "latin1"))
  } catch {
    return false
  }
}

/** The programs, or a copy of them in a place that the account can reach; and their major version. */
const reachablePrograms = Effect.fnUntraced(function*(binaries: Binaries, data: string, account: Account) {
  const { ids } = account
  const obstacle = ids === undefined ? undefined : yield* unreachableProgram(ids, binaries)
  if (obstacle === undefined) return { binaries, version: yield* versionOf(binaries, data, account) }
  const cannotReach = (detail: string) => new AccountCannotReach({ account: account.name, path: obstacle, detail })
  const copied = yield* Effect.mapError(
    copyPrograms(binaries, data),
    (error) => cannotReach(`a copy could not be made: ${errorText(error)}`)
  )
  const version = yield* Effect.mapError(versionOf(copied, data, account), ({ message }) => cannotReach(message))
  return { binaries: copied, version }
})

const copyPrograms = Effect.fnUntraced(function*({ root }: Binaries, data: string) {
  const copy = yield* TemporaryDirectory.make({ purpose: "programs", directory: dirname(data), owner: undefined })
  yield* Effect.tryPromise(async () => {
    // The links between its libraries are relative.
    await cp(root, copy, { recursive: true, verbatimSymlinks: true, mode: constants.COPYFILE_FICLONE })
    await chmod(copy, 0o755)
  })
  return inDirectory(copy)
})

/** The major version, asked for under the account: this also proves that it can start the programs. */
const versionOf = Effect.fnUntraced(function*(binaries: Binaries, data: string, account: Account) {
  const { args, file, ids } = invocation(account, [binaries.postgres, "--version"])
  const answer = yield* output(file, args, ids).pipe(
    Effect.mapError((detail) => failed(data, `${binaries.postgres} cannot be started: ${detail}`))
  )
  const major = /\(PostgreSQL\) (\d+)/.exec(answer)?.[1]
  return major ?? (yield* failed(data, `${binaries.postgres} gives no version: ${answer.trim()}`))
})

const ownerOf = (data: string) =>
  Effect.tryPromise(() => stat(data)).pipe(
    Effect.map(({ gid, uid }) => uid === 0 ? undefined : { name: `with uid ${uid}`, uid, gid }),
    Effect.orElseSucceed(() => undefined)
  )

const serverIds = (data: string) =>
  idsOf("postgres").pipe(
    Effect.catch(() => Effect.andThen(createPostgres, idsOf("postgres"))),
    // Where no account can be created, as on a read-only system.
    Effect.catch(() => idsOf("nobody")),
    Effect.mapError((detail) =>
      new EmbeddedPostgresFailed({
        step: "account",
        directory: data,
        detail: `PostgreSQL does not run as root, and no account was found or created for it: ${detail}`,
        output: []
      })
    )
  )

/** What a short command writes, or what is wrong. */
const output = (file: string, args: ReadonlyArray<string>, ids: Partial<Ids> = {}): Effect.Effect<string, string> =>
  Effect.callback<string, string>((resume) => {
    const child = execFile(
      file,
      args,
      { ...ids, cwd: "/", env: environment },
      (error, stdout, stderr) =>
        resume(error === null ? Effect.succeed(stdout) : Effect.fail(stderr.trim() || error.message))
    )
    return Effect.sync(() => child.kill("SIGKILL"))
  })

const createPostgres = Effect.andThen(
  Effect.ignore(output("groupadd", ["--system", "postgres"])),
  output("useradd", ["--system", "--gid", "postgres", "--no-create-home", "--shell", "/usr/sbin/nologin", "postgres"])
)

const idsOf = Effect.fnUntraced(function*(name: string) {
  const [uid, gid] = [Number(yield* output("id", ["-u", name])), Number(yield* output("id", ["-g", name]))]
  return uid > 0 ? { name, uid, gid } : yield* Effect.fail(`${name} is root`)
})

/** Some installations lose the mode of the programs, or take it from all but their owner. */
const makeExecutable = (binaries: Binaries) =>
  Effect.forEach([binaries.postgres, binaries.initdb], (path) =>
    Effect.ignore(Effect.tryPromise(async () => {
      const { mode } = await stat(path)
      if ((mode & 0o555) !== 0o555) await chmod(path, mode | 0o555)
    })))

/** Rights in a directory, as in a mode. */
const pass = 0o1
const readAndPass = 0o5

const unreachableProgram = Effect.fnUntraced(function*(ids: Ids, { postgres, root }: Binaries) {
  for (const path of [postgres, join(root, "lib"), join(root, "share")]) {
    const obstacle = yield* unreachable(ids, path, readAndPass)
    if (obstacle !== undefined) return obstacle
  }
  return undefined
})

/** The path, if the account has not these rights in it, or the first directory above it that the account may not pass. */
const unreachable = Effect.fnUntraced(function*(ids: Ids, path: string, rights: number) {
  for (const step of [...ancestors(path), path]) {
    const found = yield* Effect.option(Effect.tryPromise(() => stat(step)))
    if (found._tag === "None") continue
    const { gid, mode, uid } = found.value
    const bits = uid === ids.uid ? mode >> 6 : gid === ids.gid ? mode >> 3 : mode
    const wanted = step === path ? rights : pass
    if ((bits & wanted) !== wanted) return step
  }
  return undefined
})

const ancestors = (path: string): Array<string> => {
  const parent = dirname(path)
  return parent === path ? [] : [...ancestors(parent), parent]
}

const failed = (directory: string, detail: string) =>
  new EmbeddedPostgresFailed({ step: "start", directory, detail, output: [] })
