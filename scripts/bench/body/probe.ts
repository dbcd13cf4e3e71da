// Preloaded into the measured service (`node --import`): says for how long its event loop was blocked, and how much memory it took,
// between two messages of who started it.
import { readFileSync, writeFileSync } from "node:fs"
import { monitorEventLoopDelay } from "node:perf_hooks"

const delay = monitorEventLoopDelay({ resolution: 1 })
const kilobytes = (name: string) =>
  Number(new RegExp(`${name}:\\s+(\\d+)`).exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? 0)
let before = 0

process.on("message", (message) => {
  if (message === "begin") {
    globalThis.gc?.()
    // From now on the highest is that since now.
    writeFileSync("/proc/self/clear_refs", "5")
    before = kilobytes("VmRSS")
    delay.reset()
    delay.enable()
  } else if (message === "end") {
    delay.disable()
    process.send?.({ blockedMillis: delay.max / 1e6, kilobytes: kilobytes("VmHWM") - before })
    return
  }
  process.send?.({})
})
