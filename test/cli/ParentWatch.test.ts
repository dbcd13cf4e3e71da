import { assert, describe, it } from "@effect/vitest"
import { isAbandoned, watched } from "../../src/cli/ParentWatch.ts"

const ancestors = (...commands: ReadonlyArray<string>) =>
  commands.map((command, index) => ({ pid: 900 - index, command }))

describe("the watch for npm", () => {
  it("is for npm and its like, and a shell between", () => {
    for (
      const [count, ...commands] of [
        [1, "npm start", "bash"],
        [1, "npm run lull -- serve"],
        [1, "node /usr/lib/node_modules/npm/bin/npm-cli.js start"],
        [1, "/usr/bin/pnpm start"],
        [1, "node /usr/share/yarn/bin/yarn.js start"],
        [2, "sh -c node src/main.ts serve", "npm start"],
        [2, "sh -c lull serve", "npm exec lull serve"],
        [2, "/bin/bash -c lull serve", "npx lull serve"]
      ] as const
    ) assert.strictEqual(watched(ancestors(...commands)).length, count, commands.join(" < "))
  })

  it("is for nobody else", () => {
    for (
      const commands of [
        [],
        ["/sbin/init"],
        ["/lib/systemd/systemd --user"],
        ["bash", "npm start"],
        ["bash ./deploy.sh", "sh -c ./deploy.sh", "npm run deploy"],
        ["sh -c nohup lull serve &", "npm start"],
        ["sh -c setsid lull serve", "npm start"],
        ["sh -c lull serve & wait-for-it; run-tests", "npm test"],
        ["sh -c lull serve", "/usr/sbin/cron"],
        ["node /project/node_modules/vitest/vitest.mjs", "npm test"],
        ["node /srv/npm-mirror/server.js"]
      ]
    ) assert.deepStrictEqual(watched(ancestors(...commands)), [], commands.join(" < "))
  })

  it("notices that npm had gone before it began, and takes nobody else's absence for it", () => {
    const init = [{ pid: 1, command: "/sbin/init" }]
    const script = "exec node --max-semi-space-size=2 src/main.ts serve"
    assert.isTrue(isAbandoned(script, "/project/src/main.ts", init))
    assert.isTrue(isAbandoned(script, "/project/src/main.ts", []))
    assert.isTrue(
      isAbandoned("lull serve", "/project/node_modules/.bin/lull", ancestors("/lib/systemd/systemd --user"))
    )
    assert.isFalse(isAbandoned(script, "/project/src/main.ts", [{ pid: 1, command: "npm start" }]))
    assert.isFalse(isAbandoned(script, "/project/src/main.ts", ancestors("npm start")))
    assert.isFalse(isAbandoned("nohup lull serve &", "/project/node_modules/.bin/lull", init))
    assert.isFalse(isAbandoned("./deploy.sh", "/project/node_modules/.bin/lull", init))
    assert.isFalse(isAbandoned("", "/usr/bin/lull", init))
  })
})
