/**
 * The tables, as numbered migrations. One that was released is never changed: add another at the end, with the next id.
 * `Migrations` runs them and makes what they stand in: the schema `lull` and the table `lull.migrations`.
 *
 * Rules for a migration:
 *
 * - Every name is qualified (`lull.job`): nothing is on the search path.
 * - Its statements run in one transaction, so that nothing like `create index concurrently` is in it.
 * - Tables are made by `create table lull.…`, and go by `drop table lull.…`: those words are read to know which tables have
 *   to be there. No `serial` columns: the role of the service has no rights on sequences; an identity column needs none.
 * - Without `lowestReader` every older version is refused, also those that run. A migration that only adds what an older
 *   version can ignore says which version of the schema still suffices, so that the replicas of a rolling deploy go on.
 *
 * Job rows are updated twice in their life, and heartbeats come in between: the table keeps free space in its pages, and
 * no column that a heartbeat changes is indexed, so that a heartbeat is an update in place. Jobs with a time before which
 * they may not start are `waiting`, outside the index that workers look into, until that time has come.
 */
export interface Migration {
  /** Counts from 1. That of the last one is the version of the schema. */
  readonly id: number
  readonly name: string
  readonly statements: ReadonlyArray<string>
  /** A version of Lull that knows the schema up to this id may go on with it. Default: this migration's own id. */
  readonly lowestReader?: number
}

export const migrations: ReadonlyArray<Migration> = [
  {
    id: 1,
    name: "jobs",
    statements: [
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
    ]
  },
  {
    id: 2,
    name: "tailnet",
    statements: [
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
    ]
  },
  // Jobs wait in queues: one for each type and set of tags that was ever asked for, so that a worker looks only where it may
  // take, however much waits elsewhere. The version before knows neither, and works beside this one: the trigger fills
  // in for it.
  {
    id: 3,
    name: "queues",
    lowestReader: 2,
    statements: [
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
    ]
  },
  // Every job that ends pays for being in an index. Most succeed, and the newest of those are found without one; those that
  // did not succeed are few.
  {
    id: 4,
    name: "fewer ends in the index",
    lowestReader: 2,
    statements: [
      `create index job_unsuccessful on lull.job (status, id) where status in ('failed', 'canceled')`,
      `drop index lull.job_ended`
    ]
  }
]
