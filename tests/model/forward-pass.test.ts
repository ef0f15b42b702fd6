import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { BambaCache, BambaModel } from "../../models/auto/index.ts";
import type { BambaForCausalLM, CausalLMInputs } from "../../models/auto/index.ts";
import { copyModel, goldenFolder, scratchFolder } from "../support/model-folder.ts";
import { farthest, openGoldenModel, openGoldenTensors } from "../support/running.ts";

const scratch = scratchFolder("forward-pass");
afterAll(scratch.remove);

const tolerance = 1e-4;
const cut = (rows: readonly Int32Array[], from: number, to?: number): Int32Array[] => rows.map((row) => row.subarray(from, to));

describe.each([
  ["base", "llvm"],
  ["base", "interpret"],
  ["all-mamba", "llvm"],
])("caches of %s on %s", (name, backend) => {
  const golden = openGoldenTensors(name);
  const ids = golden.rows("forward.input_ids");
  const vocab = golden.shape("forward.logits")[2]!;
  let model: BambaForCausalLM;
  beforeAll(async () => {
    model = await openGoldenModel(name, { backend });
  });
  afterAll(() => model.close());
  /** The reference's logits of some positions, both rows. */
  const expected = (from: number, to: number): Float32Array => {
    const all = golden.floats("forward.logits");
    const length = ids[0]!.length;
    const part = new Float32Array(ids.length * (to - from) * vocab);
    ids.forEach((_, row) => part.set(all.subarray((row * length + from) * vocab, (row * length + to) * vocab), row * (to - from) * vocab));
    return part;
  };

  test("a text in parts, without positions: they go on from the cache, also in a model without attention layers", async () => {
    let cache: BambaCache | null = null;
    for (const [from, to] of [
      [0, 20],
      [20, 21],
      [21, 30],
      [30, 37],
    ] as const) {
      const output: Awaited<ReturnType<BambaForCausalLM["forward"]>> = await model.forward({
        inputIds: cut(ids, from, to),
        pastKeyValues: cache,
      });
      expect(farthest(output.logits.data, expected(from, to)), `${from} to ${to}`).toBeLessThan(tolerance);
      cache = output.pastKeyValues;
      expect(cache?.getSeqLength()).toBe(to);
    }
  });

  test("two texts in turn: each cache keeps its own, whatever the model did in between", async () => {
    const text = (row: number): CausalLMInputs => ({ inputIds: cut([ids[row]!], 0, 12) });
    const caches = [await model.forward(text(0)), await model.forward(text(1))].map(({ pastKeyValues }) => pastKeyValues!);
    await model.forward({ inputIds: [[1, 2, 3]], useCache: false });
    for (const [from, to] of [
      [12, 13],
      [13, 20],
    ] as const)
      for (const row of [1, 0]) {
        const { logits } = await model.forward({
          inputIds: cut([ids[row]!], from, to),
          pastKeyValues: caches[row]!,
          outputHiddenStates: from === 13,
        });
        expect(farthest(logits.data, expected(from, to).subarray(row * (to - from) * vocab, (row + 1) * (to - from) * vocab))).toBeLessThan(
          tolerance,
        );
      }
    const copy = await caches[0]!.copy();
    const next = { inputIds: cut([ids[0]!], 20, 21) };
    const [a, b] = [await model.forward({ ...next, pastKeyValues: copy }), await model.forward({ ...next, pastKeyValues: caches[0]! })];
    expect(farthest(a.logits.data, b.logits.data)).toBe(0);
  });

  test("calls at the same time wait for each other", async () => {
    const both = await Promise.all(ids.map((row) => model.forward({ inputIds: [row] })));
    both.forEach(({ logits }, row) =>
      expect(farthest(logits.data, expected(0, 37).subarray(row * 37 * vocab, (row + 1) * 37 * vocab))).toBeLessThan(tolerance),
    );
  });

  test("the states, as Transformers lays them out", async () => {
    const { pastKeyValues } = await model.forward({ inputIds: cut(ids, 0, 20) });
    const layers = await pastKeyValues!.layers();
    expect(layers.map(({ kind }) => kind)).toEqual(model.config.layerKinds);
    if (!golden.has("cache.prefill_logits")) return;
    for (const [i, layer] of layers.entries()) {
      const states =
        layer.kind === "mamba"
          ? { conv_states: layer.convStates, recurrent_states: layer.recurrentStates }
          : { keys: layer.keys, values: layer.values };
      for (const [what, { shape, data }] of Object.entries(states)) {
        expect(shape).toEqual(golden.shape(`cache.after_prefill.${i}.${what}`));
        expect(farthest(data, golden.floats(`cache.after_prefill.${i}.${what}`)), `${i} ${what}`).toBeLessThan(tolerance);
      }
    }
  });

  test("packed sequences are what each is alone: by positions and by numbers, at once and on top of a cache", async () => {
    const row = ids[0]!;
    const alone = async (from: number, to: number): Promise<Float32Array> =>
      (await model.forward({ inputIds: [row.subarray(from, to)] })).logits.data;
    const apart = [await alone(0, 9), await alone(9, 20), await alone(20, 37)];
    const positions = [...Array(9).keys(), ...Array(11).keys(), ...Array(17).keys()];
    const seqIdx = positions.map((_, i) => (i < 9 ? 0 : i < 20 ? 1 : 2));
    const whole = Float32Array.from(apart.flatMap((part) => [...part]));
    for (const packing of [{ positionIds: [positions] }, { seqIdx: [seqIdx] }, { seqIdx: [seqIdx], positionIds: [positions] }])
      expect(farthest((await model.forward({ inputIds: [row], ...packing })).logits.data, whole)).toBeLessThan(tolerance);
    for (const kind of ["positionIds", "seqIdx"] as const) {
      const given = kind === "positionIds" ? positions : seqIdx;
      let cache: BambaCache | null = null;
      // cuts inside the sequences, and one where a sequence begins
      for (const [from, to] of [
        [0, 5],
        [5, 20],
        [20, 21],
        [21, 37],
      ] as const) {
        const output: Awaited<ReturnType<BambaForCausalLM["forward"]>> = await model.forward({
          inputIds: [row.subarray(from, to)],
          [kind]: [given.slice(from, to)],
          pastKeyValues: cache,
        });
        expect(farthest(output.logits.data, whole.subarray(from * vocab, to * vocab)), `${kind} ${from}`).toBeLessThan(tolerance);
        cache = output.pastKeyValues;
      }
    }
  });

  test("padding on the right of the first part leaves no trace in the second", async () => {
    const short = [ids[0]!.subarray(0, 7), ids[1]!.subarray(0, 12)];
    const inputIds = short.map((row) => [...row, ...Array<number>(12 - row.length).fill(0)]);
    const attentionMask = short.map((row) => inputIds[0]!.map((_, i) => (i < row.length ? 1 : 0)));
    const { pastKeyValues } = await model.forward({ inputIds, attentionMask });
    const next = [ids[0]!.subarray(7, 11), ids[1]!.subarray(12, 16)];
    // the mask of the whole text, as Transformers wants it
    const { logits } = await model.forward({
      inputIds: next,
      attentionMask: attentionMask.map((row) => [...row, 1, 1, 1, 1]),
      pastKeyValues,
    });
    const want = Float32Array.from([...expected(7, 11).subarray(0, 4 * vocab), ...expected(12, 16).subarray(4 * vocab)]);
    expect(farthest(logits.data, want)).toBeLessThan(tolerance);
  });
});

