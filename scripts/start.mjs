// `npm start [-- "a prompt"]`: sets up what is missing, then runs the demo of the command line.

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { runScript, setUp } from "./setup.mjs";

await runScript(async () => {
  await setUp();
  // A process of its own: the set-up has loaded native libraries to see whether it can, and the runtime sizes native stacks before it loads any.
  const culm = fileURLToPath(new URL("../bin/culm.js", import.meta.url));
  const child = spawn(process.execPath, [culm, "demo", ...process.argv.slice(2)], { stdio: "inherit" });
  process.on("SIGINT", () => {}); // the terminal sends Ctrl-C to both; the demo ends the text, and this process then ends with it
  process.exitCode = await new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code, signal) => resolve(code ?? (signal === null ? 1 : 130)));
  });
});
