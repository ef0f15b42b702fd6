import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { cudaBackend } from "../../../backends/cuda/index.ts";
import type { Manifest } from "../../../compiler/artifact.ts";
import { compileModel } from "../../../compiler/compile.ts";
import { planModel, positionAxes, traceModel } from "../../../models/auto/plan.ts";
import { readConfig } from "../../../models/auto/source.ts";
import { largestContext, memoryPlan } from "../../../runtime/memory-plan.ts";
import { tinyFolder } from "../../support/model-folder.ts";

const { config } = readConfig(tinyFolder);

/** Kernels that no compiler has seen: memory is planned before they matter. */
async function manifestOf(batch: number, maxLength: number): Promise<Manifest> {
  const plan = planModel(config, "bf16", { batch, maxLength, prefillChunk: 16 });
  const toolchain = { version: () => "none", compile: () => Promise.resolve(new Uint8Array(0)) };
  const { manifest } = await compileModel({
    name: "tiny",
    programs: await traceModel(config, plan),
    backend: { ...cudaBackend, toolchain },
    caps: cudaBackend.caps("sm_90"),
    metadata: { positionAxes: positionAxes(config) },
  });
  return manifest;
}

describe("the memory plan of a model", async () => {
  const small = memoryPlan(await manifestOf(2, 64));
  const large = memoryPlan(await manifestOf(2, 128));

  test("is the sum of its parts, for the rows and positions that it says", () => {
    for (const plan of [small, large])
      expect(plan.total).toBe(plan.weights + plan.states + plan.caches + plan.between + plan.inputsAndOutputs);
    expect([small.rows, small.capacity, large.capacity]).toEqual([2, 64, 128]);
  });

  test("keys and values grow with the positions, weights and states do not", () => {
    const attending = config.attentionLayers.length;
    const [heads, pairs] = [config.numKeyValueHeads * config.headDim, config.rotaryDim / 2];
    // keys and values, sines and cosines, and the number of its sequence
    expect(small.bytesPerPosition).toBe(4 * (2 * attending * 2 * heads + 2 * pairs + 2));
    expect(large.caches).toBe(2 * small.caches);
    expect(large.states).toBe(small.states);
    // what the kernels of a longer text keep for themselves is not planned by the position
    expect(large.total - large.between - (small.total - small.between)).toBe(64 * small.bytesPerPosition);
  });

  test("weights that are there already cost nothing more", async () => {
    const manifest = await manifestOf(2, 64);
    expect(memoryPlan(manifest, () => true).weights).toBeLessThan(small.weights / 10);
  });

  test("what fits, fits, and one position more does not", () => {
    fc.assert(
      fc.property(fc.integer({ min: small.total - 60 * small.bytesPerPosition, max: 4 * small.total }), (bytes) => {
        const fits = largestContext(small, bytes);
        const needs = (positions: number): number => small.total + (positions - small.capacity) * small.bytesPerPosition;
        expect(needs(fits)).toBeLessThanOrEqual(bytes);
        expect(needs(fits + 1)).toBeGreaterThan(bytes);
      }),
    );
    expect(largestContext(small, small.weights / 2)).toBe(0);
    expect(largestContext({ ...small, caches: 0, bytesPerPosition: 0 }, small.total)).toBe(64);
  });
});
