/**
 * A disk of its own that a test may fill, for a tablespace: the rest of the server has space, as its log of writes would
 * otherwise end it. Only root can mount one.
 */
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import { chownSync, mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

export interface SmallDisk {
  /** Belongs to the server's account. */
  readonly directory: string
  /** Writes a file that takes all that is left. */
  readonly fill: Effect.Effect<void>
  /** Removes it. */
  readonly empty: Effect.Effect<void>
}

/** `undefined` where nothing can be mounted. */
export const make = Effect.fnUntraced(
  function*(megabytes: number, owner: { readonly uid: number; readonly gid: number }) {
    const root = mkdtempSync(join(tmpdir(), "lull-disk-"))
    const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${megabytes}m,mode=755`, "tmpfs", root]).status === 0
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        if (mounted) spawnSync("umount", ["--lazy", root])
        rmSync(root, { recursive: true, force: true })
      })
    )
    if (!mounted) return undefined
    const directory = join(root, "tablespace")
    mkdirSync(directory, { mode: 0o700 })
    chownSync(directory, owner.uid, owner.gid)
    const ballast = join(root, "ballast")
    const disk: SmallDisk = {
      directory,
      fill: Effect.sync(() => {
        const { bavail, bsize } = statfsSync(root)
        writeFileSync(ballast, Buffer.alloc(bavail * bsize))
      }),
      empty: Effect.sync(() => rmSync(ballast, { force: true }))
    }
    return disk
  }
)
