// node submit.mjs <peer> <profile> [jobs=20000] : jobs per second, in calls of 1,000, and one by one (a tenth as many)
import { answer } from './lib.mjs'
import { choose } from './peers.mjs'

const [peerName, profileName, jobs = '20000'] = process.argv.slice(2)
const { peer } = choose(peerName, profileName)
const n = Number(jobs), singles = Math.ceil(n / 10)
await peer.setup()
const prod = await peer.producer()
const rate = async (count, run) => {
  const t = performance.now()
  await run()
  return count / ((performance.now() - t) / 1000)
}
const perSecond = await rate(n, () => prod.bulk(n))
const singlesPerSecond = await rate(singles, async () => { for (let i = 0; i < singles; i++) await prod.add(i) })
await prod.stop()
answer({ perSecond, singlesPerSecond })
