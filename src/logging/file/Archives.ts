/**
 * The names of the files of one log, and their order. `service.log` is written; `service-000042-20261123T101500Z.log` and
 * the same with `.gz` were. The number decides which is older: clocks jump, numbers do not. The time is for people.
 */
import { basename, extname } from "node:path"

export interface Archive {
  readonly name: string
  readonly sequence: number
  /** Whether it is as it was written, and not compressed yet. */
  readonly isPlain: boolean
}

export interface Naming {
  readonly archiveName: (sequence: number, at: number) => string
  /** `undefined`: it is none of this log. */
  readonly parse: (name: string) => Archive | undefined
  /** A copy that is being compressed, or was when a process ended. */
  readonly isPartial: (name: string) => boolean
}

/** Of what is being compressed, until it is whole. */
export const partialSuffix = ".gz.part"

const digits = 6

export const naming = (path: string): Naming => {
  const extension = extname(path)
  const stem = basename(path, extension)
  const pattern = new RegExp(
    `^${escape(stem)}-(\\d{${digits},15})-\\d{8}T\\d{6}Z${escape(extension)}(\\.gz|\\.gz\\.part)?$`
  )
  return {
    archiveName: (sequence, at) =>
      `${stem}-${String(sequence).padStart(digits, "0")}-${
        new Date(at).toISOString().replace(/\.\d+Z$/, "Z").replace(/[-:]/g, "")
      }${extension}`,
    parse: (name) => {
      const [, sequence, ending] = pattern.exec(name) ?? []
      return sequence === undefined || ending === partialSuffix
        ? undefined
        : { name, sequence: Number(sequence), isPlain: ending === undefined }
    },
    isPartial: (name) => pattern.exec(name)?.[2] === partialSuffix
  }
}

const escape = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")

/** Days count from midnight UTC, hours from the full hour. */
export const periodOf = (at: number, everyMillis: number): number => Math.floor(at / everyMillis)
