import fc from "fast-check";
import { afterAll, describe, test } from "vitest";
import { openCausalLM } from "../../models/auto/index.ts";
import { goldenFolder } from "../support/model-folder.ts";
import { MOST_ROWS, packedIsSeparate } from "../support/session-laws.ts";

/** Compiled models. Those of `options` have two groups, a convolution of three taps, biases everywhere and a limit of the time steps. */
describe.each(["base", "options", "all-mamba", "all-attention"])("%s", async (name) => {
  const load = { maxLength: 64, batch: MOST_ROWS, dtype: "f32" } as const;
  const models = await Promise.all([
    openCausalLM(goldenFolder(name), load),
    openCausalLM(goldenFolder(name), { ...load, prefillChunk: 5 }),
  ]);
  afterAll(() => Promise.all(models.map((model) => model.close())));

  test.each([
    ["at once", 0],
    ["in chunks of 5", 1],
  ])("packed and padded sequences are what each is alone, %s", async (_, which) => {
    const { session } = await models[which]!.forwardSession({ rows: MOST_ROWS });
    await fc.assert(packedIsSeparate(session, 5e-5), { numRuns: 40 });
  });
});
