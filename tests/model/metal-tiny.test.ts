import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { metalBackend } from "../../backends/metal/index.ts";
import { openCompiledEngine } from "../../models/auto/engine-compiled.ts";
import { planModel } from "../../models/auto/plan.ts";
import { createModelSession } from "../../models/auto/sessions.ts";
import { openModelSource } from "../../models/auto/source.ts";
import { skipsClang } from "../support/metal/clang.ts";
import { StandinDevice } from "../support/metal/device.ts";
import { tinyFolder } from "../support/model-folder.ts";

const { generations } = JSON.parse(readFileSync("tests/reference/bamba-tiny/reference_generations.json", "utf8")) as {
  readonly generations: readonly { readonly prompt_ids: readonly number[]; readonly output_ids: readonly number[] }[];
};
const TOKENS = 8;

/** Programs of the real model, prefill and decode, as MSL on the stand-in: the text says what the reference's tokens are. */
describe.skipIf(skipsClang)("bamba-tiny through MSL", () => {
  test.each([
    ["m1", "bf16", 0],
    ["m4", "bf16", 7],
  ] as const)("%s with weights in %s, threads in order %i", { timeout: 300_000 }, async (target, dtype, order) => {
    const source = openModelSource(tinyFolder);
    const device = new StandinDevice("plain", order);
    const engine = await openCompiledEngine(
      source,
      { cache: null },
      { backend: metalBackend, target, open: () => Promise.resolve(device) },
    );
    try {
      const plan = planModel(source.config, source.dtype, { dtype, maxLength: 64, prefillChunk: 16 });
      const { executor } = await engine.open(plan);
      const session = createModelSession(executor, source.config, plan.rotary);
      const { prompt_ids: prompt, output_ids: expected } = generations[0]!;
      await session.prefill(Int32Array.from(prompt));
      const tokens = [session.next[0]!];
      while (tokens.length < TOKENS) {
        await session.decode(Int32Array.of(tokens.at(-1)!));
        tokens.push(session.next[0]!);
      }
      expect(tokens).toEqual(expected.slice(prompt.length, prompt.length + TOKENS));
      expect(device.launches).toBeGreaterThan(TOKENS * 20);
    } finally {
      await engine.close();
      source.checkpoint.close();
    }
  });
});
