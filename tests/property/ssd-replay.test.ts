import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decomposeGraph } from "../../compiler/graph/decompose.ts";
import type { Graph } from "../../compiler/ir/graph.ts";
import type { Tensor, Tensors } from "../../compiler/run/graph.ts";
import { interpretGraph, tensor } from "../../compiler/run/graph.ts";
import type { SsdInputs } from "../../dsl/index.ts";
import { input, inputRing, model, ssdReplay, ssdScan, ssdSettle, ssmState, symbol } from "../../dsl/index.ts";
import { difference, random } from "../support/values.ts";

type Stored = "f32" | "bf16";
interface Sizes {
  readonly ring: number;
  readonly groups: number;
  readonly perGroup: number;
  readonly head_dim: number;
  readonly state: number;
}

type Inputs = Omit<SsdInputs<"batch", "seq", "heads", "head_dim", "groups", "state">, "state" | "chunk">;
const inputs = (): Inputs => ({
  x: input("x", ["batch", "seq", "heads", "head_dim"]),
  dt: input("dt", ["batch", "seq", "heads"]),
  A: input("A", ["heads"]),
  B: input("B", ["batch", "seq", "groups", "state"]),
  C: input("C", ["batch", "seq", "groups", "state"]),
  D: input("D", ["heads"]),
  dtBias: input("dtBias", ["heads"]),
});

/** A step of the recurrence, a step with a ring, and what brings the ring's state up to date. */
function programs(
  { ring: length, groups, perGroup, head_dim, state: size }: Sizes,
  stored: Stored,
): Record<"plain" | "step" | "settle", Graph> {
  const dims = { ring: length, groups, heads: groups * perGroup, head_dim, state: size, batch: [1, 4] as const, seq: 1 };
  const state = () => ssmState(["batch", "heads", "head_dim", "state"], "ssm", stored);
  const ring = () =>
    inputRing({ x: ["batch", "ring", "heads", "head_dim"], B: ["batch", "ring", "groups", "state"] }, symbol("held"), stored);
  const symbols = { held: [0, length - 1] as const };
  return {
    plain: model("plain", { dims }, () => ({ y: ssdScan({ ...inputs(), state: state(), chunk: 4 }) })),
    step: model("step", { dims, symbols }, () => ({ y: ssdReplay({ ...inputs(), state: state(), ring: ring() }) })),
    settle: model("settle", { dims, symbols }, () => {
      ssdSettle(ring(), state(), input("A", ["heads"]));
      return {};
    }),
  };
}

interface Problem extends Sizes {
  readonly seed: number;
  readonly batch: number;
  readonly steps: number;
  /** Of ten steps of a row and head, how many are padding, which changes nothing. */
  readonly padding: number;
  /** The slowest decay is exp(-dt) to the power of this. */
  readonly slowest: number;
}

/** The steps' outputs, and the state after the last one. */
function run(
  c: Problem,
  stored: Stored,
  ringed: boolean,
  { f64 = false, decomposed = false } = {},
): { readonly y: number[]; readonly state: Tensor } {
  const rng = random(c.seed);
  const { batch, ring, groups, head_dim: P, state: N } = c;
  const H = groups * c.perGroup;
  const graphs = programs(c, stored);
  const given = {
    A: tensor("f32", [H], rng.values(H, -3, -c.slowest)),
    D: rng.tensor("f32", [H], -1, 1),
    dtBias: rng.tensor("f32", [H], -1, 1),
  };
  // what a ring has not been given yet may be anything
  const anything = (dtype: Stored, shape: number[]): Tensor =>
    tensor(dtype, shape, new Float64Array(shape.reduce((a, b) => a * b, 1)).fill(NaN));
  let states: Tensors = {
    ssm: rng.tensor(stored, [batch, H, P, N], -1, 1),
    ...(ringed
      ? {
          ring_x: anything(stored, [batch, ring, H, P]),
          ring_B: anything(stored, [batch, ring, groups, N]),
          ring_dt: anything("f32", [batch, ring, H]),
        }
      : {}),
  };
  const call = (graph: Graph, held: number, values: Tensors): Tensors => {
    const symbols = { batch, held };
    const declared = Object.fromEntries(graph.symbols.map(({ name }) => [name, symbols[name as keyof typeof symbols]]));
    const results = interpretGraph(decomposed ? decomposeGraph(graph) : graph, { symbols: declared, inputs: values, states, f64 });
    states = results.states;
    return results.outputs;
  };
  const y: number[] = [];
  for (let t = 0; t < c.steps; t++) {
    const dt = rng.values(batch * H, -2, 2).map((step) => (rng.integer(0, 9) < c.padding ? -Infinity : step));
    const values = {
      ...given,
      x: rng.tensor("f32", [batch, 1, H, P], -1, 1),
      dt: tensor("f32", [batch, 1, H], dt),
      B: rng.tensor("f32", [batch, 1, groups, N], -1, 1),
      C: rng.tensor("f32", [batch, 1, groups, N], -1, 1),
    };
    y.push(...call(ringed ? graphs.step : graphs.plain, t % ring, values)["y"]!.data);
  }
  if (ringed && c.steps % ring !== 0) call(graphs.settle, c.steps % ring, { A: given.A });
  return { y, state: states["ssm"]! };
}

const problems: fc.Arbitrary<Problem> = fc.record({
  seed: fc.nat(1 << 30),
  batch: fc.integer({ min: 1, max: 3 }),
  steps: fc.integer({ min: 1, max: 20 }),
  padding: fc.constantFrom(0, 3),
  slowest: fc.constant(0.1),
  ring: fc.integer({ min: 1, max: 17 }),
  groups: fc.integer({ min: 1, max: 2 }),
  perGroup: fc.integer({ min: 1, max: 3 }),
  head_dim: fc.constantFrom(1, 2, 5),
  state: fc.constantFrom(1, 3, 4),
});

describe("steps with a ring of inputs, and settling it", () => {
  test.each([false, true])("are the recurrence, for rings and runs of every length (decomposed: %s)", (decomposed) => {
    fc.assert(
      fc.property(problems, (c) => {
        const [expected, got] = [run(c, "f32", false, { f64: true }), run(c, "f32", true, { f64: true, decomposed })];
        expect(difference(got.y, expected.y)).toBeLessThan(1e-12);
        expect(difference(got.state.data, expected.state.data)).toBeLessThan(1e-12);
      }),
      { numRuns: 60 },
    );
  });

  test("in bf16 lose less than storing the state at each step does", () => {
    const lost = { plain: 0, ringed: 0 };
    for (const seed of [1, 2, 3, 4, 5]) {
      const c = { seed, batch: 2, steps: 48, padding: 0, slowest: 0.01, ring: 16, groups: 1, perGroup: 4, head_dim: 4, state: 16 };
      const exact = run({ ...c, ring: 1 }, "f32", false, { f64: true });
      lost.plain += difference(run(c, "bf16", false).y, exact.y);
      lost.ringed += difference(run(c, "bf16", true).y, exact.y);
    }
    expect(lost.ringed).toBeGreaterThan(0);
    expect(lost.ringed).toBeLessThan(lost.plain);
  });
});
