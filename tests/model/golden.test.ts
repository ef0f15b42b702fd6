import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { BambaForCausalLM } from "../../models/auto/index.ts";
import type { ForwardSession } from "../../models/auto/forward.ts";
import { showsQuirks } from "../support/golden.ts";
import { asTransformers, farthest, forwarded, openGoldenModel, openGoldenTensors } from "../support/running.ts";

/** Transformers computes in float32 too, in another order. */
const tolerance = 1e-4;

/** Whole models, compiled, against what Transformers gives (tests/reference/golden). */
describe.each([
  ["base", false],
  ["options", false],
  ["options", true],
  ["all-mamba", false],
  ["all-attention", false],
  ["rope-yarn", false],
  ["rope-linear", false],
  ["rope-llama3", false],
  ["bf16", false],
])("%s, strict: %s", (name, strict) => {
  const golden = openGoldenTensors(name);
  let model: BambaForCausalLM;
  beforeAll(async () => {
    model = await openGoldenModel(name, { strict });
    quirks = !strict && showsQuirks(model.config);
  });
  afterAll(() => model.close());
  /** Where we differ from the reference on purpose: in rows with padding, and in single steps. */
  let quirks = false;

  const far = (values: ArrayLike<number>, tensor: string): number => farthest(values, golden.floats(tensor));

  test("logits, hidden states and losses", async () => {
    const inputIds = golden.rows("forward.input_ids");
    const all = await forwarded(model, { inputIds, labels: inputIds, outputHiddenStates: true });
    expect(far(all.logits, "forward.logits")).toBeLessThan(tolerance);
    expect(all.hiddenStates).toHaveLength(model.config.numHiddenLayers + 1);
    for (const [i, hidden] of all.hiddenStates.entries())
      expect(far(hidden, `forward.hidden_states.${i}`), `hidden state ${i}`).toBeLessThan(tolerance);
    expect(far([all.loss!], "forward.loss")).toBeLessThan(tolerance);
    const masked = await forwarded(model, { inputIds, labels: golden.rows("forward.masked_labels"), outputHiddenStates: true });
    expect(far([masked.loss!], "forward.masked_loss")).toBeLessThan(tolerance);
  });

  test("a padded batch, at the positions that are not padding", async () => {
    const attentionMask = golden.rows("padded.attention_mask");
    const result = await forwarded(model, {
      inputIds: golden.rows("padded.input_ids"),
      attentionMask,
      positionIds: golden.rows("padded.position_ids"),
    });
    const expected = golden.floats("padded.logits");
    const { vocabSize, kept: length } = result;
    expect(result.logits.every(Number.isFinite)).toBe(true);
    attentionMask.forEach((mask, row) => {
      if (row === 0 && quirks) return;
      const first = mask.indexOf(1);
      const real = (values: Float32Array): Float32Array =>
        values.subarray((row * length + first) * vocabSize, (row + 1) * length * vocabSize);
      expect(farthest(real(result.logits), real(expected))).toBeLessThan(tolerance);
    });
  });

  test("embeddings in place of ids", async () => {
    const { logits } = await forwarded(model, {
      inputsEmbeds: { shape: golden.shape("embeds.inputs_embeds"), data: golden.floats("embeds.inputs_embeds") },
    });
    expect(far(logits, "embeds.logits")).toBeLessThan(tolerance);
  });

  test.runIf(golden.has("cache.prefill_logits"))("a prompt, five single tokens and a chunk: logits and all states", async ({ skip }) => {
    if (quirks) skip("single steps differ on purpose");
    const forward = await model.forwardSession({ rows: 2 });
    await forward.session.reset();
    const ids = golden.rows("forward.input_ids");
    const feed = async (from: number, to: number): Promise<Float32Array> =>
      (await forward.forward({ ids: Int32Array.from(ids.flatMap((row) => [...row.subarray(from, to)])), rows: ids.length })).logits;
    const states = async (stage: string): Promise<void> => {
      const snapshot = await forward.session.snapshot();
      for (const [layer, kind] of model.config.layerKinds.entries())
        for (const state of kind === "mamba" ? (["conv_states", "recurrent_states"] as const) : (["keys", "values"] as const))
          expect(
            far(asTransformers(snapshot, layer, state), `cache.after_${stage}.${layer}.${state}`),
            `${stage} ${layer} ${state}`,
          ).toBeLessThan(tolerance);
    };
    expect(far(await feed(0, 20), "cache.prefill_logits")).toBeLessThan(tolerance);
    await states("prefill");
    const steps: Float32Array[] = [];
    for (let at = 20; at < 25; at += 1) steps.push(await feed(at, at + 1));
    const { vocabSize } = model.config;
    const inOrder = ids.flatMap((_, row) => steps.flatMap((logits) => [...logits.subarray(row * vocabSize, (row + 1) * vocabSize)]));
    expect(far(inOrder, "cache.step_logits")).toBeLessThan(tolerance);
    await states("steps");
    expect(far(await feed(25, 37), "cache.chunk_logits")).toBeLessThan(tolerance);
    await states("chunk");
  });

  test.runIf(golden.has("generate.greedy"))("greedy continuations, token for token, and with a list of end tokens", async ({ skip }) => {
    if (quirks) skip("single steps differ on purpose");
    const input = { inputIds: golden.rows("padded.input_ids"), attentionMask: golden.rows("padded.attention_mask") };
    const greedy = golden.rows("generate.greedy");
    const length = input.inputIds[0]!.length;
    const result = await model.generate(input, { maxNewTokens: 24 });
    expect(result.sequences).toEqual(greedy);
    // How the reference chose them: the tenth new token of the first row and the fifteenth of the second.
    const eosTokenId = [greedy[0]![length + 9]!, greedy[1]![length + 14]!];
    const ended = await model.generate(input, { maxNewTokens: 24, eosTokenId });
    expect(ended.sequences).toEqual(golden.rows("generate.greedy_eos"));
    expect(ended.finish).toEqual(["eos", "eos"]);
  });

  test("generates the same with states as without: the whole text anew for each token", async () => {
    const prompt = golden.rows("forward.input_ids")[0]!.subarray(0, 9);
    const { newTokens } = await model.generate(prompt, { maxNewTokens: 6, eosTokenId: [] });
    const forward: ForwardSession = await model.forwardSession({ rows: 2 });
    const text = [...prompt];
    for (const token of newTokens[0]!) {
      await forward.session.reset();
      const { logits, vocabSize } = await forward.forward({ ids: Int32Array.from(text), rows: 1 });
      const last = logits.subarray(logits.length - vocabSize);
      expect(last.indexOf(Math.max(...last))).toBe(token);
      text.push(token);
    }
  });
});
