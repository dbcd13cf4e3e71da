/**
 * Opens connections to a host, each in its turn with the `Dialer`. A server or pooler that refuses how a session of ours begins is
 * asked again at once with less (`SessionSettings`), which is remembered for as long as a connection lives, and said once.
 */
import { makeClient, type PgClient } from "@effect/sql-pg/PgClient"
import { make as makeConnection } from "@effect/sql-pg/PgConnection"
import { Data, Duration, Effect, Exit, Scope } from "effect"
import { Reactivity } from "effect/reactivity/Reactivity"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import type { Socket } from "node:net"
import { monotonicMillis } from "../loop/Monotonic.ts"
import { answerLogin } from "./answerLogin.ts"
import { connectWithin, forDriver, type Host } from "./ConnectionOptions.ts"
import { type Connector, make as makeConnector } from "./Connector.ts"
import { NoAnswer } from "./Deadline.ts"
import type { Dialer, Kind } from "./Dialer.ts"
import * as SessionSettings from "./SessionSettings.ts"
import { clear, TlsStream } from "./TlsStream.ts"

interface Opened<A> {
  readonly opened: A
  readonly connector: Connector
  readonly scope: Scope.Closeable
}

/** A connection that work is done over. */
export interface Connection extends Omit<Opened<never>, "opened"> {
  readonly client: PgClient
}

/** No connection outlives this: whatever a pooler or a name in front of the server changes is followed by then. */
export const connectionLifetime = Duration.minutes(5)

/** The bound of a TCP connection: so many times what the last one took, and no less than this, for a slow machine. */
const connectTimes = 4
const connectAtLeast = 850

/** Of the time that an attempt has: the driver's error says more than that of who waits for it, so it comes first. */
const connectShare = 0.9

/**
 * Of the time for an answer, where the server does not end what takes longer: so the door does, which knows slow from silent. A
 * silent server is noticed by the heartbeat.
 */
const shareWithoutLimit = 1.2

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

export const brokenWith = (cause: Error): SqlError =>
  new SqlError({ reason: new ConnectionError({ cause, message: cause.message, operation: "acquire" }) })

/** At once, with this error for who works with it. */
export const close = ({ connector, scope }: Pick<Connection, "connector" | "scope">, cause: Error) =>
  Effect.sync(() => connector.end(cause)).pipe(
    Effect.andThen(Effect.forkDetach(Scope.close(scope, Exit.void), { startImmediately: true })),
    Effect.asVoid
  )

/** Says goodbye to the server first. */
export const closePolitely = ({ connector, scope }: Connection) =>
  Effect.sync(() => connector.letGo()).pipe(
    Effect.andThen(Scope.close(scope, Exit.void)),
    Effect.andThen(Effect.sleep("1 second")),
    Effect.andThen(Effect.sync(() => connector.end(new Error("the server did not take its leave"))))
  )

export interface Options {
  /** Prepared statements. */
  readonly prepare: boolean
  readonly dialer: Dialer
  /** What a connection may take at most to be made, unless the URL says otherwise. */
  readonly connectAtMost: Duration.Duration
  /** A server owed an answer and stayed silent. */
  readonly onSilent: () => void
}

/** How long what is done over a connection may take, and how long it may wait for a lock. */
export interface Limits {
  readonly answerWithin: Duration.Duration
  readonly lockWithin?: Duration.Duration | undefined
}

