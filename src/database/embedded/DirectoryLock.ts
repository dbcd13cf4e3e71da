/**
 * One instance per directory: a file that names the process which holds it, by its id and the moment of its birth, so
 * that a holder that was killed is not mistaken for a later process with the same id.
 *
 * Two instances that find the same stale lock in the same instant are kept apart by all but a sequence of three; there
 * PostgreSQL's own `postmaster.pid` refuses the second server.
 */
import { Duration, Effect, type Scope } from "effect"
import { randomBytes } from "node:crypto"
import { link, readFile, rename, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { detail, DirectoryInUse, EmbeddedPostgresFailed } from "./Failures.ts"
import * as Processes from "./Processes.ts"

/** A lock is written right after it was made; one that stays unreadable for so long was left by a crash. */
const looks = 50

/** Holds the lock until the scope closes. A lock of a process that is gone is taken over. */
export const hold = (
  directory: string
): Effect.Effect<void, DirectoryInUse | EmbeddedPostgresFailed, Scope.Scope> =>
  Effect.asVoid(Effect.acquireRelease(take(directory), (content) => release(join(directory, "lock"), content)))

const take = Effect.fnUntraced(function*(directory: string) {
  const path = join(directory, "lock")
  // The last word tells two locks of one process apart.
  const content = `${process.pid} ${Processes.birth(process.pid)} ${randomBytes(6).toString("hex")}\n`
  let unreadable = 0
  while (true) {
    const isTaken = yield* attempt(directory, () => writeFile(path, content, { flag: "wx", mode: 0o600 })).pipe(
      Effect.as(false),
      Effect.catchIf(({ code }) => code === "EEXIST", () => Effect.succeed(true)),
      Effect.mapError(({ failed }) => failed)
    )
    if (!isTaken) return content
    const found = yield* attempt(directory, () => readFile(path, "utf8")).pipe(
      Effect.catchIf(({ code }) => code === "ENOENT", () => Effect.succeed(undefined)),
      Effect.mapError(({ failed }) => failed)
    )
    if (found === undefined) continue
    const holder = parse(found)
    if (holder === undefined && ++unreadable < looks) {
      yield* Effect.sleep(Processes.poll)
      continue
    }
    if (holder !== undefined && isHeld(holder)) return yield* new DirectoryInUse({ directory, pid: holder.pid })
    yield* Effect.ignore(Effect.tryPromise(() => removeStale(path, found)))
    yield* Effect.sleep(Duration.millis(1))
  }
})

interface Holder {
  readonly pid: number
  readonly birth: string
}

const parse = (content: string): Holder | undefined => {
  const [, pid, birth] = /^([1-9]\d*) (\S*) [0-9a-f]+\n$/.exec(content) ?? []
  return pid === undefined || birth === undefined ? undefined : { pid: Number(pid), birth }
}

const isHeld = ({ birth, pid }: Holder): boolean => {
  if (!Processes.isRunning(pid)) return false
  const now = Processes.birth(pid)
  return birth === "" || now === "" || birth === now
}

/** Somebody else may have taken it over since it was read: it is looked at again where nobody else sees it. */
const removeStale = async (path: string, stale: string) => {
  const aside = `${path}-${randomBytes(6).toString("hex")}`
  await rename(path, aside)
  if (await readFile(aside, "utf8") !== stale) await link(aside, path)
  await rm(aside, { force: true })
}

const release = (path: string, content: string) =>
  Effect.ignore(Effect.tryPromise(async () => {
    if (await readFile(path, "utf8") === content) await rm(path, { force: true })
  }))

const attempt = <A>(directory: string, run: () => Promise<A>) =>
  Effect.tryPromise({
    try: run,
    catch: (error) => ({
      code: error instanceof Error && "code" in error ? error.code : undefined,
      failed: new EmbeddedPostgresFailed({ step: "lock", directory, detail: detail(error), output: [] })
    })
  })
