/** `lull job submit|list|show|logs|cancel`: what a person or a script does with jobs, over the API. */
import { Config, Console, Duration, Effect, Option, Schedule, Stdio, Stream } from "effect"
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as SecureRandom from "effect/crypto/SecureRandom"
import type { JobDocument } from "../http/JobDocuments.ts"
import { clientAddress } from "../Settings.ts"
import * as Client from "./Client.ts"
import * as ClientToken from "./clientToken.ts"
import { describeError } from "./errorText.ts"
import { ExitWith } from "./ExitWith.ts"
import { Interruption } from "./Interruption.ts"
import { exitStatus, isEnded, statusHelp } from "./jobStatus.ts"

const defaultAddress = "http://127.0.0.1:7070"

const url = Flag.String("url").pipe(
  Flag.withDescription("Address of the service (LULL_URL)"),
  Flag.withFallbackConfig(
    Config.String(clientAddress).pipe(
      Config.withDefault(defaultAddress),
      // An empty one is not set; no other one could be meant.
      Config.map((text) => text.trim() === "" ? defaultAddress : text)
    )
  )
)
const json = Flag.Boolean("json").pipe(
  Flag.withDescription("Print JSON alone, for scripts: a line for each result, and on stderr for each remark"),
  Flag.withDefault(false)
)
const waitForService = Flag.Boolean("wait-for-service").pipe(
  Flag.withDescription("Wait for a service that does not answer, instead of giving up"),
  Flag.withDefault(false)
)
const id = Argument.String("id").pipe(Argument.withDescription("Id of the job"))

/** What all of these commands are asked with. */
const common = { url, json, waitForService }

interface Common {
  readonly url: string
  readonly json: boolean
  readonly waitForService: boolean
}

const connect = Effect.fnUntraced(function*(flags: Common) {
  const token = Option.fromUndefinedOr((yield* ClientToken.read(["LULL_TOKEN"]))?.token)
  return yield* Client.make(yield* Client.readTarget(flags.url, token))
})

type Lull = Client.Client

/** To stderr, as stdout is for results: in words, or as one of the fields of a JSON object. */
const remark = (flags: Common, field: "job" | "notice" | "error", text: string, more: object = {}) =>
  Console.error(flags.json ? JSON.stringify({ [field]: text, ...more }) : field === "job" ? `job ${text}` : text)

const patience = (flags: Common): Client.Patience => ({
  waitsForService: flags.waitForService,
  say: (text) => remark(flags, "notice", text)
})

/** A command that asks once: it waits for nobody, unless that was wanted. */
const once = <A, E, R>(lull: Lull, flags: Common, effect: Effect.Effect<A, E | Client.NotNow, R>) =>
  flags.waitForService ? Client.patiently(lull, effect, patience(flags)) : effect

/** Errors are said here, in the form that was asked for. */
const handled = <E, R>(flags: Common, effect: Effect.Effect<void, E, R>): Effect.Effect<void, never, R> =>
  Effect.catch(effect, (error) => {
    const status = error instanceof Client.CommandFailed
      ? error.status
      : error instanceof Client.NotNow
      ? Client.statuses.unavailable
      : Client.statuses.failed
    const said = remark(flags, "error", describeError(error), { status })
    return Effect.andThen(said, Effect.die(new ExitWith(status)))
  })

const summary = (job: JobDocument) => {
  const what = typeof job.input === "object" && job.input !== null && "command" in job.input
    ? job.input.command
    : job.type
  const text = Array.isArray(what) ? what.join(" ") : String(what)
  return `${job.id}  ${job.status.padEnd(9)}  ${job.createdAt}  ${text.length > 60 ? `${text.slice(0, 59)}…` : text}`
}

const details = (job: JobDocument) =>
  Object.entries(job).map(([name, value]) =>
    `${name.padEnd(15)} ${typeof value === "string" ? value : JSON.stringify(value)}`
  ).join("\n")

const print = (flags: Common, job: JobDocument, text: (job: JobDocument) => string) =>
  Console.log(flags.json ? JSON.stringify(job) : text(job))

/**
 * The output as it was written: to stdout what went to stdout, the rest to stderr; as JSON, all of it to stdout. It survives
 * lost connections.
 */
const followOutput = Effect.fnUntraced(function*(lull: Lull, job: string, follow: boolean, flags: Common) {
  const stdio = yield* Stdio.Stdio
  let after: string | undefined
  const write = (text: string, toStdout: boolean) =>
    Stream.run(Stream.make(text), toStdout ? stdio.stdout() : stdio.stderr())
  yield* Client.patiently(
    lull,
    Stream.runForEach(Stream.suspend(() => lull.logs(job, follow, after)), (line) =>
      Effect.suspend(() => {
        after = `${line.attempt}:${line.index}`
        return flags.json
          ? write(`${JSON.stringify(line)}\n`, true)
          : write(`${line.text}\n`, line.stream === "stdout")
      })),
    patience(flags)
  )
})

