import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { BambaForCausalLM } from "../../models/auto/index.ts";
import { copyModel, goldenFolder, scratchFolder } from "../support/model-folder.ts";
import { farthest, forwarded, openGoldenModel, openGoldenTensors } from "../support/running.ts";
import { openCausalLM } from "../../models/auto/index.ts";

const tolerance = 1e-4;
const scratch = scratchFolder("forward");
afterAll(() => scratch.remove());

const losses = (
  JSON.parse(readFileSync(fileURLToPath(new URL("../reference/extra/extra.json", import.meta.url)), "utf8")) as {
    loss: Readonly<Record<string, number>>;
  }
).loss;

/** What forward can be asked for beside the logits of every position, compiled and interpreted; in chunks of 8, so that a call is several runs. */
describe.each(["llvm", "interpret"])("forward, %s", (backend) => {
  const golden = openGoldenTensors("base");
  const inputIds = golden.rows("forward.input_ids");
  const all = golden.floats("forward.logits");
  const [rows, length, vocab] = golden.shape("forward.logits") as [number, number, number];
  let model: BambaForCausalLM;
  beforeAll(async () => {
    model = await openGoldenModel("base", { backend, prefillChunk: 8 });
  });
  afterAll(() => model.close());

  test("logits of the last positions", async () => {
    const three = await forwarded(model, { inputIds, logitsToKeep: 3 });
    expect(three.kept).toBe(3);
    expect(farthest(three.logits, golden.floats("forward.logits_to_keep_3"))).toBeLessThan(tolerance);
    const every = await forwarded(model, { inputIds, logitsToKeep: 0 });
    expect(farthest(every.logits, all)).toBeLessThan(tolerance);
    const more = await forwarded(model, { inputIds, logitsToKeep: 100 });
    expect([more.kept, farthest(more.logits, all) < tolerance]).toEqual([length, true]);
  });

  test("logits of a list of positions, in its order", async () => {
    const positions = [30, 2, -1, 2, 17];
    const { kept, logits } = await forwarded(model, { inputIds, logitsToKeep: positions });
    expect(kept).toBe(5);
    for (let row = 0; row < rows; row += 1)
      positions.forEach((position, i) => {
        const from = (row * length + (position < 0 ? length + position : position)) * vocab;
        const ours = logits.subarray((row * 5 + i) * vocab, (row * 5 + i + 1) * vocab);
        expect(farthest(ours, all.subarray(from, from + vocab)), `row ${row}, position ${position}`).toBeLessThan(tolerance);
      });
  });

  test("attention weights, of a whole text and on top of one", async () => {
    const expected = golden.floats("forward.attentions.0");
    const heads = model.config.numAttentionHeads;
    const whole = await forwarded(model, { inputIds, outputAttentions: true });
    expect(whole.attentions).toHaveLength(1);
    expect(farthest(whole.attentions[0]!, expected)).toBeLessThan(tolerance);
    expect(farthest(whole.logits, all)).toBeLessThan(tolerance);

    const { session, forward } = await model.forwardSession({ rows, attentions: true });
    await session.reset();
    for (const [from, to] of [
      [0, 11],
      [11, 12],
      [12, 25],
    ] as const) {
      const part = await forward({ ids: Int32Array.from(inputIds.flatMap((row) => [...row.subarray(from, to)])), rows });
      const ours = part.attentions[0]!;
      expect(ours).toHaveLength(rows * heads * (to - from) * to);
      for (let head = 0; head < rows * heads; head += 1)
        for (let t = from; t < to; t += 1) {
          const at = (head * (to - from) + t - from) * to;
          const theirs = (head * length + t) * length;
          expect(farthest(ours.subarray(at, at + to), expected.subarray(theirs, theirs + to))).toBeLessThan(tolerance);
        }
    }
  });

  test("attention weights of a padded batch are finite, and no token looks at padding", async () => {
    const attentionMask = golden.rows("padded.attention_mask");
    const { attentions } = await forwarded(model, { inputIds: golden.rows("padded.input_ids"), attentionMask, outputAttentions: true });
    const weights = attentions[0]!;
    expect(weights.every(Number.isFinite)).toBe(true);
    const heads = model.config.numAttentionHeads;
    const first = attentionMask[0]!.indexOf(1);
    expect(first).toBeGreaterThan(0);
    for (let head = 0; head < heads; head += 1)
      for (let t = first; t < length; t += 1) {
        const row = weights.subarray((head * length + t) * length, (head * length + t + 1) * length);
        expect(Math.max(...row.subarray(0, first))).toBe(0);
        expect(row.reduce((sum, w) => sum + w, 0)).toBeCloseTo(1, 5);
      }
  });

  test("without the head", async () => {
    const { lastHiddenState } = await model.model.forward({ inputIds });
    expect(lastHiddenState.shape).toEqual(golden.shape("forward.hidden_states.4"));
    expect(farthest(lastHiddenState.data, golden.floats("forward.hidden_states.4"))).toBeLessThan(tolerance);
  });
});

