import { describe, expect, test } from "vitest";
import { cudaBackend } from "../../../backends/cuda/index.ts";
import { evaluateIntExpr } from "../../../compiler/artifact.ts";
import type { Caps } from "../../../compiler/backend.ts";
import { lowerGraph, lowerKernel } from "../../../compiler/pipeline.ts";
import type { KernelPlan } from "../../../compiler/plan.ts";
import type { Config } from "../../../compiler/template.ts";
import { buildKernel } from "../../../compiler/select.ts";
import { partsOfProduct, tilesOf } from "../../../compiler/templates/stream-tiles.ts";
import { bambaGraph } from "../../../models/bamba/index.ts";
import type { BambaOptions } from "../../../models/bamba/index.ts";
import { models } from "../../support/kernels.ts";

const caps = cudaBackend.caps("sm_90");
const config = { ...models["9B"], numHiddenLayers: 10, layerKinds: models["9B"].layerKinds.slice(0, 10), attentionLayers: [9] };

/** Kernels of layers in decode, of the ninth and of the tenth, which is the first with attention. */
function layers(batch: number, options: Partial<BambaOptions> = {}, of: Caps = caps): readonly (readonly KernelPlan[])[] {
  const graph = bambaGraph(config, { phase: "decode", batch, capacity: 2048, weights: "bf16", kvCache: "bf16", ...options });
  const { kernels } = lowerGraph(graph, of).fused;
  return [8, 9].map((layer) => kernels.filter(({ label }) => label.startsWith(`layers.${layer}.`)));
}
const names = (kernels: readonly KernelPlan[]): string[] => kernels.map((k) => k.problem.frame.name);
const written = (k: KernelPlan): string[] =>
  k.args.filter(({ access }) => access !== "read").map(({ buffer }) => (buffer.kind === "arena" ? "heads of queries" : buffer.name));
const templatesOf = (kernels: readonly KernelPlan[]): string[] => [...new Set(kernels.map((k) => buildKernel(k, caps).template))].sort();

