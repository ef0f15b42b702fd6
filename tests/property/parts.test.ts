import fc from "fast-check";
import { expect, test } from "vitest";
import { nullBackend } from "../../backends/null/index.ts";
import type { Caps } from "../../compiler/backend.ts";
import { builder } from "../../compiler/graph/build.ts";
import { i32 } from "../../compiler/ir/expr.ts";
import type { Graph, Node } from "../../compiler/ir/graph.ts";
import { typeOf } from "../../compiler/ir/graph.ts";
import { makeNode, makeSource } from "../../compiler/ir/ops.ts";
import { lowerGraph } from "../../compiler/pipeline.ts";
import { interpretGraph } from "../../compiler/run/graph.ts";
import { emulateThread } from "../../compiler/run/thread.ts";
import { compileFused, runOnTiles } from "../support/execute.ts";
import { difference, random } from "../support/values.ts";

/** A device of which products as small as these leave most workers idle. */
const caps: Caps = { ...nullBackend.caps("null-32"), workers: 64 };
const K = 2048;

interface Shape {
  readonly rows: number;
  readonly columns: number;
  readonly dtype: "bf16" | "f16";
}

/** What follows a product that is cut, and the kernels that come of it. */
interface Reader {
  readonly kernels: readonly string[];
  readonly outputs: (product: Node, given: Given) => Readonly<Record<string, Node>>;
}
interface Given {
  readonly b: ReturnType<typeof builder>;
  /** f32 [rows, columns]. */
  readonly residual: Node;
  readonly norm: (x: Node) => Node;
  /** A product with as many columns, of a weight of its own. */
  readonly linear: (x: Node) => Node;
  readonly half: number;
}

const READERS: Readonly<Record<string, Reader>> = {
  "a residual stream that is normalised": {
    kernels: ["gemm_parts", "add_norm", "pointwise"],
    outputs: (product, { b, residual, norm }) => {
      const stream = b.binary("add", residual, product);
      return { normalised: norm(stream), next: b.binary("mul", stream, 2) };
    },
  },
  "a residual stream that is a result": {
    kernels: ["gemm_parts", "add_norm"],
    outputs: (product, { b, residual, norm }) => {
      const stream = b.binary("add", residual, product);
      return { stream, normalised: norm(stream) };
    },
  },
  "a norm": { kernels: ["gemm_parts", "norm"], outputs: (product, { norm }) => ({ normalised: norm(product) }) },
  "slices of it": {
    kernels: ["gemm_parts", "pointwise"],
    outputs: (product, { b, half }) => ({
      first: b.unary("exp", b.slice(product, 1, 0, half)),
      last: b.binary("mul", b.slice(product, 1, half, half), b.slice(product, 1, 0, half)),
    }),
  },
  "an attention": {
    kernels: ["gemm_parts", "pointwise", "attention"],
    outputs: (product, { b, half }) => {
      const rows = typeOf(product).shape[0] as number;
      const part = (start: number, shape: readonly number[]): Node => b.reshape(b.slice(product, 1, start, half), shape);
      const [keys, values] = [part(0, [1, 1, rows, half]), part(half, [1, 1, rows, half])];
      const attrs = { causal: true, past: i32(0), scale: 2e-3, ids: false };
      return { y: makeNode("attention", [part(half, [1, rows, 1, half]), keys, values], attrs) };
    },
  },
  "another product, in part": {
    kernels: ["gemm_parts", "pointwise", "gemm"],
    outputs: (product, { b, linear, half }) => ({
      y: linear(b.concat([b.slice(product, 1, half, half), b.slice(product, 1, 0, half)], 1)),
    }),
  },
  "nobody but the caller": { kernels: ["gemm_parts", "gemm_sum"], outputs: (product) => ({ product }) },
  "the caller and a norm": {
    kernels: ["gemm_parts", "add_norm"],
    outputs: (product, { norm }) => ({ product, normalised: norm(product) }),
  },
  "another product, by way of an activation": {
    kernels: ["gemm_parts", "gemm_sum", "gemm"],
    outputs: (product, { b, linear }) => ({ y: linear(b.unary("tanh", product)) }),
  },
  "another product": { kernels: ["gemm_parts", "gemm_sum", "gemm"], outputs: (product, { linear }) => ({ y: linear(product) }) },
};

function graphOf({ rows, columns, dtype }: Shape, reader: Reader): Graph {
  const b = builder({});
  const param = (name: string, shape: number[]): Node => makeSource("param", { dtype, shape }, { name, packed: null });
  const x = makeSource("input", { dtype, shape: [rows, K] }, { name: "x" });
  const outputs = reader.outputs(b.matmul(x, param("w", [columns, K]), true), {
    b,
    residual: makeSource("input", { dtype: "f32", shape: [rows, columns] }, { name: "residual" }),
    norm: (y) => makeNode("rmsNorm", [y, b.cast(param("gain", [columns]), "f32")], { eps: 1e-5 }),
    linear: (y) => b.matmul(y, param("v", [columns, columns]), true),
    half: columns / 2,
  });
  return { name: "parts", symbols: [], outputs: Object.entries(outputs).map(([name, value]) => ({ name, value })), updates: [] };
}

const shapes = fc.record({
  rows: fc.integer({ min: 5, max: 9 }),
  columns: fc.constantFrom(8, 16, 24, 40),
  dtype: fc.constantFrom("bf16" as const, "f16" as const),
  seed: fc.nat(),
});

test.each(Object.entries(READERS))("the parts of a product's sums are added up where it is read by %s", async (_, reader) => {
  const property = fc.asyncProperty(shapes, async ({ seed, ...shape }) => {
    const { rows, columns, dtype } = shape;
    const graph = graphOf(shape, reader);
    expect(lowerGraph(graph, caps).fused.kernels.map((k) => k.problem.frame.name)).toEqual(reader.kernels);
    const r = random(seed);
    const given = (sizes: readonly number[], type: "bf16" | "f16" | "f32" = dtype): ReturnType<typeof r.tensor> =>
      r.tensor(type, sizes, -1, 1);
    const bindings = {
      symbols: {},
      inputs: { x: given([rows, K]), residual: given([rows, columns], "f32") },
      params: { w: given([columns, K]), v: given([columns, columns]), gain: given([columns]) },
    };
    const expected = interpretGraph(graph, bindings).outputs;
    const tiles = runOnTiles(graph, caps, bindings).outputs;
    const { outputs } = await compileFused(graph, caps)(bindings, (program, of, buffers, symbols) => {
      expect(emulateThread(program, of, buffers, symbols)).toEqual([]);
    });
    // what the unit multiplies is rounded to its type
    const tolerance = reader.kernels.some((name) => name === "gemm" || name === "attention") ? 1e-2 : 1e-4;
    for (const [name, { data }] of Object.entries(expected))
      for (const got of [tiles, outputs]) expect(difference(got[name]!.data, data), name).toBeLessThan(tolerance);
  });
  await fc.assert(property, { numRuns: 3 });
});
