import { afterAll, expect, test } from "vitest";
import { openCausalLM } from "../../models/auto/index.ts";
import { writeMambaSsm } from "../support/mamba-ssm.ts";
import { goldenFolder, scratchFolder } from "../support/model-folder.ts";
import { farthest, forwarded, openGoldenTensors } from "../support/running.ts";

const scratch = scratchFolder("save-llvm");
afterAll(scratch.remove);

/** Weights that are rows of stored tensors are read in blocks and packed as any others. */
test("a mamba_ssm checkpoint compiled, saved from there, and the saved one compiled", async () => {
  const golden = openGoldenTensors("base");
  const inputIds = golden.rows("forward.input_ids");
  const original = scratch.fresh();
  const saved = scratch.fresh();
  writeMambaSsm(goldenFolder("base"), original);
  for (const folder of [original, saved]) {
    const model = await openCausalLM(folder, { batch: 2, maxLength: 96 });
    const { logits } = await forwarded(model, { inputIds });
    expect(farthest(logits, golden.floats("forward.logits"))).toBeLessThan(1e-4);
    if (folder === original) await model.savePretrained(saved, { maxShardSize: "300KB" });
    await model.close();
  }
});
