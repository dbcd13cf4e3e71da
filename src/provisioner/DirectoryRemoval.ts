/**
 * Removes the directory of a job, and nothing beyond it. A job may have mounted something below it, put a link in its place, or
 * left a process that changes it meanwhile. What is on another mount or device, or behind a link, is neither removed nor changed.
 *
 * On Linux each directory is held open and reached through `/proc/self/fd`, so that a path which becomes a link between two steps
 * leads nowhere else, and its mount is asked of the kernel: a bind mount of the same disk has the same device. Elsewhere directories
 * are reached by path, and devices are compared.
 *
 * Modes are changed only where the system has answered EACCES, and only of directories that were found to be the job's.
 */
import { Data, Effect } from "effect"
import { randomUUID } from "node:crypto"
import { existsSync, readFileSync } from "node:fs"
import { chmod, constants, lstat, open, opendir, rename, rmdir, unlink } from "node:fs/promises"
import { basename, dirname, join } from "node:path"
import { errorText } from "../logging/ErrorText.ts"

/** All that could be removed is; this is the first thing that could not. */
export class DirectoryNotRemoved extends Data.TaggedError("DirectoryNotRemoved")<{
  readonly directory: string
  readonly problem: string
}> {
  override get message() {
    return `the directory ${this.directory} could not be removed: ${this.problem}`
  }
}

/** Removes it with all that is in it. One that is not there is no failure. */
export const remove = (directory: string): Effect.Effect<void, DirectoryNotRemoved> =>
  Effect.tryPromise({
    try: () => removeAll(directory),
    catch: (error) => new DirectoryNotRemoved({ directory, problem: errorText(error) })
  })

/** A directory that is held while it is emptied. */
interface Place {
  /** For messages. */
  readonly path: string
  /** How its entries are reached. */
  readonly reach: string
  /** Of its mount and its device. */
  readonly identity: string
  /** Whether it is the job's, and its mode may be changed. */
  readonly isOurs: boolean
  readonly close: () => Promise<void>
}

interface Removal {
  /** The directory that is removed. */
  readonly top: Place
  /** The first thing that could not be removed. */
  obstacle: unknown
  /** A directory was moved up, and the entries of the top have to be read again. */
  hasMoved: boolean
}

/** Directories that are held open at a time. What is deeper is moved up: a job can nest more than a process may open. */
const deepest = 32

/** Processes out of reach may still write; after so many times it is theirs. */
const repetitions = 3

const removeAll = async (directory: string): Promise<void> => {
  const parent = await openFirst(dirname(directory))
  if (parent === undefined) return
  try {
    await removeTop(parent, basename(directory))
  } finally {
    await parent.close()
  }
}

const removeTop = async (parent: Place, name: string): Promise<void> => {
  const top = await enter(parent, name).catch(async (error: unknown) => {
    if (codeOf(error) !== "ENOTDIR") throw error
    // A link or a file that was put in its place.
    await ignoreAbsence(unlink(join(parent.reach, name)))
    return undefined
  })
  if (top === undefined) return
  try {
    requireSame(parent, top)
    const removal: Removal = { top, obstacle: undefined, hasMoved: false }
    do {
      removal.hasMoved = false
      await empty(removal, top, 1)
    } while (removal.hasMoved && removal.obstacle === undefined)
    if (removal.obstacle !== undefined) throw removal.obstacle
    await removeEmptied(removal, parent, top, name, 1)
  } finally {
    await top.close()
  }
}

/** Goes on past what cannot be removed. */
const empty = async (removal: Removal, place: Place, depth: number): Promise<void> => {
  for await (const { isDirectory, name } of entriesOf(place)) {
    try {
      if (isDirectory) await removeInner(removal, place, name, depth)
      else await ignoreAbsence(withAccess(place, () => unlink(join(place.reach, name))))
    } catch (error) {
      removal.obstacle ??= named(error, join(place.path, name))
    }
  }
}

const removeInner = async (removal: Removal, parent: Place, name: string, depth: number): Promise<void> => {
  // Most are empty, and one that is can be nothing that is mounted.
  if (await removedEmpty(parent, name)) return
  if (depth >= deepest) {
    // By a name that no job can have taken; what it is decides nothing that a test would look at.
    await withAccess(parent, () => rename(join(parent.reach, name), join(removal.top.reach, `.lull-${randomUUID()}`)))
    removal.hasMoved = true
    return
  }
  const inner = await enter(parent, name)
  if (inner === undefined) return
  try {
    requireSame(removal.top, inner)
    await empty(removal, inner, depth + 1)
    await removeEmptied(removal, parent, inner, name, depth + 1)
  } finally {
    await inner.close()
  }
}

