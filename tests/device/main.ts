import { parseArgs } from "node:util";
import { conformance } from "../conformance/suite.ts";
import { cudaFaults, cudaTests } from "./cuda.ts";
import { modelTests } from "./models.ts";
import { deviceTargets } from "./targets.ts";
import { describe, runTests } from "./vitest.ts";

/**
 * Tests on a machine with a device and without npm: `node device-tests.mjs --backend cuda [--only "golden|gemm"] [--quiet]`, bundled by scripts/device.mjs. The
 * project's folder, with models/ and tests/reference/, is the working directory or what CULM_ROOT names. Exit code 1 when a test fails.
 */
const { values } = parseArgs({
  options: {
    backend: { type: "string", default: "cuda" },
    only: { type: "string", default: "" },
    quiet: { type: "boolean", default: false },
    faults: { type: "boolean", default: false },
  },
});
const { backend, only, quiet, faults } = values;
const started = performance.now();
if (faults) cudaFaults();
else {
  if (backend === "cuda") cudaTests();
  for (const [about, target] of Object.entries(deviceTargets(backend))) describe(about, () => void conformance(target));
  modelTests(backend);
}
const { passed, failed, skipped } = await runTests(new RegExp(only), (line) => {
  if (!quiet || !line.startsWith("ok ")) console.log(line);
});
console.log(
  `${passed} passed, ${failed} failed, ${skipped} skipped in ${((performance.now() - started) / 1000).toFixed(1)} s (${backend})`,
);
// devices that the suites opened are still open
process.exit(failed > 0 || passed === 0 ? 1 : 0);
