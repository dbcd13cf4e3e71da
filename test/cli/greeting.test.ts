import { assert, describe, it } from "@effect/vitest"
import {
  commandOf,
  describeDatabase,
  describeWorker,
  localAddress,
  quoted,
  suggestion
} from "../../src/cli/greeting.ts"

describe("what a service says of itself", () => {
  it("names the database, and nothing that could be secret", () => {
    for (
      const [url, text] of [
        ["postgres://app:hush@db:6000/app", "database app at db:6000 as role app"],
        ["postgresql://app@db/app?sslmode=require&password=hush", "database app at db:5432 as role app"],
        ["postgres://u%40x:hush@a,b:1,[::1]/d%2Fe", "database d/e at a:5432, b:1, [::1]:5432 as role u@x"],
        ["postgres://u:hush@%2Frun%2Fpostgresql/d", "database d at /run/postgresql:5432 as role u"],
        ["postgres:///d?host=/run/postgresql&user=u&password=hush", "database d at /run/postgresql:5432 as role u"],
        ["postgres://u@db?sslmode=disable", "database u at db:5432 as role u"]
      ] as const
    ) assert.strictEqual(describeDatabase(url), text)
  })

  it("names the jobs that are run", () => {
    assert.strictEqual(describeWorker({ slots: 1, tags: {} }), "runs 1 job at a time, untagged")
    assert.strictEqual(
      describeWorker({ slots: 2, tags: { os: "linux", a: "b" } }),
      "runs 2 jobs at a time, whose tags are of os=linux,a=b"
    )
    assert.strictEqual(describeWorker({ slots: 0, tags: {} }), "runs no jobs here")
  })

  it("names an address that this machine can reach", () => {
    assert.strictEqual(localAddress("0.0.0.0", 1), "http://127.0.0.1:1")
    assert.strictEqual(localAddress("::", 1), "http://[::1]:1")
    assert.strictEqual(localAddress("fd00::7", 1), "http://[fd00::7]:1")
    assert.strictEqual(localAddress("box.example", 1), "http://box.example:1")
  })

  it("quotes what a shell would take apart", () => {
    assert.strictEqual(quoted("http://127.0.0.1:7070"), "http://127.0.0.1:7070")
    assert.strictEqual(quoted("http://[::1]:7070"), "'http://[::1]:7070'")
    assert.strictEqual(quoted("it's $HOME"), `'it'\\''s $HOME'`)
  })

  it("calls itself as it was called", () => {
    const npm = {
      npm_lifecycle_event: "start",
      npm_package_name: "lull",
      npm_package_json: "/project/package.json",
      PATH: "/project/node_modules/.bin:/bin"
    }
    const node = "/opt/node"
    const command = (script: string, environment: Record<string, string>) =>
      commandOf({ program: node, script, environment })
    assert.strictEqual(command("/project/src/main.ts", npm), "npm run lull --")
    assert.strictEqual(command("/project/src/main.ts", { PATH: "/bin" }), "/opt/node /project/src/main.ts")
    assert.strictEqual(command("/bin/lull", { PATH: "/usr/bin:/bin" }), "lull")
    assert.strictEqual(command("/opt/my lull/lull", { PATH: "/bin" }), "'/opt/my lull/lull'")
    const other = { ...npm, npm_package_name: "shop" }
    assert.strictEqual(command("/project/node_modules/.bin/lull", other), "/project/node_modules/.bin/lull")
  })

  it("suggests what can be done here", () => {
    const options = { command: "lull", address: "http://127.0.0.1:1", asksForToken: false }
    assert.strictEqual(
      suggestion({ ...options, worker: { slots: 4, tags: { os: "linux" } } }),
      "try: lull job submit --url http://127.0.0.1:1 --tag os=linux --wait --follow -- echo hello"
    )
    assert.strictEqual(
      suggestion({ ...options, asksForToken: true, worker: { slots: 0, tags: {} } }),
      "try, with LULL_TOKEN set to the token of this service: lull job list --url http://127.0.0.1:1"
    )
  })
})
