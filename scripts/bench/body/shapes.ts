/** Bodies as large as the service takes them, each of another shape: what a sender can do to it with one request. */
import { largestBody } from "../../../src/http/Guard.ts"
import { limits } from "../../../src/provisioner/Job.ts"

/** A text of at most `most` bytes: a beginning, what `part` says of 0, 1, 2 …, and an end. */
const filled = (
  begin: string,
  part: (index: number) => string,
  end: string,
  most = largestBody,
  parts = Number.POSITIVE_INFINITY
) => {
  const texts = [begin]
  let bytes = Buffer.byteLength(begin + end)
  for (let index = 0; index < parts; index++) {
    const next = (index === 0 ? "" : ",") + part(index)
    bytes += Buffer.byteLength(next)
    if (bytes > most) break
    texts.push(next)
  }
  return texts.join("") + end
}

const command = "{\"input\":{\"command\":["
const bytesOfJob = Math.floor(largestBody / limits.submission) - 1

/** As many jobs as there may be, each with a field filled up to its share of the body and of what may be in it. */
const jobs = (
  begin: string,
  part: (job: number, index: number) => string,
  end: string,
  parts: number,
  bytes = bytesOfJob
) =>
  filled(
    "[",
    (job) => filled(begin, (index) => part(job, index), end, bytes, parts),
    "]",
    largestBody,
    limits.submission
  )

const word = (index: number) => `"${index.toString(36).padStart(4, "0")}"`

export const shapes: Readonly<Record<string, () => string>> = {
  "ordinary jobs": () =>
    filled(
      "[",
      (job) =>
        JSON.stringify({
          input: {
            command: ["sh", "-c", `deploy --host host-${job}.example.com --release 2026.11`],
            env: { REGION: "eu-1", STAGE: "live" }
          },
          tags: { os: "linux", size: "large" },
          priority: 5,
          idempotencyKey: `deploy-${job}-2026-11-25`,
          timeoutSeconds: 600,
          maxAttempts: 3
        }),
      "]",
      largestBody,
      limits.submission
    ),
  "numbers for a command": () => filled(command, () => "0", "]}}"),
  "deep lists": () => "[".repeat(largestBody),
  "deep objects": () => "{\"a\":".repeat(Math.floor(largestBody / 5)),
  "empty objects": () => filled("[", () => "{}", "]"),
  "empty objects in lists": () => filled("[", () => `[${"{},".repeat(18)}{}]`, "]", largestBody, limits.submission),
  "unknown fields": () => filled("{", (index) => `"k${index.toString(36)}":0`, "}"),
  "jobs of unknown fields": () => jobs("{", (job, index) => `"k${job}_${index}":1`, "}", 19),
  "jobs with a name that nobody else has": () => jobs("{", (job, index) => `"${index}":{"k${job}_${index}":1}`, "}", 9),
  "jobs with many tags, each with names of its own": () =>
    jobs("{\"input\":{\"command\":[\"x\"]},\"tags\":{", (job, index) => `"k${job}_${index}":"v"`, "}}", 16),
  "jobs with many tags": () =>
    jobs("{\"input\":{\"command\":[\"x\"]},\"tags\":{", (job, index) => `"k${index}":"v${job}"`, "}}", 14),
  "jobs with a name of their own": () =>
    filled(
      "[",
      (job) => `{"input":{"command":["x"]},"tags":{"k${job}":"v"}}`,
      "]",
      largestBody,
      limits.submission - 50
    ),
  "jobs with many words": () => jobs(command, (_, index) => word(index), "]}}", 34),
  "jobs with many variables": () =>
    jobs("{\"input\":{\"command\":[\"x\"],\"env\":{", (job, index) => `"K${index}":"v${job}"`, "}}}", 15),
  "jobs with keys and times of their own": () =>
    filled(
      "[",
      (job) =>
        `{"input":{"command":["x"]},"idempotencyKey":"${job}","notBefore":"2030-01-01T00:00:${
          String(job % 60).padStart(2, "0")
        }Z","timeoutSeconds":${job + 1},"priority":${job},"maxAttempts":${job % 100 + 1}}`,
      "]",
      largestBody,
      limits.submission
    ),
  "objects with names that are numbers": () =>
    filled("[", () => `[${"{\"4294967294\":1},".repeat(12)}{}]`, "]", largestBody, 9_990),
  "lists in lists": () => filled("[", () => `[${"[],".repeat(18)}[]]`, "]", largestBody, limits.submission),
  "short texts": () =>
    filled(
      "[",
      (job) => `[${Array.from({ length: 38 }, (_, index) => `"${job}_${index}"`).join()}]`,
      "]",
      largestBody,
      limits.submission
    ),
  "fractions": () =>
    filled(
      "[",
      (job) => `[${Array.from({ length: 38 }, (_, index) => `${job}.${index}5`).join()}]`,
      "]",
      largestBody,
      limits.submission
    ),
  "wrong words": () => filled(command, () => "0", "]}}", largestBody, limits.commandWords),
  "jobs of wrong words": () => jobs(command, () => "0", "]}}", 34),
  "the longest command": () => filled(command, () => "\"\"", "]}}", largestBody, limits.commandWords),
  "one long text": () => filled(command, () => `"${"x".repeat(largestBody - 100)}"`, "]}}"),
  "one long text that is not Latin": () => filled(command, () => `"${"€".repeat((largestBody - 100) / 3)}"`, "]}}"),
  "escapes": () => filled(command, () => `"${"\\u0041".repeat((largestBody - 100) / 6)}"`, "]}}"),
  "jobs of escapes": () => jobs(command, () => `"${"\\n".repeat(350)}"`, "]}}", 1),
  "jobs of quotes": () => jobs(command, () => `"${"\\\"".repeat(380)}"`, "]}}", 1),
  "duplicate keys": () => filled("{", () => "\"input\":{}", "}"),
  "jobs of duplicate keys": () => jobs("{", () => "\"input\":{}", "}", 12),
  "one long number": () => `{"priority":${"9".repeat(largestBody - 20)}}`,
  "jobs of long numbers": () =>
    jobs("{\"input\":{\"command\":[\"x\"]},\"timeoutSeconds\":", () => `0.${"7".repeat(700)}`, "}", 1),
  "blanks": () => " ".repeat(largestBody - 2) + "[]",
  "an unknown field with a long name": () => `{"${"n".repeat(largestBody - 20)}":1}`,
  "no JSON at its end": () =>
    filled("[", (job) => `{"input":{"command":["echo","${job}"]}}`, "", largestBody, limits.submission)
}
