/**
 * The user that jobs run as, apart from the service: they then read neither its environment nor its files, and cannot signal it.
 * Jobs are not kept apart from each other by it. Only a service that runs as root can start programs as somebody else.
 */
import { Data, Effect } from "effect"
import { execFile } from "node:child_process"
import { chmod, mkdir, readFile, stat } from "node:fs/promises"
import { errorText } from "../logging/ErrorText.ts"

export interface JobUser {
  readonly uid: number
  readonly gid: number
  /** What `HOME` is, unless a job says something else. */
  readonly home: string
}

/** Jobs cannot run as the user that was asked for. */
export class JobUserUnusable extends Data.TaggedError("JobUserUnusable")<{
  readonly user: string
  readonly problem: string
}> {
  override get message() {
    return `jobs cannot run as ${this.user}: ${this.problem}`
  }
}

/** Others may pass, and not list. */
export const passableMode = 0o711

/** The user of a name, or of `uid:gid`, with a directory for working directories of jobs that it can reach. */
export const find = Effect.fnUntraced(function*(name: string, directory: string) {
  const fail = (problem: string) => new JobUserUnusable({ user: name, problem })
  if (process.getuid?.() !== 0) return yield* fail("only a service that runs as root can start them as somebody else")
  const user = byIds(name) ?? (yield* byName(name))
  if (user === undefined) return yield* fail("there is no user of this name, and it is not uid:gid")
  if (user.uid === 0) return yield* fail("that is root, who may read all that the service may")
  yield* Effect.tryPromise({
    try: () => makePassable(directory),
    catch: (error) => fail(`the directory ${directory} cannot be made: ${errorText(error)}`)
  })
  // Not by modes: this also proves that the kernel lets us.
  yield* Effect.mapError(
    output("/bin/sh", ["-c", `cd -- "$1"`, "sh", directory], user),
    (problem) =>
      fail(`it cannot enter ${directory} (${problem}); let others pass the directories above it, as by chmod o+x`)
  )
  return user
})

/** It is the service's own: what it held before is not shown by passing. */
const makePassable = async (directory: string) => {
  await mkdir(directory, { recursive: true, mode: passableMode })
  const { mode, uid } = await stat(directory)
  if (uid === 0 && (mode & 0o001) === 0) await chmod(directory, passableMode)
}

/** Node takes no larger one. */
const largestId = 2 ** 31 - 1

const byIds = (text: string): JobUser | undefined => {
  const [, uid, gid] = /^(\d+):(\d+)$/.exec(text) ?? []
  const areIds = [uid, gid].every((id) => id !== undefined && Number(id) <= largestId)
  return areIds ? { uid: Number(uid), gid: Number(gid), home: "/" } : undefined
}

/** From the file, and where users are kept elsewhere, from there. */
const byName = (name: string) =>
  Effect.gen(function*() {
    const file = yield* Effect.orElseSucceed(Effect.tryPromise(() => readFile("/etc/passwd", "utf8")), () => "")
    const more = yield* Effect.orElseSucceed(output("getent", ["passwd", name]), () => "")
    return [...file.split("\n"), ...more.split("\n")].map((line) => line.split(":")).flatMap(
      ([login, , uid, gid, , home]) =>
        login === name && uid !== undefined && gid !== undefined
          ? [{ uid: Number(uid), gid: Number(gid), home: home === undefined || home === "" ? "/" : home }]
          : []
    )[0]
  })

/** What a short command writes, or what is wrong. It knows nothing of our environment. */
const output = (file: string, args: ReadonlyArray<string>, ids?: JobUser): Effect.Effect<string, string> =>
  Effect.callback<string, string>((resume) => {
    const child = execFile(
      file,
      args,
      { cwd: "/", env: { PATH: process.env["PATH"] }, ...(ids === undefined ? {} : { uid: ids.uid, gid: ids.gid }) },
      (error, stdout, stderr) =>
        resume(error === null ? Effect.succeed(stdout) : Effect.fail(stderr.trim() || error.message))
    )
    return Effect.sync(() => child.kill("SIGKILL"))
  })
