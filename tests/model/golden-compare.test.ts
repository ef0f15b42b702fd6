import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { compareWithGolden } from "../../models/auto/golden/compare.ts";
import { makeFixtures, writeGolden } from "../../models/auto/golden/fixtures.ts";
import { openGoldenFile, sizesOfGolden } from "../../models/auto/golden/tensors.ts";
import { openCausalLM } from "../../models/auto/index.ts";
import { culm } from "../support/cli.ts";
import { goldenModels } from "../support/golden.ts";
import { goldenFolder, scratchFolder, tinyFolder } from "../support/model-folder.ts";
import { openGoldenModel } from "../support/running.ts";

const scratch = scratchFolder("golden-compare");
afterAll(scratch.remove);

/** Every tensor of every golden file that is not a gradient, compiled. Where Transformers and we part, strict mode has its numbers. */
test.each(goldenModels)("all that is kept of %s", async (name) => {
  const model = await openGoldenModel(name, { strict: name === "options" });
  const golden = openGoldenFile(join(goldenFolder(name), "golden.safetensors"), model.config);
  const { agrees, divergence, sections, tolerance } = await compareWithGolden(model, golden);
  golden.close();
  await model.close();
  expect({ agrees, divergence, tolerance }).toEqual({ agrees: true, divergence: null, tolerance: 1e-4 });
  const counts = sections.map(({ tensors }) => tensors.length);
  expect(counts.every((count) => count > 0)).toBe(name !== "all-mamba");
  expect(sections.flatMap(({ missing, absent, ignored }) => [...missing, ...absent, ...ignored])).toEqual([]);
});

describe("what the interpreter writes, the compiled model reproduces", () => {
  test.each(["base", "all-mamba", "options"])("%s, on the command line", async (name) => {
    const file = join(scratch.path, `${name}.safetensors`);
    const given = ["--model", goldenFolder(name)];
    expect((await culm("fixtures", ...given, "--out", file, "--seed", "5")).code).toBe(0);
    const { code, out } = await culm("compare", ...given, "--golden", file, "--json");
    const { backend, agrees, sections } = JSON.parse(out) as { backend: string; agrees: boolean; sections: { tensors: unknown[] }[] };
    expect({ code, backend, agrees }).toEqual({ code: 0, backend: "llvm", agrees: true });
    expect(sections.every(({ tensors }) => tensors.length > 0)).toBe(true);
  });

  test("a trained model with weights in bf16", async () => {
    const path = join(scratch.path, "tiny.safetensors");
    const reference = await openCausalLM(tinyFolder, { backend: "interpret", maxLength: 36 });
    writeGolden(path, await makeFixtures(reference, { rows: 1, length: 12, seed: 1, sections: ["forward", "cache"] }));
    await reference.close();
    const { rows, length } = sizesOfGolden(path);
    expect({ rows, length }).toEqual({ rows: 1, length: 12 });
    const model = await openCausalLM(tinyFolder, { batch: rows, maxLength: length });
    const golden = openGoldenFile(path, model.config);
    const { agrees, tolerance, divergence } = await compareWithGolden(model, golden);
    expect({ agrees, divergence, tolerance }).toEqual({ agrees: true, divergence: null, tolerance: 2e-2 });
    // Both round to bf16 nowhere but in the weights, so they are much nearer than that.
    expect((await compareWithGolden(model, golden, { tolerance: 2e-4 })).agrees).toBe(true);
    golden.close();
    await model.close();
  });
});
