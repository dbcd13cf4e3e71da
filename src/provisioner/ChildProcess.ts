/**
 * Runs commands as child processes, and leaves nothing of them behind.
 *
 * A command gets a process group of its own, a working directory of its own that is removed afterwards, and exactly
 * this environment: what its input says, `PATH` and `HOME` (the service's, unless given), `TMPDIR` (the directory `tmp`
 * in the working directory) and two names of the job, `LULL_JOB_ID` and `LULL_JOB_LEASE` (unique for each attempt).
 * Nothing else of the service's environment, as that holds secrets.
 *
 * However a command ends, by itself or by interruption, the same follows: what is left of its group gets SIGTERM, and
 * SIGKILL after the grace; processes that left the group are killed (see `ProcessGroup`); output that is in the pipes
 * by then is read, for a bounded time; the directory is removed (see `DirectoryRemoval`). If the service itself is killed, a
 * guard ends the job (see `ProcessGuard`); its working directory then stays.
 *
 * Not promised: isolation. A command runs as the service's user and may read what that user may read, unless it is given another
 * user (`JobUser`), whom it shares with all other commands. Its standard streams are sockets, as always under Node, so a script that *opens* `/dev/stdout` gets an error; writing to it works.
 * POSIX only.
 *
 * Why not `effect/process`: it reports a death by signal as text only, ends a left-over group without escalation,
 * and its streams end with the pipes, which a daemon may hold for ever.
 */
import { Clock, Data, Duration, Effect, Fiber, Schema } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { lchown, mkdir, writeFile } from "node:fs/promises"
import { dirname, join, resolve } from "node:path"
import type { Readable } from "node:stream"
import { errorText } from "../logging/ErrorText.ts"
import * as DirectoryRemoval from "./DirectoryRemoval.ts"
import type { JobOutput } from "./Executor.ts"
import type { LeasedJob } from "./Job.ts"
import * as JobUser from "./JobUser.ts"
import { lineSplitter } from "./OutputLines.ts"
import * as ProcessGroup from "./ProcessGroup.ts"
import * as ProcessGuard from "./ProcessGuard.ts"

/** The command never ran. `exitCode` is what a shell would answer: 127 not found, 126 not executable. */
export class CommandNotStarted extends Data.TaggedError("CommandNotStarted")<{
  readonly error: string
  readonly exitCode: number | null
}> {
  override get message() {
    return this.error
  }
}

/** No command could have run: nothing is wrong with this one. */
export class NoGround extends Data.TaggedError("NoGround")<{ readonly reason: string }> {
  override get message() {
    return this.reason
  }
}

/** What the operating system passes on as text ends at NUL, so a NUL would silently cut it. */
const Text = Schema.String.pipe(
  Schema.check(Schema.makeFilter((text: string) => !text.includes("\0") || "must not contain NUL"))
)

/** The input of a job of the type `command`. */
export const CommandInput = Schema.Struct({
  /** The program, searched in `PATH` unless it has a slash, and its arguments. No shell is involved. */
  command: Schema.NonEmptyArray(Text).pipe(
    Schema.check(
      Schema.makeFilter(([program]: readonly [string, ...Array<string>]) =>
        program !== "" || "the program must not be empty"
      )
    )
  ),
  env: Schema.Record(Schema.String, Text).pipe(
    Schema.check(
      Schema.makeFilter((env: Readonly<Record<string, string>>) =>
        Object.keys(env).every((name) => /^[^=\0]+$/.test(name)) || "names must not be empty or contain = or NUL"
      )
    ),
    Schema.withDecodingDefault(Effect.succeed({}))
  ),
  /** What the command reads. Without it, it reads the end at once. */
  stdin: Schema.NullOr(Schema.String).pipe(Schema.withDecodingDefault(Effect.succeed(null)))
})
export type CommandInput = typeof CommandInput.Type

/** How the first process of a command ended: one of the two is `null`. */
export interface CommandEnd {
  readonly exitCode: number | null
  readonly signal: string | null
}

export interface Options {
  /** Working directories are made below it. */
  readonly directory: string
  /** Between SIGTERM and SIGKILL. Default 5 seconds: `terraform` and the like want to save what they have begun. */
  readonly terminationGrace?: Duration.Input | undefined
  /** Who the commands run as. Default: the user of the service. */
  readonly user?: JobUser.JobUser | undefined
}

