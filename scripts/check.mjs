// `npm run check [-- name ...]`: everything that is checked without running the product. Runs them all, then says which failed.

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { projectRoot, sourceFolders } from "./build.mjs";

const folders = sourceFolders.filter((folder) => existsSync(join(projectRoot, folder)));

/** @type {Record<string, string[]>} name to arguments of node */
const checks = {
  types: ["node_modules/typescript/bin/tsc", "--noEmit"],
  "types under TypeScript 7": ["node_modules/typescript7/bin/tsc", "--noEmit", "-p", "tsconfig.types.json"],
  "types of the page": [
    "node_modules/svelte-check/bin/svelte-check",
    ...["--workspace", "runtime/web/page", "--tsconfig", "./tsconfig.json", "--fail-on-warnings", "--output", "human"],
  ],
  lint: ["node_modules/eslint/bin/eslint.js", ".", "--max-warnings=0"],
  format: ["node_modules/prettier/bin/prettier.cjs", "--check", ".", "--log-level=warn"],
  "import rules": ["node_modules/dependency-cruiser/bin/dependency-cruise.mjs", "--config", ".dependency-cruiser.cjs", ...folders],
  "dead code": ["node_modules/knip/bin/knip.js", "--no-config-hints"],
};

const asked = process.argv.slice(2);
const chosen = Object.entries(checks).filter(([name]) => asked.length === 0 || asked.includes(name));
if (asked.some((name) => !(name in checks))) {
  console.error(`no such check; there are: ${Object.keys(checks).join(", ")}`);
  process.exit(2);
}

/** @type {string[]} */
const failed = [];
for (const [name, args] of chosen) {
  const started = performance.now();
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: projectRoot, encoding: "utf8", maxBuffer: 1 << 28 });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${status === 0 ? "ok    " : "FAILED"}  ${name} (${seconds} s)`);
  if (status === 0) continue;
  failed.push(name);
  console.log(`${stdout}${stderr}`.trim());
}
if (failed.length > 0) console.log(`\nchecks that failed: ${failed.join(", ")}`);
process.exitCode = failed.length > 0 ? 1 : 0;
