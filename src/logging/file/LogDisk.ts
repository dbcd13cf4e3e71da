/**
 * What a log file needs of a disk, synchronously: a record that is written through is with the kernel before the program
 * goes on. A service, so that tests can fill a disk or break it at any write. All functions throw as `node:fs` does.
 */
import { Context } from "effect"
import {
  closeSync,
  constants,
  createReadStream,
  fstatSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  statSync,
  unlinkSync,
  writeSync
} from "node:fs"
import { join } from "node:path"
import { createGzip } from "node:zlib"

export interface FileStatus {
  /** Of this file and no other: a path that is renamed away and made anew leads to another one. */
  readonly id: string
  readonly size: number
  readonly modifiedAt: number
  readonly isFile: boolean
}

export interface LogDisk {
  /** Opens for appending, makes it if need be; never waits for the other end of a pipe. */
  readonly open: (path: string) => number
  readonly close: (descriptor: number) => void
  /** May write less than it was asked to. */
  readonly write: (descriptor: number, bytes: Uint8Array, offset: number, length: number) => number
  readonly truncate: (descriptor: number, size: number) => void
  readonly status: (descriptor: number) => FileStatus
  /** `undefined`: there is none. */
  readonly statusOf: (path: string) => FileStatus | undefined
  /** The last byte of a file that is not empty. */
  readonly lastByte: (path: string, size: number) => number
  readonly list: (directory: string) => ReadonlyArray<FileStatus & { readonly name: string }>
  readonly makeDirectory: (directory: string) => void
  readonly rename: (from: string, to: string) => void
  readonly remove: (path: string) => void
  /** The content of a file as gzip, piece by piece. */
  readonly compressed: (path: string) => AsyncIterable<Uint8Array>
  /** Calls it when the process ends in whatever way but by a signal; returns how to undo that. */
  readonly onExit: (run: () => void) => () => void
}

/** Logs may hold what is nobody else's business. Who is to read them is let into the directory. */
const fileMode = 0o640
const directoryMode = 0o700

const ofStats = (stats: ReturnType<typeof fstatSync>): FileStatus => ({
  id: `${stats.dev}:${stats.ino}`,
  size: Number(stats.size),
  modifiedAt: Number(stats.mtimeMs),
  isFile: stats.isFile()
})

const nodeDisk: LogDisk = {
  open: (path) =>
    openSync(path, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK, fileMode),
  close: closeSync,
  write: (descriptor, bytes, offset, length) => writeSync(descriptor, bytes, offset, length),
  truncate: ftruncateSync,
  status: (descriptor) => ofStats(fstatSync(descriptor)),
  statusOf: (path) => {
    const stats = statSync(path, { throwIfNoEntry: false })
    return stats && ofStats(stats)
  },
  lastByte: (path, size) => {
    const descriptor = openSync(path, "r")
    try {
      const byte = new Uint8Array(1)
      readSync(descriptor, byte, 0, 1, size - 1)
      return byte[0]!
    } finally {
      closeSync(descriptor)
    }
  },
  list: (directory) =>
    readdirSync(directory).flatMap((name) => {
      const stats = lstatSync(join(directory, name), { throwIfNoEntry: false })
      return stats === undefined ? [] : [{ name, ...ofStats(stats) }]
    }),
  makeDirectory: (directory) => void mkdirSync(directory, { recursive: true, mode: directoryMode }),
  rename: renameSync,
  remove: unlinkSync,
  compressed: (path) => createReadStream(path).compose(createGzip()),
  onExit: (run) => {
    process.on("exit", run)
    return () => void process.off("exit", run)
  }
}

/** Where log files are. Default: the file system. */
export const LogDisk: Context.Reference<LogDisk> = Context.Reference("lull/logging/LogDisk", {
  defaultValue: () => nodeDisk
})
