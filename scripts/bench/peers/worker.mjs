// node worker.mjs <peer> <profile> : works until it is killed, and logs what the peer logs by itself
// LEDGER: a file for "s <i> <ms>" at the start of a job and "e <i> <ms>" at its end, which survives the outage; JOB_MS: how long it takes
import fs from 'node:fs'
import { sleep } from './lib.mjs'
import { choose } from './peers.mjs'

const { peer, profile } = choose(...process.argv.slice(2))
const { LEDGER, JOB_MS = '300' } = process.env
const fd = fs.openSync(LEDGER, 'a')
const mark = (event, ids) => ids.forEach((i) => fs.writeSync(fd, `${event} ${i} ${Date.now()}\n`))
const worker = await peer.work(async (ids) => {
  mark('s', ids)
  await sleep(Number(JOB_MS))
  mark('e', ids)
}, profile, { log: true })
fs.writeSync(fd, `r 0 ${Date.now()}\n`)
await worker.promise
