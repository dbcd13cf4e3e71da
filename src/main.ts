#!/usr/bin/env node
/**
 * The `lull` command. It reads what was asked for, wires the layers and runs; nothing else happens here. The only place that
 * touches the process: its signals, its streams, its exit status.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Cause, Effect, Exit, Layer } from "effect"
import * as Command from "effect/cli/Command"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import { ExitWith } from "./cli/ExitWith.ts"
import { filter } from "./cli/filter.ts"
import { job } from "./cli/job.ts"
import { explain, serve as runService } from "./cli/serve.ts"
import { describeSettings } from "./Settings.ts"

const version = "0.1.0"

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
  Command.withSubcommands([serve, job, filter])
)

const Services = Layer.mergeAll(NodeServices.layer, FetchHttpClient.layer, SecureRandom.layerWebCrypto)

/** 0 also after a signal; one line for what somebody can do something about. */
const teardown = (exit: Exit.Exit<unknown, unknown>, onExit: (status: number) => void) => {
  if (Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)) return onExit(0)
  const error = Cause.squash(exit.cause)
  if (error instanceof ExitWith) return onExit(error.status)
  // Bad flags have been explained by the command line already.
  const isExplained = typeof error === "object" && error !== null && "_tag" in error && error._tag === "ShowHelp"
  if (!isExplained) process.stderr.write(`${explain(exit.cause)}\n`)
  onExit(1)
}

NodeRuntime.runMain(Effect.provide(Command.run(lull, { version }), Services), { disableErrorReporting: true, teardown })
