import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openCausalLM } from "../../models/auto/index.ts";
import type { BambaForCausalLM } from "../../models/auto/index.ts";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { decodeFloats } from "../../runtime/numeric.ts";
import { copyModel, goldenFolder, scratchFolder } from "../support/model-folder.ts";
import { farthest, forwarded, openGoldenTensors } from "../support/running.ts";

const extra = (name: string): string => fileURLToPath(new URL(`../reference/extra/${name}`, import.meta.url));
const reference = openCheckpoint(extra("rope.safetensors"));
const { rope_configs: configs } = JSON.parse(readFileSync(extra("extra.json"), "utf8")) as {
  rope_configs: Readonly<Record<string, unknown>>;
};
const scratch = scratchFolder("rope");
afterAll(() => scratch.remove());

const tolerance = 1e-4;

/** Rotary embeddings whose frequencies change at the original context, 16 positions here, against Transformers; the weights are those of golden/base. */
describe.each([
  ["dynamic", "llvm"],
  ["dynamic", "interpret"],
  ["longrope", "llvm"],
  ["longrope", "interpret"],
])("%s, %s", (kind, backend) => {
  const ids = openGoldenTensors("base").rows("forward.input_ids");
  const floats = (name: string): Float32Array => decodeFloats("F32", reference.read(`${kind}.${name}`));
  let model: BambaForCausalLM;
  beforeAll(async () => {
    const copy = copyModel(goldenFolder("base"), scratch.fresh());
    writeFileSync(copy.file("config.json"), JSON.stringify(configs[kind]));
    // chunks of 8: the frequencies follow from the whole call, not from the part of it that runs
    model = await openCausalLM(copy.path, { batch: 2, maxLength: 48, prefillChunk: 8, backend });
  });
  afterAll(() => model.close());

  test("a short text, a long one, and a short one again", async () => {
    const forward = async (length: number): Promise<Float32Array> =>
      (await forwarded(model, { inputIds: ids.map((row) => row.subarray(0, length)) })).logits;
    expect(farthest(await forward(12), floats("short_logits"))).toBeLessThan(tolerance);
    expect(farthest(await forward(37), floats("long_logits"))).toBeLessThan(tolerance);
    expect(farthest(await forward(12), floats("short_again_logits"))).toBeLessThan(tolerance);
  });

  test("single steps across the original context: cached keys keep their rotation", async () => {
    const { session, forward } = await model.forwardSession({ rows: 2 });
    await session.reset();
    const { vocabSize } = model.config;
    const expected = floats("step_logits");
    const feed = async (from: number, to: number): Promise<Float32Array> =>
      (await forward({ ids: Int32Array.from(ids.flatMap((row) => [...row.subarray(from, to)])), rows: 2, logitsToKeep: 1 })).logits;
    for (let step = 0; step < 13; step += 1) {
      const logits = await (step === 0 ? feed(0, 12) : feed(11 + step, 12 + step));
      for (const row of [0, 1]) {
        const at = (row * 13 + step) * vocabSize;
        const ours = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
        expect(farthest(ours, expected.subarray(at, at + vocabSize)), `step ${step}`).toBeLessThan(tolerance);
      }
    }
  });
});
