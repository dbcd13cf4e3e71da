/**
 * Peers in PostgreSQL. A write is one statement for many rows, with its notifications, so that there is nothing between them
 * that could be lost. Lists come as arrays, as in `JobStorePostgres`, and for the same reasons.
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import { Effect, Layer } from "effect"
import type * as Statement from "effect/sql/Statement"
import { Database } from "../database/Database.ts"
import { channel, encode } from "../database/Notifications.ts"
import { pgArray, pgPlainArray } from "../database/PgArray.ts"
import { Replica } from "../database/Replica.ts"
import type { Mapping } from "./CoordinatorState.ts"
import type { Node, PeerId } from "./Peer.ts"
import { type Changes, forgetAfterHours, notificationsOf, PeerStore, topics } from "./PeerStore.ts"

/** Below the longest payload: each is two ids and two signs. */
const tunnelsInNotification = 95

/** A row, or the other side of an outer join that found none. */
type OfServer<Row> = (Row | { readonly [Key in keyof Row]: null }) & { readonly server: string }

export const layer: Layer.Layer<PeerStore, never, Database | Replica> = Layer.effect(
  PeerStore,
  Effect.gen(function*() {
    const { own: database } = yield* Database
    const replica = yield* Replica

    const write = (sql: PgClient, changes: Changes) => {
      // Rows in one order, so that two replicas never wait for each other in a circle.
      const present = changes.peers.flatMap(([id, row]) => row === undefined ? [] : [{ id, ...row }])
        .toSorted((one, other) => one.id < other.id ? -1 : 1)
      const gone = changes.peers.flatMap(([id, row]) => row === undefined ? [id] : [])
      const listed = new Set(changes.lists.map(([from]) => from))
      const isGone = new Set(gone)
      const replaced = [...listed].filter((from) => !isGone.has(from))
      const left = [...listed].filter((from) => isGone.has(from))
      const single = changes.tunnels.filter(({ from }) => !listed.has(from))
      const opened = [
        ...changes.lists.flatMap(([from, list]) => list.map((to) => ({ from, to }))),
        ...single.filter(({ isOpen }) => isOpen)
      ].toSorted((one, other) => one.from + one.to < other.from + other.to ? -1 : 1)
      const closed = single.filter(({ isOpen }) => !isOpen)
      const openedFrom = pgPlainArray(opened.map(({ from }) => from))
      const openedTo = pgPlainArray(opened.map(({ to }) => to))
      const notes = notificationsOf(replica.id, changes).map(([topic, payload]) => encode(topic, payload))
      // Nearly all changes are a node and nothing else: what a change does not need is not in its statement.
      const deleted: Array<Statement.Statement<unknown>> = []
      const parts = [
        sql`own as (
          insert into lull.replica (id, name) values (${replica.id}, ${replica.name}) on conflict do nothing
        )`
      ]
      if (present.length > 0) {
        parts.push(sql`written as (
          insert into lull.peer as peer (id, replica, node, as_of, is_lost)
          select id, ${replica.id}::uuid, node::json, as_of, is_lost
          from unnest(
            ${pgPlainArray(present.map(({ id }) => id))}::uuid[],
            ${pgArray(present.map(({ node }) => node === undefined ? null : JSON.stringify(node)))}::text[],
            ${pgPlainArray(present.map(({ node }) => node?.asOf ?? null))}::float8[],
            ${pgPlainArray(present.map(({ isLost }) => isLost ? "t" : "f"))}::bool[]
          ) as row (id, node, as_of, is_lost)
          on conflict (id, replica) do update
            set node = coalesce(excluded.node, peer.node), as_of = coalesce(excluded.as_of, peer.as_of),
              is_lost = excluded.is_lost, updated_at = now()
        )`)
      }
      if (gone.length > 0) {
        parts.push(sql`removed as (
          delete from lull.peer as peer
          where id = any(${pgPlainArray(gone)}::uuid[]) and (replica = ${replica.id} or exists (
            select from lull.peer as own
            where own.id = peer.id and own.replica = ${replica.id}
              and (coalesce(peer.as_of, 0), case when peer.is_lost then own.updated_at else peer.updated_at end)
                <= (coalesce(own.as_of, 0), own.updated_at)
          ))
        )`)
      }
      if (replaced.length > 0) {
        parts.push(sql`replaced as (
          delete from lull.tunnel
          where from_peer = any(${pgPlainArray(replaced)}::uuid[])
            and not exists (
              select from unnest(${openedFrom}::uuid[], ${openedTo}::uuid[]) as kept (from_id, to_id)
              where from_id = from_peer and to_id = to_peer
            )
          returning from_peer, to_peer
        )`)
        deleted.push(sql`select * from replaced`)
      }
      if (left.length > 0) {
        parts.push(sql`left_behind as (
          delete from lull.tunnel
          where from_peer = any(${pgPlainArray(left)}::uuid[])
            and not exists (
              select from lull.peer as newer
              left join lull.peer as own on own.id = newer.id and own.replica = ${replica.id}
              where newer.id = from_peer and newer.replica <> ${replica.id} and not newer.is_lost
                and (own.id is null
                  or (coalesce(newer.as_of, 0), newer.updated_at) > (coalesce(own.as_of, 0), own.updated_at))
            )
          returning from_peer, to_peer
        )`)
        deleted.push(sql`select * from left_behind`)
      }
      if (closed.length > 0) {
        parts.push(sql`closed as (
          delete from lull.tunnel using unnest(
            ${pgPlainArray(closed.map(({ from }) => from))}::uuid[], ${pgPlainArray(closed.map(({ to }) => to))}::uuid[]
          ) as row (from_id, to_id)
          where from_peer = from_id and to_peer = to_id
        )`)
      }
      if (opened.length > 0) {
        parts.push(sql`opened as (
          insert into lull.tunnel (from_peer, to_peer)
          select * from unnest(${openedFrom}::uuid[], ${openedTo}::uuid[])
          on conflict do nothing
        )`)
      }
      const told = sql`select pg_notify(${channel}, note) from unnest(${pgArray(notes)}::text[]) as note`
      if (deleted.length === 0) return sql`with ${sql.csv(parts)} ${told}`
      // Which tunnels a list closes is known here only.
      parts.push(sql`deleted as (${sql.join(" union all ", false)(deleted)})`)
      const head = `${encode(topics.tunnels, replica.id)} `
      return sql`with ${sql.csv(parts)} ${told}
        union all
        select pg_notify(${channel}, ${head} || string_agg(from_peer || '/' || to_peer, ' '))
        from (select *, row_number() over () / ${tunnelsInNotification}::int as part from deleted) as numbered
        group by part`
    }

    const tunnelsOf = (operation: string, end: "from_peer" | "to_peer", peers: ReadonlyArray<PeerId>) =>
      Effect.map(
        database.read(
          operation,
          Effect.flatMap(PgClient, (sql) =>
            sql<OfServer<{ from: PeerId; to: PeerId }>>`
              select server::text, from_peer as "from", to_peer as "to"
              from pg_postmaster_start_time() as server
              left join lull.tunnel on ${sql.literal(end)} = any(${pgPlainArray(peers)}::uuid[])`)
        ),
        (found) => ({
          server: found[0]?.server ?? "",
          rows: found.flatMap(({ from, to }) => from === null ? [] : [{ from, to }])
        })
      )

    return PeerStore.of({
      write: (changes) =>
        Effect.asVoid(database.write("PeerStore.write", Effect.flatMap(PgClient, (sql) => write(sql, changes)))),
      tunnelsTo: (peers) => tunnelsOf("PeerStore.tunnelsTo", "to_peer", peers),
      tunnelsFrom: (peers) => tunnelsOf("PeerStore.tunnelsFrom", "from_peer", peers),
      present: Effect.map(
        database.read(
          "PeerStore.present",
          Effect.flatMap(PgClient, (sql) =>
            sql<{ present: number }>`select count(*)::int as present from lull.peer
              where replica = ${replica.id} and not is_lost`)
        ),
        ([row]) => row?.present ?? 0
      ),
      mappings: (peers) =>
        Effect.map(
          database.read(
            "PeerStore.mappings",
            Effect.flatMap(PgClient, (sql) =>
              sql<OfServer<{ id: PeerId; replica: string; node: Node | null; isLost: boolean }>>`
                select server::text, id, replica, node, is_lost as "isLost"
                from pg_postmaster_start_time() as server
                left join lull.peer on id = any(${pgPlainArray(peers)}::uuid[])`)
          ),
          (found) => ({
            server: found[0]?.server ?? "",
            rows: found.flatMap((row): ReadonlyArray<readonly [PeerId, Mapping]> =>
              row.id === null
                ? []
                : [[row.id, { replica: row.replica, node: row.node ?? undefined, isLost: row.isLost }]]
            )
          })
        ),
      replicas: database.read(
        "PeerStore.replicas",
        Effect.flatMap(PgClient, (sql) =>
          sql<{ id: string; beat: string; isLeaving: boolean }>`
            select id, beat_at::text as beat, is_leaving as "isLeaving" from lull.replica`)
      ),
      loseAllBut: (peers) =>
        Effect.asVoid(database.write(
          "PeerStore.loseAllBut",
          Effect.flatMap(PgClient, (sql) =>
            sql`update lull.peer set is_lost = true
              where replica = ${replica.id} and not is_lost
                and not exists (select from unnest(${
              pgPlainArray(peers)
            }::uuid[]) as kept (kept_id) where kept_id = id)`)
        )),
      leave: Effect.asVoid(database.write(
        "PeerStore.leave",
        Effect.flatMap(PgClient, (sql) => sql`update lull.replica set is_leaving = true where id = ${replica.id}`)
      )),
      tellReady: (from, to) =>
        Effect.asVoid(database.write(
          "PeerStore.tellReady",
          Effect.flatMap(PgClient, (sql) => sql.notify(channel, encode(topics.ready, `${replica.id} ${from}/${to}`)))
        )),
      forget: Effect.asVoid(database.write(
        "PeerStore.forget",
        Effect.flatMap(PgClient, (sql) =>
          sql`with old as (
              delete from lull.peer where updated_at < now() - make_interval(hours => ${forgetAfterHours})
                and (is_lost or replica not in (select id from lull.replica))
            )
            delete from lull.tunnel where from_peer not in (select id from lull.peer)
              and opened_at < now() - make_interval(hours => ${forgetAfterHours})`)
      )),
      signingKey: Effect.flatMap(
        database.write(
          "PeerStore.signingKey",
          Effect.flatMap(PgClient, (sql) =>
            // Two replicas may be the first at once: what is there counts.
            Effect.andThen(
              sql`insert into lull.signing_key (key)
                values (gen_random_uuid()::text || gen_random_uuid()::text) on conflict do nothing`,
              sql<{ key: string }>`select key from lull.signing_key`
            ))
        ),
        ([row]) =>
          row === undefined
            ? Effect.die(new Error("there is no signing key after it was made"))
            : Effect.succeed(row.key)
      )
    })
  })
)
