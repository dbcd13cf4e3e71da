/** `lull job submit|list|show|logs|cancel`: what a person or a script does with jobs, over the API. */
import { Config, Console, Effect, Option, Schedule, Stdio, Stream } from "effect"
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as SecureRandom from "effect/crypto/SecureRandom"
import type { JobDocument } from "../http/JobDocuments.ts"
import { clientAddress } from "../Settings.ts"
import * as Client from "./Client.ts"
import { ExitWith } from "./ExitWith.ts"

const url = Flag.String("url").pipe(
  Flag.withDescription("Address of the service (LULL_URL)"),
  Flag.withFallbackConfig(Config.String(clientAddress).pipe(Config.withDefault("http://127.0.0.1:7070")))
)
const json = Flag.Boolean("json").pipe(Flag.withDescription("Print JSON, for scripts"), Flag.withDefault(false))
const id = Argument.String("id").pipe(Argument.withDescription("Id of the job"))

const connect = Effect.fnUntraced(function*(address: string) {
  const token = yield* Config.option(Config.Redacted("LULL_TOKEN"))
  return yield* Client.make({ url: address.replace(/\/$/, ""), token })
})

/** To stderr: stdout is for results. */
const remark = (text: string) => Console.error(text)

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

const print = (asJson: boolean, job: JobDocument, text: (job: JobDocument) => string) =>
  Console.log(asJson ? JSON.stringify(job) : text(job))

const isEnded = (job: JobDocument) => job.status === "succeeded" || job.status === "failed" || job.status === "canceled"

/** That of the command, as a shell has it. */
const exitStatus = (job: JobDocument): number => {
  if (job.status === "succeeded") return 0
  if (job.status === "canceled") return 130
  const result = job.result
  const code = typeof result === "object" && result !== null && "exitCode" in result ? result.exitCode : undefined
  return typeof code === "number" && code > 0 ? code : 1
}

type Lull = Effect.Success<ReturnType<typeof connect>>

/** The output as it was written: to stdout what went to stdout, the rest to stderr. It survives lost connections. */
const followOutput = Effect.fnUntraced(function*(lull: Lull, job: string, follow: boolean, asJson: boolean) {
  const stdio = yield* Stdio.Stdio
  let after: string | undefined
  const write = (text: string, toStdout: boolean) =>
    Stream.run(Stream.make(text), toStdout ? stdio.stdout() : stdio.stderr())
  yield* Client.patiently(
    Stream.runForEach(Stream.suspend(() => lull.logs(job, follow, after)), (line) =>
      Effect.suspend(() => {
        after = `${line.attempt}:${line.index}`
        return asJson ? write(`${JSON.stringify(line)}\n`, true) : write(`${line.text}\n`, line.stream === "stdout")
      })),
    remark
  )
})

const submit = Command.make(
  "submit",
  {
    url,
    json,
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
    command: Argument.String("command").pipe(
      Argument.withDescription("The program and its arguments, after --"),
      Argument.variadic({ min: 1 })
    )
  },
  Effect.fnUntraced(function*(flags) {
    const lull = yield* connect(flags.url)
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
    // Who does not wait for the job does not wait for a service either: that it is not there is an error.
    const submitted = yield* flags.wait || flags.follow ? Client.patiently(submission, remark) : submission
    if (!flags.wait && !flags.follow) return yield* print(flags.json, submitted, ({ id }) => id)
    if (flags.follow) yield* followOutput(lull, submitted.id, true, false)
    const ended = yield* Effect.repeat(Client.patiently(lull.show(submitted.id), remark), {
      schedule: Schedule.spaced("200 millis"),
      until: isEnded
    })
    if (flags.json) yield* Console.log(JSON.stringify(ended))
    else yield* remark(`job ${ended.id} ${ended.status}${ended.error === null ? "" : `: ${ended.error}`}`)
    const status = exitStatus(ended)
    if (flags.wait && status !== 0) return yield* Effect.die(new ExitWith(status))
  })
).pipe(
  Command.withDescription("Submit a command as a job: lull job submit --wait --follow -- echo hello")
)

const list = Command.make(
  "list",
  {
    url,
    json,
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
  Effect.fnUntraced(function*(flags) {
    const lull = yield* connect(flags.url)
    const { jobs } = yield* lull.list([
      ["limit", String(flags.limit)],
      ...Option.match(flags.status, { onNone: () => [], onSome: (status) => [["status", status] as const] }),
      ...Object.entries(flags.tag).map(([name, value]) => ["tag", `${name}=${value}`] as const)
    ])
    yield* Effect.forEach(jobs, (job) => print(flags.json, job, summary), { discard: true })
  })
).pipe(Command.withDescription("List jobs, newest first: lull job list --status running"))

const show = Command.make(
  "show",
  { url, json, id },
  Effect.fnUntraced(function*(flags) {
    const lull = yield* connect(flags.url)
    yield* print(flags.json, yield* lull.show(flags.id), details)
  })
).pipe(Command.withDescription("Show a job: lull job show ID"))

const logs = Command.make(
  "logs",
  {
    url,
    json,
    id,
    follow: Flag.Boolean("follow").pipe(Flag.withDescription("Go on until the job has ended"), Flag.withDefault(false))
  },
  Effect.fnUntraced(function*(flags) {
    const lull = yield* connect(flags.url)
    yield* lull.show(flags.id)
    yield* followOutput(lull, flags.id, flags.follow, flags.json)
  })
).pipe(Command.withDescription("Show the output of a job: lull job logs --follow ID"))

const cancel = Command.make(
  "cancel",
  { url, json, id },
  Effect.fnUntraced(function*(flags) {
    const lull = yield* connect(flags.url)
    yield* print(flags.json, yield* lull.cancel(flags.id), (job) => `${job.id} ${job.status}`)
  })
).pipe(Command.withDescription("Cancel a job, pending or running: lull job cancel ID"))

export const job = Command.make("job").pipe(
  Command.withDescription("Submit and look after jobs"),
  Command.withSubcommands([submit, list, show, logs, cancel])
)
