import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { type Dropped, FileWriter } from "../../../src/logging/file/FileWriter.ts"
import { makeFakeDisk } from "./FakeDisk.ts"

const path = "/log/shop.log"
const start = Date.parse("2026-11-23T10:00:00Z")

const setUp = (options: { maxBytes?: number; quota?: number; everyMillis?: number } = {}) => {
  let millis = start
  let wrongBy = 0
  const fake = makeFakeDisk(() => millis + wrongBy)
  const dropped: Array<Dropped> = []
  let archived = 0
  const make = () =>
    new FileWriter(
      fake.disk,
      { path, maxBytes: 1_000, quota: 10_000, everyMillis: undefined, bufferLength: 200, ...options },
      {
        wallMillis: () => millis + wrongBy,
        monotonicMillis: () => millis,
        formatDropped: (each) => {
          dropped.push(each)
          return `dropped ${each.records} ${each.reason}`
        },
        onArchived: () => archived++
      }
    )
  return {
    ...fake,
    dropped,
    make,
    archived: () => archived,
    pass: (by: number) => void (millis += by),
    /** The time of day is set, and nothing else. */
    setWrongBy: (by: number) => void (wrongBy = by),
    names: () => [...fake.files.keys()].map((each) => each.slice(5)).sort(),
    /** All lines of the log, oldest first. */
    lines: () =>
      [...fake.files].filter(([each]) => each.startsWith("/log/shop") && !each.endsWith(".part")).map((
        [each, { content }]
      ) => ({
        order: Number(/shop-(\d+)/.exec(each)?.[1] ?? Infinity),
        content: content.toString()
      })).sort((one, other) => one.order - other.order).flatMap(({ content }) => content.split("\n").filter(Boolean))
  }
}

const opened = (options?: Parameters<typeof setUp>[0]) => {
  const context = setUp(options)
  const writer = context.make()
  writer.open()
  return { ...context, writer }
}

const numbered = (number: number, length: number) => `${number} `.padEnd(length, "x")

