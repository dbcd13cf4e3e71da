// node idle.mjs <peer> <profile> [seconds=20] : transactions per second and CPU of a worker with an empty queue
import { answer, cpuSeconds, pool, sleep } from './lib.mjs'
import { choose } from './peers.mjs'

const [peerName, profileName, seconds = '20'] = process.argv.slice(2)
const { peer, profile } = choose(peerName, profileName)
await peer.setup()
const p = pool(1)
// A session tells its transactions a second late, so they are read at the beginning and the end only, and at rest.
const transactions = async () => {
  const { rows: [row] } = await p.query(
    'select xact_commit + xact_rollback as n from pg_stat_database where datname = current_database()')
  return Number(row.n)
}
const measure = async () => {
  const from = await transactions(), cpu = process.cpuUsage()
  await sleep(Number(seconds) * 1000)
  return { transactions: (await transactions()) - from, cpu: cpuSeconds(cpu) }
}
const base = await measure()
const w = await peer.work(async () => {}, profile)
await sleep(3000)
const busy = await measure()
await w.stop()
answer({
  transactionsPerSecond: (busy.transactions - base.transactions) / Number(seconds),
  cpuPercent: 100 * busy.cpu / Number(seconds),
})
