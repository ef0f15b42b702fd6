// `npm start [-- "a prompt"]`: sets up what is missing, then runs the demo of the command line in this same process.

import { runScript, setUp } from "./setup.mjs";

await runScript(async () => {
  await setUp();
  process.argv = [process.argv[0] ?? "node", process.argv[1] ?? "culm", "demo", ...process.argv.slice(2)];
  await import("../bin/culm.js");
});
