/**
 * The `lull` command: it reads what was asked for, wires the layers and runs; nothing else happens here. With `run`, the only
 * place that touches the process: its signals, its streams, its exit status.
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Layer } from "effect"
import * as Command from "effect/cli/Command"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import { describeSettings } from "../Settings.ts"
import { filter } from "./filter.ts"
import { job } from "./job.ts"
import { migrate } from "./migrate.ts"
import { peer } from "./peer.ts"
import { run, version } from "./run.ts"
import { explain, serve as runService } from "./serve.ts"

/** A shutdown that takes longer than all its deadlines together hangs. */
const longestShutdownMillis = 60_000

const serve = Command.make("serve", {}, () =>
  Effect.suspend(() => {
    watchSignals()
    return runService(process.stderr.isTTY, Object.keys(process.env), onHangup)
  })).pipe(
    Command.withDescription(`Run the service until SIGTERM. Settings, by environment:\n\n${describeSettings()}`),
    Command.withShortDescription("Run the service")
  )

/** Without a terminal that could hang up, SIGHUP means what it means to a service: the log file was moved away. */
const onHangup = (reopen: () => void) => {
  if (!process.stderr.isTTY) process.on("SIGHUP", reopen)
}

/** The first signal is handled by the runtime, which lets jobs end; a second one means now. */
const watchSignals = () => {
  let signals = 0
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => {
      signals++
      if (signals > 1 && signal === "SIGINT") process.exit(130)
      setTimeout(() => {
        process.stderr.write(`lull did not end within ${longestShutdownMillis / 1000} s, and is ended\n`)
        process.exit(1)
      }, longestShutdownMillis).unref()
    })
  }
}

const lull = Command.make("lull").pipe(
  Command.withDescription("Jobs on PostgreSQL that survive its outages: quiet, lossless, quick to return"),
  Command.withSubcommands([serve, job, peer, migrate, filter])
)

const Services = Layer.mergeAll(NodeServices.layer, FetchHttpClient.layer, SecureRandom.layerWebCrypto)

run(Command.run(lull, { version }), Services, explain)
