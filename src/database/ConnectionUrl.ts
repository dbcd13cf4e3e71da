/**
 * Reads `LULL_DATABASE_URL`: a PostgreSQL URL with one or several hosts,
 * `postgres://user:password@first:5432,second:5432/database?sslmode=require`. The driver takes one host, so that this
 * gives one URL a host. No error carries the password.
 */
import { Data, Result } from "effect"

export class InvalidDatabaseUrl extends Data.TaggedError("InvalidDatabaseUrl")<{ readonly problem: string }> {
  override get message() {
    return `not a usable PostgreSQL URL: ${this.problem}; expected postgres://user:password@host:5432/database, ` +
      "with several hosts separated by commas"
  }
}

export interface Host {
  readonly host: string
  readonly port: number
  /** The URL of this host alone. */
  readonly url: string
}

export type Hosts = readonly [Host, ...ReadonlyArray<Host>]

const shape = /^(postgres(?:ql)?):\/\/(?:([^@/?#]*)@)?([^/?#]*)(\/[^?#]*)?(\?[^#]*)?$/

export const parse = (text: string): Result.Result<Hosts, InvalidDatabaseUrl> => {
  const invalid = (problem: string) => Result.fail(new InvalidDatabaseUrl({ problem }))
  const match = shape.exec(text.trim())
  if (match === null) return invalid("it does not start with postgres:// or has a part too many")
  const [, scheme, login, authority = "", path = "", query = ""] = match
  if (path.length < 2) return invalid("it names no database")
  const hosts: Array<Host> = []
  for (const part of authority.split(",")) {
    const host = readHost(part)
    if (typeof host === "string") return invalid(host)
    const name = host.host.includes(":") ? `[${host.host}]` : host.host
    const url = `${scheme}://${login === undefined ? "" : `${login}@`}${name}:${host.port}${path}${query}`
    if (!URL.canParse(url)) return invalid(`the part ${JSON.stringify(part)} or the parameters cannot be read`)
    hosts.push({ ...host, url })
  }
  const [first, ...others] = hosts
  return first === undefined ? invalid("it names no host") : Result.succeed([first, ...others])
}

const readHost = (part: string): { readonly host: string; readonly port: number } | string => {
  const match = /^(?:\[([0-9a-fA-F:.%]+)\]|([^:[\]\s]+))(?::(\d+))?$/.exec(part)
  const host = match?.[1] ?? match?.[2]
  if (host === undefined) return part === "" ? "a host is empty" : `${JSON.stringify(part)} is not host:port`
  const port = match?.[3] === undefined ? 5432 : Number(match[3])
  return port >= 1 && port <= 65_535 ? { host, port } : `${port} is not a port`
}
