/**
 * Under which account PostgreSQL runs. For an ordinary user it is the user's own. PostgreSQL refuses to run as root: then
 * it is the owner of the data, or for new data the account `postgres`, which is created if need be, or else `nobody`.
 *
 * That account may be unable to reach the programs or the data, as `/root` and what `mktemp -d` makes are closed to it.
 * `setpriv` of util-linux then gives the server the capability to read what it could not (CAP_DAC_READ_SEARCH), and only
 * then: a superuser of the database can read any file of the machine with it.
 */
import { Effect } from "effect"
import { execFile } from "node:child_process"
import { chmod, stat } from "node:fs/promises"
import { dirname, join } from "node:path"
import type { Binaries } from "./Binaries.ts"
import { AccountCannotReach, EmbeddedPostgresFailed } from "./Failures.ts"

export interface Account {
  readonly name: string
  /** `undefined` is our own. */
  readonly ids: Ids | undefined
  /** A path that it could not reach without help, if any. */
  readonly unreachable: string | undefined
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
export const invocation = (account: Account, [file = "", ...args]: ReadonlyArray<string>) => {
  if (account.ids === undefined) return { file, args, ids: {} }
  if (account.unreachable === undefined) return { file, args, ids: account.ids }
  const { gid, uid } = account.ids
  const privileges = [
    `--reuid=${uid}`,
    `--regid=${gid}`,
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
    // Without it the change of the user would drop the capability again.
    "--securebits=+no_setuid_fixup"
  ]
  return { file: "setpriv", args: [...privileges, "--", file, ...args], ids: {} }
}

/** Chooses the account for the data of `directory`, which need not be there yet. */
export const choose = Effect.fnUntraced(function*(binaries: Binaries, data: string) {
  const isRoot = process.getuid?.() === 0
  const ids = isRoot ? ((yield* ownerOf(data)) ?? (yield* serverIds(data))) : undefined
  yield* makeExecutable(binaries)
  const account: Account = {
    name: ids === undefined ? "of this process" : ids.name,
    ids: ids === undefined ? undefined : { uid: ids.uid, gid: ids.gid },
    unreachable: ids === undefined ? undefined : yield* unreachable(ids, [
      binaries.postgres,
      join(binaries.root, "lib"),
      join(binaries.root, "share"),
      dirname(data)
    ])
  }
  const version = yield* versionOf(binaries, data, account)
  return { account, version }
})

/** The major version, asked for under the account: this also proves that it can start the programs. */
const versionOf = Effect.fnUntraced(function*(binaries: Binaries, data: string, account: Account) {
  const { args, file, ids } = invocation(account, [binaries.postgres, "--version"])
  const answer = yield* output(file, args, ids).pipe(
    Effect.mapError((detail) =>
      account.unreachable === undefined
        ? failed(data, `${binaries.postgres} cannot be started: ${detail}`)
        : new AccountCannotReach({ account: account.name, path: account.unreachable, detail })
    )
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

/** The first of these paths, or of the directories above them, that the account may not enter or read. */
const unreachable = Effect.fnUntraced(function*(ids: Ids, paths: ReadonlyArray<string>) {
  for (const path of paths) {
    for (const step of [...ancestors(path), path]) {
      const found = yield* Effect.option(Effect.tryPromise(() => stat(step)))
      if (found._tag === "None") continue
      const { gid, mode, uid } = found.value
      const bits = uid === ids.uid ? mode >> 6 : gid === ids.gid ? mode >> 3 : mode
      const wanted = step === path && path !== paths.at(-1) ? 0o5 : 0o1
      if ((bits & wanted) !== wanted) return step
    }
  }
  return undefined
})

const ancestors = (path: string): Array<string> => {
  const parent = dirname(path)
  return parent === path ? [] : [...ancestors(parent), parent]
}

const failed = (directory: string, detail: string) =>
  new EmbeddedPostgresFailed({ step: "start", directory, detail, output: [] })