/** How long a command that was interrupted tries to cancel its job. */
const cancelWithin = Duration.seconds(5)

/** What is said of its job, and done with it, when the command is interrupted. `submitted`: as far as it is known by then. */
const leaveJob = Effect.fnUntraced(function*(
  lull: Lull,
  flags: Common & { readonly cancelOnInterrupt: boolean },
  submitted: JobDocument | undefined,
  submission: ReturnType<Lull["submit"]>
) {
  const name = submitted === undefined ? "the job" : `job ${submitted.id}`
  if (!flags.cancelOnInterrupt) {
    return yield* remark(
      flags,
      "notice",
      submitted === undefined
        ? "interrupted before the service had answered: the job may have been submitted"
        : `${name} goes on; this cancels it: lull job cancel ${submitted.id}`
    )
  }
  const patient = { waitsForService: true, say: () => Effect.void }
  // Under the same key it is the same job, also if it was stored before and the answer did not come.
  const job = submitted === undefined ? Client.patiently(lull, submission, patient) : Effect.succeed(submitted)
  yield* Effect.flatMap(job, ({ id }) => Client.patiently(lull, lull.cancel(id), patient)).pipe(
    Effect.timeout(cancelWithin),
    Effect.matchEffect({
      onSuccess: (canceled) => remark(flags, "notice", `job ${canceled.id} ${canceled.status}`),
      onFailure: (error) => remark(flags, "error", `${name} was not canceled: ${describeError(error)}`)
    })
  )
})

const submit = Command.make(
  "submit",
  {
    ...common,
    tag: Flag.KeyValuePair("tag").pipe(
      Flag.withDescription("key=value, repeatable: only workers whose tags cover these take the job"),
      Flag.withDefault({})
    ),
    priority: Flag.Int("priority").pipe(Flag.withDescription("Higher runs first"), Flag.withDefault(0)),
    env: Flag.KeyValuePair("env").pipe(
      Flag.withDescription("NAME=value, repeatable: the environment of the command"),
      Flag.withDefault({})
    ),
    timeout: Flag.Finite("timeout").pipe(Flag.withDescription("Seconds after which it is stopped"), Flag.optional),
    maxAttempts: Flag.Int("max-attempts").pipe(
      Flag.withDescription("How often it may be started"),
      Flag.withDefault(1)
    ),
    notBefore: Flag.String("not-before").pipe(Flag.withDescription("A time, as 2026-01-31T12:00:00Z"), Flag.optional),
    idempotencyKey: Flag.String("idempotency-key").pipe(
      Flag.withDescription("A second submission with the same key is the same job"),
      Flag.optional
    ),
    wait: Flag.Boolean("wait").pipe(
      Flag.withDescription("Wait until it has ended, and exit with its status"),
      Flag.withDefault(false)
    ),
    follow: Flag.Boolean("follow").pipe(
      Flag.withDescription("Show its output while it runs"),
      Flag.withDefault(false)
    ),
    cancelOnInterrupt: Flag.Boolean("cancel-on-interrupt").pipe(
      Flag.withDescription("Cancel the job when this command is interrupted while it waits"),
      Flag.withDefault(false)
    ),
    command: Argument.String("command").pipe(
      Argument.withDescription("The program and its arguments, after --"),
      Argument.variadic({ min: 1 })
    )
  },
  Effect.fnUntraced(function*(flags) {
    yield* handled(
      flags,
      Effect.gen(function*() {
        if (flags.cancelOnInterrupt && !flags.wait && !flags.follow) {
          return yield* new Client.CommandFailed({
            message: "--cancel-on-interrupt is for a command that waits: with --wait or --follow",
            status: Client.statuses.usage
          })
        }
        const lull = yield* connect(flags)
        const random = yield* SecureRandom.SecureRandom
        // So that asking again, when an answer was lost, is safe.
        const key = Option.getOrElse(flags.idempotencyKey, () => undefined) ?? `cli-${yield* random.uuidV4()}`
        const submission = lull.submit({
          type: "command",
          input: { command: flags.command, env: flags.env },
          tags: flags.tag,
          priority: flags.priority,
          idempotencyKey: key,
          timeoutSeconds: Option.getOrNull(flags.timeout),
          maxAttempts: flags.maxAttempts,
          notBefore: Option.getOrNull(flags.notBefore)
        })
        if (!flags.wait && !flags.follow) {
          // Who does not wait for the job does not wait for a service either: that it is not there is an error.
          const stored = yield* once(lull, flags, submission)
          yield* sayRemark(flags, stored)
          return yield* print(flags, stored, ({ id }) => id)
        }
        const interruption = yield* Interruption
        interruption.includesHangup()
        yield* waitForJob(lull, flags, submission)
      })
    )
  })
).pipe(
  Command.withDescription(
    `Submit a command as a job: lull job submit --wait --follow -- echo hello\n\n${statusHelp}`
  ),
  Command.withShortDescription("Submit a command as a job")
)

