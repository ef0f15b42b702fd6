import fc from "fast-check";
import { expect, test } from "vitest";
import { cudaBackend } from "../../backends/cuda/index.ts";
import { nullBackend } from "../../backends/null/index.ts";
import type { Caps } from "../../compiler/backend.ts";
import { builder } from "../../compiler/graph/build.ts";
import { intVar } from "../../compiler/ir/expr.ts";
import type { Graph } from "../../compiler/ir/graph.ts";
import { makeSource } from "../../compiler/ir/ops.ts";
import { lowerGraph } from "../../compiler/pipeline.ts";
import type { Tensor } from "../../compiler/run/graph.ts";
import { interpretGraph, tensor } from "../../compiler/run/graph.ts";
import { emulateThread } from "../../compiler/run/thread.ts";
import { buildKernel } from "../../compiler/select.ts";
import { compileFused, runOnTiles } from "../support/execute.ts";
import { random } from "../support/values.ts";

/** A device that copies operands by itself, with so few workers that each has several tiles. */
const caps: Caps = { ...nullBackend.caps("null-32"), workers: 3 };

/** One whose warps multiply together. */
const hopper = cudaBackend.caps("sm_90a");
const together: Caps = { ...hopper, workers: 1, units: hopper.units.filter((u) => u.inputs.includes("f32") || u.asynchronous) };
/** Whole steps of a stream of weights; and half a step more, so that k is not cut: blocks with a part of it each find nothing. */
const [WHOLE, UNCUT] = [1024, 1056];

interface Shape {
  readonly rows: number;
  readonly columns: number;
  readonly k: number;
  /** Whether the program gives the product away too, and if so, whether a call that may do without asks for it. */
  readonly given: "never" | "always" | "asked" | "not asked";
}

function graphOf({ rows, columns, k, given }: Shape): Graph {
  const b = builder({});
  const w = makeSource("param", { dtype: "bf16", shape: [columns, k] }, { name: "w", packed: null });
  const scores = b.matmul(makeSource("input", { dtype: "bf16", shape: [rows, k] }, { name: "x" }), w, true);
  const best = { name: "best", value: b.reduce("argmax", scores, 1) };
  const when = given === "asked" || given === "not asked" ? intVar("asked", 0, 1) : null;
  const outputs = given === "never" ? [best] : [{ name: "scores", value: scores, ...(when ? { when } : {}) }, best];
  return { name: "best", symbols: when ? [when] : [], outputs, updates: [] };
}

/** Small whole numbers, some of them not 0: their sums are exact in any order and often the same. */
function whole(seed: number, density: number, shape: readonly number[]): Tensor {
  const r = random(seed);
  const count = shape.reduce((n, d) => n * d, 1);
  return tensor(
    "bf16",
    shape,
    Float64Array.from({ length: count }, () => (r.uniform(0, 1) < density ? Math.round(r.uniform(-2, 2)) : 0)),
  );
}

test.each([
  ["few rows, in turns", caps, "gemv-stream", WHOLE, fc.integer({ min: 1, max: 4 })],
  ["more rows, in tiles", caps, "gemm-stream", UNCUT, fc.integer({ min: 5, max: 40 })],
  ["more rows, in tiles of several warps", together, "gemm-stream", UNCUT, fc.integer({ min: 5, max: 140 })],
] as const)("the blocks of a product find the best of their columns, the first of equal ones: %s", async (_, of, template, k, rows) => {
  const cases = fc.record({
    rows,
    columns: fc.constantFrom(3, 7, 40, 64, 130),
    given: fc.constantFrom("never" as const, "always", "asked", "not asked"),
    density: fc.constantFrom(0.01, 0.1, 0.9),
    seed: fc.nat(),
  });
  const property = fc.asyncProperty(cases, async ({ seed, density, ...shape }) => {
    const graph = graphOf({ ...shape, k });
    const { kernels } = lowerGraph(graph, of).fused;
    expect(kernels.map((k) => k.problem.frame.name)).toEqual(["gemm_argmax", "reduce_argmax"]);
    expect(buildKernel(kernels[0]!, of).template).toBe(template);
    // the product goes nowhere unless somebody else reads it
    expect(kernels[0]!.args.filter(({ access }) => access === "write")).toHaveLength(shape.given === "never" ? 1 : 2);
    const bindings = {
      symbols: shape.given === "asked" ? { asked: 1 } : shape.given === "not asked" ? { asked: 0 } : {},
      inputs: { x: whole(seed, density, [shape.rows, k]) },
      params: { w: whole(seed + 1, density, [shape.columns, k]) },
    };
    const expected = interpretGraph(graph, bindings).outputs;
    const tiles = runOnTiles(graph, of, bindings).outputs;
    const { outputs } = await compileFused(graph, of)(bindings, (program, placedFor, buffers, symbols) => {
      expect(emulateThread(program, placedFor, buffers, symbols)).toEqual([]);
    });
    for (const got of [tiles, outputs]) {
      expect([...got["best"]!.data]).toEqual([...expected["best"]!.data]);
      if (shape.given === "never") continue;
      const scores = shape.given === "not asked" ? expected["scores"]!.data.map(() => 0) : expected["scores"]!.data;
      expect([...got["scores"]!.data]).toEqual([...scores]);
    }
  });
  await fc.assert(property, { numRuns: of === together ? 4 : 16 });
});
