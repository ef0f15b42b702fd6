import fc from "fast-check";
import { expect, test } from "vitest";
import { decomposeGraph } from "../../compiler/graph/decompose.ts";
import type { Graph } from "../../compiler/ir/graph.ts";
import { interpretGraph } from "../../compiler/run/graph.ts";
import type { Tensor } from "../../compiler/run/graph.ts";
import { input, model, processLogits, sampleToken } from "../../dsl/index.ts";
import { rounding } from "../support/problems/case.ts";
import { bound, logitsCase, logitsInputs, tokenCase } from "../support/problems/sampling.ts";

/** The interpreter's cells and the decompositions against the references of the kernels' problems: equal scores, removed ones, edges of top-p, a vocabulary of 1. */

function check(graph: Graph, inputs: Readonly<Record<string, Tensor>>, expected: ArrayLike<number>, about: string): void {
  for (const [how, g] of [
    ["interpreted", graph],
    ["decomposed", decomposeGraph(graph)],
  ] as const) {
    const { data } = interpretGraph(g, { symbols: {}, inputs }).outputs["out"]!;
    const wrong = [...data.keys()].filter((i) => {
      const [x, y] = [data[i]!, expected[i]!];
      return x !== y && !(Math.abs(x - y) <= 8 * rounding("f32", y));
    });
    expect(
      wrong.map((i) => [i, data[i], expected[i]]),
      `${how} ${about}`,
    ).toEqual([]);
  }
}

test("processLogits", () => {
  fc.assert(
    fc.property(logitsCase(40), (c) => {
      const inputs = logitsInputs(c);
      const [batch, vocab] = inputs.logits.shape as [number, number];
      const graph = model("test", { dims: { batch, vocab } }, () => ({
        out: processLogits(input("logits", ["batch", "vocab"]), input("seen", ["batch", "vocab"], "bool"), input("settings", ["batch", 5])),
      }));
      check(graph, inputs, c.expected["p3"]!, c.about);
    }),
    { numRuns: 300 },
  );
});

test("sampleToken", () => {
  fc.assert(
    fc.property(tokenCase(60), (c) => {
      const { vocab } = c.problem;
      const batch = c.buffers["p1"]!.length;
      const graph = model("test", { dims: { batch, vocab } }, () => ({
        out: sampleToken(input("scores", ["batch", "vocab"]), input("draw", ["batch"])),
      }));
      const inputs = { scores: bound(c, "p0", "f32", [batch, vocab]), draw: bound(c, "p1", "f32", [batch]) };
      check(graph, inputs, c.expected["p2"]!, c.about);
    }),
    { numRuns: 300 },
  );
});
