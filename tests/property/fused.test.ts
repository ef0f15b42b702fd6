import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { printGraph } from "../../compiler/ir/graph-text.ts";
import { interpretGraph } from "../../compiler/run/graph.ts";
import { vectorCaps, warpCaps } from "../support/caps.ts";
import { runOnTiles } from "../support/execute.ts";
import { graphCases } from "../support/random-graph.ts";
import { difference } from "../support/values.ts";

/** Fusion, lowering and templates together, before anything knows of lanes (tests/conformance goes on from there). */
describe.each([vectorCaps, warpCaps])("fused random graphs on $name", (caps) => {
  test("give on the Tile interpreter what the graph's interpreter gives", () => {
    fc.assert(
      fc.property(graphCases({ smooth: true }), (c) => {
        const expected = interpretGraph(c.graph, c.bindings);
        const got = runOnTiles(c.graph, caps, c.bindings);
        for (const kind of ["outputs", "states"] as const)
          for (const [name, t] of Object.entries(expected[kind])) {
            expect(difference(got[kind][name]!.data, t.data), `${kind} ${name}\n${printGraph(c.graph)}`).toBeLessThan(1e-3);
          }
      }),
      { numRuns: 120 },
    );
  });
});
