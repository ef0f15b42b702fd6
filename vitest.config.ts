import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { conditions: ["culm-source"] },
  ssr: { resolve: { conditions: ["culm-source"] } },
  test: {
    include: ["tests/**/*.test.ts"],
    exclude: ["**/node_modules/**", "dist/**"],
    // Own processes, not threads: a wrong native call then ends one test file and not the run.
    pool: "forks",
    maxWorkers: "100%",
    // UPDATE=1 accepts changed goldens and inline snapshots
    update: process.env["UPDATE"] === "1",
    testTimeout: 60_000,
    setupFiles: ["tests/support/no-colours.ts", "tests/support/seed.ts"],
    hookTimeout: 120_000,
    coverage: {
      provider: "v8",
      include: ["dsl/**/*.ts", "compiler/**/*.ts", "backends/**/*.ts", "models/**/*.ts", "runtime/**/*.ts", "ffi/**/*.ts"],
      reporter: ["text-summary", "html", "json-summary"],
    },
  },
});