describe("FileWriter", () => {
  it("writes records together, and those that matter at once", () => {
    const { counts, text, writer } = opened()
    writer.append("one", false)
    assert.strictEqual(text(path), "")
    writer.append("two", true)
    assert.strictEqual(text(path), "one\ntwo\n")
    assert.strictEqual(counts.write, 1)
    writer.append("three", false)
    writer.flush()
    assert.strictEqual(text(path), "one\ntwo\nthree\n")
  })

  it("rotates by size, and numbers what it rotates", () => {
    const { archived, names, text, writer } = opened()
    for (let n = 0; n < 3; n++) writer.append("x".repeat(599), true)
    assert.deepStrictEqual(names(), [
      "shop-000001-20261123T100000Z.log",
      "shop-000002-20261123T100000Z.log",
      "shop.log"
    ])
    assert.lengthOf(text(path) ?? "", 600)
    assert.strictEqual(archived(), 2)
  })

  it("rotates at the beginning of a period, also the file of an earlier run", () => {
    const { make, names, pass, put, text } = setUp({ everyMillis: 86_400_000 })
    put(path, "yesterday\n", start - 86_400_000)
    const writer = make()
    writer.open()
    writer.append("today", true)
    assert.strictEqual(text(path), "today\n")
    pass(13 * 3_600_000)
    writer.append("still today", true)
    assert.strictEqual(names().length, 2)
    pass(3_600_000)
    writer.append("tomorrow", true)
    assert.strictEqual(text(path), "tomorrow\n")
    assert.strictEqual(names().length, 3)
  })

  it("goes on to rotate at each period after the clock was set ahead and back", () => {
    const { names, pass, setWrongBy, text, writer } = opened({ everyMillis: 86_400_000 })
    setWrongBy(365 * 86_400_000)
    writer.append("in a year", true)
    pass(60_000)
    setWrongBy(0)
    writer.append("today", true)
    const before = names().length
    pass(86_400_000)
    writer.append("tomorrow", true)
    assert.strictEqual(text(path), "tomorrow\n")
    assert.strictEqual(names().length, before + 1)
  })

  it("is not rotated to and fro by a clock that is set around the end of a period", () => {
    const { names, pass, setWrongBy, writer } = opened({ everyMillis: 86_400_000 })
    pass(13.9 * 3_600_000)
    for (let set = 0; set < 20; set++) {
      setWrongBy(set % 2 === 0 ? 600_000 : 0)
      writer.append("a record", true)
    }
    assert.isAtMost(names().length, 11)
  })

  it("says for how long it dropped records, whatever the clock was set to meanwhile", () => {
    const { dropped, faults, pass, setWrongBy, writer } = opened()
    faults.set("write", "EIO")
    for (let record = 0; record < 10_000; record++) writer.append(numbered(record, 100), false)
    pass(5_000)
    setWrongBy(-3_600_000)
    writer.append(numbered(10_000, 100), false)
    pass(2_000)
    faults.clear()
    writer.flush()
    assert.strictEqual(dropped.at(-1)?.lastedMillis, 5_000)
  })

  it("begins on a line of its own after a run that ended within one", () => {
    const { make, put, text } = setUp()
    put(path, "half a rec")
    const writer = make()
    writer.open()
    writer.append("whole", true)
    assert.strictEqual(text(path), "half a rec\nwhole\n")
  })

  it("keeps the directory below the quota, files of earlier runs and of others included, oldest first", () => {
    const { make, names, put, used } = setUp({ quota: 5_000 })
    put("/log/shop-000007-20250101T000000Z.log.gz", "x".repeat(2_000))
    put("/log/shop-000008-20240101T000000Z.log", "x".repeat(2_000))
    put("/log/notes.txt", "x".repeat(500))
    const writer = make()
    writer.open()
    for (let n = 0; n < 2; n++) writer.append("x".repeat(599), true)
    assert.notInclude(names(), "shop-000007-20250101T000000Z.log.gz")
    assert.include(names(), "shop-000008-20240101T000000Z.log")
    assert.include(names(), "shop-000009-20261123T100000Z.log")
    assert.include(names(), "notes.txt")
    assert.isAtMost(used(), 5_000)
  })

  it("a lower quota than that of the earlier run is kept from the start", () => {
    const { make, put, used } = setUp({ quota: 5_000 })
    for (let n = 1; n < 9; n++) put(`/log/shop-00000${n}-20250101T000000Z.log.gz`, "x".repeat(1_000))
    put(path, "x".repeat(7_000))
    make().open()
    assert.isAtMost(used(), 5_000)
  })

  it("says so if others have taken the quota, and deletes nothing in vain", () => {
    const { make, names, put } = setUp()
    put("/log/core", "x".repeat(20_000))
    put("/log/shop-000001-20250101T000000Z.log", "x")
    const writer = make()
    assert.throws(() => writer.open())
    assert.lengthOf(names(), 3)
  })

  it("a short write is gone on with", () => {
    const { setMostAtOnce, text, writer } = opened()
    setMostAtOnce(3)
    writer.append("a record of some length", true)
    assert.strictEqual(text(path), "a record of some length\n")
  })

  it("a full disk: the oldest go first, then records are dropped and counted, and that is said when there is room", () => {
    const { dropped, lines, make, pass, put, setCapacity, text } = setUp()
    put("/log/shop-000001-20250101T000000Z.log", "x".repeat(500))
    put("/log/core", "x".repeat(2_000))
    const writer = make()
    writer.open()
    setCapacity(2_540)
    writer.append("y".repeat(99), true)
    assert.strictEqual(text("/log/shop-000001-20250101T000000Z.log"), undefined)
    assert.isUndefined(writer.failure)
    setCapacity(2_150)
    const size = 70 * 1_024
    for (let n = 0; n < size / 100; n++) writer.append("z".repeat(99), true)
    assert.strictEqual(writer.failure, "ENOSPC")
    assert.strictEqual(text(path), `${"y".repeat(99)}\n`, "no half record")
    setCapacity(Number.POSITIVE_INFINITY)
    pass(1_000)
    writer.flush()
    assert.isUndefined(writer.failure)
    const lost = dropped.at(-1)?.records ?? 0
    assert.isAbove(lost, 0)
    assert.include(lines(), `dropped ${lost} ENOSPC`)
    assert.strictEqual(writer.writtenRecords + writer.droppedRecords, 1 + Math.ceil(size / 100))
  })

  it("a disk that fails is asked once a second, not for each record", () => {
    const { counts, faults, openDescriptors, pass, writer } = opened()
    faults.set("write", "EIO")
    for (let n = 0; n < 1_000; n++) writer.append("record", true)
    assert.strictEqual(counts.write, 1)
    pass(1_000)
    for (let n = 0; n < 1_000; n++) writer.append("record", true)
    assert.strictEqual(counts.write, 2)
    assert.isAtMost(openDescriptors(), 1)
  })

  it("a directory where nothing may be renamed: the file grows on, within the quota", () => {
    const { faults, text, writer } = opened()
    faults.set("rename", "EACCES")
    for (let n = 0; n < 5; n++) writer.append("x".repeat(599), true)
    assert.lengthOf(text(path) ?? "", 3_000)
  })

  it("a record that no file has room for is dropped, said, and the next is written", () => {
    const { lines, writer } = opened()
    writer.append("x".repeat(6_000), true)
    writer.append("next", true)
    assert.deepStrictEqual(lines(), ["dropped 1 too long", "next"])
  })

  it("a long one has a file of its own", () => {
    const { lines, names, writer } = opened()
    writer.append("before", false)
    writer.append("x".repeat(3_000), true)
    writer.append("after", true)
    assert.deepStrictEqual(lines().map((line) => line.length), [6, 3_000, 5])
    assert.lengthOf(names(), 3)
  })

  it("renamed from outside: told, or noticed within a second", () => {
    const { disk, pass, text, writer } = opened()
    writer.append("one", true)
    disk.rename(path, "/log/shop.log.1")
    writer.append("two", true)
    assert.strictEqual(text("/log/shop.log.1"), "one\ntwo\n")
    writer.reopen()
    writer.append("three", true)
    assert.strictEqual(text(path), "three\n")
    disk.rename(path, "/log/shop.log.2")
    pass(1_000)
    writer.append("four", true)
    assert.strictEqual(text(path), "four\n")
  })

  it("copied and cut from outside", () => {
    const { files, pass, text, writer } = opened()
    writer.append("x".repeat(900), true)
    files.get(path)!.content = Buffer.alloc(0)
    pass(1_000)
    writer.append("y".repeat(900), true)
    assert.strictEqual(text(path), `${"y".repeat(900)}\n`)
  })

  it("a compressed file takes the place of the other; one that is needed for room is given up", () => {
    const { names, used, writer } = opened({ quota: 4_000 })
    for (let n = 0; n < 2; n++) writer.append("x".repeat(899), true)
    assert.strictEqual(writer.startCompression(), "/log/shop-000001-20261123T100000Z.log")
    assert.isTrue(writer.addCompressed(Buffer.alloc(100)))
    assert.isTrue(writer.endCompression())
    assert.deepStrictEqual(names(), ["shop-000001-20261123T100000Z.log.gz", "shop.log"])
    writer.append("x".repeat(899), true)
    assert.isString(writer.startCompression())
    assert.isTrue(writer.addCompressed(Buffer.alloc(1_000)))
    for (let n = 0; n < 2; n++) writer.append("x".repeat(899), true)
    assert.isFalse(writer.addCompressed(Buffer.alloc(100)))
    assert.isEmpty(names().filter((name) => name.endsWith(".part")))
    assert.isAtMost(used(), 4_000)
  })

  it("what a process left twice, plain and compressed, is there once", () => {
    const { make, names, put } = setUp()
    put("/log/shop-000001-20250101T000000Z.log", "x".repeat(500))
    put("/log/shop-000001-20250101T000000Z.log.gz", "x".repeat(50))
    make().open()
    assert.deepStrictEqual(names(), ["shop-000001-20250101T000000Z.log.gz", "shop.log"])
  })

  it("what a process left half compressed is removed, and done again", () => {
    const { make, names, put } = setUp()
    put("/log/shop-000001-20250101T000000Z.log", "x".repeat(500))
    put("/log/shop-000001-20250101T000000Z.log.gz.part", "x".repeat(50), start - 100_000)
    const writer = make()
    writer.open()
    assert.deepStrictEqual(names(), ["shop-000001-20250101T000000Z.log", "shop.log"])
    assert.isTrue(writer.hasUncompressed)
  })

  const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
  const logged = Schema.Struct({ log: between(8, 700), through: Schema.Boolean })

  // Several times the same, as they are drawn with equal weight.
  const steps = Schema.Array(Schema.Union([
    logged,
    logged,
    logged,
    logged,
    Schema.Struct({ log: between(700, 7_000), through: Schema.Boolean }),
    Schema.Struct({ pass: between(1, 3_000) }),
    Schema.Struct({
      fault: Schema.Literals(["open", "write", "truncate", "rename", "remove", "list"]),
      code: Schema.Literals(["EIO", "EACCES", "ENOSPC", "EMFILE"])
    }),
    Schema.Struct({ capacity: between(0, 10_000) }),
    Schema.Struct({ mostAtOnce: between(1, 1_000) }),
    Schema.Struct({
      do: Schema.Literals(["heal", "restart", "crash", "reopen", "rotated", "compress", "abort", "flush"])
    })
  ])).check(Schema.isMaxLength(120))

  it.effect.prop(
    "whatever the disk does: never above the quota, nothing thrown, nothing lost uncounted, in order",
    { steps, quota: Schema.Literals([3_000, 5_000, 20_000]) },
    ({ quota, steps }) =>
      Effect.sync(() => {
        const {
          afterWrite,
          closeAll,
          disk,
          faults,
          files,
          lines,
          make,
          openDescriptors,
          pass,
          setCapacity,
          setMostAtOnce,
          used
        } = setUp({ quota })
        afterWrite.push(() => assert.isAtMost(used("/log"), quota))
        let writer = make()
        writer.open()
        let received = 0
        let accounted = 0
        let isTruncatable = true
        let isRemovable = true
        const settle = () => {
          accounted += writer.writtenRecords + writer.droppedRecords
        }
        for (const each of steps) {
          if ("log" in each) writer.append(numbered(received++, each.log), each.through)
          else if ("pass" in each) pass(each.pass)
          else if ("fault" in each) {
            faults.set(each.fault, each.code)
            if (each.fault === "truncate") isTruncatable = false
            if (each.fault === "remove") isRemovable = false
          } else if ("capacity" in each) setCapacity(each.capacity)
          else if ("mostAtOnce" in each) setMostAtOnce(each.mostAtOnce)
          else {
            switch (each.do) {
              case "heal":
                faults.clear()
                setCapacity(Number.POSITIVE_INFINITY)
                break
              case "restart":
              case "crash": {
                if (each.do === "restart") {
                  faults.clear()
                  setCapacity(Number.POSITIVE_INFINITY)
                  writer.close()
                }
                settle()
                // What a crash loses was neither written nor dropped.
                if (each.do === "crash") {
                  accounted = received
                  closeAll()
                }
                writer = make()
                try {
                  writer.open()
                } catch {
                  // As at a start on a full disk.
                }
                break
              }
              case "reopen":
                writer.reopen()
                break
              case "rotated":
                // By a program that keeps what it moves elsewhere.
                if (files.has(path) && !faults.has("rename")) disk.rename(path, `/elsewhere/${received}-${files.size}`)
                break
              case "compress": {
                const source = writer.startCompression()
                const content = source === undefined ? undefined : files.get(source)?.content
                if (content !== undefined && writer.addCompressed(content)) writer.endCompression()
                break
              }
              case "abort":
                writer.startCompression()
                writer.addCompressed(Buffer.alloc(100))
                break
              case "flush":
                writer.flush()
            }
          }
        }
        faults.clear()
        setCapacity(Number.POSITIVE_INFINITY)
        pass(2_000)
        writer.flush()
        writer.abortCompression()
        settle()
        assert.isUndefined(writer.failure)
        assert.isFalse(writer.isUnsettled)
        assert.strictEqual(accounted, received)
        assert.isAtMost(used("/log"), quota)
        writer.close()
        const numbers: Array<number> = []
        for (const line of lines()) {
          if (/^dropped \d+ (?:E[A-Z]+|too long|quota)$/.test(line)) continue
          const [, number] = /^(\d+) x*$/.exec(line) ?? []
          if (isTruncatable) assert.isDefined(number, `half a record: ${line.slice(0, 50)}`)
          if (number !== undefined) numbers.push(Number(number))
        }
        // Those that are there twice, as a file could not be removed, are so until somebody looks again.
        numbers.splice(0, numbers.length, ...(isRemovable ? numbers : new Set(numbers)))
        if (isTruncatable) assert.deepStrictEqual(numbers, [...new Set(numbers)].sort((one, other) => one - other))
        assert.strictEqual(openDescriptors(), 0)
      }),
    { arbitrary: { runs: 5_000 } }
  )
})
