import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { examplesOf, root } from "../support/documents.ts"

const shell = examplesOf("docs/logging.md", "sh").map(({ code }) => code)

describe("the shell examples of docs/logging.md", () => {
  const directory = mkdtempSync(join(tmpdir(), "lull-docs-"))
  const script = (name: string, text: string) =>
    writeFileSync(join(directory, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 })
  script("lull", `exec ${process.execPath} ${join(root, "src/main.ts")} "$@"`)
  script("program", "i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo \"ERROR lost after $i ms\" >&2; done; exit 3")
  afterAll(() => rmSync(directory, { recursive: true }))

  const sh = (command: string, ...shellOptions: ReadonlyArray<string>) =>
    spawnSync("bash", [...shellOptions, "-c", command], {
      encoding: "utf8",
      cwd: directory,
      env: { ...process.env, PATH: `${directory}:${process.env["PATH"]}` },
      timeout: 60_000
    })
  const isFiltered = (output: string) =>
    assert.match(output, /^ERROR lost after 1 ms\nrepeated 499 times over .*: ERROR .*\n$/)

  it("a filter behind a program", () => {
    assert.strictEqual(shell[0], "program 2>&1 | lull filter\n")
    isFiltered(sh(shell[0] ?? "").stdout)
  }, 60_000)

  it("a report", () => {
    sh("program 2> log")
    const { stdout } = sh((shell[1] ?? "").replace("/var/log/app.log", "log"))
    assert.match(stdout, /^500 records of 1 kind,/)
  }, 60_000)

  it("a systemd unit: the status is the program's", () => {
    const [, options = "", command = ""] =
      /^ExecStart=\/bin\/bash (.*) -c '(.*)'$/m.exec(examplesOf("docs/logging.md", "ini")[0]?.code ?? "") ?? []
    const { status, stdout } = sh(command.replaceAll("/usr/bin/program", "program"), ...options.split(" "))
    isFiltered(stdout)
    assert.strictEqual(status, 3)
  }, 60_000)

  it("a container's command", () => {
    isFiltered(sh(shell[2] ?? "").stdout)
  }, 60_000)

  it("a sidecar on a named pipe", () => {
    const [sidecar = "", program = ""] = (shell[3] ?? "").replaceAll("/logs/", "./").replaceAll(/ +#.*/g, "")
      .trim().split("\n")
    isFiltered(sh(`(sleep 1; ${program}) & ${sidecar}`).stdout)
  }, 60_000)
})