describe("what does not fit is refused", () => {
  let model: BambaForCausalLM;
  beforeAll(async () => {
    model = await openGoldenModel("base", { backend: "interpret" });
  });
  afterAll(() => model.close());

  test.each<[string, CausalLMInputs, string]>([
    [
      "both inputs",
      { inputIds: [[1]], inputsEmbeds: { shape: [1, 1, 64], data: new Float32Array(64) } },
      "exactly one of input_ids or inputs_embeds",
    ],
    ["none", {}, "exactly one of input_ids or inputs_embeds"],
    ["no tokens", { inputIds: [[]] }, "there is no token"],
    ["embeddings of another size", { inputsEmbeds: { shape: [1, 2, 32], data: new Float32Array(64) } }, "expected [rows, length, 64]"],
    ["a mask of another length", { inputIds: [[1, 2]], attentionMask: [[1]] }, "attentionMask: is [1, 1], expected [1, 2]"],
    ["positions of another length", { inputIds: [[1, 2]], positionIds: [[0, 1, 2]] }, "positionIds: is [1, 3], the tokens are [1, 2]"],
    ["numbers of other rows", { inputIds: [[1, 2]], seqIdx: [[0, 0], [0, 0]] }, "seqIdx: is [2, 2], the tokens are [1, 2]"], // prettier-ignore
    ["two kinds of labels", { inputIds: [[1, 2]], labels: [[1, 2]], shiftLabels: [[1, 2]] }, "labels or shiftLabels"],
    ["a token outside", { inputIds: [[1, 256]] }, "token id 256"],
    ["a position outside", { inputIds: [[1, 2]], positionIds: [[0, 96]] }, "position 96"],
  ])("%s", async (_, inputs, message) => {
    await expect(model.forward(inputs)).rejects.toThrow(message);
    await expect(model.forward(inputs)).rejects.toMatchObject({ name: "UserError" });
  });

  test("a cache of other rows, a mask that changes the past, cropping", async () => {
    const { pastKeyValues } = await model.forward({ inputIds: [[5, 6, 7]] });
    await expect(model.forward({ inputIds: [[1], [2]], pastKeyValues })).rejects.toThrow("the cache has 1 rows, the input has 2");
    await expect(model.forward({ inputIds: [[1]], attentionMask: [[0, 1, 1, 1]], pastKeyValues })).rejects.toThrow("cached position 0");
    expect(() => pastKeyValues!.crop()).toThrow("cannot be cropped");
    expect(pastKeyValues!.getSeqLength()).toBe(3);
  });
});

