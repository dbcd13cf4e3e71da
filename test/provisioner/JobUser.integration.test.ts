import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Queue, type Scope } from "effect"
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Processes from "../../src/database/embedded/Processes.ts"
import { Executor, type JobOutput } from "../../src/provisioner/Executor.ts"
import { JobId, type LeasedJob } from "../../src/provisioner/Job.ts"
import * as JobUser from "../../src/provisioner/JobUser.ts"

const isRoot = process.getuid?.() === 0

/** An ordinary user's run says what it has not tried. */
const asRoot = <E>(name: string, test: () => Effect.Effect<void, E, Scope.Scope>) =>
  isRoot ? it.live(name, test) : it.live(`needs root, and was not tried: ${name}`, () => Effect.void)

const ground = Effect.acquireRelease(
  Effect.sync(() => {
    const root = mkdtempSync(join(tmpdir(), "lull-user-"))
    chmodSync(root, 0o711)
    writeFileSync(join(root, "secret"), "of the service", { mode: 0o600 })
    return { root, jobs: join(root, "jobs") }
  }),
  ({ root }) => Effect.sync(() => rmSync(root, { recursive: true, force: true }))
)

const leased = (script: string): LeasedJob => ({
  job: JobId.make("01900000-0000-7000-8000-000000000011"),
  token: 1,
  type: "command",
  input: { command: ["/bin/sh", "-c", script] },
  tags: {},
  timeout: undefined,
  attempt: 1,
  maxAttempts: 1
})

const recorder = () => {
  const lines: Array<string> = []
  const arrivals = Effect.runSync(Queue.unbounded<string>())
  const output: JobOutput = {
    write: (_, texts) =>
      Effect.sync(() => {
        lines.push(...texts)
        for (const text of texts) Queue.offerUnsafe(arrivals, text)
      })
  }
  return { lines, output, next: Queue.take(arrivals) }
}

const live = (directory: string, user: JobUser.JobUser) =>
  Executor.layerChildProcess({ directory, user, terminationGrace: "300 millis" })

const nobody = "65534:65534"

describe("a user of their own for jobs", () => {
  asRoot(
    "runs them with its ids, its home and no groups, in a directory that is theirs and is removed",
    () =>
      Effect.gen(function*() {
        const { jobs } = yield* ground
        const user = yield* JobUser.find("nobody", jobs)
        const { lines, output } = recorder()
        const script =
          `id -u; id -G; echo "$HOME"; grep ^CapEff: /proc/self/status; umask 077; mkdir a; echo b > a/b; ` +
          `echo c > "$TMPDIR/c"; cat a/b "$TMPDIR/c"; stat -c %a . "$TMPDIR"`
        yield* Effect.flatMap(Executor, (executor) => executor.run(leased(script), output)).pipe(
          Effect.provide(live(jobs, user))
        )
        assert.deepStrictEqual(lines, [
          String(user.uid),
          String(user.gid),
          user.home,
          "CapEff:\t0000000000000000",
          "b",
          "c",
          "700",
          "700"
        ])
        assert.deepStrictEqual(readdirSync(jobs), [])
        assert.strictEqual(statSync(jobs).mode & 0o777, 0o711)
      })
  )

  asRoot("keeps the files, the environment and the memory of the service from them", () =>
    Effect.gen(function*() {
      const { jobs, root } = yield* ground
      const user = yield* JobUser.find(nobody, jobs)
      const { lines, output } = recorder()
      const tries = [`${root}/secret`, "/proc/$PPID/environ", "/proc/$PPID/mem", "/proc/$PPID/fd/0", "/etc/shadow"]
      const script = `${
        tries.map((path) => `head -c 1 "${path}" >/dev/null 2>&1 && echo "read ${path}"`).join("; ")
      }; ` +
        `kill -0 $PPID 2>/dev/null && echo signaled; ls "${jobs}" 2>/dev/null && echo listed; echo end`
      yield* Effect.flatMap(Executor, (executor) => executor.run(leased(script), output)).pipe(
        Effect.provide(live(jobs, user))
      )
      assert.deepStrictEqual(lines, ["end"])
    }))

  asRoot("ends them, and what has left their group, all the same", () =>
    Effect.gen(function*() {
      const { jobs } = yield* ground
      const user = yield* JobUser.find(nobody, jobs)
      const { next, output } = recorder()
      const script = `trap "" TERM; setsid sh -c 'trap "" TERM; echo $$; while :; do sleep 0.1; done' </dev/null & ` +
        `while :; do sleep 0.1; done`
      const pid = yield* Effect.gen(function*() {
        const executor = yield* Executor
        const fiber = yield* Effect.forkChild(executor.run(leased(script), output))
        const pid = yield* next
        yield* Fiber.interrupt(fiber)
        assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
        return pid
      }).pipe(Effect.provide(live(jobs, user)))
      assert.isFalse(Processes.isRunning(Number(pid)))
      assert.deepStrictEqual(readdirSync(jobs), [])
    }))

  asRoot(
    "has to be there, must not be root, and has to reach the directory; each is said",
    () =>
      Effect.gen(function*() {
        const { jobs, root } = yield* ground
        const problem = (name: string, directory = jobs) =>
          Effect.map(Effect.flip(JobUser.find(name, directory)), ({ message }) => message)
        assert.match(yield* problem("no-such-user"), /jobs cannot run as no-such-user: there is no user of this name/)
        for (const name of ["root", "0:0", "0:65534"]) assert.match(yield* problem(name), /that is root/)
        mkdirSync(join(root, "closed"), { mode: 0o700 })
        assert.match(
          yield* problem("nobody", join(root, "closed", "jobs")),
          /it cannot enter .*closed\/jobs.*chmod o\+x/
        )
        // Somebody else's directory is left as it is.
        mkdirSync(join(root, "theirs"), { mode: 0o700 })
        chownSync(join(root, "theirs"), 12_345, 12_345)
        assert.match(yield* problem("nobody", join(root, "theirs")), /it cannot enter/)
        assert.strictEqual(statSync(join(root, "theirs")).mode & 0o777, 0o700)
      })
  )

  it.live("can only be given by root", () =>
    Effect.gen(function*() {
      const { jobs } = yield* ground
      const found = yield* Effect.exit(JobUser.find(nobody, jobs))
      assert.strictEqual(Exit.isSuccess(found), isRoot)
    }))
})
