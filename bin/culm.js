#!/usr/bin/env node
// The command line: runtime/cli/main.ts, built. It exports `main(argv): Promise<number>` and does nothing when it is only imported.

import { existsSync } from "node:fs";

// Stack traces and the call sites in error messages name lines of the TypeScript sources.
process.setSourceMapsEnabled(true);

/** In a checkout the command always runs the sources as they are now; a published package has no scripts/. */
async function ready() {
  if (!existsSync(new URL("../scripts/build.mjs", import.meta.url))) return true;
  const { ensureBuilt } = await import("../scripts/build.mjs");
  try {
    await ensureBuilt();
    return true;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const hint = message.includes("Cannot find package") ? "\nRun `npm ci` first, or `npm start`, which does it." : "";
    process.stderr.write(`culm could not be built: ${message}${hint}\n`);
    return false;
  }
}

if (await ready()) {
  const cli = /** @type {{ main: (argv: readonly string[]) => Promise<number> }} */ (
    await import(new URL("../dist/runtime/cli/main.js", import.meta.url).href)
  );
  process.exitCode = await cli.main(process.argv.slice(2));
} else {
  process.exitCode = 1;
}
