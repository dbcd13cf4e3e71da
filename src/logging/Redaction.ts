/**
 * What must not be in a log: removed before anything is compared, kept or written. Pure, and linear in the length of the
 * text.
 *
 * - Fields (annotations, members of logged objects, query parameters, `name=value` and `name: value` in a text) that are named
 *   like secrets: `password`, `token`, `secret`, `authorization`, `cookie`, `apiKey`, `privateKey`, `credentials`, also at the
 *   end of a name.
 * - `Bearer …` and `Basic …`; user and password in a URL.
 * - Whatever further names and patterns are given.
 *
 * Values of Effect's `Redacted` say `<redacted>` by themselves. Texts of errors are cut: what another program says in an error has
 * no bound of its own.
 */
export interface Options {
  /** Further names of fields, in any case. */
  readonly names?: ReadonlyArray<string> | undefined
  /** Further patterns. They have to be linear: each line passes them. */
  readonly patterns?: ReadonlyArray<RegExp> | undefined
}

export interface Redaction {
  /** The same text, if there is nothing to remove. */
  readonly text: (text: string) => string
  /** The same value, if there is nothing to remove; else a copy without it. Looks a few levels deep. */
  readonly value: (value: unknown) => unknown
  readonly isSecretName: (name: string) => boolean
}

export const replacement = "<redacted>"

/** What is written of an object that cannot be read. */
const unreadable = "<unreadable>"

const secretNames = [
  "password",
  "passwd",
  "passphrase",
  "secret",
  "token",
  "authorization",
  "cookie",
  "api[-_]?key",
  "private[-_]?key",
  "access[-_]?key",
  "credentials?"
]

const levels = 4

/** Of a chain of causes. */
const links = 8

/** Of each text of an error: its message, its stack, its fields. A server's message has had ten megabytes. */
const longestOfError = 16_384

const cut = (text: string) =>
  text.length <= longestOfError ? text : `${text.slice(0, longestOfError - 1_025)}…${text.slice(-1_024)}`

/** What an error has beside its own fields. */
const ofEveryError = new Set(["cause", "message", "name", "stack"])
const none: ReadonlySet<string> = new Set()

/**
 * A password in a URL in which somebody left a `/` unescaped; what could be a port and a path is none. Its length is bounded, or a
 * text of nothing but `://` would take a time that grows with the square of its length.
 */
const withSlash = /:\/\/[^\s/@:]*:(?!\d{1,5}(?:[/?#]|$))[^\s"'<>]{1,256}@/g

const escape = (text: string) => text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")

export const make = (options: Options = {}): Redaction => {
  const names = [...secretNames, ...(options.names ?? []).map(escape)].join("|")
  const further = (options.patterns ?? []).map((pattern) =>
    new RegExp(pattern, pattern.flags.includes("g") ? pattern.flags : `${pattern.flags}g`)
  )
  /** Most texts have nothing of the kind, and cost this one look. */
  const suspicious = new RegExp(`${names}|bearer|basic|://[^\\s/@]*@|${withSlash.source}|postgres(?:ql)?://`, "i")
  const name = new RegExp(`(?:${names})$`, "i")
  const scheme = /\b(bearer|basic)\s+[\w.~+/=-]+/gi
  // Only what has the form of a user and a password; `git@host` has none. An `@` in it may have been left unescaped.
  const inUrl = /:\/\/(?:[^\s/@]*@)+/g
  // Those of databases are written by hand, with a password that was not percent-encoded: up to the last @, within a bound.
  const inDatabaseUrl = /(postgres(?:ql)?:\/\/)[^\s"'`<>]{1,512}@/gi
  const pair = new RegExp(`((?:${names})["']?\\s{0,8}[:=]\\s{0,8})("[^"]*"|'[^']*'|[^\\s,;&"')}\\]]+)`, "gi")

  const text = (given: string): string => {
    let found = given
    if (suspicious.test(given)) {
      found = found
        .replaceAll(scheme, (_, kind: string) => `${kind} ${replacement}`)
        .replaceAll(inDatabaseUrl, `$1${replacement}@`)
        .replaceAll(withSlash, `://${replacement}@`)
        .replaceAll(inUrl, `://${replacement}@`)
        .replaceAll(
          pair,
          (whole: string, before: string, secret: string) =>
            secret === replacement || /^(bearer|basic)$/i.test(secret) ? whole : `${before}${replacement}`
        )
    }
    for (const pattern of further) found = found.replaceAll(pattern, replacement)
    return found
  }

  const isSecretName = (given: string) => name.test(given)

  const ofError = (given: string) => text(cut(given))

  /** `shown`: of a text in it. `link`: of a chain of causes. */
  const value = (given: unknown, level = 0, shown = text, link = 0): unknown => {
    if (typeof given === "string") return shown(given)
    if (typeof given !== "object" || given === null || level >= levels) return given
    try {
      if (given instanceof Error) return link < links ? error(given, level, link) : unreadable
      if (Array.isArray(given)) {
        const items = given.map((item) => value(item, level + 1, shown, link))
        return items.some((item, at) => item !== given[at]) ? items : given
      }
      const prototype: unknown = Object.getPrototypeOf(given)
      if (prototype !== Object.prototype && prototype !== null) return given
      return members(given, level, shown, link)
    } catch {
      // A getter that throws would throw in the logger too; so would a proxy that was revoked.
      return unreadable
    }
  }

  const members = (
    given: object,
    level: number,
    shown: (text: string) => string,
    link: number,
    except: ReadonlySet<string> = none
  ): object => {
    let isChanged = false
    const own = Object.entries(given).filter(([key]) => !except.has(key))
    const entries = own.map(([key, item]: [string, unknown]): [string, unknown] => {
      const isSecret = isSecretName(key) && item !== undefined && item !== null
      const redacted = isSecret ? replacement : value(item, level + 1, shown, link)
      isChanged ||= redacted !== item
      return [key, redacted]
    })
    return isChanged ? Object.fromEntries(entries) : given
  }

  /** With its fields, as formatters write them: a tag, what a tagged error was made with. */
  const error = (given: Error, level: number, link: number): Error => {
    const message = ofError(given.message)
    const stack = ofError(given.stack ?? "")
    const cause = given.cause === undefined ? undefined : value(given.cause, level, ofError, link + 1)
    const fields = members(given, level, ofError, link, ofEveryError)
    const isSame = message === given.message && stack === (given.stack ?? "") && cause === given.cause
    if (isSame && fields === given) return given
    const copy = new Error(message, cause === undefined ? undefined : { cause })
    copy.name = given.name
    copy.stack = stack
    return Object.assign(copy, Object.fromEntries(Object.entries(fields).filter(([key]) => !ofEveryError.has(key))))
  }

  return { text, value: (given) => value(given), isSecretName }
}
