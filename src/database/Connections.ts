/**
 * Opens connections to a host: a single one, or a pool. A server or pooler that refuses how a session of ours begins is asked
 * again at once with less (`SessionSettings`), which is remembered for as long as a connection lives, and said once.
 */
import { make as makePool, makeClient, type PgClient } from "@effect/sql-pg/PgClient"
import { Clock, Data, Duration, Effect, Exit, Result, Scope } from "effect"
import { Reactivity } from "effect/reactivity/Reactivity"
import { connectWithin, forDriver, type Host } from "./ConnectionOptions.ts"
import { type Connector, make as makeConnector } from "./Connector.ts"
import * as SessionSettings from "./SessionSettings.ts"
import { TlsStream } from "./TlsStream.ts"

export interface Connections {
  readonly client: PgClient
  readonly connector: Connector
  readonly scope: Scope.Closeable
}

/** No connection outlives this: whatever a pooler or a name in front of the server changes is followed by then. */
export const connectionLifetime = Duration.minutes(5)

/** JSON and job output may hold any character, and no other encoding of PostgreSQL takes them all. */
export class DatabaseEncodingUnsuitable extends Data.TaggedError("DatabaseEncodingUnsuitable")<{
  readonly database: string
  readonly encoding: string
}> {
  override get message() {
    return `the database ${JSON.stringify(this.database)} has the encoding ${this.encoding}, and Lull needs UTF8: ` +
      "create another with: create database … encoding 'UTF8' template template0"
  }
}

export const close = (connections: Connections, cause: Error): Effect.Effect<void> =>
  Effect.sync(() => connections.connector.refuse(cause)).pipe(
    Effect.andThen(Effect.forkDetach(Scope.close(connections.scope, Exit.void), { startImmediately: true })),
    Effect.asVoid
  )

export const make = Effect.fnUntraced(function*(options: { readonly prepare: boolean }) {
  const reactivity = yield* Reactivity
  /** What a host was found to take, and when. */
  const learned = new Map<Host, { readonly taken: SessionSettings.Taken; readonly at: number }>()
  const said = new Set<string>()

  const sayOnce = (text: string) =>
    Effect.suspend(() => {
      if (said.has(text)) return Effect.void
      said.add(text)
      return Effect.logWarning(text)
    })

  /** The connector, and the driver's options for it. */
  const prepare = (host: Host, answerWithin: Duration.Duration, taken: SessionSettings.Taken) => {
    const connectTimeout = connectWithin(host, answerWithin)
    const { tls } = host
    const connector = makeConnector({
      host: host.host,
      port: host.port,
      path: host.path,
      secure: tls === undefined || !taken.tls ? undefined : (socket) => new TlsStream(socket, tls),
      answerWithin: Duration.toMillis(
        Duration.max(Duration.times(answerWithin, SessionSettings.shares.socket), connectTimeout)
      )
    })
    const configuration = {
      ...forDriver(host, taken.settings ? SessionSettings.make(answerWithin, host.options) : {}, taken.options),
      stream: connector.stream,
      prepare: options.prepare,
      connectTimeout
    }
    return { connector, configuration }
  }

  /** One attempt. */
  const attempt = Effect.fnUntraced(
    function*(host: Host, answerWithin: Duration.Duration, taken: SessionSettings.Taken) {
      const scope = yield* Scope.make()
      const { configuration, connector } = prepare(host, answerWithin, taken)
      const opened = yield* makeClient(configuration).pipe(
        Effect.provideService(Reactivity, reactivity),
        Scope.provide(scope),
        Effect.onError(() => Effect.forkDetach(Scope.close(scope, Exit.void))),
        Effect.result
      )
      return Result.map(opened, (client) => ({ client, connector, scope }))
    }
  )

  /** A connection. `answerWithin`: how long anything on it may take. */
  const single = Effect.fnUntraced(function*(host: Host, answerWithin: Duration.Duration) {
    const now = yield* Clock.currentTimeMillis
    const known = learned.get(host)
    const isFresh = known !== undefined && now - known.at < Duration.toMillis(connectionLifetime)
    let taken = isFresh ? known.taken : SessionSettings.everything
    // It takes less each time.
    while (true) {
      const outcome = yield* attempt(host, answerWithin, taken)
      if (Result.isSuccess(outcome)) {
        if (!isFresh) learned.set(host, { taken, at: now })
        return outcome.success
      }
      const less = SessionSettings.withLess(outcome.failure, taken, host.tls?.isOptional === true)
      if (less === undefined) return yield* Effect.fail(outcome.failure)
      if (taken.options && !less.options) yield* sayOnce(SessionSettings.explainOptions(host.name))
      taken = less
      learned.set(host, { taken, at: now })
    }
  })

  /** A pool, which opens its connections when they are needed. Of what the host takes a single one has to tell before. */
  const pool = Effect.fnUntraced(function*(host: Host, answerWithin: Duration.Duration, maxConnections: number) {
    const scope = yield* Scope.make()
    const taken = learned.get(host)?.taken ?? SessionSettings.everything
    const { configuration, connector } = prepare(host, answerWithin, taken)
    const client = yield* makePool({ ...configuration, maxConnections, connectionTTL: connectionLifetime }).pipe(
      Effect.provideService(Reactivity, reactivity),
      Scope.provide(scope)
    )
    return { client, connector, scope }
  })

  /** Whether Lull can work in this database, and as it should: what it would do without is said. */
  const inspect = Effect.fnUntraced(function*(client: PgClient, host: Host) {
    const wanted = SessionSettings.make(connectionLifetime, host.options)
    const rows = yield* client<{ readonly name: string; readonly value: string | null }>`
      select name, current_setting(name, true) as value
        from json_array_elements_text(${JSON.stringify(["server_encoding", ...Object.keys(wanted)])}::text::json) name`
    const actual = new Map(rows.map(({ name, value }) => [name, value ?? undefined]))
    const encoding = actual.get("server_encoding")
    if (encoding !== undefined && encoding !== "UTF8") {
      return yield* new DatabaseEncodingUnsuitable({ database: host.database, encoding })
    }
    const missing = SessionSettings.missing(wanted, actual)
    if (missing.length > 0) yield* sayOnce(SessionSettings.explainMissing(host.name, missing))
  })

  return { single, pool, inspect }
})
