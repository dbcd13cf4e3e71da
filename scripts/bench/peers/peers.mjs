// One thin adapter per peer: setup(), producer(), work(handler, profile), pendingSql.
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import { PgBoss } from 'pg-boss'
import { pool, url } from './lib.mjs'

const silent = new Logger(() => () => {})
const chunk = 1000
const chunked = async (n, insert) => {
  for (let o = 0; o < n; o += chunk) await insert(Array.from({ length: Math.min(chunk, n - o) }, (_, k) => o + k))
}

const graphile = {
  profiles: {
    // concurrency only, everything else default
    default: { concurrency: 10, maxPoolSize: 11, preset: {} },
    // documented high-throughput options
    localqueue: {
      concurrency: 10, maxPoolSize: 11,
      preset: { worker: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
    },
  },
  async setup() {
    const u = await makeWorkerUtils({ connectionString: url, logger: silent })
    await u.migrate()
    await u.release()
  },
  async producer() {
    const u = await makeWorkerUtils({ connectionString: url, logger: silent })
    return {
      add: (i) => u.addJob('bench', { i }),
      bulk: (n) => chunked(n, (part) => u.addJobs(part.map((i) => ({ identifier: 'bench', payload: { i } })))),
      stop: () => u.release(),
    }
  },
  // `log`: as it logs when nobody has told it otherwise
  async work(handler, profile, { log = false } = {}) {
    const r = await run({
      connectionString: url, noHandleSignals: true, ...(log ? {} : { logger: silent }),
      concurrency: profile.concurrency, maxPoolSize: profile.maxPoolSize, preset: profile.preset,
      taskList: { bench: (payload) => handler([payload.i]) },
    })
    return { stop: () => r.stop(), promise: r.promise }
  },
  pendingSql: 'select count(*)::int n from graphile_worker._private_jobs',
  lockedSql: 'select count(*)::int n from graphile_worker._private_jobs where locked_at is not null',
}

const pgboss = {
  profiles: {
    // the fastest polling allowed
    batch10: { localConcurrency: 10, batchSize: 10, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true },
    batch100: { localConcurrency: 10, batchSize: 100, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true },
  },
  async setup() {
    const b = new PgBoss({ connectionString: url, supervise: false, schedule: false })
    b.on('error', () => {})
    await b.start()
    await b.createQueue('bench', {})
    await b.stop({ graceful: false })
  },
  async producer() {
    const b = new PgBoss({ connectionString: url, supervise: false, schedule: false, max: 4 })
    b.on('error', () => {})
    await b.start()
    return {
      add: (i) => b.send('bench', { i }),
      bulk: (n) => chunked(n, (part) => b.insert('bench', part.map((i) => ({ data: { i } })))),
      stop: () => b.stop({ graceful: false }),
    }
  },
  async work(handler, profile, { log = false } = {}) {
    const b = new PgBoss({ connectionString: url })
    b.on('error', log ? console.error : () => {}) // as in its README
    await b.start()
    await b.work('bench', profile, (jobs) => handler(jobs.map((j) => j.data.i)))
    return { stop: () => b.stop({ graceful: true, timeout: 5000 }), promise: new Promise(() => {}) }
  },
  pendingSql: "select count(*)::int n from pgboss.job where name = 'bench' and state < 'completed'",
  lockedSql: "select count(*)::int n from pgboss.job where name = 'bench' and state = 'active'",
}

const peers = { graphile, pgboss }
export const choose = (peerName, profileName) => {
  const peer = peers[peerName], profile = peer?.profiles[profileName]
  if (!profile) throw new Error(`no profile ${profileName} of ${peerName}`)
  return { peer, profile }
}
