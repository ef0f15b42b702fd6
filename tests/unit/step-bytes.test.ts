import { expect, test } from "vitest";
import { cudaBackend } from "../../backends/cuda/index.ts";
import type { Manifest } from "../../compiler/artifact.ts";
import { evaluateIntExpr } from "../../compiler/artifact.ts";
import { compileModel } from "../../compiler/compile.ts";
import { stepBytes } from "../../models/auto/bench-cuda-step.ts";
import { planModel, ringStates, traceModel } from "../../models/auto/plan.ts";
import { readConfig } from "../../models/auto/source.ts";
import { tinyFolder } from "../support/model-folder.ts";

const { config } = readConfig(tinyFolder);
const [batch, replay, past] = [5, 8, 20];

/** Of a decode step whose kernels no compiler has seen. */
async function manifestOf(options: { readonly replay?: number }): Promise<Manifest> {
  const plan = planModel(config, "bf16", { batch, maxLength: 64, prefillChunk: 16, state: "bf16", ...options });
  const programs = (await traceModel(config, plan)).filter(({ name }) => name.startsWith("decode"));
  const toolchain = { version: () => "none", compile: () => Promise.resolve(new Uint8Array(0)) };
  const caps = cudaBackend.caps("sm_90");
  return (await compileModel({ name: "tiny", programs, backend: { ...cudaBackend, toolchain }, caps, metadata: {} })).manifest;
}

test("what the steps between two that store the states move is, by kernels and by states, the same", async () => {
  const [plain, ringed] = [await manifestOf({}), await manifestOf({ replay })];
  const kernelBytes = (manifest: Manifest, held: number): number =>
    manifest.programs[0]!.steps.filter(({ label }) => label.endsWith("ssdScan") || label.endsWith("ssdReplay")).reduce(
      (sum, { bytes }) => sum + evaluateIntExpr(bytes, { held, past }),
      0,
    );
  let saved = 0;
  for (let held = 0; held < replay; held += 1) saved += (kernelBytes(plain, held) - kernelBytes(ringed, held)) / replay;
  const bytesOf = (manifest: Manifest, length: number): number => stepBytes(manifest, `decode.${batch}`, config, past, length);
  expect(bytesOf(plain, 0) - bytesOf(ringed, replay)).toBeCloseTo(saved, 3);
  const states = plain.states.filter(({ name }) => name.endsWith(".ssm")).reduce((sum, { bytes }) => sum + bytes, 0);
  const rings = ringed.states.filter(({ name }) => ringStates(config).includes(name)).reduce((sum, { bytes }) => sum + bytes, 0);
  expect(saved).toBeCloseTo(states * (1 - 1 / replay) - (rings * (replay + 1)) / (2 * replay), 3);
});
