import { describe, expect, test } from "vitest";
import { decomposeGraph, decompose } from "../../compiler/graph/decompose.ts";
import { decomposeSsdStep } from "../../compiler/graph/decompose-ssd.ts";
import { rewriteGraph } from "../../compiler/graph/rewrite.ts";
import { i32, intVar } from "../../compiler/ir/expr.ts";
import { printGraph } from "../../compiler/ir/graph-text.ts";
import type { Dim, Graph, Node, NodeOf, TensorType } from "../../compiler/ir/graph.ts";
import { topological } from "../../compiler/ir/graph.ts";
import { makeNode, makeSource } from "../../compiler/ir/ops.ts";
import { interpretGraph, tensor } from "../../compiler/run/graph.ts";
import { recurrence } from "../support/laws.ts";
import { difference, random } from "../support/values.ts";

const batch = intVar("batch", 1, 4);
const seq = intVar("seq", 1, 16);
const input = (name: string, dtype: TensorType["dtype"], ...shape: Dim[]): Node => makeSource("input", { dtype, shape }, { name });
const graphOf = (outputs: readonly Node[]): Graph => ({
  name: "test",
  symbols: [batch, seq],
  outputs: outputs.map((value, i) => ({ name: `y${i}`, value })),
  updates: [],
});

test("a decomposition keeps the place of what it replaces, and prints as plain operations", () => {
  const place = { at: { file: "model.ts", line: 3, col: 9 }, name: "final_norm" };
  const norm = makeNode("rmsNorm", [input("x", "bf16", batch, 4), input("w", "f32", 4)], { eps: 1e-5 }, place);
  const primitive = decomposeGraph(graphOf([norm]));
  expect(printGraph(primitive)).toMatchInlineSnapshot(`
    "graph test(batch in 1..4, seq in 1..16) {
      %0: bf16[batch, 4] = input {name: x}
      %1: f32[batch, 4] = cast %0 {to: f32}  # final_norm
      %2: f32[batch, 4] = binary %1, %1 {fn: mul}  # final_norm
      %3: f32[batch] = reduce %2 {fn: sum, axis: 1}  # final_norm
      %4: f32[batch] = fill {value: 4}  # final_norm
      %5: f32[batch] = binary %3, %4 {fn: div}  # final_norm
      %6: f32[batch] = fill {value: 0.00001}  # final_norm
      %7: f32[batch] = binary %5, %6 {fn: add}  # final_norm
      %8: f32[batch] = unary %7 {fn: rsqrt}  # final_norm
      %9: f32[batch, 4] = broadcast %8 {shape: [batch, 4], axes: [0]}  # final_norm
      %10: f32[batch, 4] = binary %1, %9 {fn: mul}  # final_norm
      %11: f32[4] = input {name: w}
      %12: f32[batch, 4] = broadcast %11 {shape: [batch, 4], axes: [1]}  # final_norm
      %13: f32[batch, 4] = binary %10, %12 {fn: mul}  # final_norm
      out y0 = %13
    }
    "
  `);
  for (const n of topological(primitive)) if (n.op !== "input") expect(n).toMatchObject(place);
});

test("only what is asked for is decomposed", () => {
  const x = input("x", "f32", batch, 4);
  const both = makeNode("softmax", [makeNode("activation", [x], { fn: "silu" })], { axis: 1 });
  const graph = decomposeGraph(graphOf([both]), (n) => n.op === "softmax");
  expect(topological(graph).map((n) => n.op)).toContain("activation");
  expect(topological(graph).map((n) => n.op)).not.toContain("softmax");
});

test("a graph without composites stays the same objects", () => {
  const graph = graphOf([makeNode("unary", [input("x", "f32", batch)], { fn: "exp" })]);
  expect(decomposeGraph(graph).outputs[0]!.value).toBe(graph.outputs[0]!.value);
});

describe("rewriteGraph", () => {
  const conv = makeNode("causalConv1d", [input("x", "f32", batch, 3, 2), input("w", "f32", 2, 2), input("s", "f32", batch, 2, 2)], {
    width: 2,
    bias: false,
    activation: null,
    past: null,
  });
  const [y, s] = [0, 1].map((index) => makeNode("get", [conv], { index })) as [Node, Node];

  test("takes the results of an operation apart where they are used", () => {
    const graph = rewriteGraph(graphOf([s, y]), (n) => (n.op === "causalConv1d" ? decompose(n) : undefined));
    expect(graph.outputs.map((o) => o.value.op)).toEqual(["slice", "binary"]);
  });

  test("refuses a replacement of another type", () => {
    expect(() => rewriteGraph(graphOf([y]), (n) => (n.op === "get" ? [s] : undefined))).toThrow("rewrite of get");
    expect(() => rewriteGraph(graphOf([y]), (n) => (n.op === "causalConv1d" ? [y] : undefined))).toThrow("rewrite of causalConv1d");
  });
});

