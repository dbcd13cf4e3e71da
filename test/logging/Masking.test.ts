import { assert, describe, it } from "@effect/vitest"
import { Effect, Random } from "effect"
import { maskText } from "../../src/logging/Masking.ts"
import { templates } from "./corpus.ts"
import { instance } from "./instances.ts"

describe("masking", () => {
  for (
    const [text, masked] of [
      ["job 0b9f8a52-7a2e-4c31-9d8e-2f3b9c1d7e60 failed", "job <uuid> failed"],
      ["0B9F8A52-7A2E-4C31-9D8E-2F3B9C1D7E60", "<uuid>"],
      ["commit deadbeef01, 0x7f3a, aa:bb:cc:dd:ee:ff", "commit <hex>, <hex>, <hex>"],
      ["12e34567 is hexadecimal, and 1e9 is a number", "<hex> is hexadecimal, and <n> is a number"],
      ["connect ECONNREFUSED 10.0.0.1:5432", "connect ECONNREFUSED <ip>:<n>"],
      ["[2001:db8::7]:443 and ::1 and fe80::1.", "[<ip>]:<n> and <ip> and <ip>."],
      ["2026-01-31T12:00:00.123+01:00 2026/01/31 12:00:00 12:00:00,5", "<time> <time> <time>"],
      ["took 1.5s, 3m20s, 250 ms, 25µs; read 4.2 MiB at 97%", "took <n>, <n>, <n>, <n>; read <n> at <n>"],
      ["user:42 of 1,234,567, -1.5", "user:<n> of <n>, -<n>"],
      ["worker_12 S_7 pod-7d9f8b6c5d", "worker_<n> S_<n> pod-<hex>"]
    ] as const
  ) {
    it(`replaces what is variable: ${text}`, () => assert.strictEqual(maskText(text), masked))
  }

  for (
    const text of [
      "errno=111",
      "errno: -104",
      "statusCode: 503",
      "exit_code=137",
      "exit status 2",
      "exited with code 1",
      "signal 9",
      "SQLSTATE 40001",
      "SQLSTATE 57P01",
      "(SQLSTATE=40P01)",
      "HTTP 429",
      "code=0xc0000005",
      "404 Not Found",
      "502 Bad Gateway",
      "ORA-00942",
      "main.go:42",
      "at file:///app/index.js:12:5",
      "File \"app.py\", line 42",
      "sha256 utf8 v1.27.3 eth0 p99 IPv6",
      "std::bad_alloc",
      "Foo::Bar",
      "it is decade and facade"
    ]
  ) {
    it(`leaves what tells kinds apart: ${text}`, () => assert.strictEqual(maskText(text), text))
  }

  it("leaves the status of HTTP, and masks its neighbours", () => {
    assert.strictEqual(maskText("\"GET /jobs/7 HTTP/1.1\" 500 1234"), "\"GET /jobs/<n> HTTP/<n>\" 500 <n>")
    assert.strictEqual(maskText("GET /jobs/700 -> 401 in 400 ms"), "GET /jobs/<n> -> 401 in <n>")
  })

  // The glued number of a temporary file is part of a word.
  const glued = "pgsql_tmp{number}"

  it.effect("gives instances of one template one form, and no two templates the same", () =>
    Effect.gen(function*() {
      const forms = new Map<string, string>()
      for (const { text } of templates) {
        const own = new Set<string>()
        for (let count = 0; count < 20; count++) own.add(maskText(yield* instance(text)))
        if (!text.includes(glued)) assert.lengthOf([...own], 1, text)
        for (const form of own) {
          assert.isTrue(forms.get(form) === undefined || forms.get(form) === text, `${forms.get(form)} and ${text}`)
          forms.set(form, text)
        }
      }
      assert.isAtLeast(templates.length, 300)
    }).pipe(Random.withSeed("masking")))

  // Counted in work, not in time: twice the length must not be four times the work. What is left is a bound on the size.
  for (
    const hostile of ["a:", "::", "1:", "1.", "-", "12:34:56", "1s", "0x", "abcdef12", "e9", "127.", "code=", "GET /"]
  ) {
    it(`takes a megabyte of ${JSON.stringify(hostile)} in one pass`, () => {
      const text = hostile.repeat(1_000_000 / hostile.length)
      assert.isAtMost(maskText(text).length, 3 * text.length)
    })
  }

  it("keeps text beyond ASCII, and unpaired surrogates as U+FFFD", () => {
    assert.strictEqual(maskText("für 3 Äpfel 𝄞 \ud800"), "für <n> Äpfel 𝄞 \ufffd")
  })
})
