import { writeFileSync } from "node:fs";
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { capsFor, wgslBackend } from "../../backends/wgsl/index.ts";
import { openGpuCeilings } from "../../runtime/drivers/webgpu/ceilings.ts";
import type { GpuCeilings } from "../../runtime/drivers/webgpu/ceilings.ts";
import { nodeWebgpu } from "../../runtime/drivers/webgpu/node.ts";
import { checkModel } from "./webgpu/check.ts";
import { openPassClock } from "./webgpu/clock.ts";
import { measureModel, readConfigFile } from "./webgpu/models.ts";
import type { ModelResult } from "./webgpu/models.ts";
import { attend, convolution, gemvs, product, scan } from "./webgpu/operations.ts";
import type { Operation } from "./webgpu/operations.ts";
import { printReport } from "./webgpu/report.ts";
import type { Report } from "./webgpu/report.ts";
import { measureOperation } from "./webgpu/running.ts";
import type { OperationResult, Setting } from "./webgpu/running.ts";

/**
 * What the WGSL backend makes of a GPU, beside what the GPU can do: single operations, whole decode steps and prompts, all timed by the GPU's own clock.
 *
 *   npx tsx tests/bench/webgpu.ts --config tests/bench/configs/bamba-1b.json [--config ...] [--caps large-sg32] [--json out.json]
 *
 * Weights are made in memory. CULM_DAWN has toggles of Dawn. --quick is for trying the program itself on a small device: sizes that mean nothing.
 * --only operations, --only models. --dtype f16: of the models' weights, for targets with subgroup matrices, which take no bf16. --check DIR has a small model whose results are compared with the interpreter's first.
 */
const { values: flags } = parseArgs({
  options: {
    config: { type: "string", multiple: true, default: [] },
    caps: { type: "string" },
    json: { type: "string" },
    only: { type: "string" },
    quick: { type: "boolean", default: false },
    check: { type: "string", default: "models/bamba-tiny" },
    dtype: { type: "string", default: "bf16" },
    runs: { type: "string", default: "15" },
  },
});

if (flags.dtype !== "bf16" && flags.dtype !== "f16") throw new Error(`--dtype ${flags.dtype}: there are bf16 and f16`);
const { dtype } = flags as { dtype: "bf16" | "f16" };

const note = (what: string): void => console.error(`${(performance.now() / 1000).toFixed(1).padStart(6)} s  ${what}`);

function operationsOf(configs: ReadonlyMap<string, ReturnType<typeof readConfigFile>>): readonly Operation[] {
  const cache = flags.quick ? 1 : 512e6;
  const [square, chunk, prompt, length] = flags.quick ? [128, 32, 64, 64] : [2048, 512, 2048, 4096];
  const ofModels = [...configs].flatMap(([name, config]) => [
    ...gemvs(name, config, cache),
    product(`${name} in_proj of ${chunk} bf16`, { m: chunk, n: config.projectionSize, k: config.hiddenSize, dtype: "bf16" }, cache),
    product(`${name} down of ${chunk} bf16`, { m: chunk, n: config.hiddenSize, k: config.intermediateSize, dtype: "bf16" }, cache),
    scan(name, config, prompt, cache),
    scan(name, config, 1, cache),
    attend(name, config, prompt, prompt, cache),
    attend(name, config, 1, length, cache),
    convolution(name, config, prompt),
  ]);
  return [product(`f32 ${square}^3`, { m: square, n: square, k: square, dtype: "f32" }, cache), ...ofModels];
}

/** The best of several, in turn with the rest: what the device could do at that time. */
async function measureCeilings(ceilings: GpuCeilings): Promise<Report["ceilings"]> {
  let [copy, read, fma] = [0, 0, 0];
  for (let i = 0; i < (flags.quick ? 1 : 8); i += 1) {
    copy = Math.max(copy, await ceilings.copyBandwidth());
    read = Math.max(read, await ceilings.readBandwidth());
    fma = Math.max(fma, await ceilings.fmaRate());
  }
  return { copy, read, fma: fma / 1000 };
}

const driver = await nodeWebgpu();
const facts = await driver.facts();
const best = capsFor(facts)[0];
if (best === undefined) throw new Error(`${facts.name} offers less than any target of the backend asks for`);
const caps = wgslBackend.caps(flags.caps ?? best);
const device = await driver.open({ requires: caps.requires });
note(`${device.name}, ${caps.name}`);
const setting: Setting = { device, clock: openPassClock(device.gpu), caps, runs: Number(flags.runs) };
const ceilings = await openGpuCeilings(device, flags.quick ? 4 : 1024);
const configs = new Map(flags.config.map((file) => [basename(file, ".json"), readConfigFile(file)]));

/** What went wrong is told and counted; the rest is measured all the same. */
let failures = 0;
async function attempt<T>(what: string, measure: () => Promise<T>): Promise<T[]> {
  try {
    return [await measure()];
  } catch (error) {
    failures += 1;
    note(`FAILED ${what}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    return [];
  }
}

const checked = await attempt("check", () => checkModel(setting, flags.check, dtype === "f16" ? "f16" : "f32"));
for (const worst of checked)
  note(`${flags.check}: tokens and logits as the interpreter's, the largest difference ${worst.toExponential(1)}`);
const before = await measureCeilings(ceilings);
note(`copies ${before.copy.toFixed(0)} GB/s, reads ${before.read.toFixed(0)} GB/s, f32 multiply-adds ${before.fma.toFixed(1)} TFLOP/s`);
const operations: OperationResult[] = [];
for (const operation of flags.only === "models" ? [] : operationsOf(configs)) {
  for (const result of await attempt(operation.name, () => measureOperation(setting, operation))) {
    operations.push(result);
    const { microseconds, gigabytesPerSecond, teraflopsPerSecond } = result;
    note(`${result.name}: ${microseconds.toFixed(1)} us, ${gigabytesPerSecond.toFixed(0)} GB/s, ${teraflopsPerSecond.toFixed(2)} TFLOP/s`);
  }
}
const models: ModelResult[] = [];
for (const [name, config] of flags.only === "operations" ? [] : configs)
  models.push(
    ...(await attempt(name, () =>
      measureModel(setting, name, config, {
        dtype,
        positions: flags.quick ? [4, 20] : [100, 1024, 4000],
        prefill: flags.quick ? [16] : [512, 2048],
        tokens: flags.quick ? 4 : 50,
        onNote: note,
      }),
    )),
  );
const after = await measureCeilings(ceilings);
ceilings.free();
await device.close();

const report: Report = {
  device: device.name,
  caps: caps.name,
  ceilings: { copy: Math.max(before.copy, after.copy), read: Math.max(before.read, after.read), fma: Math.max(before.fma, after.fma) },
  operations,
  models,
};
if (flags.json !== undefined) writeFileSync(flags.json, `${JSON.stringify(report, null, 1)}\n`);
console.log(printReport(report));
if (failures > 0) process.exitCode = 1;
