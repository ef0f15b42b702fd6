import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { compareWithGolden } from "../../models/auto/golden/compare.ts";
import { openGoldenFile, sizesOfGolden } from "../../models/auto/golden/tensors.ts";
import type { LoadOptions } from "../../models/auto/index.ts";
import { goldenModels } from "../support/golden.ts";
import { goldenFolder } from "../support/model-folder.ts";
import { openOnLavapipe } from "../support/webgpu-model.ts";
import { lavapipeAvailable } from "../support/webgpu.ts";

async function compared(
  name: string,
  target: Parameters<typeof openOnLavapipe>[1],
  options: LoadOptions,
  tolerance: number,
  sections?: readonly string[],
) {
  const file = join(goldenFolder(name), "golden.safetensors");
  const { rows, length } = sizesOfGolden(file);
  // The reference of the bf16 model was cast to bf16 and back as a whole, its rotary frequencies included.
  const rotary = name === "bf16" ? "bf16" : "f32";
  const model = await openOnLavapipe(goldenFolder(name), target, { batch: rows, maxLength: length, rotary, ...options });
  const golden = openGoldenFile(file, model.config);
  try {
    const {
      agrees,
      divergence,
      sections: found,
    } = await compareWithGolden(model, golden, { tolerance, ...(sections === undefined ? {} : { sections }) });
    return { agrees, divergence, tensors: found.reduce((n, { tensors }) => n + tensors.length, 0) };
  } finally {
    golden.close();
    await model.close();
  }
}

/** What Mesa's compiler takes for the kernels of a model that it has not seen; models of one shape share them, and its cache keeps them for the next run. */
const compiling = { timeout: 1_200_000 };

/** Everything that is kept of Transformers, computed on WebGPU (tests/reference/golden). */
describe.skipIf(!lavapipeAvailable)("Transformers' numbers on WebGPU", () => {
  test.each(goldenModels)("%s in f32, on what every adapter has", compiling, async (name) => {
    const { agrees, divergence, tensors } = await compared(name, "base", { dtype: "f32", strict: name === "options" }, 1e-4);
    expect({ agrees, divergence }).toEqual({ agrees: true, divergence: null });
    expect(tensors).toBeGreaterThan(9);
  });

  test("base in f16, on subgroups and half floats", compiling, async () => {
    const { agrees, divergence, tensors } = await compared("base", "base-sg4-f16", { dtype: "f16" }, 2e-2, ["forward", "cache"]);
    expect({ agrees, divergence }).toEqual({ agrees: true, divergence: null });
    expect(tensors).toBeGreaterThan(9);
  });
});
