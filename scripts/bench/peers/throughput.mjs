// node throughput.mjs <peer> <profile> [jobs=20000]
// jobs per second, from the first call of the handler until every job is completed in the table
import { answer, cpuSeconds, pool, sleep } from './lib.mjs'
import { choose } from './peers.mjs'

const [peerName, profileName, jobs = '20000'] = process.argv.slice(2)
const { peer, profile } = choose(peerName, profileName)
const n = Number(jobs)
await peer.setup()
const p = pool(1)
const prod = await peer.producer()
await prod.bulk(n)
await prod.stop()
await p.query('vacuum analyze')
await p.query('checkpoint')
let seen = 0, first
const all = Promise.withResolvers()
const cpu = process.cpuUsage()
const w = await peer.work(async (ids) => {
  first ??= performance.now()
  seen += ids.length
  if (seen >= n) all.resolve()
}, profile)
await all.promise
while ((await p.query(peer.pendingSql)).rows[0].n > 0) await sleep(5)
const seconds = (performance.now() - first) / 1000
if (seen !== n) throw new Error(`${seen} runs of ${n} jobs`)
const used = cpuSeconds(cpu)
await w.stop()
answer({ perSecond: n / seconds, cpuSeconds: used })
