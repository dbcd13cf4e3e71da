/**
 * Where the server listens: a Unix socket in a directory that only its account may enter. On a port of the loopback any user of the
 * machine could wait for the moment in which the server is down, take its place, and ask who connects for the password.
 *
 * The directory is `socket` beside the data, or one in the system's place for temporary files, where the path is too long for a socket,
 * the file system has none, or the account may not pass.
 */
import { Effect } from "effect"
import { chmod, chown, lstat, mkdir, rm } from "node:fs/promises"
import { createServer } from "node:net"
import { join } from "node:path"
import { socketPath } from "../ConnectionUrl.ts"
import type { Account } from "./ServerAccount.ts"
import * as TemporaryDirectory from "./TemporaryDirectory.ts"

/** What `sockaddr_un` holds, without the NUL at its end. */
const longestPath = process.platform === "linux" ? 107 : 103

/** No port is taken by it: it is a part of the socket's name. */
export const defaultPort = 5432

export interface Options {
  /** Of the server. */
  readonly directory: string
  readonly account: Account
  /** Whether the account may pass to it. */
  readonly isReachable: boolean
  readonly port: number
}

/** The directory of the socket; `undefined` where there can be none. */
export const choose = Effect.fnUntraced(function*({ account, directory, isReachable, port }: Options) {
  const owner = account.ids?.uid
  const beside = Effect.gen(function*() {
    if (!isReachable) return yield* Effect.fail("out of reach")
    const path = join(directory, "socket")
    yield* Effect.tryPromise(() => mkdir(path, { recursive: true, mode: 0o700 }))
    const status = yield* Effect.tryPromise(() => lstat(path))
    if (!status.isDirectory() || (status.uid !== process.getuid?.() && status.uid !== owner)) {
      return yield* Effect.fail("it is somebody else's")
    }
    return yield* prepare(path, account, port)
  })
  const elsewhere = Effect.flatMap(
    TemporaryDirectory.make({ purpose: "socket", directory, owner }),
    (path) => prepare(path, account, port)
  )
  return yield* Effect.orElseSucceed(Effect.catch(beside, () => elsewhere), () => undefined)
})

/** Removes what a server that was killed has left. Another process may have its id by now, and PostgreSQL would believe in that. */
export const removeStale = (directory: string, port: number) =>
  Effect.ignore(Effect.tryPromise(async () => {
    const path = socketPath(directory, port)
    for (const left of [path, `${path}.lock`]) await rm(left, { force: true })
  }))

/** The setting `unix_socket_directories`: a list, in which each may be quoted. */
export const setting = (directory: string): string => `"${directory.replaceAll("\"", "\"\"")}"`

/** Makes it private, and proves that it can hold a socket. */
const prepare = Effect.fnUntraced(function*(path: string, { ids }: Account, port: number) {
  if (Buffer.byteLength(socketPath(path, port)) > longestPath) return yield* Effect.fail("its path is too long")
  yield* Effect.tryPromise(async () => {
    await chmod(path, 0o700)
    if (ids !== undefined) await chown(path, ids.uid, ids.gid)
  })
  yield* probe(join(path, "probe"))
  return path
})

const probe = (path: string) =>
  Effect.andThen(
    Effect.ignore(Effect.tryPromise(() => rm(path, { force: true }))),
    Effect.callback<void, Error>((resume) => {
      const server = createServer()
      server.once("error", (error) => resume(Effect.fail(error)))
      server.listen(path, () => server.close(() => resume(Effect.void)))
    })
  )