export const make = Effect.fnUntraced(function*({ connectAtMost, dialer, onSilent, prepare }: Options) {
  const reactivity = yield* Reactivity
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  /** What a host was found to take, and when. */
  const learned = new Map<Host, { readonly taken: SessionSettings.Taken; readonly at: number }>()
  /** How long the last TCP connection to each server took. */
  const connectTook = new Map<string, number>()
  const said = new Set<string>()
  /** Where our limit for statements does not hold, as a pooler or the URL's options have another, or none. */
  const isUnlimited = new WeakSet<Host>()

  const sayOnce = (text: string) =>
    Effect.suspend(() => {
      if (said.has(text)) return Effect.void
      said.add(text)
      return Effect.logWarning(text)
    })

  /** For the TCP connection alone. */
  const tcpWithin = ({ connectTimeout, name }: Host): number => {
    const most = Duration.toMillis(connectTimeout ?? connectAtMost)
    const took = connectTook.get(name)
    return took === undefined ? most : Math.min(most, Math.max(connectAtLeast, connectTimes * took))
  }

  /** For one attempt, to its login. Who listens waits no longer than that: others of the same server wait for it. */
  const loginWithin = (host: Host, { answerWithin }: Limits) =>
    connectWithin(host, Duration.min(answerWithin, connectAtMost))

  const configure = (host: Host, limits: Limits, taken: SessionSettings.Taken, connected: () => void) => {
    const { answerWithin } = limits
    const connectTimeout = Duration.times(loginWithin(host, limits), connectShare)
    const share = taken.settings && !isUnlimited.has(host) ? SessionSettings.shares.socket : shareWithoutLimit
    const { tls } = host
    const secure = (socket: Socket) => {
      const { login: policy, password, user } = host
      if (tls === undefined || !taken.tls) {
        return answerLogin(socket, { policy, user, password, channel: () => clear })
      }
      const stream = new TlsStream(socket, tls)
      return answerLogin(stream, { policy, user, password, channel: () => stream.channel() })
    }
    const connector = makeConnector({
      host: host.host,
      port: host.port,
      path: host.path,
      secure,
      answerWithin: share * Duration.toMillis(answerWithin),
      loginWithin: Duration.toMillis(connectTimeout),
      connectWithin: tcpWithin(host),
      onConnected: (millis) => {
        connectTook.set(host.name, millis)
        connected()
      },
      onSilent,
      enterFurther: (kind, begin) => {
        const over = dialer.enter({ server: host.name, kind }, begin)
        return (error) => over(error === undefined ? undefined : brokenWith(error))
      }
    })
    const settings = taken.settings ? SessionSettings.make(answerWithin, host.options, limits.lockWithin) : {}
    const configuration = {
      ...forDriver(host, settings, taken.options),
      stream: connector.stream,
      prepare,
      connectTimeout
    }
    return { connector, configuration }
  }
  type Configuration = ReturnType<typeof configure>["configuration"]
  type Open<A> = (configuration: Configuration) => Effect.Effect<A, SqlError, Scope.Scope | Reactivity>

  const attempt = Effect.fnUntraced(function*<A>(
    host: Host,
    limits: Limits,
    taken: SessionSettings.Taken,
    open: Open<A>,
    connected: () => void
  ) {
    const scope = yield* Scope.make()
    const { configuration, connector } = configure(host, limits, taken, connected)
    const opened = yield* open(configuration).pipe(
      Effect.provideService(Reactivity, reactivity),
      Scope.provide(scope),
      Effect.onError(() => close({ connector, scope }, new Error("the connection could not be made")))
    )
    return { opened, connector, scope }
  })

  /** With less each time, where that is what was refused. */
  const negotiate = Effect.fnUntraced(function*<A>(
    host: Host,
    limits: Limits,
    open: Open<A>,
    connected: () => void,
    again: () => void
  ) {
    const now = yield* monotonicMillis
    const known = learned.get(host)
    const isFresh = known !== undefined && now - known.at < Duration.toMillis(connectionLifetime)
    let taken = isFresh ? known.taken : SessionSettings.everything
    const tryLess = Effect.fnUntraced(function*(error: SqlError) {
      const less = SessionSettings.withLess(error, taken, host.tls?.isOptional === true)
      if (less === undefined) return yield* Effect.fail(error)
      if (taken.options && !less.options) yield* sayOnce(SessionSettings.explainOptions(host.name))
      taken = less
      again()
      return undefined
    })
    while (true) {
      const opened = yield* Effect.catch(attempt(host, limits, taken, open, connected), tryLess)
      if (opened === undefined) continue
      // Only what helped is remembered: a refusal may have had another reason.
      if (!isFresh) learned.set(host, { taken, at: now })
      return opened
    }
  })

  /** A connection in its turn, made by `open` with the driver's configuration. */
  const openWith = <A>(host: Host, kind: Kind, limits: Limits, open: Open<A>): Effect.Effect<Opened<A>, SqlError> =>
    dialer.dial({ server: host.name, kind }, (connected, again) =>
      Effect.gen(function*() {
        const connection = yield* negotiate(host, limits, open, connected, again).pipe(
          Effect.timeoutOrElse({
            duration: loginWithin(host, limits),
            orElse: () => Effect.fail(brokenWith(new NoAnswer({ within: loginWithin(host, limits) })))
          })
        )
        const openedAt = yield* monotonicMillis
        connection.connector.onClosed((error) => {
          if (error === undefined) return
          runFork(Effect.flatMap(monotonicMillis, (at) => dialer.broke(host.name, at - openedAt, brokenWith(error))))
        })
        return connection
      }))

  /** For work, one statement after another. */
  const single = (host: Host, kind: Kind, limits: Limits): Effect.Effect<Connection, SqlError> =>
    Effect.map(
      openWith(host, kind, limits, (configured) => makeClient({ ...configured, acquireForStream: true })),
      ({ connector, opened, scope }) => ({ client: opened, connector, scope })
    )

  /** As the driver has it, for `LISTEN`. */
  const raw = (host: Host, limits: Limits) => openWith(host, "listener", limits, makeConnection)

  /** Whether Lull can work in this database, and as it should: what it would do without is said. */
  const inspect = Effect.fnUntraced(function*(client: PgClient, host: Host) {
    const wanted = SessionSettings.make(connectionLifetime, host.options)
    const rows = yield* client<{ readonly name: string; readonly value: string | null }>`
      select name, current_setting(name, true) as value
        from json_array_elements_text(${JSON.stringify(["server_encoding", ...Object.keys(wanted)])}::text::json) name
      union all select 'milliseconds', setting from pg_settings where name = 'statement_timeout'`
    const actual = new Map(rows.map(({ name, value }) => [name, value ?? undefined]))
    const encoding = actual.get("server_encoding")
    if (encoding !== undefined && encoding !== "UTF8") {
      return yield* new DatabaseEncodingUnsuitable({ database: host.database, encoding })
    }
    const limit = Number(actual.get("milliseconds"))
    if (limit > 0 && limit <= Duration.toMillis(connectAtMost)) isUnlimited.delete(host)
    else isUnlimited.add(host)
    const missing = SessionSettings.missing(wanted, actual)
    if (missing.length > 0) yield* sayOnce(SessionSettings.explainMissing(host.name, missing))
  })

  return { single, raw, inspect }
})
