/**
 * A file that holds a secret, as systemd's credentials, Docker's secrets and Kubernetes' volumes bring it. It is read at once and
 * on the spot: it is small, on a disk of this machine, and read at the start and on SIGHUP only.
 */
import { Result } from "effect"
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs"
import { errorText } from "./logging/ErrorText.ts"

/** Far more than two tokens, or a URL of many hosts; what is larger is another file. */
const mostBytes = 64 * 1024

const words: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file",
  ENOTDIR: "there is no such file",
  EACCES: "this process has no right to read it",
  EPERM: "this process has no right to read it",
  EISDIR: "it is a directory",
  ELOOP: "its links lead in a circle"
}

const explain = (error: unknown): string => {
  const code = typeof error === "object" && error !== null && "code" in error ? String(error.code) : ""
  return words[code] ?? errorText(error)
}

/** A pipe without a writer would hold up the process, so nothing is waited for when it is opened. */
const openFlags = constants.O_RDONLY | constants.O_NONBLOCK

const readOpen = (file: number): Result.Result<string, string> => {
  const stat = fstatSync(file)
  if (stat.isDirectory()) return Result.fail("it is a directory")
  if (!stat.isFile()) return Result.fail("it is no ordinary file")
  const bytes = Buffer.alloc(mostBytes + 1)
  let length = 0
  for (;;) {
    const read = readSync(file, bytes, length, bytes.length - length, null)
    length += read
    if (length > mostBytes) return Result.fail(`it has more than ${mostBytes} bytes`)
    if (read === 0) return Result.succeed(bytes.toString("utf8", 0, length))
  }
}

/** What it holds, or why it cannot be read, in words that go on after its name. */
export const read = (path: string): Result.Result<string, string> => {
  let file: number | undefined
  try {
    file = openSync(path, openFlags)
    return readOpen(file)
  } catch (error) {
    return Result.fail(explain(error))
  } finally {
    if (file !== undefined) closeSync(file)
  }
}
