/**
 * So that the peers of a replica that is gone do not all dial in the same instant: each is told beforehand over how long they would
 * have to spread, and waits a random part of it. Pure.
 *
 * Without it a thousand peers dial within 50 milliseconds, the first delay of `Backoff.session`; a single one is not to wait for
 * seconds for the sake of others that do not exist. Only the replica knows how many there are.
 */

/** A quarter of what one replica admits on two shared cores; see `docs/benchmarks.md`. */
export const dialsPerSecond = 200

/** Shorter than the time for which a replica that ends is not taken for gone. */
const longestMillis = 15_000

/** Below it the delays of the peers' own backoff are spread enough. */
const shortestMillis = 50

/** For so many peers; 0 for a few. */
export const millisFor = (peers: number): number => {
  const millis = Math.round(Math.min(peers / dialsPerSecond * 1_000, longestMillis))
  return millis < shortestMillis ? 0 : millis
}