/** For a service that has no PATH itself. */
const defaultPath = "/usr/local/bin:/usr/bin:/bin"

/** After all processes are gone the pipes end by themselves. If not, somebody out of reach holds them, and is not waited for. */
const drainLimit = Duration.seconds(2)

/** Makes a runner of commands whose interruption ends the command. The scope ends the guard. */
export const make = Effect.fnUntraced(function*(options: Options) {
  const directory = resolve(options.directory)
  const grace = Duration.fromInputUnsafe(options.terminationGrace ?? Duration.seconds(5))
  const guard = yield* ProcessGuard.make(grace)
  const pace = makePace()

  /** Starts the command and the reading of its output, which goes on during `stop`. */
  const start = Effect.fnUntraced(function*(input: CommandInput, environment: Environment, output: JobOutput) {
    const { child, stderr, stdout } = yield* spawnCommand(input, environment, options.user)
    const id = child.pid ?? 0
    yield* guard.watch(id, leaseEntry(environment.lease))
    const readers = yield* Effect.forkScoped(
      Effect.all([pump(stdout, "stdout", output, pace), pump(stderr, "stderr", output, pace)], {
        concurrency: "unbounded",
        discard: true
      })
    )
    return { child, group: { id, hasExited: () => hasExited(child) }, readers, lease: environment.lease }
  })

  const stop = Effect.fnUntraced(function*(running: Effect.Success<ReturnType<typeof start>>, output: JobOutput) {
    const { child, group, lease, readers } = running
    const isCanceled = !hasExited(child)
    const end = yield* ProcessGroup.terminate(group, grace)
    const killed = yield* ProcessGroup.killMarked(leaseEntry(lease), group.id)
    yield* guard.forget(group.id)
    yield* Effect.timeoutOption(Fiber.await(readers), drainLimit)
    yield* Fiber.interrupt(readers)
    for (const stream of child.stdio) stream?.destroy()
    const remarks = [
      ...end === "killed" ? [`[lull: still running ${Duration.format(grace)} after SIGTERM, ended by SIGKILL]`] : [],
      ...!isCanceled && end === "terminated" ? ["[lull: processes that the job left behind were ended]"] : [],
      ...killed > 0 ? [`[lull: ${killed} processes that had left the job's process group were killed]`] : []
    ]
    if (remarks.length > 0) yield* output.write("lull", remarks)
  })

  const run = Effect.fn("ChildProcess.run")(function*(job: LeasedJob, input: CommandInput, output: JobOutput) {
    const cwd = join(directory, `${job.job}-${job.attempt}`)
    // It is given away last: who has a directory may put a link into it.
    yield* Effect.acquireRelease(makeDirectory(cwd, undefined), () => removeDirectory(cwd))
    yield* makeDirectory(temporaryDirectory(cwd), options.user)
    yield* giveAway(cwd, options.user)
    const running = yield* Effect.acquireRelease(
      start(input, { cwd, job: job.job, lease: `${job.job}/${job.token}` }, output),
      (running) => stop(running, output)
    )
    return yield* awaitExit(running.child)
  }, Effect.scoped)

  /** Whether a directory can be made and written into, and a process be started. */
  const ready = Effect.gen(function*() {
    const cwd = join(directory, `.ready-${process.pid}`)
    // Of the service's own: in a directory of the job user a link could lead anywhere.
    yield* Effect.acquireRelease(makeDirectory(cwd, undefined), () => removeDirectory(cwd))
    yield* Effect.tryPromise({
      try: () => writeFile(join(cwd, "probe"), "x".repeat(probeBytes), { flag: "wx" }),
      catch: (cause) => new NoGround({ reason: `could not write into the directory of jobs: ${describe(cause)}` })
    })
  }).pipe(Effect.scoped)

  return { run, ready }
})

/** A block of a disk: a full one still makes empty files. */
const probeBytes = 4_096

interface Environment {
  readonly cwd: string
  readonly job: string
  /** One attempt of one job, so that a marker is never found in an earlier attempt's processes. */
  readonly lease: string
}

const leaseEntry = (lease: string) => `LULL_JOB_LEASE=${lease}`