test("reorder: rows of a cache change places and repeat", async () => {
  const model = await openGoldenModel("base", { batch: 4 });
  try {
    const ids = openGoldenTensors("base").rows("forward.input_ids");
    const first = await model.forward({ inputIds: cut(ids, 0, 10) });
    await first.pastKeyValues!.reorder([1, 0, 1]);
    const next = [ids[1]!, ids[0]!, ids[1]!];
    const { logits } = await model.forward({ inputIds: cut(next, 10, 12), pastKeyValues: first.pastKeyValues });
    const whole = await model.forward({ inputIds: cut(next, 0, 12), logitsToKeep: 2 });
    expect(farthest(logits.data, whole.logits.data)).toBeLessThan(tolerance);
    // The same with states that have moved to the host, because the model worked on another text meanwhile.
    const second = await model.forward({ inputIds: cut(ids, 0, 10) });
    await model.forward({ inputIds: [[1, 2]] });
    await second.pastKeyValues!.reorder([1, 0, 1]);
    expect(second.pastKeyValues!.rows).toBe(3);
    const moved = await model.forward({ inputIds: cut(next, 10, 12), pastKeyValues: second.pastKeyValues });
    expect(farthest(moved.logits.data, logits.data)).toBe(0);
    for (const rows of [[3], [-1], [0.5]]) await expect(second.pastKeyValues!.reorder(rows)).rejects.toThrow("row");
    await model.forward({ inputIds: [[1, 2]] });
    for (const rows of [[3], [-1], [0.5]]) await expect(second.pastKeyValues!.reorder(rows)).rejects.toThrow("row");
  } finally {
    await model.close();
  }
});

test("BambaModel opens a checkpoint without a head, and one with a head", async () => {
  const golden = openGoldenTensors("base");
  const bare = copyModel(goldenFolder("base"), scratch.fresh());
  bare.tensors((tensors) => {
    for (const [name, tensor] of [...tensors]) {
      tensors.delete(name);
      if (name.startsWith("model.")) tensors.set(name.slice(6), { ...tensor, name: name.slice(6) });
    }
  });
  for (const folder of [bare.path, goldenFolder("base")]) {
    const model = await BambaModel.fromPretrained(folder, { backend: "interpret", maxLength: 40, batch: 2 });
    const { lastHiddenState, hiddenStates, attentions } = await model.forward({
      inputIds: golden.rows("forward.input_ids"),
      outputHiddenStates: true,
      outputAttentions: true,
    });
    expect(farthest(lastHiddenState.data, golden.floats("forward.hidden_states.4"))).toBeLessThan(tolerance);
    expect(farthest(hiddenStates![0]!.data, golden.floats("forward.hidden_states.0"))).toBeLessThan(tolerance);
    expect(attentions![0]!.shape).toEqual(golden.shape("forward.attentions.0"));
    await model.close();
  }
});
