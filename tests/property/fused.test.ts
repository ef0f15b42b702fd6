import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Caps } from "../../compiler/backend.ts";
import { printGraph } from "../../compiler/ir/graph-text.ts";
import { interpretGraph } from "../../compiler/run/graph.ts";
import { vectorCaps, warpCaps } from "../support/caps.ts";
import { onThreads, onTiles, runFused } from "../support/execute.ts";
import type { RunKernel } from "../support/execute.ts";
import { graphCases } from "../support/random-graph.ts";
import { difference } from "../support/values.ts";

/** Fusion, lowering and templates together: a random graph through its kernels gives what the graph's interpreter gives. */
function agrees(caps: Caps, run: RunKernel, numRuns: number): void {
  fc.assert(
    fc.property(graphCases({ smooth: true }), (c) => {
      const expected = interpretGraph(c.graph, c.bindings);
      const got = runFused(c.graph, caps, c.bindings, run);
      for (const [name, t] of Object.entries(expected.outputs)) {
        const d = difference(got.outputs[name]!.data, t.data);
        expect(d, `output ${name}\n${printGraph(c.graph)}`).toBeLessThan(1e-3);
      }
      for (const [name, t] of Object.entries(expected.states)) {
        const d = difference(got.states[name]!.data, t.data);
        expect(d, `state ${name}\n${printGraph(c.graph)}`).toBeLessThan(1e-3);
      }
    }),
    { numRuns },
  );
}

describe.each([vectorCaps, warpCaps])("fused random graphs on $name", (caps) => {
  test("as tile programs", () => {
    agrees(caps, onTiles, 150);
  });
  test("as threads in the emulator", () => {
    agrees(caps, onThreads, 60);
  });
});
