import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as jobUser from "../../src/cli/jobUser.ts"
import * as Settings from "../../src/Settings.ts"

const settings = (environment: Record<string, string>) => Result.getOrThrow(Settings.read((name) => environment[name]))

describe("a service that runs jobs", () => {
  const about = (
    environment: Record<string, string>,
    place: { readonly uid: number | undefined; readonly pid: number }
  ) => jobUser.warnings(settings(environment), place).map((line) => /root|process 1/.exec(line)?.[0])

  it("says what it means that they run as root, and that nobody collects what they leave behind", () => {
    assert.deepStrictEqual(about({}, { uid: 0, pid: 1 }), ["root", "process 1"])
    assert.deepStrictEqual(about({}, { uid: 0, pid: 17 }), ["root"])
    assert.deepStrictEqual(about({ LULL_JOB_USER: "nobody" }, { uid: 0, pid: 1 }), ["process 1"])
  })

  it("says nothing where neither is so, or no jobs are run", () => {
    assert.deepStrictEqual(about({}, { uid: 1000, pid: 17 }), [])
    assert.deepStrictEqual(about({}, { uid: undefined, pid: 17 }), [])
    assert.deepStrictEqual(about({ LULL_JOB_USER: "nobody" }, { uid: 0, pid: 17 }), [])
    assert.deepStrictEqual(about({ LULL_WORKER_SLOTS: "0" }, { uid: 0, pid: 1 }), [])
  })
})
