/**
 * What ends a command from outside: a signal, the end of npm that had started it, a terminal that was closed. The exit status
 * is that of a shell, 128 and the number of the signal; for what ends in no other way than by being interrupted, as a
 * service, it is 0.
 */
import * as Context from "effect/Context"

export interface Reason {
  readonly words: string
  readonly status: number
}

export const signals: Readonly<Record<"SIGHUP" | "SIGINT" | "SIGTERM", Reason>> = {
  SIGHUP: { words: "SIGHUP, its terminal was closed", status: 128 + 1 },
  SIGINT: { words: "SIGINT", status: 128 + 2 },
  SIGTERM: { words: "SIGTERM", status: 128 + 15 }
}

export class Interruption extends Context.Service<Interruption, {
  /** `undefined` as long as nothing has happened. */
  readonly reason: () => Reason | undefined
  /** From now on an interruption is the right way to end, with status 0; and the process is ended if that takes longer. */
  readonly isTheEnd: (withinMillis: number) => void
  /** From now on SIGHUP is an interruption, too. */
  readonly includesHangup: () => void
}>()("lull/cli/Interruption") {}