describe("one step of the scan", () => {
  const sizes = { batch: 2, seq: 1, H: 4, P: 3, G: 2, N: 5 };
  const scan = (length: Dim): NodeOf<"ssdScan"> => {
    const { H, P, G, N } = sizes;
    const shapes = [[batch, length, H, P], [batch, length, H], [H], [batch, length, G, N], [batch, length, G, N], [H], [H], [batch, H, P, N]]; // prettier-ignore
    const inputs = shapes.map((shape, i) => input(`i${i}`, "f32", ...shape));
    return makeNode("ssdScan", inputs, { chunk: 4, softplus: true, dtMin: 0, dtMax: Infinity, past: null });
  };

  test("is the recurrence, with no axis of length seq x seq", () => {
    const rng = random(1);
    const n = scan(1);
    const [y, next] = decomposeSsdStep(n);
    const graph = graphOf([y, next]);
    expect(topological(graph).some((m) => m.op === "matmul" || m.op === "scan")).toBe(false);
    const shapes = n.inputs.map((i) => i.types[0]!.shape.map((d) => (typeof d === "number" ? d : sizes.batch)));
    const values = shapes.map((shape, i) => rng.tensor("f32", shape, i === 2 ? -2 : -1, i === 2 ? 0 : 1));
    const { outputs } = interpretGraph(graph, {
      symbols: { batch: 2, seq: 1 },
      inputs: Object.fromEntries(values.map((v, i) => [`i${i}`, v])),
      f64: true,
    });
    const [x, dt, A, B, C, D, dtBias, state] = values.map((v) => v.data) as [Float64Array, Float64Array, Float64Array, Float64Array, Float64Array, Float64Array, Float64Array, Float64Array]; // prettier-ignore
    const expected = recurrence({ ...sizes, chunk: 4, dtMin: 0, dtMax: Infinity, x, dt, A, B, C, D, dtBias, state });
    expect(difference(outputs["y0"]!.data, expected.y)).toBeLessThan(1e-14);
    expect(difference(outputs["y1"]!.data, expected.state)).toBeLessThan(1e-14);
  });

  test("needs a sequence of one position", () => {
    expect(() => decomposeSsdStep(scan(seq))).toThrow("sequence length is not the number 1");
  });
});

test("strong decay early in a sequence costs later positions no precision", () => {
  // a running sum would reach -38400 after ten such steps, where f32 has lost the digits that decide between exp(0) and exp(-0.001)
  const T = 12;
  const shapes = { x: [1, T, 1, 1], dt: [1, T, 1], A: [1], B: [1, T, 1, 1], C: [1, T, 1, 1], D: [1], dtBias: [1], state: [1, 1, 1, 1] };
  const values: Record<string, number[]> = {
    x: Array.from({ length: T }, () => 1),
    dt: Array.from({ length: T }, (_, t) => (t < 10 ? 30 : -11)),
    A: [-128],
    B: Array.from({ length: T }, () => 1),
    C: Array.from({ length: T }, () => 1),
    D: [0],
    dtBias: [0],
    state: [1],
  };
  const names = Object.keys(shapes) as (keyof typeof shapes)[];
  const n = makeNode("ssdScan", names.map((k) => input(k, "f32", ...shapes[k])), { chunk: 4, softplus: true, dtMin: 0, dtMax: Infinity, past: null }); // prettier-ignore
  const graph = graphOf([0, 1].map((index) => makeNode("get", [n], { index })));
  const bindings = {
    symbols: { batch: 1, seq: 1 },
    inputs: Object.fromEntries(names.map((k) => [k, tensor("f32", shapes[k], values[k]!)])),
  };
  const [got, expected] = [interpretGraph(decomposeGraph(graph), bindings), interpretGraph(graph, bindings)];
  for (const name of ["y0", "y1"]) expect(difference(got.outputs[name]!.data, expected.outputs[name]!.data)).toBeLessThan(1e-6);
});

test("attention by primitives gives zeros where no key is seen", () => {
  const n = makeNode(
    "attention",
    [input("q", "f32", 1, 2, 1, 1), input("k", "f32", 1, 1, 2, 1), input("k", "f32", 1, 1, 2, 1), input("ids", "i32", 1, 2)],
    { scale: 1, causal: true, ids: true, past: i32(0) },
  );
  const inputs = { q: tensor("f32", [1, 2, 1, 1], [1, 1]), k: tensor("f32", [1, 1, 2, 1], [5, 7]), ids: tensor("i32", [1, 2], [-1, 1]) };
  const { outputs } = interpretGraph(graphOf(decompose(n)), { symbols: { batch: 1, seq: 1 }, inputs });
  expect([...outputs["y0"]!.data]).toEqual([0, 7]);
});
