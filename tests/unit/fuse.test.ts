import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { evaluateIntExpr } from "../../compiler/artifact.ts";
import type { Caps } from "../../compiler/backend.ts";
import { fuse } from "../../compiler/fuse.ts";
import { builder } from "../../compiler/graph/build.ts";
import { packWeights } from "../../compiler/graph/pack.ts";
import type { Graph, Node } from "../../compiler/ir/graph.ts";
import { makeNode, makeSource } from "../../compiler/ir/ops.ts";
import { planMemory } from "../../compiler/memory.ts";
import { maxBytes } from "../../compiler/plan.ts";
import type { KernelPlan } from "../../compiler/plan.ts";
import { attention, input, kvCache, model, scope, symbol } from "../../dsl/index.ts";
import { parseBambaConfig } from "../../models/bamba/config.ts";
import { bambaGraph } from "../../models/bamba/model.ts";

const caps = { panel: 16, maxBuffers: Infinity } as Caps; // fusion asks for nothing else

function kernels(model: string, phase: "prefill" | "decode"): readonly KernelPlan[] {
  const file = new URL(`../reference/golden/${model}/config.json`, import.meta.url);
  const config = parseBambaConfig(JSON.parse(readFileSync(file, "utf8")), "config.json");
  const graph = bambaGraph(
    config,
    phase === "decode" ? { phase, batch: 1, capacity: 128 } : { phase, batch: [1, 2], maxSeq: 64, capacity: 128 },
  );
  return fuse(packWeights(graph, caps.panel), caps).kernels;
}
const listing = (ks: readonly KernelPlan[]): string => ks.map((k) => `${k.problem.frame.name.padEnd(13)} ${k.label}`).join("\n");

test("writes to caches share a kernel, as many as the device can bind the buffers of", () => {
  const graph = model("caches", { dims: { one: 1, heads: 2, size: 8, capacity: 16 }, symbols: { past: [0, 15] } }, () => {
    const token = (name: string) => input(name, ["one", "one", "heads", "size"]);
    const caches = Array.from({ length: 4 }, (_, i) =>
      scope(`c${i}`, () =>
        attention(token(`q${i}`), token(`k${i}`), token(`v${i}`), { cache: kvCache(["one", "heads", "capacity", "size"], symbol("past")) }),
      ),
    );
    return Object.fromEntries(caches.map((y, i) => [`y${i}`, y]));
  });
  const writes = (maxBuffers: number): number[] =>
    fuse(graph, { ...caps, maxBuffers })
      .kernels.filter((k) => k.problem.frame.name === "cache_write")
      .map((k) => k.args.length);
  expect(writes(Infinity)).toEqual([16]);
  expect(writes(8)).toEqual([8, 8]);
});

test("of a cache a kernel's bytes are those of the positions so far, and of one that writes to it those that it writes", () => {
  const [heads, size, capacity] = [2, 8, 1024];
  const graph = model("cache", { dims: { one: 1, heads, size, capacity }, symbols: { past: [0, capacity - 1] } }, () => {
    const token = (name: string) => input(name, ["one", "one", "heads", "size"]);
    return { y: attention(token("q"), token("k"), token("v"), { cache: kvCache(["one", "heads", "capacity", "size"], symbol("past")) }) };
  });
  const plans = fuse(graph, caps).kernels;
  const bytesOf = (name: string, past: number): number =>
    evaluateIntExpr(plans.find((k) => k.problem.frame.name === name)!.bytes, { past });
  const row = heads * size * 4;
  // keys and values of each position, the query, and the result
  for (const past of [0, 3, 700]) expect(bytesOf("attention", past)).toBe(2 * (past + 1) * row + 2 * row);
  // read and written, both of them
  expect(bytesOf("cache_write", 700)).toBe(4 * row);
});

test("a norm stores its input too where a kernel of pointwise operations would have, as many buffers as the device can bind", () => {
  const b = builder({});
  const given = (name: string): Node => makeSource("input", { dtype: "f32", shape: [4, 8] }, { name });
  const stream = b.binary("add", given("x"), given("y"));
  const norm = makeNode("rmsNorm", [stream, makeSource("param", { dtype: "f32", shape: [8] }, { name: "w", packed: null })], { eps: 1e-5 });
  const outputs = [
    { name: "stream", value: stream },
    { name: "normalised", value: norm },
  ];
  const names = (of: Caps): string[] =>
    fuse({ name: "stream", symbols: [], outputs, updates: [] }, of).kernels.map((k) => k.problem.frame.name);
  expect(names(caps)).toEqual(["add_norm"]);
  expect(names({ ...caps, maxBuffers: 5 })).toEqual(["add_norm"]);
  expect(names({ ...caps, maxBuffers: 4 })).toEqual(["pointwise", "norm"]);
});