/** Why it is not started, as it is in its JSON, too. */
const sayRemark = (flags: Common, job: JobDocument) =>
  flags.json || job.remark === null ? Effect.void : remark(flags, "notice", job.remark)

/** To the end of the job, whose status is then ours. */
const waitForJob = Effect.fnUntraced(function*(
  lull: Lull,
  flags: Common & { readonly wait: boolean; readonly follow: boolean; readonly cancelOnInterrupt: boolean },
  submission: ReturnType<Lull["submit"]>
) {
  let submitted: JobDocument | undefined
  const ended = yield* Effect.gen(function*() {
    const job = yield* Client.patiently(lull, submission, patience(flags))
    submitted = job
    yield* remark(flags, "job", job.id)
    yield* sayRemark(flags, job)
    if (flags.follow) yield* followOutput(lull, job.id, true, flags)
    return yield* Effect.repeat(Client.patiently(lull, lull.show(job.id), patience(flags)), {
      schedule: Schedule.spaced("200 millis"),
      until: isEnded
    })
  }).pipe(Effect.onInterrupt(() => leaveJob(lull, flags, submitted, submission)))
  if (flags.json) yield* Console.log(JSON.stringify(ended))
  else yield* Console.error(`job ${ended.id} ${ended.status}${ended.error === null ? "" : `: ${ended.error}`}`)
  const status = exitStatus(ended)
  if (flags.wait && status !== 0) return yield* Effect.die(new ExitWith(status))
})

const list = Command.make(
  "list",
  {
    ...common,
    status: Flag.Literals("status", ["pending", "running", "canceling", "succeeded", "failed", "canceled"]).pipe(
      Flag.withDescription("Only jobs of this status"),
      Flag.optional
    ),
    tag: Flag.KeyValuePair("tag").pipe(
      Flag.withDescription("Only jobs with this tag, repeatable"),
      Flag.withDefault({})
    ),
    limit: Flag.Int("limit").pipe(Flag.withDescription("At most this many, newest first"), Flag.withDefault(20))
  },
  (flags) =>
    handled(
      flags,
      Effect.gen(function*() {
        const lull = yield* connect(flags)
        const { jobs } = yield* once(
          lull,
          flags,
          lull.list([
            ["limit", String(flags.limit)],
            ...Option.match(flags.status, { onNone: () => [], onSome: (status) => [["status", status] as const] }),
            ...Object.entries(flags.tag).map(([name, value]) => ["tag", `${name}=${value}`] as const)
          ])
        )
        yield* Effect.forEach(jobs, (job) => print(flags, job, summary), { discard: true })
      })
    )
).pipe(Command.withDescription("List jobs, newest first: lull job list --status running"))

const show = Command.make(
  "show",
  { ...common, id },
  (flags) =>
    handled(
      flags,
      Effect.gen(function*() {
        const lull = yield* connect(flags)
        yield* print(flags, yield* once(lull, flags, lull.show(flags.id)), details)
      })
    )
).pipe(Command.withDescription("Show a job: lull job show ID"))

const logs = Command.make(
  "logs",
  {
    ...common,
    id,
    follow: Flag.Boolean("follow").pipe(Flag.withDescription("Go on until the job has ended"), Flag.withDefault(false))
  },
  (flags) =>
    handled(
      flags,
      Effect.gen(function*() {
        const lull = yield* connect(flags)
        yield* once(lull, flags, lull.show(flags.id))
        yield* followOutput(lull, flags.id, flags.follow, flags)
      })
    )
).pipe(Command.withDescription("Show the output of a job: lull job logs --follow ID"))

const cancel = Command.make(
  "cancel",
  { ...common, id },
  (flags) =>
    handled(
      flags,
      Effect.gen(function*() {
        const lull = yield* connect(flags)
        yield* print(flags, yield* once(lull, flags, lull.cancel(flags.id)), (job) => `${job.id} ${job.status}`)
      })
    )
).pipe(Command.withDescription("Cancel a job, pending or running: lull job cancel ID"))

export const job = Command.make("job").pipe(
  Command.withDescription("Submit and look after jobs"),
  Command.withSubcommands([submit, list, show, logs, cancel])
)