const temporaryDirectory = (cwd: string) => join(cwd, "tmp")

const spawnCommand = (input: CommandInput, environment: Environment, user: JobUser.JobUser | undefined) =>
  Effect.callback<{ child: ChildProcess; stdout: Chunks; stderr: Chunks }, CommandNotStarted | NoGround>((resume) => {
    const [program, ...args] = input.command
    const env = {
      PATH: process.env["PATH"] ?? defaultPath,
      HOME: user?.home ?? process.env["HOME"] ?? environment.cwd,
      ...input.env,
      TMPDIR: temporaryDirectory(environment.cwd),
      LULL_JOB_ID: environment.job,
      LULL_JOB_LEASE: environment.lease
    }
    const stdin = input.stdin === null ? "ignore" : "pipe"
    const fail = (cause: unknown) =>
      resume(Effect.fail(noGround(environment.cwd, cause) ?? notStarted(program, cause, env["PATH"] ?? "")))
    try {
      const child = spawn(program, args, {
        cwd: environment.cwd,
        detached: true,
        env,
        // With them Node also gives up the groups of the service.
        ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
        stdio: [stdin, "pipe", "pipe"]
      })
      // In the same turn as the spawn: when a process exits, Node discards what nobody listens for.
      const stdout = chunks(child.stdout)
      const stderr = chunks(child.stderr)
      child.on("error", fail)
      child.once("spawn", () => resume(Effect.succeed({ child, stdout, stderr })))
      // A command need not read its input: EPIPE is its right.
      child.stdin?.on("error", () => {})
      child.stdin?.end(input.stdin)
    } catch (cause) {
      // Some errors are thrown (E2BIG), others are events (ENOENT).
      fail(cause)
    }
  })

/** What a spawn fails with when it is not the command's fault: no process, memory or descriptor left, no directory. */
const groundCodes: ReadonlySet<string> = new Set(["EAGAIN", "ENOMEM", "EMFILE", "ENFILE", "ENOBUFS", "ENOSPC", "EIO"])

const noGround = (cwd: string, cause: unknown): NoGround | undefined => {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : ""
  if (groundCodes.has(code)) return new NoGround({ reason: `could not start a process: ${describe(cause)}` })
  // A missing working directory is answered like a missing program.
  return code === "ENOENT" && !existsSync(cwd)
    ? new NoGround({ reason: `the working directory ${cwd} is gone` })
    : undefined
}

const notStarted = (program: string, cause: unknown, path: string): CommandNotStarted => {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : ""
  const name = JSON.stringify(program)
  // A directory of PATH that this user may not read answers EACCES for a program that is nowhere.
  const isNowhere = code === "EACCES" && !program.includes("/") &&
    !path.split(":").some((directory) => existsSync(join(directory, program)))
  if (code === "ENOENT" || isNowhere) {
    return new CommandNotStarted({ error: `command not found: ${name}, or its interpreter`, exitCode: 127 })
  }
  if (code === "EACCES" || code === "ENOEXEC" || code === "EISDIR" || code === "ENOTDIR") {
    return new CommandNotStarted({ error: `command not executable: ${name} (${code})`, exitCode: 126 })
  }
  if (code === "E2BIG") {
    return new CommandNotStarted({
      error: `command not executable: the arguments and environment of ${name} are too large`,
      exitCode: 126
    })
  }
  return new CommandNotStarted({ error: `could not start ${name}: ${describe(cause)}`, exitCode: null })
}

const describe = (cause: unknown) => errorText(cause)

const hasExited = (child: ChildProcess) => child.exitCode !== null || child.signalCode !== null

const awaitExit = (child: ChildProcess) =>
  Effect.callback<CommandEnd>((resume) => {
    const end = () => resume(Effect.succeed({ exitCode: child.exitCode, signal: child.signalCode }))
    if (hasExited(child)) return end()
    child.once("exit", end)
    return Effect.sync(() => child.off("exit", end))
  })

/** A pipe that is read on demand only, so that a writer that is faster than its reader waits. */
interface Chunks {
  /** What is there, or the next to come; `undefined` at the end. */
  readonly next: Effect.Effect<Uint8Array | undefined>
}

