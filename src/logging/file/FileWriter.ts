/**
 * Writes records to a log file and keeps its directory below a quota, whatever the disk does. Synchronous, without a
 * clock and without a timer of its own: `RotatingFile` brings those. It throws nothing: what cannot be written is kept up
 * to a bound, then dropped, and how much was dropped is written as soon as writing works again.
 *
 * Before each write the bytes are reserved: what is in the directory and they may not exceed the quota, so old files go
 * first. Once a second, and when something goes wrong, what is there is read anew, as others may have changed it.
 */
import { basename, dirname, join } from "node:path"
import { errorText } from "../ErrorText.ts"
import { type Archive, naming, partialSuffix, periodOf } from "./Archives.ts"
import type { LogDisk } from "./LogDisk.ts"

export interface Options {
  readonly path: string
  /** A file that would grow beyond it is rotated; at most half of the quota. */
  readonly maxBytes: number
  /** For the whole directory. */
  readonly quota: number
  /** Rotated when a new period begins. `undefined`: by size alone. */
  readonly everyMillis: number | undefined
  /** Written together, in UTF-16 units. */
  readonly bufferLength: number
}

export interface Outside {
  readonly wallMillis: () => number
  readonly monotonicMillis: () => number
  /** The record that says what was dropped. */
  readonly formatDropped: (dropped: Dropped) => string
  /** There is a file that could be compressed. */
  readonly onArchived: () => void
}

export interface Dropped {
  readonly records: number
  /** Wall clock, of the first and the last. */
  readonly firstAt: number
  readonly lastAt: number
  /** From the first to the last, whatever the wall clock did meanwhile. */
  readonly lastedMillis: number
  /** Of the error, as `ENOSPC`; `quota` where other files take it; `too long` for a record that no file has room for. */
  readonly reason: string
}

/** Whoever looks at the file or its directory from outside is noticed after this. */
const lookAgainAfterMillis = 1_000
/** While writing fails it is tried so often. */
const retryAfterMillis = 1_000
/** While writing fails so much is kept: the first records of a trouble, which say what it is. */
const keptWhileFailing = 64 * 1_024

const newline = 10
/** What deleting can mend. */
const isFull = (code: string) => code === "ENOSPC" || code === "EDQUOT"

export const codeOf = (error: unknown): string =>
  typeof error === "object" && error !== null && "code" in error && typeof error.code === "string"
    ? error.code
    : errorText(error)

/** The directory has no room beside the files of others. */
export class QuotaTaken extends Error {
  readonly code = "quota"
}

interface ArchiveFile extends Archive {
  readonly size: number
}

interface Compression {
  /** The names of the archive, and of what becomes of it. */
  readonly source: string
  readonly partial: string
  readonly descriptor: number
  size: number
}

export class FileWriter {
  readonly disk: LogDisk
  readonly options: Options
  readonly directory: string
  readonly #outside: Outside
  readonly #naming

  /** Complete records that are not written yet, and where each ends. */
  #pending = ""
  #ends: Array<number> = []
  #dropped: Dropped | undefined
  #droppingSince = 0

  #descriptor: number | undefined
  #id = ""
  #size = 0
  #period = 0
  /** The file ends within a line. */
  #isTorn = false

  #archives: Array<ArchiveFile> = []
  /** Bytes of files that are not ours, as of the last look. */
  #foreignBytes = 0
  #archiveBytes = 0
  #sequence = 0
  #lookedAt = Number.NEGATIVE_INFINITY
  #rotatableAt = Number.NEGATIVE_INFINITY

  #failure: string | undefined
  #retryAt = Number.NEGATIVE_INFINITY
  #compression: Compression | undefined

  droppedRecords = 0
  writtenRecords = 0

  constructor(disk: LogDisk, options: Options, outside: Outside) {
    this.disk = disk
    this.options = options
    this.directory = dirname(options.path)
    this.#outside = outside
    this.#naming = naming(options.path)
  }

  /** Why writing fails now. */
  get failure(): string | undefined {
    return this.#failure
  }

  /** Whether `flush` has something to do, now or later. */
  get isUnsettled(): boolean {
    return this.#ends.length > 0 || this.#dropped !== undefined || this.#failure !== undefined
  }

  /** Opens the file; throws what is in the way. */
  open(): void {
    this.disk.makeDirectory(this.directory)
    this.#openFile()
    this.#look()
    this.#makeRoom(0)
  }

