import fc from "fast-check";
import { expect, test } from "vitest";
import { nullBackend } from "../../backends/null/index.ts";
import type { Caps } from "../../compiler/backend.ts";
import { builder } from "../../compiler/graph/build.ts";
import type { Graph } from "../../compiler/ir/graph.ts";
import { typeOf } from "../../compiler/ir/graph.ts";
import { makeSource } from "../../compiler/ir/ops.ts";
import { lowerGraph } from "../../compiler/pipeline.ts";
import { interpretGraph, tensor } from "../../compiler/run/graph.ts";
import { emulateThread } from "../../compiler/run/thread.ts";
import { vectorCaps } from "../support/caps.ts";
import { compileFused } from "../support/execute.ts";
import { difference, random } from "../support/values.ts";

const FNS = ["sum", "max", "min", "argmax"] as const;

function reductionOf(fn: (typeof FNS)[number], shape: readonly number[], axis: number): Graph {
  const b = builder({ name: "reduction" });
  const result = b.reduce(fn, makeSource("input", { dtype: "f32", shape }, { name: "x" }), axis);
  // something after it, which only the last kernel may do
  const value = b.binary("add", result, b.fill(1, typeOf(result).shape, typeOf(result).dtype));
  return { name: "reduction", symbols: [], outputs: [{ name: "y", value }], updates: [] };
}

const gpu: Caps = { ...nullBackend.caps("null-32"), workers: 24 };
const kernelsFor = (caps: Caps, shape: readonly number[], axis: number): readonly string[] =>
  lowerGraph(reductionOf("argmax", shape, axis), caps).fused.kernels.map((k) => k.problem.frame.name);

test("blocks share a few long rows, and only those, and not on a CPU", () => {
  expect(kernelsFor(gpu, [2, 2048], 1)).toEqual(["reduce_argmax_parts", "reduce_argmax"]);
  expect(kernelsFor(gpu, [2, 500], 1)).toEqual(["reduce_argmax"]);
  expect(kernelsFor(gpu, [24, 2048], 1)).toEqual(["reduce_argmax"]);
  expect(kernelsFor(vectorCaps, [2, 2048], 1)).toEqual(["reduce_argmax"]);
});

test("a row in parts is reduced as a whole one is, to the first of equals", async () => {
  const cases = fc.record({
    fn: fc.constantFrom(...FNS),
    rows: fc.integer({ min: 1, max: 3 }),
    columns: fc.oneof(fc.constantFrom(1024, 1031, 2048), fc.integer({ min: 1024, max: 3000 })),
    inner: fc.constantFrom(1, 2),
    /** Few different numbers, so that many are the largest; or nothing else than what a removed score is. */
    kind: fc.constantFrom("numbers", "equals", "removed"),
    seed: fc.nat(),
  });
  const property = fc.asyncProperty(cases, async ({ fn, rows, columns, inner, kind, seed }) => {
    const shape = [rows, columns, inner];
    const graph = reductionOf(fn, shape, 1);
    expect(lowerGraph(graph, gpu).fused.kernels).toHaveLength(2);
    const values = random(seed).values(rows * columns * inner, -4, 4);
    const data = values.map((x) => (kind === "numbers" ? x : kind === "equals" ? Math.round(x) : fn === "argmax" ? -Infinity : -1e30));
    const bindings = { symbols: {}, inputs: { x: tensor("f32", shape, data) } };
    const expected = interpretGraph(graph, bindings).outputs["y"]!.data;
    const { outputs } = await compileFused(graph, gpu)(bindings, (program, caps, buffers, symbols) => {
      expect(emulateThread(program, caps, buffers, symbols)).toEqual([]);
    });
    expect(difference(outputs["y"]!.data, expected)).toBeLessThan(fn === "sum" ? 1e-5 : 1e-7);
  });
  await fc.assert(property, { numRuns: 25 });
});
