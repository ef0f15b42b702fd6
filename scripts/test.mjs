// `npm test [-- vitest arguments]`: sets up what is missing, the engines of the WebGPU tests among it, then runs every test once.

import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { projectRoot } from "./build.mjs";
import { ensureEngines } from "./engines.mjs";
import { runScript, setUp } from "./setup.mjs";

await runScript(async () => {
  await setUp();
  ensureEngines();
  const vitest = join(dirname(createRequire(import.meta.url).resolve("vitest/package.json")), "vitest.mjs");
  const { status } = spawnSync(process.execPath, [vitest, "run", ...process.argv.slice(2)], { cwd: projectRoot, stdio: "inherit" });
  process.exitCode = status ?? 1;
});