  /** Takes one record, without its end of line. `isWrittenThrough`: it is with the kernel on return, if the kernel takes it. */
  append(record: string, isWrittenThrough: boolean): void {
    if (this.#failure !== undefined && this.#pending.length + record.length >= keptWhileFailing) {
      // Tried again by now, it may fit.
      this.flush()
      if (this.#failure !== undefined) return this.#countDropped(1, this.#failure)
    }
    this.#pending += record + "\n"
    this.#ends.push(this.#pending.length)
    if (isWrittenThrough || this.#pending.length >= this.options.bufferLength) this.flush()
  }

  /** Writes what is pending. */
  flush(): void {
    if (!this.isUnsettled) return
    if (this.#failure !== undefined && this.#outside.monotonicMillis() < this.#retryAt) return
    try {
      this.#flushPending()
      this.#failure = undefined
      this.#tellDropped()
    } catch (error) {
      this.#fail(codeOf(error))
    }
  }

  /** The file was renamed or is to be made anew. What is pending belongs to the old one. */
  reopen(): void {
    this.flush()
    this.#close()
    this.#retryAt = Number.NEGATIVE_INFINITY
    try {
      this.open()
    } catch (error) {
      this.#fail(codeOf(error))
    }
  }

  close(): void {
    this.abortCompression()
    this.#retryAt = Number.NEGATIVE_INFINITY
    this.flush()
    this.#close()
  }

  // --- writing

  #flushPending(): void {
    if (this.#descriptor === undefined) this.open()
    if (this.#ends.length === 0) return
    const bytes = Buffer.from(this.#pending)
    if (bytes.length > this.options.maxBytes) return this.#flushInParts()
    this.#prepare(bytes.length)
    this.#writeBytes(bytes)
    this.writtenRecords += this.#ends.length
    this.#pending = ""
    this.#ends = []
  }

  /** Record by record, as they do not fit into one file together. */
  #flushInParts(): void {
    while (this.#ends.length > 0) {
      const end = this.#ends[0]!
      const bytes = Buffer.from(this.#pending.slice(0, end))
      if (bytes.length > this.#largestWrite()) this.#countDropped(1, "too long")
      else {
        this.#prepare(bytes.length)
        this.#writeBytes(bytes)
        this.writtenRecords++
      }
      this.#forget(1)
    }
  }

  /** A record may be longer than a file should be, but not than the half of all files. */
  #largestWrite(): number {
    return Math.max(this.options.maxBytes, Math.floor(this.options.quota / 2)) - 1
  }

  /** The first records are no longer pending. */
  #forget(records: number): void {
    const end = this.#ends[records - 1] ?? 0
    this.#pending = this.#pending.slice(end)
    this.#ends = this.#ends.slice(records).map((at) => at - end)
  }

  #prepare(bytes: number): void {
    const now = this.#outside.monotonicMillis()
    if (this.#descriptor === undefined) this.open()
    else if (now - this.#lookedAt >= lookAgainAfterMillis) this.#lookAgain()
    const { everyMillis, maxBytes } = this.options
    const isLong = this.#size + bytes > maxBytes
    const isOld = everyMillis !== undefined && this.#isOfEarlierPeriod(everyMillis)
    if (this.#size > 0 && (isLong || isOld) && now >= this.#rotatableAt) this.#rotate()
    this.#makeRoom(bytes + (this.#isTorn ? 1 : 0))
  }

  /**
   * By the time of day, as files are one for each day. A clock that is set back takes the file's day back with it: else a file that was
   * begun while the clock was a year ahead would not be rotated for a year.
   */
  #isOfEarlierPeriod(everyMillis: number): boolean {
    const now = periodOf(this.#outside.wallMillis(), everyMillis)
    this.#period = Math.min(this.#period, now)
    return now > this.#period
  }

  /** All of it, however little the kernel takes at a time; what is not whole is taken back. */
  #writeBytes(bytes: Uint8Array): void {
    const descriptor = this.#descriptor!
    const before = this.#size
    try {
      if (this.#isTorn) {
        this.#writeFully(descriptor, Uint8Array.of(newline))
        this.#isTorn = false
      }
      this.#writeFully(descriptor, bytes)
    } catch (error) {
      this.#takeBack(descriptor, before)
      throw error
    }
  }

  #writeFully(descriptor: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length;) {
      try {
        const written = this.disk.write(descriptor, bytes, done, bytes.length - done)
        // Zero is no progress; asked again for ever it would be a hang.
        if (written === 0) throw Object.assign(new Error("nothing was written"), { code: "EIO" })
        done += written
        this.#size += written
      } catch (error) {
        const code = codeOf(error)
        if (code === "EINTR" || (isFull(code) && this.#removeOldest())) continue
        throw error
      }
    }
  }

  /** Half a record is worse than none: readers of JSON lines stumble over it. */
  #takeBack(descriptor: number, size: number): void {
    if (this.#size === size) return
    try {
      // Only if nobody else has written behind it.
      if (this.disk.status(descriptor).size === this.#size) {
        this.disk.truncate(descriptor, size)
        this.#size = size
        return
      }
    } catch {
      // It stays, and the next record begins on a line of its own.
    }
    this.#isTorn = true
  }

  // --- failing

  #fail(reason: string): void {
    this.#failure = reason
    this.#retryAt = this.#outside.monotonicMillis() + retryAfterMillis
    this.#close()
    this.#shed(reason)
  }

  /** The newest are dropped beyond what is kept. */
  #shed(reason: string): void {
    if (this.#pending.length <= keptWhileFailing) return
    let kept = this.#ends.length
    while (kept > 0 && this.#ends[kept - 1]! > keptWhileFailing) kept--
    this.#countDropped(this.#ends.length - kept, reason)
    this.#ends.length = kept
    this.#pending = this.#pending.slice(0, this.#ends[kept - 1] ?? 0)
  }

  #countDropped(records: number, reason: string): void {
    const now = this.#outside.wallMillis()
    const at = this.#outside.monotonicMillis()
    if (this.#dropped === undefined) this.#droppingSince = at
    this.droppedRecords += records
    this.#dropped = {
      records: (this.#dropped?.records ?? 0) + records,
      firstAt: this.#dropped?.firstAt ?? now,
      lastAt: now,
      lastedMillis: at - this.#droppingSince,
      reason
    }
  }

  #tellDropped(): void {
    if (this.#dropped === undefined) return
    const bytes = Buffer.from(this.#outside.formatDropped(this.#dropped) + "\n")
    this.#prepare(bytes.length)
    this.#writeBytes(bytes)
    this.#dropped = undefined
  }

  // --- the file

  #openFile(): void {
    const { disk, options: { everyMillis, path } } = this
    const existing = disk.statusOf(path)
    if (existing !== undefined && !existing.isFile) {
      throw Object.assign(new Error(`${path} is no regular file`), { code: "EINVAL" })
    }
    const descriptor = disk.open(path)
    try {
      const status = disk.status(descriptor)
      this.#isTorn = status.size > 0 && disk.lastByte(path, status.size) !== newline
      this.#id = status.id
      this.#size = status.size
      this.#period = everyMillis === undefined
        ? 0
        : periodOf(status.size > 0 ? status.modifiedAt : this.#outside.wallMillis(), everyMillis)
    } catch (error) {
      disk.close(descriptor)
      throw error
    }
    this.#descriptor = descriptor
  }

  #close(): void {
    const descriptor = this.#descriptor
    this.#descriptor = undefined
    if (descriptor === undefined) return
    try {
      this.disk.close(descriptor)
    } catch {
      // The kernel has given up the descriptor whatever it answers.
    }
  }

  /** What is in the directory now. */
  #look(): void {
    this.#lookedAt = this.#outside.monotonicMillis()
    const own = basename(this.options.path)
    this.#archives = []
    this.#archiveBytes = 0
    this.#foreignBytes = 0
    for (const { isFile, modifiedAt, name, size } of this.disk.list(this.directory)) {
      const archive = isFile ? this.#naming.parse(name) : undefined
      if (name === own) this.#size = size
      else if (archive !== undefined) {
        this.#archives.push({ ...archive, size })
        this.#archiveBytes += size
        this.#sequence = Math.max(this.#sequence, archive.sequence)
      } else if (isFile && this.#naming.isPartial(name)) {
        if (name === this.#compression?.partial) continue
        // Of a process that ended meanwhile. One that lives has touched it just now. Wall time, as the file's is nothing else: after a
        // step one that lives loses a copy, which it makes again.
        if (Math.abs(this.#outside.wallMillis() - modifiedAt) < 60_000) this.#foreignBytes += size
        else this.disk.remove(join(this.directory, name))
      } else this.#foreignBytes += size
    }
    this.#archives.sort((one, other) => one.sequence - other.sequence)
    this.#removeTwins()
  }

  /** A file that is there compressed and as it was: a process ended between the two. */
  #removeTwins(): void {
    const names = new Set(this.#archives.map(({ name }) => name))
    for (const { isPlain, name, size } of this.#archives) {
      if (!isPlain || !names.has(`${name}.gz`)) continue
      try {
        this.disk.remove(join(this.directory, name))
      } catch {
        // Then next time; it counts for as long.
        continue
      }
      this.#archiveBytes -= size
      this.#archives = this.#archives.filter((each) => each.name !== name)
    }
  }

  /** Whether somebody has renamed, removed or cut the file; and what is in the directory. */
  #lookAgain(): void {
    const status = this.disk.statusOf(this.options.path)
    if (status?.id !== this.#id) {
      this.#close()
      return this.open()
    }
    this.#look()
  }

  #rotate(): void {
    const { disk, options: { path } } = this
    const now = this.#outside.wallMillis()
    let sequence = this.#sequence
    let name: string
    try {
      // Another process may write the same log, against advice.
      do name = this.#naming.archiveName(++sequence, now)
      while (disk.statusOf(join(this.directory, name)) !== undefined)
      disk.rename(path, join(this.directory, name))
    } catch {
      // Then it grows on, which is better than no log; the quota holds all the same.
      this.#rotatableAt = this.#outside.monotonicMillis() + retryAfterMillis
      return
    }
    this.#sequence = sequence
    this.#archives.push({ name, sequence, size: this.#size, isPlain: true })
    this.#archiveBytes += this.#size
    this.#outside.onArchived()
    this.#size = 0
    this.#close()
    this.#openFile()
  }

  // --- the quota

  get #used(): number {
    return this.#size + this.#archiveBytes + this.#foreignBytes + (this.#compression?.size ?? 0)
  }

  #makeRoom(bytes: number): void {
    const { quota } = this.options
    if (this.#used + bytes <= quota) return
    // Nothing is deleted in vain.
    if (this.#foreignBytes + bytes > quota) throw new QuotaTaken()
    while (this.#used + bytes > quota) {
      if (this.#removeOldest()) continue
      // The oldest that is left is what is being written.
      if (this.#size === 0) throw new QuotaTaken()
      this.#rotate()
      if (this.#size > 0 || !this.#removeOldest()) throw new QuotaTaken()
    }
  }

  /** `false`: there is none, or it cannot be removed. */
  #removeOldest(): boolean {
    const [oldest] = this.#archives
    if (oldest === undefined) return false
    if (this.#compression?.source === oldest.name) this.abortCompression()
    try {
      this.disk.remove(join(this.directory, oldest.name))
    } catch (error) {
      if (codeOf(error) !== "ENOENT") return false
    }
    this.#archives.shift()
    this.#archiveBytes -= oldest.size
    return true
  }

  // --- compression

  get hasUncompressed(): boolean {
    return this.#archives.some(({ isPlain }) => isPlain)
  }

  /** Begins with the oldest file that is not compressed yet, and returns its path. */
  startCompression(): string | undefined {
    if (this.#compression !== undefined || this.#failure !== undefined) return undefined
    const source = this.#archives.find(({ isPlain }) => isPlain)
    if (source === undefined) return undefined
    const partial = source.name + partialSuffix
    try {
      this.disk.remove(join(this.directory, partial))
    } catch {
      // As it should be: there is none.
    }
    try {
      const descriptor = this.disk.open(join(this.directory, partial))
      this.#compression = { source: source.name, partial, descriptor, size: 0 }
    } catch {
      return undefined
    }
    return join(this.directory, source.name)
  }

  /** `false`: it is not worth going on, as the room is needed or the file is gone. */
  addCompressed(bytes: Uint8Array): boolean {
    const compression = this.#compression
    if (compression === undefined) return false
    try {
      for (let done = 0; done < bytes.length;) {
        this.#makeRoom(bytes.length - done)
        if (this.#compression !== compression) return false
        const written = this.disk.write(compression.descriptor, bytes, done, bytes.length - done)
        if (written === 0) throw new Error("nothing was written")
        done += written
        compression.size += written
      }
      return true
    } catch {
      this.abortCompression()
      return false
    }
  }

  /** The compressed file takes the place of the other. `false`: it could not. */
  endCompression(): boolean {
    const compression = this.#compression
    if (compression === undefined) return false
    const { descriptor, partial, size, source } = compression
    const name = `${source}.gz`
    try {
      this.disk.close(descriptor)
      this.disk.rename(join(this.directory, partial), join(this.directory, name))
      this.#compression = undefined
      this.#archiveBytes += size
      const index = this.#archives.findIndex((each) => each.name === source)
      const plain = this.#archives[index]
      if (plain === undefined) return true
      this.#archives.splice(index, 0, { name, sequence: plain.sequence, size, isPlain: false })
      this.disk.remove(join(this.directory, source))
      this.#archives.splice(index + 1, 1)
      this.#archiveBytes -= plain.size
      return true
    } catch {
      if (this.#compression === compression) this.abortCompression()
      return false
    }
  }

  /** No trace is left of it. */
  abortCompression(): void {
    const compression = this.#compression
    if (compression === undefined) return
    this.#compression = undefined
    try {
      this.disk.close(compression.descriptor)
    } catch {
      // Given up all the same.
    }
    try {
      this.disk.remove(join(this.directory, compression.partial))
    } catch {
      // Found and removed later, as one of a process that ended.
    }
  }
}