describe("a decode step of Bamba 9B in bf16", () => {
  test("of one row: the norms are prologues of streams of weights; convolution, rotation and caches epilogues", () => {
    const [mamba, attention] = layers(1) as [KernelPlan[], KernelPlan[]];
    expect(names(mamba)).toEqual(["gemm_conv", "ssd_step", "gemm", "gemm2", "gemm"]);
    expect(templatesOf(mamba)).toEqual(["gemv-stream", "ssd-step"]);
    expect(names(attention)).toEqual(["gemm_heads", "attention", "attention_combine", "gemm", "gemm2", "gemm"]);
    expect(templatesOf(attention)).toEqual(["attention-stream", "gemv-stream", "rows"]);
    expect(written(attention[0]!)).toEqual(["layers.9.keys", "layers.9.values", "heads of queries"]);
  });

  test("of 256 rows, where the product of queries, keys and values is not cut along k: it still turns and stores them", () => {
    const [, attention] = layers(256) as [KernelPlan[], KernelPlan[]];
    expect(names(attention).slice(0, 3)).toEqual(["add_norm", "gemm_heads", "attention"]);
    expect(templatesOf(attention.slice(1, 2))).toEqual(["gemm-stream"]);
  });

  test("of 64 rows: what is multiplied lies in memory in bf16, and long products of few columns are cut along k", () => {
    const [mamba, attention] = layers(64, { state: "bf16" }) as [KernelPlan[], KernelPlan[]];
    const mlp = ["add_norm", "gemm2", "gemm_parts"];
    expect(names(mamba)).toEqual(["add_norm", "gemm", "conv_step", "ssd_step", "norm", "gemm_parts", ...mlp]);
    // one wave of blocks without parts
    expect(names(attention)).toEqual(["add_norm", "gemm_parts", "cache_write", "attention", "gemm_parts", ...mlp]);
    // sums, rotations of keys and queries, and both caches
    expect(attention[2]!.args.filter(({ access }) => access === "write").map(({ buffer }) => buffer.kind)).toEqual([
      "state",
      "state",
      "arena",
    ]);
    const products = [...mamba, ...attention].filter((k) => k.problem.kind === "gemm");
    expect(products).toHaveLength(8);
    for (const k of products)
      expect(k.args.filter(({ buffer, access }) => buffer.kind === "arena" && access === "read").at(0)?.buffer.dtype).toBe("bf16");
    expect(templatesOf([...mamba, ...attention])).toEqual(["attention-stream", "gemm-stream", "rows", "ssd-step"]);
  });

  test("has as few launches as its mixers and products and the norms between them", () => {
    const launches = (batch: number): number => {
      const options = { phase: "decode", batch, capacity: 2048, weights: "bf16", kvCache: "bf16", state: "bf16" } as const;
      return lowerGraph(bambaGraph(models["9B"], options), caps).fused.kernels.length;
    };
    const [mamba, attention, rest] = [29, 3, 3];
    expect(launches(1)).toBe(mamba * 5 + attention * 6 + rest - 1);
    expect(launches(8)).toBe(mamba * 8 + attention * 9 + rest);
    expect(launches(64)).toBe(mamba * 9 + attention * 8 + rest);
  });

  test("loads what norms are scaled by before it waits for the kernels in front", () => {
    const norms = layers(64).flatMap((kernels) =>
      kernels.filter((k) => k.problem.kind === "rows" && k.problem.frame.name.endsWith("norm")),
    );
    expect(names(norms)).toEqual(["add_norm", "norm", "add_norm", "add_norm", "add_norm"]);
    for (const k of norms) {
      const weight = k.args.findIndex(({ buffer }) => buffer.kind === "weight");
      const { text } = cudaBackend.print(lowerKernel(k, caps).thread, caps);
      const [before, after] = text.slice(text.indexOf("launch_dependents")).split("griddepcontrol.wait") as [string, string];
      expect(before).toContain(`(p${weight} + `);
      expect(after).not.toContain(`(p${weight} + `);
    }
  });

  test("reads the states of a convolution before it waits, and the product's result after that", () => {
    const [step] = layers(64)[0]!.filter((k) => k.problem.frame.name === "conv_step") as [KernelPlan];
    const places = step.args.map(({ buffer }, i) => ({ kind: buffer.kind, name: `(p${i} + ` }));
    const { text } = cudaBackend.print(lowerKernel(step, caps).thread, caps);
    const [before] = text.slice(text.indexOf("launch_dependents")).split("griddepcontrol.wait") as [string];
    const early = places.filter(({ name }) => before.includes(name)).map(({ kind }) => kind);
    expect(early.sort()).toEqual(["state", "weight", "weight"]);
  });

  test("moves the states of a convolution, its taps and its inputs in vectors of 16 bytes", () => {
    const options = { state: "bf16", activations: "bf16" } as const;
    const [step] = layers(64, options)[0]!.filter((k) => k.problem.frame.name === "conv_step") as [KernelPlan];
    const { text } = cudaBackend.print(cudaBackend.legalize!(lowerKernel(step, caps).thread, caps), caps);
    // three states, the bias, four taps of eight channels, the input; the result and four states
    expect(text.match(/ = \*reinterpret_cast<const uint4\*>/g)).toHaveLength(3 + 1 + 4 + 1);
    expect(text.match(/ {2}\*reinterpret_cast<uint4\*>/g)).toHaveLength(1 + 4);
    expect(text).not.toMatch(/bf16_value\(\(?p\d/);
  });

  test("with activations in bf16, what a Mamba layer's kernels pass on takes 16 bits where hardware copies, and 32 where it does not", () => {
    const types = (of: Caps): (readonly string[])[] =>
      layers(64, { state: "bf16", activations: "bf16", replay: 16 }, of)[0]!
        .slice(1, 5)
        .map((k) => k.args.filter(({ buffer, access }) => buffer.kind === "arena" && access === "write").map(({ buffer }) => buffer.dtype));
    // in_proj, the convolution, the scan with its gate; the norm's result is the next product's operand
    expect(types(caps)).toEqual([["bf16"], ["bf16"], ["bf16"], ["bf16"]]);
    expect(types({ ...caps, asyncCopy: false })).toEqual([["f32"], ["f32"], ["f32"], ["f32"]]);
  });

  test("of 64 rows with a ring of inputs: no kernel more, and half of what the states were", () => {
    const [plain] = layers(64, { state: "bf16" }) as [KernelPlan[]];
    const [mamba] = layers(64, { state: "bf16", replay: 16 }) as [KernelPlan[]];
    expect(names(mamba)).toEqual(names(plain).map((name) => (name === "ssd_step" ? "ssd_replay" : name)));
    expect(templatesOf(mamba)).toContain("ssd-replay-stream");
    const bytesOf = (kernels: readonly KernelPlan[], held: number): number =>
      evaluateIntExpr(kernels.find(({ problem }) => problem.frame.name.startsWith("ssd"))!.bytes, { held });
    const state = 64 * config.mambaHeads * config.mambaHeadDim * config.mambaStateSize * 2;
    const entry = 64 * ((config.mambaHeads * config.mambaHeadDim + config.mambaGroups * config.mambaStateSize) * 2 + config.mambaHeads * 4);
    for (const held of [0, 7, 15])
      expect(bytesOf(plain, held) - bytesOf(mamba, held)).toBe(2 * state - (state * (1 + 1 / 16) + entry * (held + 1)));
  });

  test("on sm_90a, products of 128 rows and more are multiplied by four warps together, in tiles that fill the multiprocessors; those of few rows are not", () => {
    const own = cudaBackend.caps("sm_90a");
    const tiles = (batch: number): { readonly c: Config; readonly weights: number }[] =>
      layers(batch, {}, own)
        .flat()
        .flatMap((k) => (k.problem.kind === "gemm" ? [{ c: buildKernel(k, own).config, weights: k.problem.weights.length }] : []));
    expect(tiles(8).map(({ c }) => c["groupWarps"] ?? 1)).toEqual(Array.from({ length: 8 }, () => 1));
    for (const batch of [128, 256]) {
      expect(tiles(batch).map(({ c }) => c["groupWarps"])).toEqual(Array.from({ length: 8 }, () => 4));
      for (const { c, weights } of tiles(batch)) {
        // rows of 128 bytes; a product that lasts, one that begins, and at least one copy on its way
        expect(c["kc"]).toBe(64);
        expect(c["stages"]).toBeGreaterThanOrEqual(4);
        expect(c["bm"]! * c["bn"]! * weights).toBeGreaterThanOrEqual(64 * 128);
      }
    }
  });

  test("where nothing copies by itself, everything stays in f32 and whole", () => {
    const [mamba] = layers(64, {}, { ...caps, asyncCopy: false }) as [KernelPlan[]];
    expect(names(mamba)).toEqual(["norm", "gemm", "conv_step", "ssd_step", "norm", "gemm", "norm", "gemm2", "gemm"]);
    for (const { args } of mamba) for (const { buffer } of args) if (buffer.kind === "arena") expect(buffer.dtype).toBe("f32");
  });
});

test("k is cut while blocks are fewer than workers and rows are few, and never where steps would not be whole", () => {
  const parts = (m: number, n: number, k: number): number => partsOfProduct({ m, n, k, weights: 1, dtype: "bf16" }, caps);
  expect([8, 64].map((m) => parts(m, 4096, 14336))).toEqual([4, 4]);
  expect(parts(4096, 4096, 14336)).toBe(1);
  expect(parts(64, 128256, 4096)).toBe(1);
  expect(parts(64, 4096, 40)).toBe(1);
  expect(partsOfProduct({ m: 64, n: 4096, k: 14336, weights: 1, dtype: "f32" }, caps)).toBe(1);
});

test("on sm_90a, a lane that rotates pairs has fewer sums than one that does not: with more, keys and queries of 320 rows were not in registers", () => {
  const own = cudaBackend.caps("sm_90a");
  const most = (pairs: boolean): number[] =>
    [160, 320, 640].map((m) => {
      const [best] = tilesOf({ m, n: 3072, k: 4096, weights: 2, dtype: "bf16", pairs }, 1, own);
      const { bm, bn, groupRows, groupCols, groupWarps } = best!.config;
      return (2 * bm * bn) / (groupRows * groupCols * (groupWarps ?? 1) * own.lanes);
    });
  expect(most(false)).toEqual([72, 120, 120]);
  expect(most(true)).toEqual([72, 72, 64]);
});

test("on sm_90a, k is cut as was fastest on an H200 with what readers of its parts pay: the fewer the more rows there are", () => {
  const own = cudaBackend.caps("sm_90a");
  const parts = (m: number, n: number, k: number): number => partsOfProduct({ m, n, k, weights: 1, dtype: "bf16" }, own);
  const outProj = [64, 128, 256, 512, 2048].map((m) => parts(m, 4096, 8192));
  expect(outProj).toEqual([4, 4, 2, 1, 1]);
  const down = [64, 128, 256, 512, 2048].map((m) => parts(m, 4096, 14336));
  expect(down).toEqual([4, 4, 4, 2, 1]);
  const qkv = [64, 128, 256, 512, 2048].map((m) => parts(m, 6144, 4096));
  expect(qkv).toEqual([2, 2, 1, 1, 1]);
});
