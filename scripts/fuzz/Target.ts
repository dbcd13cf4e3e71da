/** What a fuzz attacks. Each is a file of `targets/`, which exports one as `target`: a new file is a new target. */
import type { Random } from "./Random.ts"

export interface Target {
  /** For the list of targets. */
  readonly meaning: string
  /** Begins what is attacked; `close` ends it. */
  readonly open: () => Promise<Opened>
}

export interface Opened {
  /** One case, from this source alone. Throws, or rejects, with what is wrong. */
  readonly run: (random: Random) => Promise<void> | void
  /** Looked at once in a while and at the end: what is attacked is still well. */
  readonly check: () => Promise<void>
  readonly close: () => Promise<void>
}

/** Something that does not hold. */
export class Finding extends Error {
  override readonly name = "Finding"
}

export const holds = (isSo: boolean, what: string): void => {
  if (!isSo) throw new Finding(what)
}