const removedEmpty = async (parent: Place, name: string): Promise<boolean> => {
  try {
    await rmdir(join(parent.reach, name))
    return true
  } catch {
    return false
  }
}

/** What was written meanwhile goes as well. */
const removeEmptied = async (removal: Removal, parent: Place, place: Place, name: string, depth: number) => {
  for (let again = 0;; again++) {
    try {
      return await ignoreAbsence(withAccess(parent, () => rmdir(join(parent.reach, name))))
    } catch (error) {
      if (codeOf(error) !== "ENOTEMPTY" || again === repetitions || removal.obstacle !== undefined) throw error
    }
    await empty(removal, place, depth)
  }
}

const requireSame = (one: Place, other: Place): void => {
  if (one.identity !== other.identity) {
    throw new Error(
      `${other.path} is a mount or another device, and is left as it is; unmount it, then remove the rest`
    )
  }
}

/** A list that is read while entries of it are removed, as it may be longer than memory. */
async function* entriesOf(place: Place): AsyncGenerator<{ readonly name: string; readonly isDirectory: boolean }> {
  for await (const entry of await withAccess(place, () => opendir(place.reach))) {
    yield { name: entry.name, isDirectory: entry.isDirectory() }
  }
}

/** Some tools (Go's module cache) write-protect their directories, and then nothing can be removed from them. */
const withAccess = async <A>(place: Place, run: () => Promise<A>): Promise<A> => {
  try {
    return await run()
  } catch (error) {
    if (codeOf(error) !== "EACCES" || !place.isOurs) throw error
    await chmod(place.reach, 0o700)
    return await run()
  }
}

// --- where directories are

/** Linux's `O_PATH`, which Node does not name: a handle of a directory that needs no right to read it. */
const pathOnly = 0o10000000

const hasDescriptors = existsSync("/proc/self/fdinfo")

/** The directory that holds those of jobs, which may be behind a link or a mount of its own. `undefined`: there is none. */
const openFirst = (path: string): Promise<Place | undefined> =>
  absent(hasDescriptors ? hold(path, path, constants.O_DIRECTORY, false) : byPath(path, false))

/** A directory in another one. `undefined`: it is gone. */
const enter = (parent: Place, name: string): Promise<Place | undefined> => {
  const path = join(parent.path, name)
  return absent(withAccess(parent, () =>
    hasDescriptors
      ? hold(join(parent.reach, name), path, constants.O_DIRECTORY | constants.O_NOFOLLOW, true)
      : byPath(path, true)))
}

const hold = async (reach: string, path: string, flags: number, isOurs: boolean): Promise<Place> => {
  const handle = await open(reach, pathOnly | flags)
  try {
    const { dev } = await handle.stat()
    return {
      path,
      reach: `/proc/self/fd/${handle.fd}`,
      identity: `${dev} ${mountOf(handle.fd)}`,
      isOurs,
      close: () => handle.close()
    }
  } catch (error) {
    await handle.close()
    throw error
  }
}

/** It is no file of a disk, so that reading it waits for nothing. */
const mountOf = (descriptor: number): string =>
  /^mnt_id:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${descriptor}`, "latin1"))?.[1] ?? ""

const byPath = async (path: string, isOurs: boolean): Promise<Place> => {
  const status = await lstat(path)
  if (isOurs && !status.isDirectory()) throw Object.assign(new Error(`${path} is no directory`), { code: "ENOTDIR" })
  return { path, reach: path, identity: String(status.dev), isOurs, close: () => Promise.resolve() }
}

// --- errors

const codeOf = (error: unknown): unknown => error instanceof Error && "code" in error ? error.code : undefined

const absent = <A>(found: Promise<A>): Promise<A | undefined> =>
  found.catch((error: unknown) => {
    if (codeOf(error) === "ENOENT") return undefined
    throw error
  })

const ignoreAbsence = async (removed: Promise<void>): Promise<void> => void await absent(removed)

/** The path that the system was given says nothing to a reader. */
const named = (error: unknown, path: string): unknown => {
  const code = codeOf(error)
  return typeof code === "string" ? Object.assign(new Error(`${code} at ${path}`), { code }) : error
}
