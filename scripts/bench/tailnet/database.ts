/** What the database says of a measurement. */
import { createRequire } from "node:module"
import { databaseUrl, pause } from "./processes.ts"

const require = createRequire(new URL("../peers/package.json", import.meta.url))

export interface PgClient {
  readonly connect: () => Promise<void>
  readonly query: (
    query: string | { name: string; text: string; values: ReadonlyArray<unknown> }
  ) => Promise<{ readonly rows: ReadonlyArray<Readonly<Record<string, unknown>>> }>
}

export const open = async () => {
  const pg = require("pg") as { readonly Client: new(url: string) => PgClient }
  const client = new pg.Client(databaseUrl)
  await client.connect()
  return client
}

/** Statements on Lull's tables so far. */
export const countStatements = async (client: PgClient) => {
  await client.query("create extension if not exists pg_stat_statements")
  const { rows: [row] } = await client.query(
    "select coalesce(sum(calls), 0)::int as calls from pg_stat_statements where query like '%lull.%'"
  )
  return Number(row?.["calls"])
}

export const untilStored = async (client: PgClient, count: number, asOf: number) => {
  for (;;) {
    const { rows: [row] } = await client.query(`select count(*) as rows from lull.peer where as_of = ${asOf}`)
    if (Number(row?.["rows"]) >= count) return
    await pause(50)
  }
}
