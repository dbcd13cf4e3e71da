/**
 * A directory in the system's place for temporary files, for what cannot be in the directory of the server: its path is too long,
 * or the server's account may not pass. It is removed with the scope; what a process that was killed has left is removed by the
 * next one for the same directory. Only for the holder of that directory's lock.
 */
import { Effect } from "effect"
import { createHash } from "node:crypto"
import { constants } from "node:fs"
import { lstat, mkdtemp, open, readdir, rm, rmdir } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"

export interface Options {
  readonly purpose: "socket" | "programs"
  /** Of the server. */
  readonly directory: string
  /** Who may own what an earlier process has left, beside ourselves. */
  readonly owner: number | undefined
}

/** Names of other directories do not meet by chance. */
const hashDigits = 12

/** Closed to others. Fails where none can be made. */
export const make = ({ directory, owner, purpose }: Options) =>
  Effect.acquireRelease(
    Effect.tryPromise(async () => {
      const name = `lull-${purpose}-${createHash("sha256").update(directory).digest("hex").slice(0, hashDigits)}-`
      for (const base of new Set([tmpdir(), "/tmp"])) {
        await removeOlder(base, name, purpose, owner)
      }
      return await mkdtemp(join(tmpdir(), name)).catch(() => mkdtemp(join("/tmp", name)))
    }),
    (made) => Effect.ignore(Effect.tryPromise(() => removeOne(made, purpose)))
  )

const removeOlder = async (base: string, start: string, purpose: Options["purpose"], owner: number | undefined) => {
  for (const name of await readdir(base).catch(() => [])) {
    if (!name.startsWith(start)) continue
    const path = join(base, name)
    const status = await lstat(path).catch(() => undefined)
    // Everybody may make a directory of this name there, and everybody may put a link.
    if (status?.isDirectory() !== true || (status.uid !== process.getuid?.() && status.uid !== owner)) continue
    await removeOne(path, purpose).catch(() => {})
  }
}

/**
 * The one for the socket belongs to another account, which may put a link in its place: it is held open, no link is followed, and nothing
 * is removed from below it.
 */
const removeOne = async (path: string, purpose: Options["purpose"]) => {
  if (purpose === "programs") return await rm(path, { recursive: true, force: true })
  if (process.platform === "linux") {
    const held = await open(path, constants.O_DIRECTORY | constants.O_NOFOLLOW)
    try {
      const own = `/proc/self/fd/${held.fd}`
      for (const name of await readdir(own)) await rm(join(own, name), { force: true })
    } finally {
      await held.close()
    }
  }
  await rmdir(path)
}