test("a state that one kernel alone touches is marked, and one that two touch is not", () => {
  const alone = kernels("base", "decode").flatMap(({ args }) => args.filter((a) => a.alone === true).map(({ buffer }) => buffer.name));
  expect(alone).toEqual(
    [0, 1, 3].flatMap((layer) => [`layers.${layer}.mamba.conv`, `layers.${layer}.mamba.ssm`]).map((n) => n.replace(".mamba", "")),
  );
});

describe("a convolution of one position and the product before it", () => {
  interface Shape {
    readonly seq?: number;
    readonly weight?: (given: Node) => Node;
    readonly input?: (x: Node) => Node;
    readonly maxBuffers?: number;
  }
  /** The kernels of a product with 8 columns, of which columns 2 to 6 go into a convolution and the others are results. */
  function mixer({ seq = 1, weight = (w) => w, input = (x) => x, maxBuffers = Infinity }: Shape): readonly KernelPlan[] {
    const b = builder({});
    const param = (name: string, shape: number[]): Node => makeSource("param", { dtype: "f32", shape }, { name, packed: null });
    const x = makeSource("input", { dtype: "f32", shape: [2, seq, 3] }, { name: "x" });
    const state = makeSource("state", { dtype: "f32", shape: [2, 4, 4] }, { name: "conv" });
    const product = b.matmul(x, param("w", [8, 3]), true);
    const taps = weight(param("taps", [4, 4]));
    const attrs = { width: 4, bias: false, activation: null, past: null };
    const conv = makeNode("causalConv1d", [input(b.slice(product, 2, 2, 4)), taps, state], attrs);
    const get = (index: number): Node => makeNode("get", [conv], { index });
    const outputs = Object.entries({ y: get(0), before: b.slice(product, 2, 0, 2), after: b.slice(product, 2, 6, 2) });
    const graph: Graph = {
      name: "mixer",
      symbols: [],
      outputs: outputs.map(([name, value]) => ({ name, value })),
      updates: [{ state: "conv", value: get(1) }],
    };
    return fuse(graph, { ...caps, maxBuffers }).kernels;
  }
  const names = (ks: readonly KernelPlan[]): string[] => ks.map((k) => k.problem.frame.name).filter((name) => name !== "pointwise");

  test("are one kernel, which stores the other columns as they are", () => {
    const list = mixer({});
    expect(names(list)).toEqual(["gemm_conv"]);
    const [{ problem, args }] = list as [KernelPlan];
    if (problem.kind !== "gemm") throw new Error(problem.kind);
    const bufferOf = (name: string): string => args[problem.frame.params.findIndex((p) => p.name === name)]!.buffer.kind;
    const stores = problem.outs.map((o) => `${bufferOf(o.buffer)} ${o.columns?.join("-")}`);
    // the product, the convolution's result, then the state's four elements
    expect(stores).toEqual(["arena 0-2", "arena 6-8", "output 2-6", ...new Array<string>(4).fill("state 2-6")]);
  });

  test("are two where there are several positions, where the input is not a column of the product, or for want of buffers", () => {
    expect(names(mixer({ seq: 2 }))).toEqual(["gemm", "conv1d"]);
    expect(names(mixer({ input: (x) => builder({}).binary("add", x, x) }))).toEqual(["gemm", "conv_step"]);
    expect(names(mixer({ maxBuffers: 6 }))).toEqual(["gemm_conv"]);
    expect(names(mixer({ maxBuffers: 5 }))).toEqual(["gemm", "conv_step"]);
  });

  test("are two where the weights are the result of another kernel, which may run later", () => {
    const b = builder({});
    const made = (w: Node): Node => b.binary("mul", w, b.reduceSpread("sum", w, 1));
    expect(names(mixer({ weight: made }))).toContain("conv_step");
  });
});

