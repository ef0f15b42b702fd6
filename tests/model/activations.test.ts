import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import type { BambaForCausalLM, LoadOptions } from "../../models/auto/index.ts";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { decodeFloats } from "../../runtime/numeric.ts";
import { forwarded, openGoldenModel, openGoldenTensors, rms } from "../support/running.ts";

const strict = openCheckpoint(fileURLToPath(new URL("../reference/extra/strict.safetensors", import.meta.url)));

/** Results of Mamba layers rounded to bf16 (PlanOptions.activations), with weights in bf16, beside Transformers in float32 and in bfloat16. */
describe.each(["base", "options"])("activations of %s in bf16", (name) => {
  const golden = openGoldenTensors(name);
  const ids = golden.rows("forward.input_ids");
  const truth = golden.floats("forward.logits");
  const opened: BambaForCausalLM[] = [];
  const open = async (options: LoadOptions): Promise<BambaForCausalLM> => {
    const model = await openGoldenModel(name, { dtype: "bf16", ...options });
    opened.push(model);
    return model;
  };
  const logitsOf = async (options: LoadOptions): Promise<Float32Array> => (await forwarded(await open(options), { inputIds: ids })).logits;
  afterAll(() => Promise.all(opened.map((model) => model.close())));

  test("are rougher than those in f32, and nearer to the truth than Transformers in bfloat16", async () => {
    const [rough, exact] = [await logitsOf({ activations: "bf16" }), await logitsOf({})];
    const theirs = rms(decodeFloats("F32", strict.read(`${name}.logits`)), truth);
    expect(rms(rough, exact)).toBeGreaterThan(1e-4);
    expect(rms(rough, truth)).toBeLessThan(theirs);
  });

  test("are what the interpreter rounds them to, but for sums that fall on the other side", async () => {
    const [compiled, interpreted] = [
      await logitsOf({ activations: "bf16" }),
      await logitsOf({ activations: "bf16", backend: "interpret" }),
    ];
    expect(rms(compiled, interpreted)).toBeLessThan(rms(compiled, await logitsOf({})) / 2);
  });

  test("are the same in single steps", async () => {
    const model = await open({ activations: "bf16" });
    const whole = (await forwarded(model, { inputIds: ids })).logits;
    const { session, forward } = await model.forwardSession({ rows: 2 });
    await session.reset();
    const feed = async (from: number, to: number): Promise<Float32Array> =>
      (await forward({ ids: Int32Array.from(ids.flatMap((row) => [...row.subarray(from, to)])), rows: 2 })).logits;
    await feed(0, 20);
    for (let at = 20; at < 25; at += 1) {
      const step = await feed(at, at + 1);
      const { vocabSize } = model.config;
      const rows = ids.map((row, i) => (i * row.length + at) * vocabSize);
      const expected = rows.flatMap((start) => [...whole.subarray(start, start + vocabSize)]);
      expect(rms(step, expected)).toBeLessThan(rms(whole, truth));
    }
  });
});
