/**
 * Runs one job. What a job of a type means is said here and nowhere else: the acquire loop hands a leased job to the
 * executor, and gets back how it ended.
 *
 * Interruption is cancellation. An executor that is interrupted returns only once nothing of the job runs any more, so
 * that "canceled" in the database is a fact, not an intention.
 */
import { Context, Data, Effect, Layer, Schema } from "effect"
import type { Duration } from "effect"
import * as ChildProcess from "./ChildProcess.ts"
import type { LeasedJob } from "./Job.ts"
import type { JobUser } from "./JobUser.ts"

/** What an executor may tell about a job while it runs. */
export interface JobOutput {
  /**
   * Adds complete text lines to the job's log. Never waits for the database and never fails; what is beyond the limits
   * is cut and the cut is marked.
   */
  readonly write: (stream: "stdout" | "stderr" | "lull", lines: ReadonlyArray<string>) => Effect.Effect<void>
}

/** The job was run and failed: `error` is one sentence, `result` any JSON value that is worth keeping. */
export class ExecutionFailed extends Data.TaggedError("ExecutionFailed")<{
  readonly error: string
  readonly result: unknown
}> {
  override get message() {
    return this.error
  }
}

/**
 * The job was not started, for a reason that has nothing to do with it: a full disk, no process left. The worker gives it back
 * as it was, and takes no other until it can run jobs again.
 */
export class ExecutorUnable extends Data.TaggedError("ExecutorUnable")<{
  /** What is wrong, in one sentence. */
  readonly reason: string
}> {
  override get message() {
    return this.reason
  }
}

/** Runs one job to its end and returns its result, any JSON value. */
export type Run = (job: LeasedJob, output: JobOutput) => Effect.Effect<unknown, ExecutionFailed | ExecutorUnable>

export class Executor extends Context.Service<Executor, {
  /** Runs one job to its end. Interruption cancels it: it returns only once nothing of the job runs any more. */
  readonly run: Run
  /** The types of jobs that it runs; no others are taken. Default: all. */
  readonly types?: ReadonlyArray<string> | undefined
  /** Whether it could run a job now. Asked before the first one, and when `run` has failed as unable. Default: it can. */
  readonly ready?: Effect.Effect<void, ExecutorUnable> | undefined
}>()("lull/provisioner/Executor") {
  /** Runs jobs of the type `command` as child processes; see `ChildProcess` for what a command may rely on. */
  static readonly layerChildProcess = (options: {
    /** Working directories are made below it. */
    readonly directory: string
    /** Between SIGTERM and SIGKILL. Default 5 seconds. */
    readonly terminationGrace?: Duration.Input | undefined
    /** Who the commands run as; only root can run them as somebody else. Default: the user of this process. */
    readonly user?: JobUser | undefined
  }): Layer.Layer<Executor> =>
    Layer.effect(
      Executor,
      Effect.map(ChildProcess.make(options), (runner) =>
        Executor.of({
          run: commandRun(runner.run),
          types: [commandType],
          ready: Effect.mapError(runner.ready, unable)
        }))
    )

  /** Runs jobs in this process, by a handler for each type. */
  static readonly layerHandlers = (handlers: Readonly<Record<string, Run>>): Layer.Layer<Executor> =>
    Layer.succeed(Executor, {
      types: Object.keys(handlers),
      run: (job, output) => {
        // A type is foreign input: "constructor" is no handler.
        const handler = Object.hasOwn(handlers, job.type) ? handlers[job.type] : undefined
        return handler === undefined ? Effect.fail(unknownType(job)) : handler(job, output)
      }
    })
}

/** The type of jobs that `layerChildProcess` runs. */
export const commandType = "command"

const unknownType = (job: LeasedJob) =>
  new ExecutionFailed({ error: `no executor here runs jobs of the type ${JSON.stringify(job.type)}`, result: null })

const unable = ({ reason }: ChildProcess.NoGround) => new ExecutorUnable({ reason })

const commandRun = (runCommand: Effect.Success<ReturnType<typeof ChildProcess.make>>["run"]): Run =>
  Effect.fnUntraced(function*(job, output) {
    if (job.type !== commandType) return yield* unknownType(job)
    const input = yield* decodeInput(job.input)
    const { exitCode, signal } = yield* runCommand(job, input, output).pipe(
      Effect.mapError((error) =>
        error._tag === "NoGround"
          ? unable(error)
          : new ExecutionFailed({ error: error.error, result: { exitCode: error.exitCode, signal: null } })
      )
    )
    if (exitCode === 0) return { exitCode, signal }
    return yield* new ExecutionFailed({
      error: signal === null ? `exit status ${exitCode}` : `killed by ${signal}`,
      result: { exitCode, signal }
    })
  })

const decodeInput = (input: unknown) =>
  Schema.decodeUnknownEffect(ChildProcess.CommandInput)(input, { onExcessProperty: "error" }).pipe(
    Effect.mapError(({ message }) =>
      new ExecutionFailed({ error: `the input is not a command: ${message.replaceAll(/\s+/g, " ")}`, result: null })
    )
  )