describe("kernels of a Bamba model", () => {
  const ofLayers = (list: readonly KernelPlan[]): number[] =>
    [0, 1, 2, 3].map((layer) => list.filter((k) => k.label.startsWith(`layers.${layer}.`)).length);

  test("a decode step: 5 kernels for a Mamba layer with its MLP, 6 for an attention layer, and the head", () => {
    const list = kernels("base", "decode");
    expect(ofLayers(list)).toEqual([5, 5, 6, 5]);
    expect(list.length).toBe(3 * 5 + 6 + 2);
    expect(listing(list.slice(0, 5))).toMatchInlineSnapshot(`
      "gemm_conv     layers.0.mamba.in_proj+layers.0.mamba.conv1d
      ssd_step      layers.0.ssdScan
      gemm          layers.0.mamba.out_proj
      gemm2         layers.0.feed_forward.gate_proj+layers.0.feed_forward.up_proj
      gemm          layers.0.feed_forward.down_proj"
    `);
    expect(listing(list.slice(10, 16))).toMatchInlineSnapshot(`
      "gemm          layers.2.self_attn.k_proj+layers.2.self_attn.v_proj+layers.2.self_attn.q_proj
      cache_write   layers.2.attention
      attention     layers.2.attention
      gemm          layers.2.self_attn.o_proj
      gemm2         layers.2.feed_forward.gate_proj+layers.2.feed_forward.up_proj
      gemm          layers.2.feed_forward.down_proj"
    `);
    expect(listing(list.slice(-2))).toMatchInlineSnapshot(`
      "gemm          matmulT
      reduce_argmax argmax"
    `);
  });

  test("biases, tied embeddings and two groups change no kernel count", () => {
    // two attention layers of four
    expect(ofLayers(kernels("options", "decode"))).toEqual([5, 6, 5, 6]);
  });

  test("prefill stores its norms and fuses everything else the same way", () => {
    expect(listing(kernels("base", "prefill").slice(0, 9))).toMatchInlineSnapshot(`
      "norm          layers.0.input_layernorm
      gemm          layers.0.mamba.in_proj
      conv1d        layers.0.mamba.conv1d
      ssd_scan      layers.0.ssdScan
      norm          layers.0.mamba.norm
      gemm          layers.0.mamba.out_proj
      norm          layers.0.pre_ff_layernorm
      gemm2         layers.0.feed_forward.gate_proj+layers.0.feed_forward.up_proj
      gemm          layers.0.feed_forward.down_proj"
    `);
  });

  test("layers of one kind read and write alike", () => {
    const list = kernels("base", "prefill");
    const shape = (from: number): string =>
      list
        .slice(from, from + 9)
        .map((k) => k.args.map((a) => `${a.buffer.kind}${a.access}`).join())
        .join("\n");
    expect(shape(9)).toBe(shape(26));
  });
});

describe("memory plan", () => {
  test("temporaries alive together do not overlap, and the arena is smaller than their sum", () => {
    const list = kernels("base", "prefill");
    const { places, arenas } = planMemory(list, "one");
    const life = new Map<unknown, [number, number]>();
    list.forEach((k, i) => {
      for (const a of k.args) if (a.buffer.kind === "arena") life.set(a.buffer, [life.get(a.buffer)?.[0] ?? i, i]);
    });
    const all = [...places].map(([buffer, { offset }]) => [buffer, offset] as const);
    for (const [a, at] of all)
      for (const [b, bt] of all) {
        if (a === b) continue;
        const [la, lb] = [life.get(a)!, life.get(b)!];
        const together = la[0] <= lb[1] && lb[0] <= la[1];
        if (together) expect(at + maxBytes(a) <= bt || bt + maxBytes(b) <= at, `${a.name} and ${b.name}`).toBe(true);
      }
    expect(arenas).toHaveLength(1);
    expect(arenas[0]).toBeLessThan(all.reduce((s, [b]) => s + maxBytes(b), 0) / 4);
  });

  test("on a target with buffers, no two temporaries that are alive together share one", () => {
    const list = kernels("base", "prefill");
    const { places, arenas } = planMemory(list, "buffers");
    const total = [...places.keys()].reduce((sum, b) => sum + maxBytes(b), 0);
    for (const k of list) {
      const used = k.args.flatMap(({ buffer }) => (buffer.kind === "arena" ? [places.get(buffer)!] : []));
      expect(new Set(used.map(({ arena }) => arena)).size).toBe(used.length);
      for (const { offset } of used) expect(offset).toBe(0);
    }
    for (const [buffer, { arena }] of places) expect(maxBytes(buffer)).toBeLessThanOrEqual(arenas[arena]!);
    expect(arenas.reduce((a, b) => a + b, 0)).toBeLessThan(total / 2);
  });
});

test("operations and bytes of a kernel may exceed 32 bits", () => {
  const config = parseBambaConfig({ model_type: "bamba", num_hidden_layers: 1, attn_layer_indices: [] }, "config.json");
  const graph = bambaGraph(config, { phase: "decode", batch: 8, capacity: 128 });
  const most = Math.max(...fuse(packWeights(graph, caps.panel), caps).kernels.map(({ flops }) => flops as number));
  expect(most).toBe(2 * 8 * 4096 * 128_000);
});
