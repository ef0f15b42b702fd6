#!/usr/bin/env node
// Stack traces and the call sites in error messages name lines of the TypeScript sources.
process.setSourceMapsEnabled(true);

// In a checkout the command always runs the sources as they are now; a published package has no scripts/.
const { existsSync } = await import("node:fs");
if (existsSync(new URL("../scripts/build.mjs", import.meta.url))) {
  const { ensureBuilt } = await import("../scripts/build.mjs");
  await ensureBuilt();
}

await import(new URL("../dist/runtime/cli/main.js", import.meta.url).href);
