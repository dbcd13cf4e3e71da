/** Who the jobs of `lull serve` run as, and what is said where that is not somebody of their own. */
import { Effect } from "effect"
import { chmod, mkdir, stat } from "node:fs/promises"
import { join } from "node:path"
import * as JobUser from "../provisioner/JobUser.ts"
import type { Settings } from "../Settings.ts"

export const directoryOf = ({ dataDirectory }: Settings): string => join(dataDirectory, "jobs")

/** `undefined`: the user of the service. */
export const find = (settings: Settings) =>
  settings.jobUser === undefined || settings.workerSlots === 0
    ? Effect.succeed(undefined)
    : JobUser.find(settings.jobUser, directoryOf(settings))

/** Who runs a server may read its data, and jobs must not be that one. */
export const apartFrom = Effect.fnUntraced(function*(settings: Settings, data: string) {
  const user = yield* find(settings)
  if (user === undefined || settings.jobUser === undefined) return
  const owner = yield* Effect.option(Effect.tryPromise(() => stat(data)))
  if (owner._tag === "Some" && owner.value.uid === user.uid) {
    return yield* new JobUser.JobUserUnusable({
      user: settings.jobUser,
      problem: "the embedded PostgreSQL runs as the same user, and jobs could read its data; choose another one"
    })
  }
})

/**
 * Before the log, whose own directory is in it and closed: jobs of another user and the server of root have to pass. One that was
 * there is left as it is. What is wrong with it is said by those who need it.
 */
export const makeDataDirectory = ({ dataDirectory }: Settings) =>
  Effect.ignore(Effect.tryPromise(async () => {
    if (await mkdir(dataDirectory, { recursive: true }) === undefined) return
    await chmod(dataDirectory, process.getuid?.() === 0 ? JobUser.passableMode : 0o700)
  }))

/** The process that has to collect those whose parents are gone. */
const init = 1

/** What is wrong with the place of a service that runs jobs: pure. */
export const warnings = (
  { jobUser, workerSlots }: Settings,
  place: { readonly uid: number | undefined; readonly pid: number }
): ReadonlyArray<string> =>
  workerSlots === 0 ? [] : [
    ...jobUser !== undefined || place.uid !== 0
      ? []
      : [
        "jobs run as root, and may read and change all that the service may, its secrets included: set LULL_JOB_USER to a user of their own"
      ],
    ...place.pid !== init
      ? []
      : [
        "lull is process 1, and collects no processes that jobs leave behind: run it under an init, as by docker run --init"
      ]
  ]

export const warn = (settings: Settings) =>
  Effect.forEach(
    warnings(settings, { uid: process.getuid?.(), pid: process.pid }),
    (line) => Effect.logWarning(line),
    { discard: true }
  )
