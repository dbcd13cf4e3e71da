/** Runs a command line as a process: its signals, its exit status, and what is said when it fails. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Layer from "effect/Layer"
import { ExitWith } from "./ExitWith.ts"

export const version = "0.1.0"

/** 0 also after a signal; one line for what somebody can do something about. */
const teardown =
  (explain: (cause: Cause.Cause<unknown>) => string) =>
  (exit: Exit.Exit<unknown, unknown>, onExit: (status: number) => void) => {
    if (Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)) return onExit(0)
    const error = Cause.squash(exit.cause)
    if (error instanceof ExitWith) return onExit(error.status)
    // Bad flags have been explained by the command line already.
    const isExplained = typeof error === "object" && error !== null && "_tag" in error && error._tag === "ShowHelp"
    if (!isExplained) process.stderr.write(`${explain(exit.cause)}\n`)
    onExit(1)
  }

export const run = <E, Services>(
  program: Effect.Effect<void, E, Services>,
  services: Layer.Layer<Services>,
  explain: (cause: Cause.Cause<unknown>) => string
): void =>
  NodeRuntime.runMain(Effect.provide(program, services), {
    disableErrorReporting: true,
    teardown: teardown(explain)
  })
