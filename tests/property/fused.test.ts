import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Caps } from "../../compiler/backend.ts";
import { builder } from "../../compiler/graph/build.ts";
import { printGraph } from "../../compiler/ir/graph-text.ts";
import type { Graph, Node } from "../../compiler/ir/graph.ts";
import { makeSource } from "../../compiler/ir/ops.ts";
import { lowerGraph } from "../../compiler/pipeline.ts";
import { interpretGraph } from "../../compiler/run/graph.ts";
import { vectorCaps, warpCaps } from "../support/caps.ts";
import { runOnTiles } from "../support/execute.ts";
import type { GraphCase } from "../support/random-graph.ts";
import { convSteps, graphCases, headsSteps } from "../support/random-graph.ts";
import { difference, random } from "../support/values.ts";

/** Fusion, lowering and templates together, before anything knows of lanes (tests/conformance goes on from there). */
function agrees(c: GraphCase, caps: Caps): void {
  const expected = interpretGraph(c.graph, c.bindings);
  const got = runOnTiles(c.graph, caps, c.bindings);
  for (const kind of ["outputs", "states"] as const)
    for (const [name, t] of Object.entries(expected[kind]))
      expect(difference(got[kind][name]!.data, t.data), `${kind} ${name}\n${printGraph(c.graph)}`).toBeLessThan(1e-3);
}

describe.each([vectorCaps, warpCaps])("on $name", (caps) => {
  test("fused random graphs give on the Tile interpreter what the graph's interpreter gives", () => {
    fc.assert(
      fc.property(graphCases({ smooth: true }), (c) => {
        agrees(c, caps);
      }),
      { numRuns: 120 },
    );
  });

  test("values of a few rows to one of another are stored by its kernel, and of many by their own", () => {
    const lengths = fc.record({
      rows: fc.integer({ min: 1, max: 9 }),
      each: fc.constantFrom(1, 2, 3, 8, 9),
      cols: fc.integer({ min: 1, max: 40 }),
    });
    fc.assert(
      fc.property(lengths, fc.boolean(), fc.nat(), ({ rows, each, cols }, swapped, seed) => {
        const b = builder({});
        const given = (name: string, shape: readonly number[]): Node => makeSource("input", { dtype: "f32", shape }, { name });
        const outputs = [
          { name: "few", value: b.unary("exp", given("x", [rows, cols])) },
          { name: "more", value: b.binary("mul", given("y", [rows, each, cols]), 2) },
        ];
        const graph: Graph = { name: "rows", symbols: [], outputs: swapped ? outputs.reverse() : outputs, updates: [] };
        const r = random(seed);
        const inputs = { x: r.tensor("f32", [rows, cols], -1, 1), y: r.tensor("f32", [rows, each, cols], -1, 1) };
        agrees({ graph, bindings: { symbols: {}, params: {}, states: {}, inputs } }, caps);
        expect(lowerGraph(graph, caps).fused.kernels).toHaveLength(each > 8 ? 2 : 1);
      }),
      { numRuns: 40 },
    );
  });

  const joined = (cases: fc.Arbitrary<GraphCase>, name: string): number => {
    let count = 0;
    fc.assert(
      fc.property(cases, (c) => {
        agrees(c, caps);
        if (lowerGraph(c.graph, caps).fused.kernels.some(({ problem }) => problem.frame.name === name)) count++;
      }),
      { numRuns: 60 },
    );
    return count;
  };

  test("convolutions of one position give the same in the kernel of their product", () => {
    // Some two in five of the graphs join; of 60 never fewer than 13 in 80 trials.
    expect(joined(convSteps, "gemm_conv")).toBeGreaterThan(2);
  });

  test("heads of one position are turned and cached by the kernel of their product to the same values", () => {
    // a quarter of them; a target with panels has nothing to gain by it
    const count = joined(headsSteps, "gemm_heads");
    if (caps.panel > 0) expect(count).toBe(0);
    else expect(count).toBeGreaterThan(1);
  });
});
