/**
 * `npm run build`: makes `dist/` from nothing, JavaScript with types. Source maps have their sources inside; those of the
 * declarations point to `src`, which is in the package for that: compilers read no sources from inside of such maps. And the
 * list of what the package runs on (`sbom.ts`).
 */
import { spawnSync } from "node:child_process"
import { chmodSync, existsSync, rmSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { writeSbom } from "./sbom.ts"

const root = fileURLToPath(new URL("..", import.meta.url))
rmSync(`${root}/dist`, { recursive: true, force: true })
const { status } = spawnSync(
  process.execPath,
  [`${root}/node_modules/typescript/bin/tsc`, "-p", "tsconfig.build.json"],
  {
    cwd: root,
    stdio: "inherit"
  }
)
if (status !== 0) process.exit(status ?? 1)
if (existsSync(`${root}/dist/main.js`)) chmodSync(`${root}/dist/main.js`, 0o755)
writeSbom()
