/** `lull filter`, as a program. Nothing is imported here, or by what is, that a filter does not need. */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Cause from "effect/Cause"
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { systemError } from "effect/PlatformError"
import { Stdio } from "effect/Stdio"
import * as Stream from "effect/Stream"
import { fstatSync, readSync } from "node:fs"
import { filter } from "./filter.ts"
import { run, version } from "./run.ts"

/** What is read of a file at once. With Node's own 64 KiB, and new memory each time, it takes half as long again. */
const readLength = 256 * 1_024

const isFile = () => {
  try {
    return fstatSync(0).isFile()
  } catch {
    return false
  }
}

/**
 * Into the same memory each time: whoever takes a piece is done with it when he asks for the next. A file does not keep its
 * reader waiting, so that to wait for a thread of the pool would be most of the time that reading takes.
 */
const fileInput = Stream.unfold(Buffer.alloc(readLength), (buffer) =>
  Effect.try({
    try: () => {
      const length = readSync(0, buffer)
      return length === 0 ? undefined : [buffer.subarray(0, length), buffer] as const
    },
    catch: (cause) => systemError({ module: "Stdio", method: "stdin", _tag: "Unknown", cause })
  }))

const FileInput = Layer.effect(
  Stdio,
  Effect.map(Stdio, (stdio): Stdio => isFile() ? { ...stdio, stdin: fileInput } : stdio)
)

const explain = (cause: Cause.Cause<unknown>) => {
  const error = Cause.squash(cause)
  return error instanceof Error ? error.message : String(error)
}

const lull = Command.make("lull").pipe(Command.withSubcommands([filter]))

run(Command.run(lull, { version }), Layer.provideMerge(FileInput, NodeServices.layer), explain)
