/**
 * One measurement of the tailnet, for `npm run bench -- tailnet`. Its last line is its answer, as JSON. Services run as processes of
 * their own, clients speak the protocol of `docs/tailnet.md` over bare WebSockets.
 *
 *     node scripts/bench/tailnet.ts latency same|other|echo|relay UPDATES
 *     node scripts/bench/tailnet.ts scale PEERS
 *     node scripts/bench/tailnet.ts recovery PEERS
 *     node scripts/bench/tailnet.ts failover PEERS
 *     node scripts/bench/tailnet.ts rows lull|raw PEERS
 */
import { failover } from "./tailnet/failover.ts"
import { latency } from "./tailnet/latency.ts"
import { endAll } from "./tailnet/processes.ts"
import { recovery } from "./tailnet/recovery.ts"
import { rows } from "./tailnet/rows.ts"
import { scale } from "./tailnet/scale.ts"

const [what, which = "", amount = "1000"] = process.argv.slice(2)

const measure = () => {
  switch (what) {
    case "latency":
      return latency(which, Number(amount))
    case "scale":
      return scale(Number(which))
    case "recovery":
      return recovery(Number(which))
    case "failover":
      return failover(Number(which))
    case "rows":
      return rows(which, Number(amount))
    default:
      throw new Error(`there is no measurement ${what}`)
  }
}

const found = await measure()
endAll()
process.stdout.write(`${JSON.stringify(found)}\n`)
process.exit(0)
