/**
 * `lull migrate`: brings the tables up to date with a role that may, so that the service runs with one that may not. See
 * docs/schema.md.
 */
import { Console, Data, Effect, Layer, Option, Schedule } from "effect"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import { InvalidDatabaseUrl } from "../database/ConnectionUrl.ts"
import { Migrator, type Report, SchemaBlocked } from "../database/Migrations.ts"
import * as PostgresLink from "../database/PostgresLink.ts"
import { Replica } from "../database/Replica.ts"
import { grantsTo, SchemaForbidden } from "../database/SchemaState.ts"
import { classify } from "../database/Unavailable.ts"
import { visible } from "../logging/VisibleText.ts"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { fromConfig, type Settings } from "../Settings.ts"
import { statuses } from "./Client.ts"
import { ExitWith } from "./ExitWith.ts"
import { describeFailure } from "./failureText.ts"

export class NoDatabaseToMigrate extends Data.TaggedError("NoDatabaseToMigrate")<{}> {
  override get message() {
    return "LULL_DATABASE_URL is not set: it should name the database and the role that may change its schema; " +
      "the embedded database is brought up to date by lull serve"
  }
}

const grantTo = Flag.String("grant-to").pipe(
  Flag.withDescription("A role that gets the rights the service needs, and no others"),
  Flag.optional
)

const patience = Flag.Int("wait").pipe(
  Flag.withDescription("How many seconds to wait for sessions that hold locks"),
  Flag.withDefault(60)
)

const describe = ({ applied, from, to }: Report): string =>
  applied.length === 0
    ? `the schema of the database is ${to}: there is nothing to do`
    : `the schema of the database was brought from ${from} to ${to}: ${
      applied.map(({ id, name }) => `${id} ${name}`).join(", ")
    }`

/** Says once who is in the way, and tries again until `seconds` have passed. */
const insist = <A, E, R>(attempt: Effect.Effect<A, E, R>, seconds: number): Effect.Effect<A, E, R> =>
  Effect.flatMap(monotonicMillis, (begunAt) => {
    let said = ""
    return attempt.pipe(
      Effect.tapError((error) => {
        if (!(error instanceof SchemaBlocked) || error.message === said) return Effect.void
        said = error.message
        return Console.error(visible(said))
      }),
      Effect.retry({
        schedule: Schedule.spaced("500 millis"),
        // Not `Schedule.upTo`, which goes by the time of day.
        while: (error) =>
          error instanceof SchemaBlocked
            ? Effect.map(monotonicMillis, (now) => now - begunAt < seconds * 1_000)
            : Effect.succeed(false)
      })
    )
  })

/** As of the other commands: settings that are wrong, a right that is missing, a database that is away or in use. */
const statusOf = (error: unknown): number => {
  if (error instanceof NoDatabaseToMigrate || error instanceof InvalidDatabaseUrl) return statuses.usage
  if (error instanceof SchemaForbidden) return statuses.notPermitted
  const found = classify(error)
  if (found?.reason === "Misconfigured") return found.code?.startsWith("28") ? statuses.notPermitted : statuses.failed
  return found === undefined || found.reason === "SchemaMissing" ? statuses.failed : statuses.unavailable
}

const run = Effect.fnUntraced(function*(settings: Settings, flags: {
  readonly grantTo: Option.Option<string>
  readonly patience: number
}) {
  if (settings.databaseUrl === undefined) return yield* new NoDatabaseToMigrate()
  const link = PostgresLink.layer({ url: settings.databaseUrl, prepare: settings.databasePrepare })
  yield* Effect.gen(function*() {
    const migrator = yield* Migrator
    const role = Option.getOrUndefined(flags.grantTo)
    yield* Console.log(describe(yield* insist(migrator.migrate(role), flags.patience)))
    if (role !== undefined) yield* Console.log(grantsTo(role).map((grant) => `${grant};`).join("\n"))
  }).pipe(Effect.provide(link.pipe(Layer.provide(Replica.layer))))
})

export const migrate = Command.make("migrate", { grantTo, patience }, (flags) =>
  Effect.gen(function*() {
    const settings = yield* fromConfig
    yield* Effect.catch(run(settings, flags), (error) =>
      Effect.andThen(Console.error(visible(describeFailure(error))), Effect.fail(new ExitWith(statusOf(error)))))
  })).pipe(
    Command.withDescription(
      "Bring the tables in LULL_DATABASE_URL up to date, with a role that may, and let another role use them"
    ),
    Command.withShortDescription("Bring the database up to date")
  )