const chunks = (stream: Readable | null): Chunks => {
  let isOver = stream === null
  let wake = () => {}
  const over = () => {
    isOver = true
    wake()
  }
  stream?.on("readable", () => wake())
  stream?.on("end", over).on("close", over).on("error", over)
  return {
    next: Effect.callback<Uint8Array | undefined>((resume) => {
      const attempt = () => {
        const chunk: Uint8Array | null | undefined = stream?.read()
        if (!(chunk instanceof Uint8Array) && !isOver) return
        wake = () => {}
        resume(Effect.succeed(chunk ?? undefined))
      }
      wake = attempt
      attempt()
    })
  }
}

/**
 * A job that writes as fast as it can would otherwise take the event loop from all others: its reader rests for
 * `restFactor` times what it worked, and longer the more readers rest. So 100 MB of ordinary log lines take a second, all
 * readers together at most half of the time, and a quiet job never rests.
 */
const restFactor = 2

/** Work is rested from in portions, as a timer is not worth less than a few milliseconds. */
const workPortion = 5_000_000n

interface Pace {
  readonly rest: (worked: bigint) => Effect.Effect<void>
}

const makePace = (): Pace => {
  let resting = 0
  return {
    rest: (worked) =>
      Effect.suspend(() => {
        resting++
        return Effect.sleep(Duration.nanos(worked * BigInt(restFactor * resting)))
      }).pipe(Effect.ensuring(Effect.sync(() => resting--)))
  }
}

const pump = (source: Chunks, stream: "stdout" | "stderr", output: JobOutput, pace: Pace) =>
  Effect.suspend(() => {
    const splitter = lineSplitter()
    const write = (lines: ReadonlyArray<string>) => lines.length === 0 ? Effect.void : output.write(stream, lines)
    return Effect.gen(function*() {
      let worked = 0n
      while (true) {
        const chunk = yield* source.next
        if (chunk === undefined) return
        const from = yield* Clock.monotonicTimeNanos
        yield* write(splitter.push(chunk))
        worked += (yield* Clock.monotonicTimeNanos) - from
        if (worked < workPortion) {
          yield* Effect.yieldNow
        } else {
          yield* pace.rest(worked)
          worked = 0n
        }
      }
    }).pipe(Effect.ensuring(Effect.suspend(() => write(splitter.end()))))
  })

/** Closed to others. `false`: something is there already. */
const makeNew = async (directory: string, user: JobUser.JobUser | undefined): Promise<boolean> => {
  try {
    await mkdir(directory, { mode: directoryMode })
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined
    if (code === "EEXIST") return false
    if (code !== "ENOENT") throw error
    await mkdir(dirname(directory), {
      recursive: true,
      mode: user === undefined ? directoryMode : JobUser.passableMode
    })
    await mkdir(directory, { mode: directoryMode })
  }
  if (user !== undefined) await lchown(directory, user.uid, user.gid)
  return true
}

const directoryMode = 0o700

const makeDirectory = (cwd: string, user: JobUser.JobUser | undefined) => {
  const attempt = Effect.tryPromise({ try: () => makeNew(cwd, user), catch: (cause) => noDirectory(describe(cause)) })
  return Effect.flatMap(attempt, (isNew) => isNew ? Effect.void : replaceDirectory(cwd, user))
}

/** Nothing is there, unless a service was killed and its database is an older copy by now. */
const replaceDirectory = Effect.fnUntraced(function*(cwd: string, user: JobUser.JobUser | undefined) {
  yield* Effect.mapError(DirectoryRemoval.remove(cwd), ({ message }) => noDirectory(message))
  yield* Effect.tryPromise({
    try: () => makeNew(cwd, user),
    catch: (cause) => noDirectory(describe(cause))
  })
})

const giveAway = (directory: string, user: JobUser.JobUser | undefined) =>
  user === undefined ? Effect.void : Effect.tryPromise({
    try: () => lchown(directory, user.uid, user.gid),
    catch: (cause) => noDirectory(describe(cause))
  })

const noDirectory = (problem: string) => new NoGround({ reason: `could not make a directory for a job: ${problem}` })

/** A directory that cannot be removed is no failure of the job, but somebody has to know. */
const removeDirectory = (cwd: string) =>
  Effect.catch(DirectoryRemoval.remove(cwd), ({ message }) => Effect.logWarning(message))
