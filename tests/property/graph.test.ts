import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decomposeGraph } from "../../compiler/graph/decompose.ts";
import { printGraph } from "../../compiler/ir/graph-text.ts";
import { verify } from "../../compiler/ir/graph-verify.ts";
import type { Op } from "../../compiler/ir/graph.ts";
import { topological } from "../../compiler/ir/graph.ts";
import { isComposite, OPS } from "../../compiler/ir/ops.ts";
import type { Results } from "../../compiler/run/graph.ts";
import { interpretGraph } from "../../compiler/run/graph.ts";
import { buildCase, graphCases, recipes } from "../support/random-graph.ts";
import { difference } from "../support/values.ts";

function expectClose(got: Results, expected: Results, tolerance: number): void {
  for (const kind of ["outputs", "states"] as const) {
    expect(Object.keys(got[kind]).sort()).toEqual(Object.keys(expected[kind]).sort());
    for (const [name, e] of Object.entries(expected[kind])) {
      const g = got[kind][name]!;
      expect([name, g.dtype, g.shape]).toEqual([name, e.dtype, e.shape]);
      const d = difference(g.data, e.data);
      if (!(d <= tolerance)) throw new Error(`${kind} ${name} differ by ${d}`);
    }
  }
}

describe("random graphs", () => {
  test("verify, before and after decomposition", () => {
    fc.assert(
      fc.property(graphCases(), ({ graph }) => {
        verify(graph);
        const primitive = decomposeGraph(graph);
        verify(primitive);
        expect(topological(primitive).filter(isComposite)).toEqual([]);
      }),
      { numRuns: 300 },
    );
  });

  test("have the shapes and the dtypes that inference says", () => {
    fc.assert(
      fc.property(graphCases(), ({ graph, bindings }) => {
        const size = (d: (typeof graph.outputs)[0]["value"]["types"][0]["shape"][0]): number =>
          typeof d === "number" ? d : bindings.symbols[d.name]!;
        interpretGraph(graph, {
          ...bindings,
          observe: (n, results) => {
            expect(results.map((r) => [r.dtype, r.shape])).toEqual(n.types.map((t) => [t.dtype, t.shape.map(size)]));
            for (const r of results) expect(r.data.length).toBe(r.shape.reduce((a, b) => a * b, 1));
          },
        });
      }),
      { numRuns: 200 },
    );
  });

  test("mean the same as their decompositions, in double precision", () => {
    fc.assert(
      fc.property(graphCases(), ({ graph, bindings }) => {
        const f64 = { ...bindings, f64: true };
        expectClose(interpretGraph(decomposeGraph(graph), f64), interpretGraph(graph, f64), 1e-10);
      }),
      { numRuns: 500 },
    );
  });

  test("mean the same as their decompositions, rounding after every operation", () => {
    fc.assert(
      fc.property(graphCases({ smooth: true }), ({ graph, bindings }) => {
        expectClose(interpretGraph(decomposeGraph(graph), bindings), interpretGraph(graph, bindings), 2e-4);
      }),
      { numRuns: 300 },
    );
  });

  test("print the same when built twice", () => {
    fc.assert(
      fc.property(recipes(), (recipe) => {
        expect(printGraph(buildCase(recipe).graph)).toBe(printGraph(buildCase(recipe).graph));
      }),
      { numRuns: 100 },
    );
  });

  test("reach every operation of the table", () => {
    const seen = new Set<Op>();
    for (const recipe of fc.sample(recipes(), { numRuns: 600, seed: 1 }))
      for (const n of topological(buildCase(recipe).graph)) seen.add(n.op);
    expect(Object.keys(OPS).filter((op) => !seen.has(op as Op))).toEqual([]);
  });
});
