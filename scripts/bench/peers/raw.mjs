// node raw.mjs <claim+update|claim+delete> [jobs=20000] [connections=10] [batch=100]
// the ceiling: plain pg, SKIP LOCKED, no queue around it; two statements and two commits for a batch
import { answer, cpuSeconds, pool } from './lib.mjs'

const [mode, jobs = '20000', connections = '10', batch = '100'] = process.argv.slice(2)
const n = Number(jobs), b = Number(batch)
const finish = {
  // keeps finished rows
  'claim+update': `update raw_job set state = 'completed' where id = any($1::bigint[])`,
  'claim+delete': 'delete from raw_job where id = any($1::bigint[])',
}[mode]
if (!finish) throw new Error(`no mode ${mode}`)
const p = pool(Number(connections))
await p.query(`create table raw_job(
  id bigserial primary key, payload jsonb not null, state text not null default 'ready',
  attempts int not null default 0, run_at timestamptz not null default now(), locked_by text)`)
await p.query(`create index on raw_job (run_at, id) where state = 'ready'`)
for (let o = 0; o < n; o += 1000)
  await p.query('insert into raw_job(payload) select x from json_array_elements($1::json) x', [
    JSON.stringify(Array.from({ length: Math.min(1000, n - o) }, (_, k) => ({ i: o + k })))])
await p.query('vacuum analyze raw_job')
await p.query('checkpoint')
const claim = `update raw_job set state = 'active', attempts = attempts + 1, locked_by = 'x' where id in (
  select id from raw_job where state = 'ready' and run_at <= now() order by run_at, id limit $1 for update skip locked
) returning id, payload`
const cs = await Promise.all(Array.from({ length: Number(connections) }, () => p.connect()))
const cpu = process.cpuUsage(), t = performance.now()
let got = 0
await Promise.all(cs.map(async (c) => {
  for (;;) {
    const { rows } = await c.query({ name: 'claim', text: claim, values: [b] })
    if (!rows.length) break
    await c.query({ name: 'finish', text: finish, values: [rows.map((r) => r.id)] })
    got += rows.length
  }
}))
const seconds = (performance.now() - t) / 1000
if (got !== n) throw new Error(`${got} of ${n} jobs`)
answer({ perSecond: n / seconds, cpuSeconds: cpuSeconds(cpu) })
