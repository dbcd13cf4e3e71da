/**
 * Rows of peers that one replica writes in a second, while all of them change again and again; beside the upsert alone, in batches of
 * the same size.
 */
import { Context, Effect, Exit, Layer, Logger, Redacted, Scope } from "effect"
import { Availability } from "../../../src/index.ts"
import { Coordinator } from "../../../src/tailnet/index.ts"
import { idOf, node } from "./clients.ts"
import * as Database from "./database.ts"
import { databaseUrl, pause } from "./processes.ts"

const rounds = 10
const batch = 1_000

const lull = async (count: number) => {
  const scope = Effect.runSync(Scope.make())
  const layer = Coordinator.layerPostgres({ url: Redacted.make(databaseUrl) }).pipe(Layer.provide(Logger.layer([])))
  const services = await Effect.runPromise(Layer.buildWithScope(layer, scope))
  await Effect.runPromise(Context.get(services, Availability).awaitAvailable)
  const coordinator = Context.get(services, Coordinator)
  const sessions = await Effect.runPromise(Effect.forEach(
    Array.from({ length: count }, (_, index) => index),
    (index) => coordinator.open({ type: "hello", version: 1, peer: idOf(index), node: node(index, 1), tunnels: [] })
  ))
  const settled = async () => {
    while (!coordinator.isSettled()) await pause(1)
  }
  await settled()
  const started = performance.now()
  for (let round = 2; round < rounds + 2; round++) {
    for (const [index, session] of sessions.entries()) session.setNode(node(index, round))
    await settled()
  }
  const seconds = (performance.now() - started) / 1_000
  await Effect.runPromise(Scope.close(scope, Exit.void))
  return { perSecond: count * rounds / seconds }
}

const raw = async (count: number) => {
  const client = await Database.open()
  await client.query(`create table peer (
    id uuid not null, replica uuid not null, node json, as_of float8, is_lost boolean not null,
    updated_at timestamptz not null default now(), primary key (id, replica)
  ) with (fillfactor = 50)`)
  const upsert = async (round: number) => {
    for (let from = 0; from < count; from += batch) {
      const indices = Array.from({ length: batch }, (_, at) => from + at)
      await client.query({
        name: "upsert",
        text: `insert into peer (id, replica, node, as_of, is_lost)
          select id, '00000000-0000-4000-8000-000000000000', node::json, as_of, is_lost
          from unnest($1::uuid[], $2::text[], $3::float8[], $4::bool[]) as row (id, node, as_of, is_lost)
          on conflict (id, replica) do update
            set node = excluded.node, as_of = excluded.as_of, is_lost = excluded.is_lost, updated_at = now()`,
        values: [
          indices.map(idOf),
          indices.map((index) => JSON.stringify(node(index, round))),
          indices.map(() => round),
          indices.map(() => false)
        ]
      })
    }
  }
  await upsert(1)
  const started = performance.now()
  for (let round = 2; round < rounds + 2; round++) await upsert(round)
  return { perSecond: count * rounds / ((performance.now() - started) / 1_000) }
}

export const rows = (which: string, count: number) => which === "lull" ? lull(count) : raw(count)
