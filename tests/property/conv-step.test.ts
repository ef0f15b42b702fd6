import fc from "fast-check";
import { expect, test } from "vitest";
import { nullBackend } from "../../backends/null/index.ts";
import { builder } from "../../compiler/graph/build.ts";
import type { Graph, Node } from "../../compiler/ir/graph.ts";
import { makeNode, makeSource } from "../../compiler/ir/ops.ts";
import { lowerGraph } from "../../compiler/pipeline.ts";
import { interpretGraph } from "../../compiler/run/graph.ts";
import { emulateThread } from "../../compiler/run/thread.ts";
import { compileFused, runOnTiles } from "../support/execute.ts";
import { difference, random } from "../support/values.ts";

const cases = fc.record({
  batch: fc.integer({ min: 1, max: 12 }),
  channels: fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constant(256)),
  width: fc.integer({ min: 1, max: 5 }),
  bias: fc.boolean(),
  activation: fc.constantFrom(null, "silu" as const),
  dtype: fc.constantFrom("f32" as const, "bf16" as const, "f16" as const),
  seed: fc.nat(),
});
type Case = typeof cases extends fc.Arbitrary<infer C> ? C : never;

/** A convolution of one position of inputs that no product gives, with something after it. */
function graphOf({ batch, channels, width, bias, activation, dtype }: Case): Graph {
  const b = builder({});
  const param = (name: string, shape: number[]): Node => makeSource("param", { dtype: "bf16", shape }, { name, packed: null });
  const x = makeSource("input", { dtype: "f32", shape: [batch, 1, channels] }, { name: "x" });
  const state = makeSource("state", { dtype, shape: [batch, width, channels] }, { name: "conv" });
  const inputs = [x, param("taps", [channels, width]), ...(bias ? [param("bias", [channels])] : []), state];
  const conv = makeNode("causalConv1d", inputs, { width, bias, activation, past: null });
  const get = (index: number): Node => makeNode("get", [conv], { index });
  const y = b.binary("mul", get(0), 2);
  return { name: "step", symbols: [], outputs: [{ name: "y", value: y }], updates: [{ state: "conv", value: get(1) }] };
}

test.each(["null-32", "null-cpu8"])(
  "one position of a convolution is one pass over its state, and means what it does (%s)",
  async (device) => {
    const caps = nullBackend.caps(device);
    const property = fc.asyncProperty(cases, async (c) => {
      const graph = graphOf(c);
      expect(lowerGraph(graph, caps).fused.kernels.map((k) => k.problem.frame.name)).toEqual(["conv_step"]);
      const r = random(c.seed);
      const bindings = {
        symbols: {},
        inputs: { x: r.tensor("f32", [c.batch, 1, c.channels], -1, 1) },
        params: { taps: r.tensor("bf16", [c.channels, c.width], -1, 1), bias: r.tensor("bf16", [c.channels], -1, 1) },
        states: { conv: r.tensor(c.dtype, [c.batch, c.width, c.channels], -1, 1) },
      };
      const expected = interpretGraph(graph, bindings);
      const emulated = await compileFused(graph, caps)(bindings, (program, of, buffers, symbols) => {
        expect(emulateThread(program, of, buffers, symbols)).toEqual([]);
      });
      for (const got of [runOnTiles(graph, caps, bindings), emulated]) {
        expect(difference(got.outputs["y"]!.data, expected.outputs["y"]!.data)).toBeLessThan(1e-6);
        // what is in the state is not computed, but moved
        expect(got.states["conv"]!.data).toEqual(expected.states["conv"]!.data);
      }
    });
    await fc.assert(property, { numRuns: 40 });
  },
);