test.each(["options", "all-attention", "rope-yarn", "bf16"])("attention weights of every attention layer, %s", async (name) => {
  const golden = openGoldenTensors(name);
  const model = await openGoldenModel(name);
  try {
    const { attentions } = await forwarded(model, { inputIds: golden.rows("forward.input_ids"), outputAttentions: true });
    expect(attentions).toHaveLength(model.config.attentionLayers.length);
    for (const [k, weights] of attentions.entries())
      expect(farthest(weights, golden.floats(`forward.attentions.${k}`)), `layer ${k}`).toBeLessThan(tolerance);
  } finally {
    await model.close();
  }
});

describe("losses", () => {
  const golden = openGoldenTensors("options");
  const inputIds = golden.rows("forward.input_ids");
  const labels = golden.rows("forward.masked_labels");
  let model: BambaForCausalLM;
  beforeAll(async () => {
    model = await openGoldenModel("options");
  });
  afterAll(() => model.close());
  const close = (loss: number | null, name: string): void => expect(Math.abs(loss! - losses[name]!), name).toBeLessThan(tolerance);

  test("mean, sum by a number of items, and labels that are shifted already", async () => {
    close((await forwarded(model, { inputIds, labels })).loss, "labels");
    close((await forwarded(model, { inputIds, labels, numItemsInBatch: 50 })).loss, "num_items_in_batch_50");
    const shiftLabels = labels.map((row) => Int32Array.from(row, (_, i) => row[i + 1] ?? -100));
    close((await forwarded(model, { inputIds, shiftLabels })).loss, "shift_labels");
    const none = labels.map((row) => row.map(() => -100));
    expect((await forwarded(model, { inputIds, labels: none })).loss).toBeNaN();
    expect((await forwarded(model, { inputIds, labels: none, numItemsInBatch: 4 })).loss).toBe(0);
  });

  test("the z-loss is over all positions, whatever the cross-entropy is divided by", async () => {
    const copy = copyModel(goldenFolder("options"), scratch.fresh());
    copy.config({ z_loss_coefficient: 0.01 });
    const withZ = await openCausalLM(copy.path, { batch: 2, maxLength: 96, dtype: "f32" });
    try {
      close((await forwarded(withZ, { inputIds, labels })).loss, "z_loss_0.01");
      const { loss } = await forwarded(withZ, { inputIds, labels, numItemsInBatch: 50 });
      const z = losses["z_loss_0.01"]! - losses["labels"]!;
      expect(Math.abs(loss! - z - losses["num_items_in_batch_50"]!)).toBeLessThan(tolerance);
    } finally {
      await withZ.close();
    }
  });

  test("what does not fit is refused", async () => {
    const refused = (input: Parameters<BambaForCausalLM["forward"]>[0], message: string): Promise<void> =>
      expect(forwarded(model, input)).rejects.toThrow(message);
    await refused({ inputIds, logitsToKeep: [37] }, "logitsToKeep: position 37 is outside the 37 of the input");
    await refused({ inputIds, logitsToKeep: -1 }, "logitsToKeep: expected a whole number from 0 or a list of positions, got -1");
    await refused({ inputIds, labels, logitsToKeep: 3 }, "the loss needs the logits of all positions");
    await refused({ inputIds, labels, shiftLabels: labels }, "give labels or shiftLabels, not both");
    await refused({ inputIds, labels, numItemsInBatch: 0 }, "numItemsInBatch: expected a number above zero, got 0");
    await refused({ inputIds, labels: labels.map((row) => row.map(() => 320)) }, "label 320 is neither a token (0 to 319) nor -100");
    await refused({ inputIds, labels: labels.map((row) => row.subarray(1)) }, "the tokens are [2, 37]");
  });
});
