import { defineConfig } from "vitest/config"

// Four projects, by what a test needs: nothing but `TestClock` (unit), many seeds (simulation), a real server (integration),
// packages of Debian (debian), which `npm test` leaves out: see `.ci/run`.
// Integration files run one after another: each starts its own PostgreSQL, and two of them on two cores disturb
// each other's outages.
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/**/*.test.ts"],
          exclude: [
            "test/**/*.integration.test.ts",
            "test/**/*.simulation.test.ts",
            "test/**/*.debian.test.ts"
          ],
          // Properties with thousands of runs, on a machine that is busy with the other projects.
          testTimeout: 60_000
        }
      },
      {
        test: { name: "simulation", include: ["test/**/*.simulation.test.ts"], testTimeout: 60_000 }
      },
      {
        test: {
          name: "integration",
          include: ["test/**/*.integration.test.ts"],
          fileParallelism: false,
          testTimeout: 30_000,
          hookTimeout: 60_000
        }
      },
      {
        test: {
          name: "debian",
          include: ["test/**/*.debian.test.ts"],
          fileParallelism: false,
          testTimeout: 30_000,
          hookTimeout: 60_000
        }
      }
    ]
  }
})
