// node latency.mjs <peer> <profile> [jobs=500] [gapMs=50] : open loop, low load
// milliseconds from the call of add() until the handler is entered
import { answer, quantile, sleep } from './lib.mjs'
import { choose } from './peers.mjs'

const [peerName, profileName, jobs = '500', gap = '50'] = process.argv.slice(2)
const { peer, profile } = choose(peerName, profileName)
const n = Number(jobs)
await peer.setup()
const sent = [], started = []
let seen = 0
const done = Promise.withResolvers()
const w = await peer.work(async (ids) => {
  const t = performance.now()
  for (const i of ids) if (i >= 0) { started[i] = t; if (++seen === n) done.resolve() }
}, profile)
const prod = await peer.producer()
for (let i = 1; i <= 5; i++) await prod.add(-i) // warm up
await sleep(4000)
const pending = []
for (let i = 0; i < n; i++) {
  sent[i] = performance.now()
  pending.push(prod.add(i))
  await sleep(Number(gap) * (0.5 + Math.random()))
}
await Promise.all([done.promise, ...pending])
const total = started.map((s, i) => s - sent[i])
await w.stop()
await prod.stop()
answer({ p50: quantile(total, 0.5), p99: quantile(total, 0.99), max: Math.max(...total) })
