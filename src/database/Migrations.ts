/**
 * The schema, as numbered migrations. A migration that was released is never changed: add another. They run when the
 * database first takes writes, in one transaction under a lock, so that replicas which start together do not meet.
 *
 * Job rows are updated twice in their life, and heartbeats come in between: the table keeps free space in its pages, and
 * no column that a heartbeat changes is indexed, so that a heartbeat is an update in place. Jobs with a time before which
 * they may not start are `waiting`, outside the index that workers look into, until that time has come.
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import { Effect } from "effect"
import * as Migrator from "effect/sql/Migrator"

const statements = (...texts: ReadonlyArray<string>) =>
  Effect.flatMap(PgClient, (sql) => Effect.forEach(texts, (text) => sql.unsafe(text), { discard: true }))

const migrations = {
  "0001_jobs": statements(
    `create schema if not exists lull`,
    `create table lull.replica (
      id uuid primary key,
      name text not null,
      started_at timestamptz not null default now(),
      beat_at timestamptz not null default now()
    ) with (fillfactor = 50)`,
    `create table lull.tag_set (
      key text primary key,
      tags jsonb not null
    )`,
    `create table lull.job (
      id uuid primary key,
      type text not null,
      tag_key text not null default '{}',
      priority smallint not null default 0,
      status text not null default 'pending',
      input json not null,
      idempotency_key text,
      not_before timestamptz,
      waiting boolean not null default false,
      timeout_ms bigint,
      max_attempts smallint not null default 1,
      attempt smallint not null default 0,
      token bigint not null default 0,
      worker uuid,
      lease_until timestamptz,
      created_at timestamptz not null default now(),
      started_at timestamptz,
      finished_at timestamptz,
      result json,
      error text
    ) with (fillfactor = 70)`,
    `create index job_pending on lull.job (tag_key, priority desc, id) where status = 'pending' and not waiting`,
    `create index job_waiting on lull.job (not_before) where status = 'pending' and waiting`,
    `create index job_leased on lull.job (worker) where status in ('running', 'canceling')`,
    `create unique index job_idempotency_key on lull.job (idempotency_key) where idempotency_key is not null`,
    `create table lull.job_output (
      job_id uuid not null references lull.job (id) on delete cascade,
      attempt smallint not null,
      last_line bigint not null,
      lines json not null,
      primary key (job_id, attempt, last_line)
    )`
  ),
  "0002_tailnet": statements(
    `alter table lull.replica add column is_leaving boolean not null default false`,
    `create table lull.peer (
      id uuid not null,
      replica uuid not null,
      node json,
      as_of float8,
      is_lost boolean not null,
      updated_at timestamptz not null default now(),
      primary key (id, replica)
    ) with (fillfactor = 50)`,
    `create table lull.tunnel (
      from_peer uuid not null,
      to_peer uuid not null,
      opened_at timestamptz not null default now(),
      primary key (from_peer, to_peer)
    )`,
    `create index tunnel_to_peer on lull.tunnel (to_peer)`,
    `create table lull.signing_key (
      id integer primary key default 1 check (id = 1),
      key text not null
    )`
  ),
  // Jobs wait in queues: one for each type and set of tags that was ever asked for, so that a worker looks only where it may
  // take, however much waits elsewhere. The version before knows neither, and works beside this one: the trigger fills
  // in for it.
  "0003_queues": statements(
    `create table lull.queue (
      id uuid primary key,
      type text not null,
      tags jsonb not null,
      xact xid8 not null default pg_current_xact_id()
    )`,
    `create index queue_xact on lull.queue (xact)`,
    `create function lull.queue_id(type text, tag_key text) returns uuid language sql immutable parallel safe as
      $$ select encode(substring(
        sha256(convert_to(octet_length(type) || ':' || type || tag_key, 'UTF8')) from 1 for 16), 'hex')::uuid $$`,
    `alter table lull.job add column queue uuid, add column asked_not_before timestamptz`,
    `insert into lull.queue (id, type, tags)
      select distinct lull.queue_id(type, tag_key), type, tag_key::jsonb from lull.job
      where status in ('pending', 'running', 'canceling')`,
    `update lull.job set queue = lull.queue_id(type, tag_key), asked_not_before = not_before
      where status in ('pending', 'running', 'canceling') or not_before is not null`,
    `create function lull.fill_in_queue() returns trigger language plpgsql as $$
      begin
        new.queue := lull.queue_id(new.type, new.tag_key);
        new.asked_not_before := new.not_before;
        insert into lull.queue (id, type, tags) values (new.queue, new.type, new.tag_key::jsonb) on conflict do nothing;
        return new;
      end $$`,
    `create trigger fill_in_queue before insert on lull.job
      for each row when (new.queue is null) execute function lull.fill_in_queue()`,
    `create index job_queue on lull.job (queue, priority desc, id) where status = 'pending' and not waiting`,
    `drop index lull.job_pending`,
    `create index job_ended on lull.job (status, id) where status in ('succeeded', 'failed', 'canceled')`,
    `create table lull.worker (
      id uuid primary key,
      replica uuid not null,
      name text not null,
      tags jsonb not null,
      types text[],
      slots integer not null,
      started_at timestamptz not null default now()
    )`
  )
}

/** Brings the schema up to date. Idempotent; fails with `MigrationError` or `SqlError`. */
export const run = Migrator.make({})({ loader: Migrator.fromRecord(migrations), table: "lull_migrations" })
