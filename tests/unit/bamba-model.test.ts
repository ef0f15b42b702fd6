import { describe, expect, it } from "vitest";
import { topological } from "../../compiler/ir/graph.ts";
import type { Tensor } from "../../compiler/run/graph.ts";
import { tensor } from "../../compiler/run/graph.ts";
import { bambaGraph, bambaTensors } from "../../models/bamba/index.ts";
import type { Golden } from "../support/golden.ts";
import { columns, distance, goldenModels, openGolden, showsQuirks } from "../support/golden.ts";
import { Interpreted } from "../support/interpreted.ts";

const within = 1e-4;

/** position t predicts token t + 1; the last one predicts nothing */
const shifted = (labels: Tensor): Tensor => {
  const [rows, count] = labels.shape as [number, number];
  return tensor(
    "i32",
    [rows, count],
    Array.from({ length: rows * count }, (_, i) => (i % count === count - 1 ? -100 : labels.data[i + 1]!)),
  );
};

/** The reference of the bf16 model was cast to bf16 and back as a whole, its rotary frequencies included. */
const session = (golden: Golden, capacity = 37): Interpreted =>
  new Interpreted(golden.config, golden.params, {
    batch: [1, 4],
    capacity,
    weights: golden.weights,
    rotary: golden.weights,
    strict: showsQuirks(golden.config),
  });

/** The states as Transformers names and lays them out. */
function expectStates(golden: Golden, run: Interpreted, stage: string): void {
  const prefix = `cache.after_${stage}.`;
  const names = golden.names.filter((n) => n.startsWith(prefix));
  expect(names.length).toBe(2 * golden.config.numHiddenLayers);
  for (const name of names) {
    const [layer, what] = name.slice(prefix.length).split(".") as [string, string];
    const ours = run.states[`layers.${layer}.${{ conv_states: "conv", recurrent_states: "ssm", keys: "keys", values: "values" }[what]!}`]!;
    const theirs = golden.get(name);
    const laidOut = what === "conv_states" ? swapped(ours) : what === "recurrent_states" ? ours : filled(ours, run.past);
    expect(distance(laidOut, theirs), name).toBeLessThan(within);
  }
}

/** [B, K, C] as [B, C, K] */
function swapped({ dtype, shape, data }: Tensor): Tensor {
  const [batch, width, channels] = shape as [number, number, number];
  const out = new Float64Array(data.length);
  for (let b = 0; b < batch; b++)
    for (let k = 0; k < width; k++)
      for (let c = 0; c < channels; c++) out[(b * channels + c) * width + k] = data[(b * width + k) * channels + c]!;
  return { dtype, shape: [batch, channels, width], data: out };
}

/** The first `count` positions of a cache [B, heads, capacity, D]. */
function filled({ dtype, shape, data }: Tensor, count: number): Tensor {
  const [batch, heads, capacity, size] = shape as [number, number, number, number];
  const rows = columns({ dtype, shape: [batch * heads, capacity, size], data }, 0, count);
  return { ...rows, shape: [batch, heads, count, size] };
}

