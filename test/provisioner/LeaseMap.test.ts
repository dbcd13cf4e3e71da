import { assert, describe, it } from "@effect/vitest"
import { JobId, type Lease } from "../../src/provisioner/Job.ts"
import { LeaseMap } from "../../src/provisioner/LeaseMap.ts"

const job = JobId.make("01920000-0000-7000-8000-000000000001")
const other = JobId.make("01920000-0000-7000-8000-000000000002")

interface Kept {
  readonly lease: Lease
  readonly name: string
}

const kept = (name: string, id: JobId, token: number): Kept => ({ name, lease: { job: id, token } })
const make = () => new LeaseMap<Kept>(({ lease }) => lease)
const names = (map: LeaseMap<Kept>) => map.values().map(({ name }) => name).toSorted()

describe("LeaseMap", () => {
  it("keeps leases of one job apart by their token", () => {
    const map = make()
    map.set(kept("first", job, 1))
    map.set(kept("second", job, 2))
    map.set(kept("third", job, 3))
    map.set(kept("other", other, 1))
    assert.strictEqual(map.size, 4)
    assert.deepStrictEqual(names(map), ["first", "other", "second", "third"])
    for (const [token, name] of [[1, "first"], [2, "second"], [3, "third"]] as const) {
      assert.strictEqual(map.get({ job, token })?.name, name)
    }
    assert.isUndefined(map.get({ job, token: 4 }))
    assert.isFalse(map.has({ job: other, token: 2 }))
  })

  it("puts a value in the place of the one before under the same token", () => {
    const map = make()
    map.set(kept("first", job, 1))
    map.set(kept("second", job, 2))
    map.set(kept("first again", job, 1))
    map.set(kept("second again", job, 2))
    assert.deepStrictEqual(names(map), ["first again", "second again"])
    assert.strictEqual(map.size, 2)
  })

  it("deletes a lease in any order, and none but that", () => {
    for (const order of [[1, 2, 3], [3, 2, 1], [2, 3, 1], [2, 1, 3]]) {
      const map = make()
      for (const token of [1, 2, 3]) map.set(kept(String(token), job, token))
      const left = new Set(["1", "2", "3"])
      map.delete({ job, token: 4 })
      map.delete({ job: other, token: 1 })
      for (const token of order) {
        map.delete({ job, token })
        left.delete(String(token))
        assert.deepStrictEqual(names(map), [...left].toSorted())
        assert.strictEqual(map.size, left.size)
      }
    }
  })

  it("finds the newest lease of a job that is as asked", () => {
    const map = make()
    for (const token of [1, 2, 3]) map.set(kept(String(token), job, token))
    assert.strictEqual(map.newest(job, () => true)?.name, "3")
    assert.strictEqual(map.newest(job, ({ name }) => name !== "3")?.name, "2")
    assert.isUndefined(map.newest(job, () => false))
    assert.isUndefined(map.newest(other, () => true))
  })
})
