/** What the heartbeat's connection says to the server, as text: it is the same for as long as the process lives. */

/**
 * The heartbeat asks for its locks again and again, and has none of them in between: who waits for a lock and holds another
 * makes others the victims of deadlocks, after whatever `deadlock_timeout` the server has. Half a second in all.
 */
const lockTries = 25
const lockEvery = 20

/** Without these no job is taken, kept or ended, and no peer is heard of. */
const tables = ["replica", "worker", "queue", "job", "job_output", "peer", "tunnel"].map((table) => `lull.${table}`)
  .join(", ")

/**
 * The heartbeat of a replica, and whether the tables take writes: they are locked as a write locks them, and nothing is
 * written to the others. One statement, so that the time limit and the locks end with it, behind a pooler too. A limit for the
 * whole session would be left to whoever gets the connection next.
 */
export const heartbeatSql = (replica: { readonly id: string; readonly name: string }): string =>
  `do $lull$ begin
    -- Of locks that cannot be asked for without waiting, as those that a trigger takes.
    perform set_config('lock_timeout', '${lockEvery}', true);
    for try in 1..${lockTries} loop
      begin
        lock table ${tables} in row exclusive mode nowait;
        perform from lull.replica where id = ${literal(replica.id)}::uuid for no key update nowait;
        insert into lull.replica (id, name) values (${literal(replica.id)}::uuid, ${literal(replica.name)})
          on conflict (id) do update set beat_at = now();
        return;
      exception when lock_not_available then
        if try = ${lockTries} then raise; end if;
      end;
      perform pg_sleep(${lockEvery / 1000});
    end loop;
  end $lull$`

/** A `do` takes no parameters; as hexadecimal digits a text means the same under all settings of the server. */
const literal = (text: string) => `convert_from(decode('${Buffer.from(text, "utf8").toString("hex")}', 'hex'), 'UTF8')`

/** A file that grows beside those of the jobs, and is gone with the end of the statement: a table of Lull's may have room left. */
export const takeSpaceSql = `do $lull$ begin
    execute format('create temporary table lull_space (filler text) on commit drop tablespace %I', (
      select spcname from pg_tablespace where oid = coalesce(
        (select nullif(reltablespace, 0) from pg_class where oid = to_regclass('lull.job')),
        (select dattablespace from pg_database where datname = current_database()))));
    insert into lull_space select repeat('x', 1000) from generate_series(1, 256);
  end $lull$`
