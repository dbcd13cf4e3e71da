/**
 * The `lull` command: it reads what was asked for, wires the layers and runs; nothing else happens here. With `run`, the only
 * place that touches the process: its signals, its streams, its exit status.
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { ConfigProvider, Layer } from "effect"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { describeSettings } from "../Settings.ts"
import { filter } from "./filter.ts"
import { job } from "./job.ts"
import { migrate } from "./migrate.ts"
import { peer } from "./peer.ts"
import { run, version } from "./run.ts"
import { explain, serve as runService } from "./serve.ts"
import { presenter } from "./usage.ts"

const serve = Command.make("serve", {}, () =>
  runService({
    isTerminal: process.stderr.isTTY,
    invocation: { program: process.execPath, script: process.argv[1] ?? "", environment: process.env },
    // As a service is told that its log file was moved away, or its tokens were changed.
    onHangup: (reopen) => process.on("SIGHUP", reopen)
  })).pipe(
    Command.withDescription(
      `Run the service until SIGTERM or Ctrl-C, after which it ends with status 0, when running jobs have ended or ` +
        `LULL_SHUTDOWN_DEADLINE is over. Started by npm, it ends with npm. Settings, by environment:\n\n${describeSettings()}`
    ),
    Command.withShortDescription("Run the service")
  )

const lull = Command.make("lull").pipe(
  Command.withDescription("Jobs on PostgreSQL that survive its outages: quiet, lossless, quick to return"),
  Command.withSubcommands([serve, job, peer, migrate, filter])
)

const Services = Layer.mergeAll(
  NodeServices.layer,
  // Not `fetch`, which asks at no port of certain other protocols, nor says what was wrong in words of its own.
  NodeHttpClient.layerNodeHttp,
  SecureRandom.layerWebCrypto,
  CliOutput.layerPresenter(presenter(process.argv.slice(2))),
  // A secret that is empty is found as such.
  ConfigProvider.layer(ConfigProvider.fromEnv({ preserveEmptyStrings: true }))
)

run(Command.run(lull, { version }), Services, explain)