describe.each(goldenModels)("bamba %s on the interpreter", (name) => {
  const golden = openGolden(name);
  const ids = (): Tensor => golden.get("forward.input_ids");

  it("forward: logits, hidden states and loss", () => {
    const options = { phase: "prefill", logits: "all", hiddenStates: true, loss: true } as const;
    const out = session(golden).run({ ids: ids(), labels: shifted(ids()) }, options);
    expect(distance(out["logits"]!, golden.get("forward.logits"))).toBeLessThan(within);
    for (let i = 0; i <= golden.config.numHiddenLayers; i++)
      expect(distance(out[`hidden.${i}`]!, golden.get(`forward.hidden_states.${i}`)), `hidden.${i}`).toBeLessThan(within);
    expect(Math.abs(out["loss"]!.data[0]! - golden.get("forward.loss").data[0]!)).toBeLessThan(within);
    const masked = session(golden).run({ ids: ids(), labels: shifted(golden.get("forward.masked_labels")) }, options);
    expect(Math.abs(masked["loss"]!.data[0]! - golden.get("forward.masked_loss").data[0]!)).toBeLessThan(within);
  });

  it("forward from embeddings", () => {
    const out = session(golden).run({ embeds: golden.get("embeds.inputs_embeds") }, { phase: "prefill", logits: "all", embeds: true });
    expect(distance(out["logits"]!, golden.get("embeds.logits"))).toBeLessThan(within);
  });

  it("left padding", () => {
    const mask = golden.get("padded.attention_mask");
    const feed = { ids: golden.get("padded.input_ids"), positions: golden.get("padded.position_ids"), mask };
    const ours = session(golden).run(feed, { phase: "prefill", logits: "all" })["logits"]!;
    const theirs = golden.get("padded.logits");
    const vocab = ours.shape[2]!;
    for (let i = 0; i < mask.data.length; i++) {
      if (mask.data[i] !== 1) continue;
      const row = ({ dtype, data }: Tensor): Tensor => ({ dtype, shape: [vocab], data: data.subarray(i * vocab, (i + 1) * vocab) });
      expect(distance(row(ours), row(theirs)), `position ${i}`).toBeLessThan(within);
    }
    expect(ours.data.every(Number.isFinite)).toBe(true);
  });

  it("prefill, single steps and a chunk on the states", () => {
    const run = session(golden);
    const cached = golden.has("cache.prefill_logits");
    const whole = golden.get("forward.logits");
    const prefill = run.run({ ids: columns(ids(), 0, 20) }, { phase: "prefill", logits: "all" })["logits"]!;
    expect(distance(prefill, cached ? golden.get("cache.prefill_logits") : columns(whole, 0, 20))).toBeLessThan(within);
    if (cached) expectStates(golden, run, "prefill");
    for (let step = 0; step < 5; step++) {
      const { logits, argmax } = run.run({ ids: columns(ids(), 20 + step, 1) }, { phase: "decode" }) as Record<"logits" | "argmax", Tensor>;
      const expected = cached ? columns(golden.get("cache.step_logits"), step, 1) : columns(whole, 20 + step, 1);
      const flat = { ...expected, shape: logits.shape };
      expect(distance(logits, flat), `step ${step}`).toBeLessThan(within);
      const vocab = flat.shape[1]!;
      const best = [...Array(flat.shape[0]).keys()].map((r) => {
        const row = flat.data.subarray(r * vocab, (r + 1) * vocab);
        return row.indexOf(Math.max(...row));
      });
      expect([...argmax.data]).toEqual(best);
    }
    if (cached) expectStates(golden, run, "steps");
    const chunk = run.run({ ids: columns(ids(), 25, 12) }, { phase: "prefill", logits: "all" })["logits"]!;
    expect(distance(chunk, cached ? golden.get("cache.chunk_logits") : columns(whole, 25, 12))).toBeLessThan(within);
    if (cached) expectStates(golden, run, "chunk");
  });

  it.runIf(golden.has("generate.greedy"))("greedy generation from a padded batch, token for token", () => {
    const expected = golden.get("generate.greedy");
    const prompt = golden.get("padded.input_ids");
    const positions = golden.get("padded.position_ids");
    const [rows, length] = prompt.shape as [number, number];
    const count = expected.shape[1]! - length;
    const run = session(golden, expected.shape[1]);
    const mask = golden.get("padded.attention_mask");
    const last = (row: number): number => positions.data[row * length + length - 1]!;
    const finished = new Set<number>();
    let { argmax } = run.run({ ids: prompt, positions, mask }, { phase: "prefill" });
    for (let i = 0; i < count; i++) {
      const next = [...argmax!.data].map((id, row) => (finished.has(row) ? golden.config.padTokenId! : id));
      for (const [row, id] of next.entries()) expect(id, `token ${i}`).toBe(expected.data[row * expected.shape[1]! + length + i]);
      for (const [row, id] of next.entries()) if (golden.config.eosTokenIds.includes(id)) finished.add(row);
      const step = tensor("i32", [rows, 1], next.map((_, row) => last(row) + i + 1)); // prettier-ignore
      ({ argmax } = run.run({ ids: tensor("i32", [rows, 1], next), positions: step, mask }, { phase: "decode" }));
    }
  });
});

describe("bamba options", () => {
  it("with the limits on single steps too, as they are by default, decoding is prefilling", () => {
    const golden = openGolden("options");
    const run = new Interpreted(golden.config, golden.params, { batch: 2, capacity: 37 });
    const ids = golden.get("forward.input_ids");
    run.run({ ids: columns(ids, 0, 20) }, { phase: "prefill" });
    for (let t = 20; t < 37; t++) {
      const { logits } = run.run({ ids: columns(ids, t, 1) }, { phase: "decode" });
      const expected = columns(golden.get("forward.logits"), t, 1);
      expect(distance(logits!, { ...expected, shape: logits!.shape }), `position ${t}`).toBeLessThan(within);
    }
  });

  it("that contradict each other are refused", () => {
    const { config } = openGolden("base");
    expect(() => bambaGraph(config, { phase: "prefill", batch: 1, capacity: 8, loss: true })).toThrow(
      "the loss needs the logits of all positions",
    );
    expect(() => bambaGraph(config, { phase: "prefill", batch: 1, capacity: 8, maxSeq: 9 })).toThrow(
      "9 tokens a call do not fit 8 positions",
    );
    expect(() => bambaGraph(config, { phase: "decode", batch: 0, capacity: 8 })).toThrow("dimension 'batch' is not a positive integer");
  });

  it("give weights as the checkpoint has them, at any storage type, and nothing else", () => {
    for (const name of goldenModels) {
      const { config } = openGolden(name);
      const graph = bambaGraph(config, { phase: "decode", batch: 1, capacity: 8, weights: "f16" });
      const params = topological(graph).flatMap((n) => (n.op === "param" ? [`${n.attrs.name} ${n.types[0]!.dtype}`] : []));
      expect(params.sort()).toEqual(bambaTensors(config).map((t) => `${t.name} f16`).sort()); // prettier-ignore
    }
  });
});
