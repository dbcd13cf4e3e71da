/** A disk in memory that can be full, slow to take bytes, or broken at any call. */
import { basename, dirname } from "node:path"
import type { FileStatus, LogDisk } from "../../../src/logging/file/LogDisk.ts"

export type Call = "open" | "write" | "truncate" | "rename" | "remove" | "list"

interface File {
  readonly id: string
  content: Buffer
  modifiedAt: number
}

export const makeFakeDisk = (now: () => number) => {
  const files = new Map<string, File>()
  const open = new Map<number, File>()
  let next = 1
  const faults = new Map<Call, string>()
  let capacity = Number.POSITIVE_INFINITY
  let mostAtOnce = Number.POSITIVE_INFINITY
  const counts: Record<Call, number> = { open: 0, write: 0, truncate: 0, rename: 0, remove: 0, list: 0 }
  const afterWrite: Array<() => void> = []

  const failed = (code: string) => Object.assign(new Error(`${code}: scripted`), { code })
  const call = (name: Call) => {
    counts[name]++
    const code = faults.get(name)
    if (code !== undefined) throw failed(code)
  }
  const statusFrom = ({ content, id, modifiedAt }: File): FileStatus => ({
    id,
    size: content.length,
    modifiedAt,
    isFile: true
  })
  /** Files that were removed or renamed away while open are not counted, as `du` does not. */
  const used = (directory?: string) =>
    [...files].reduce(
      (sum, [path, { content }]) => directory === undefined || dirname(path) === directory ? sum + content.length : sum,
      0
    )

  const disk: LogDisk = {
    open: (path) => {
      call("open")
      let file = files.get(path)
      if (file === undefined) {
        files.set(path, file = { id: `inode ${next++}`, content: Buffer.alloc(0), modifiedAt: now() })
      }
      open.set(next, file)
      return next++
    },
    close: (descriptor) => {
      if (!open.delete(descriptor)) throw failed("EBADF")
    },
    write: (descriptor, bytes, offset, length) => {
      call("write")
      const file = open.get(descriptor)
      if (file === undefined) throw failed("EBADF")
      const taken = Math.min(length, mostAtOnce, capacity - used())
      if (taken <= 0) throw failed("ENOSPC")
      file.content = Buffer.concat([file.content, bytes.subarray(offset, offset + taken)])
      file.modifiedAt = now()
      for (const each of afterWrite) each()
      return taken
    },
    truncate: (descriptor, size) => {
      call("truncate")
      const file = open.get(descriptor)!
      file.content = file.content.subarray(0, size)
    },
    status: (descriptor) => statusFrom(open.get(descriptor)!),
    statusOf: (path) => {
      const file = files.get(path)
      return file && statusFrom(file)
    },
    lastByte: (path, size) => files.get(path)!.content[size - 1]!,
    list: (directory) => {
      call("list")
      return [...files].filter(([path]) => dirname(path) === directory).map(([path, file]) => ({
        name: basename(path),
        ...statusFrom(file)
      }))
    },
    makeDirectory: () => undefined,
    rename: (from, to) => {
      call("rename")
      const file = files.get(from)
      if (file === undefined) throw failed("ENOENT")
      files.delete(from)
      files.set(to, file)
    },
    remove: (path) => {
      call("remove")
      if (!files.delete(path)) throw failed("ENOENT")
    },
    // As large as before: the worst that can happen to a quota.
    compressed: async function*(path) {
      const content = files.get(path)?.content ?? Buffer.alloc(0)
      for (let at = 0; at < content.length; at += 1_000) {
        await Promise.resolve()
        yield content.subarray(at, at + 1_000)
      }
    },
    onExit: () => () => undefined
  }

  return {
    disk,
    files,
    faults,
    counts,
    afterWrite,
    used,
    openDescriptors: () => open.size,
    /** As at the end of a process. */
    closeAll: () => open.clear(),
    text: (path: string) => files.get(path)?.content.toString(),
    put: (path: string, text: string, modifiedAt = now()) =>
      void files.set(path, { id: `inode ${next++}`, content: Buffer.from(text), modifiedAt }),
    setCapacity: (bytes: number) => void (capacity = bytes),
    setMostAtOnce: (bytes: number) => void (mostAtOnce = bytes)
  }
}
