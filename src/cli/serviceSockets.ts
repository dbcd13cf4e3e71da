/** The sockets of the service: as many as its settings and its open files allow; and that there are too many is said. */
import { Clock, Effect } from "effect"
import { readFile } from "node:fs/promises"
import * as ClientAddress from "../http/ClientAddress.ts"
import * as Descriptors from "../http/Descriptors.ts"
import { takeOffPrefix, withoutPrefix } from "../http/PublicUrl.ts"
import * as Sockets from "../http/Sockets.ts"
import type { Settings } from "../Settings.ts"

/** How many connections are taken at a time, of which most are those of peers. */
const mostConnections = 16_000

/** The heartbeat, the listener, and a stream of rows. */
const connectionsBesidePool = 3

/** As many connections as there are files for, beside those that jobs and the database need. */
const connectionLimit = Effect.fnUntraced(function*(settings: Settings) {
  // Where there is no such file, the limit is not known.
  const limits = yield* Effect.orElseSucceed(Effect.tryPromise(() => readFile("/proc/self/limits", "utf8")), () => "")
  const files = Descriptors.openFiles(limits)
  const most = Descriptors.connectionsWithin(mostConnections, files, {
    connections: settings.databaseConnections + connectionsBesidePool,
    jobs: settings.workerSlots
  })
  if (most < mostConnections) {
    yield* Effect.logInfo(
      `lull takes ${most} connections at a time instead of ${mostConnections}, as it may have ${files} open files: ` +
        "raise that limit (ulimit -n, LimitNOFILE) for more"
    )
  }
  return most
})

const refusedAs = {
  all: "connections are refused, as there are as many as the service takes",
  address: "connections are refused, as there are as many of one address as LULL_ADDRESS_CONNECTIONS allows"
}

const refusalsEveryMillis = 60_000

/** Says that connections are refused, when that begins, and again after a while: nobody else tells those who run the service. */
const refusals = Effect.gen(function*() {
  const clock = yield* Clock.Clock
  const run = Effect.runForkWith(yield* Effect.context<never>())
  let saidAt = Number.NEGATIVE_INFINITY
  return (of: keyof typeof refusedAs) => {
    const now = Number(clock.monotonicTimeNanosUnsafe()) / 1e6
    if (now - saidAt < refusalsEveryMillis) return
    saidAt = now
    run(Effect.logWarning(refusedAs[of]))
  }
})

export const make = Effect.fnUntraced(function*(settings: Settings) {
  const { publicUrl } = settings
  const sockets = Sockets.make({
    most: yield* connectionLimit(settings),
    perAddress: settings.addressConnections,
    trusted: ClientAddress.trusting(settings.trustedProxies),
    ownTarget: publicUrl === undefined ? undefined : (target) => withoutPrefix(target, publicUrl.prefix),
    onRefused: yield* refusals
  })
  // Before all that looks at the path.
  if (publicUrl !== undefined) takeOffPrefix(sockets.server, publicUrl)
  return sockets
})
