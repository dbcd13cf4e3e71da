/** How many connections fit into the open files that the process may have: pure. A job that cannot be started for want of one is worse than a caller who waits. */

/** Of the text of `/proc/self/limits`. `undefined`: it says none, or there is no limit. */
export const openFiles = (limits: string): number | undefined => {
  const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1]
  return soft === undefined ? undefined : Number(soft)
}

export interface Needs {
  /** Of the database, at most. */
  readonly connections: number
  /** Jobs at a time. */
  readonly jobs: number
}

/** Streams, pipes and sockets of a job that runs, and what is open for a moment when it is started and tidied up. */
const filesOfJob = 6

/** Logs, the event loop's own, modules and certificates while they are read, the embedded server's. */
const filesOfService = 128

/** So that the service can be asked at all; that it is short of files is said. */
const fewest = 16

/** How many connections are taken at a time, of those that are wanted. */
export const connectionsWithin = (wanted: number, files: number | undefined, needs: Needs): number =>
  files === undefined
    ? wanted
    : Math.max(fewest, Math.min(wanted, files - filesOfService - needs.connections - filesOfJob * needs.jobs))
