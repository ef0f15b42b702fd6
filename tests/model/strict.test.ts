import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { tensor } from "../../compiler/run/graph.ts";
import type { BambaForCausalLM } from "../../models/auto/index.ts";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { decodeFloats, decodeIntegers } from "../../runtime/numeric.ts";
import { forwarded, openGoldenModel, openGoldenTensors, rms } from "../support/running.ts";

const reference = openCheckpoint(fileURLToPath(new URL("../reference/extra/strict.safetensors", import.meta.url)));
const floats = (name: string): Float32Array => decodeFloats("F32", reference.read(name));

/** As in tests/unit/bamba-strict.test.ts, where the same programs are interpreted; without the rounding it is 0.009 to 0.013. */
const close = 0.006;

/** Compiled, against Transformers with weights and activations in bfloat16. */
describe.each(["base", "options", "all-attention", "bf16"])("strict %s", (name) => {
  const golden = openGoldenTensors(name);
  const ids = golden.rows("forward.input_ids");
  let model: BambaForCausalLM;
  beforeAll(async () => {
    model = await openGoldenModel(name, { dtype: "bf16", strict: true, rotary: "f32" });
  });
  afterAll(() => model.close());

  test("hidden states, logits and loss", async () => {
    const all = await forwarded(model, { inputIds: ids, labels: ids, outputHiddenStates: true });
    for (const [i, hidden] of all.hiddenStates.entries())
      expect(rms(hidden, floats(`${name}.hidden_states.${i}`)), `hidden state ${i}`).toBeLessThan(close);
    expect(rms(all.logits, floats(`${name}.logits`))).toBeLessThan(close);
    expect(Math.abs(all.loss! - floats(`${name}.loss`)[0]!)).toBeLessThan(2e-3);
  });

  test("a prompt, five single steps and a chunk", async () => {
    const { session, forward } = await model.forwardSession({ rows: 2 });
    await session.reset();
    const feed = async (from: number, to: number): Promise<Float32Array> =>
      (await forward({ ids: Int32Array.from(ids.flatMap((row) => [...row.subarray(from, to)])), rows: 2 })).logits;
    const { vocabSize } = model.config;
    expect(rms(await feed(0, 20), floats(`${name}.prefill_logits`))).toBeLessThan(close);
    const steps: Float32Array[] = [];
    for (let at = 20; at < 25; at += 1) steps.push(await feed(at, at + 1));
    const inOrder = [0, 1].flatMap((row) => steps.flatMap((logits) => [...logits.subarray(row * vocabSize, (row + 1) * vocabSize)]));
    expect(rms(inOrder, floats(`${name}.step_logits`))).toBeLessThan(close);
    expect(rms(await feed(25, 37), floats(`${name}.chunk_logits`))).toBeLessThan(close);
  });

  test("greedy continuation in a batch, token for token, but for a choice between neighbours in bf16", async () => {
    const input = { inputIds: golden.rows("padded.input_ids"), attentionMask: golden.rows("padded.attention_mask") };
    const asked = { maxNewTokens: 24, eosTokenId: [], returnDictInGenerate: true, outputLogits: true };
    const { newTokens, logits } = await model.generate(input, asked);
    const expected = decodeIntegers("I64", reference.read(`${name}.greedy`), { min: 0, max: 2 ** 31 - 1 }, "greedy");
    const length = expected.length / 2;
    const { vocabSize } = model.config;
    const choices = newTokens.map((tokens, row) => {
      const theirs = expected.subarray((row + 1) * length - 24, (row + 1) * length);
      const step = tokens.findIndex((token, i) => token !== theirs[i]);
      if (step < 0) return null;
      const own = logits![step]!.subarray(row * vocabSize, (row + 1) * vocabSize);
      const [ours, other] = [own[tokens[step]!]!, own[theirs[step]!]!];
      // Of two logits each of which may be rounded the other way, two steps of bf16 apart at most.
      expect(ours - other, `row ${row}, step ${step}`).toBeLessThanOrEqual(2 * 2 ** (Math.floor(Math.log2(Math.abs(ours))) - 7));
      return step;
    });
    // Where there is no such choice, the whole text is the reference's.
    if (name === "options") expect(choices).toEqual([null, null]);
  });
});

test("weights in f16: compiled as interpreted, and numbers that f16 can hold", async () => {
  const inputIds = openGoldenTensors("base").rows("forward.input_ids");
  const logits: Float32Array[] = [];
  for (const backend of ["llvm", "interpret"]) {
    const model = await openGoldenModel("base", { dtype: "f16", strict: true, backend });
    const { hiddenStates, ...result } = await forwarded(model, { inputIds, outputHiddenStates: true });
    for (const [i, values] of [result.logits, ...hiddenStates].entries())
      expect([...tensor("f16", [values.length], values).data], `${backend} ${i}`).toEqual([...values]);
    logits.push(result.logits);
    await model.close();
  }
  // f16 has three bits more than bf16, so neighbours are nearer to each other
  expect(rms(logits[0]!, logits[1]!)).toBeLessThan(close / 4);
});
