/** Runs a command line as a process: what interrupts it, its exit status, and what is said when it fails. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Layer from "effect/Layer"
import * as Runtime from "effect/Runtime"
import { visible } from "../logging/VisibleText.ts"
import { ExitWith } from "./ExitWith.ts"
import * as Interruption from "./Interruption.ts"
import * as ParentWatch from "./ParentWatch.ts"

export const version = "0.1.0"

/** As in `sysexits.h`. */
export const usageError = 64

/**
 * A second Ctrl-C means now. Not one that comes with the first: a terminal sends it to npm and to us, and npm sends it to us
 * as well.
 */
const secondAfterMillis = 500

type Teardown = (exit: Exit.Exit<unknown, unknown>, onExit: (status: number) => void) => void

/** Counts what interrupts; the first one is the reason. */
const makeInterruption = () => {
  let reason: Interruption.Reason | undefined
  let reasonAt = 0
  let isTheEnd = false
  let deadline: number | undefined
  let interruptFiber = () => {}

  // What runs here has to work when the program does not, so it uses the clock and the timers of the process.
  const startDeadline = () => {
    if (reason === undefined || deadline === undefined) return
    const millis = deadline
    setTimeout(() => {
      process.stderr.write(`lull did not end within ${millis / 1000} s, and is ended\n`)
      process.exit(1)
    }, millis).unref()
  }
  const interrupt = (next: Interruption.Reason) => {
    const now = performance.now()
    if (reason === undefined) {
      reason = next
      reasonAt = now
      startDeadline()
      interruptFiber()
    } else if (next === Interruption.signals.SIGINT && now - reasonAt > secondAfterMillis) {
      process.exit(next.status)
    }
  }
  const on = (signal: keyof typeof Interruption.signals) =>
    process.on(signal, () => interrupt(Interruption.signals[signal]))

  return {
    service: Interruption.Interruption.of({
      reason: () => reason,
      isTheEnd: (withinMillis) => {
        isTheEnd = true
        deadline = withinMillis
        startDeadline()
      },
      includesHangup: () => void on("SIGHUP")
    }),
    begin: (interruptMain: () => void) => {
      interruptFiber = interruptMain
      on("SIGINT")
      on("SIGTERM")
      ParentWatch.watch((words) => interrupt({ words, status: Interruption.signals.SIGHUP.status }))
    },
    statusOf: (exit: Exit.Exit<unknown, unknown>) => {
      if (Exit.isSuccess(exit) || reason === undefined) return undefined
      return isTheEnd ? (Cause.hasInterruptsOnly(exit.cause) ? 0 : undefined) : reason.status
    }
  }
}

/** The status of the process, and one line for what somebody can do something about. */
const teardown = (
  statusOf: (exit: Exit.Exit<unknown, unknown>) => number | undefined,
  explain: (cause: Cause.Cause<unknown>) => string
): Teardown =>
(exit, onExit) => {
  const interrupted = statusOf(exit)
  if (interrupted !== undefined) return onExit(interrupted)
  if (Exit.isSuccess(exit)) return onExit(0)
  const error = Cause.squash(exit.cause)
  if (error instanceof ExitWith) return onExit(error.status)
  // Bad flags have been explained by the command line already.
  if (hasTag(error, "ShowHelp")) return onExit(usageError)
  const lines = hasTag(error, "InvalidSettings") ? explain(exit.cause).split("\n") : [explain(exit.cause)]
  process.stderr.write(lines.map((line) => `${visible(line)}\n`).join(""))
  onExit(
    hasTag(error, "InvalidSettings") || hasTag(error, "InvalidDatabaseUrl")
      ? usageError
      : Runtime.getErrorExitCode(error)
  )
}

const hasTag = (error: unknown, tag: string) =>
  typeof error === "object" && error !== null && "_tag" in error && error._tag === tag

export const run = <E, Services>(
  program: Effect.Effect<void, E, Services | Interruption.Interruption>,
  services: Layer.Layer<Services>,
  explain: (cause: Cause.Cause<unknown>) => string
): void => {
  const { begin, service, statusOf } = makeInterruption()
  const runMain = Runtime.makeRunMain(({ fiber, teardown }) => {
    begin(() => fiber.interruptUnsafe(fiber.id))
    fiber.addObserver((exit) =>
      teardown(exit, (status) => {
        // Who was not interrupted and has nothing to say ends by itself, when all is written.
        if (status !== 0 || service.reason() !== undefined) process.exit(status)
        process.removeAllListeners("SIGINT").removeAllListeners("SIGTERM").removeAllListeners("SIGHUP")
      })
    )
  })
  runMain(program.pipe(Effect.provide(services), Effect.provideService(Interruption.Interruption, service)), {
    disableErrorReporting: true,
    teardown: teardown(statusOf, explain)
  })
}
