import { describe, expect, test } from "vitest";
import { add, i32, intVar } from "../../compiler/ir/expr.ts";
import type { Graph, Node, TensorType } from "../../compiler/ir/graph.ts";
import { makeNode, makeSource } from "../../compiler/ir/ops.ts";
import type { Bindings } from "../../compiler/run/graph.ts";
import { interpretGraph, tensor } from "../../compiler/run/graph.ts";

const seq = intVar("seq", 1, 8);
const type = (dtype: TensorType["dtype"], ...shape: TensorType["shape"]): TensorType => ({ dtype, shape });
const input = (name: string, t: TensorType): Node => makeSource("input", t, { name });
const graphOf = (value: Node, symbols: Graph["symbols"] = [], updates: Graph["updates"] = []): Graph => ({
  name: "test",
  symbols,
  outputs: [{ name: "y", value }],
  updates,
});
/** The elements of a graph's only result. */
const run = (value: Node, bindings: Partial<Bindings> = {}, symbols: Graph["symbols"] = []): number[] => [
  ...interpretGraph(graphOf(value, symbols), { symbols: {}, ...bindings }).outputs["y"]!.data,
];
const matrix = (dtype: TensorType["dtype"], rows: number[][]): { node: Node; bindings: Partial<Bindings> } => ({
  node: input("x", type(dtype, rows.length, rows[0]!.length)),
  bindings: { inputs: { x: tensor(dtype, [rows.length, rows[0]!.length], rows.flat()) } },
});

describe("primitives", () => {
  const { node: x, bindings } = matrix("f32", [[1, 2, 3], [4, 5, 6]]); // prettier-ignore
  const of = (n: Node): number[] => run(n, bindings);

  test("movement", () => {
    expect(of(makeNode("transpose", [x], { perm: [1, 0] }))).toEqual([1, 4, 2, 5, 3, 6]);
    expect(of(makeNode("slice", [x], { axis: 1, start: i32(1), size: 2 }))).toEqual([2, 3, 5, 6]);
    expect(of(makeNode("pad", [x], { axis: 0, low: 1, high: 0, value: 9 }))).toEqual([9, 9, 9, 1, 2, 3, 4, 5, 6]);
    expect(of(makeNode("concat", [x, x], { axis: 1 }))).toEqual([1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]);
    const row = makeNode("slice", [x], { axis: 0, start: i32(1), size: 1 });
    expect(of(makeNode("broadcast", [row], { shape: [2, 2, 3], axes: [0, 2] }))).toEqual([4, 5, 6, 4, 5, 6, 4, 5, 6, 4, 5, 6]);
    expect(of(makeNode("update", [x, row], { axis: 0, start: i32(0) }))).toEqual([4, 5, 6, 4, 5, 6]);
  });

  test("across elements", () => {
    expect(of(makeNode("reduce", [x], { fn: "sum", axis: 0 }))).toEqual([5, 7, 9]);
    expect(of(makeNode("reduce", [x], { fn: "min", axis: 1 }))).toEqual([1, 4]);
    expect(of(makeNode("scan", [x], { fn: "sum", axis: 1 }))).toEqual([1, 3, 6, 4, 9, 15]);
    expect(of(makeNode("scan", [x], { fn: "sum", axis: 0 }))).toEqual([1, 2, 3, 5, 7, 9]);
    expect(of(makeNode("matmul", [x, x], { transB: true }))).toEqual([14, 32, 32, 77]);
    expect(of(makeNode("matmul", [x, makeNode("transpose", [x], { perm: [1, 0] })], { transB: false }))).toEqual([14, 32, 32, 77]);
  });

  test("argmax is the first of equals", () => {
    const { node, bindings: b } = matrix("f32", [[1, 7, 7], [0, 0, 0]]); // prettier-ignore
    expect(run(makeNode("reduce", [node], { fn: "argmax", axis: 1 }), b)).toEqual([1, 0]);
  });

  test("a NaN is not lost in a maximum", () => {
    const { node, bindings: b } = matrix("f32", [[1, NaN, 2]]);
    expect(run(makeNode("reduce", [node], { fn: "max", axis: 1 }), b)).toEqual([NaN]);
  });

  test("iota and scalar", () => {
    expect(run(makeSource("iota", type("i32", 2, 3), { axis: 1 }))).toEqual([0, 1, 2, 0, 1, 2]);
    expect(run(makeSource("iota", type("i32", 2, 3), { axis: 0 }))).toEqual([0, 0, 0, 1, 1, 1]);
    expect(run(makeNode("scalar", [], { expr: add(seq, 2) }), { symbols: { seq: 5 } }, [seq])).toEqual([7]);
  });
});

describe("numbers", () => {
  test("every result is rounded to its dtype", () => {
    const third = makeSource("fill", type("f32", 1), { value: 1 / 3 });
    expect(run(third)).toEqual([Math.fround(1 / 3)]);
    expect(run(makeNode("cast", [third], { to: "bf16" }))).toEqual([0.333984375]);
    expect(run(makeNode("cast", [third], { to: "f16" }))).toEqual([0.333251953125]);
  });

  test("sums accumulate in double precision", () => {
    const values = [2 ** 24, 1, 1, -(2 ** 24)];
    const { node, bindings } = matrix("f32", [values]);
    expect(run(makeNode("reduce", [node], { fn: "sum", axis: 1 }), bindings)).toEqual([2]);
  });

  test("f64 keeps f32 unrounded and rounds the rest", () => {
    const third = makeSource("fill", type("f32", 1), { value: 1 / 3 });
    expect(run(third, { f64: true })).toEqual([1 / 3]);
    expect(run(makeNode("cast", [third], { to: "bf16" }), { f64: true })).toEqual([0.333984375]);
  });

  test("integers wrap, and casts to them drop the fraction", () => {
    const big = makeSource("fill", type("i32", 1), { value: 123456789 });
    expect(run(makeNode("binary", [big, big], { fn: "mul" }))).toEqual([Math.imul(123456789, 123456789)]);
    expect(run(makeNode("binary", [big, makeSource("fill", type("i32", 1), { value: 2 ** 31 - 1 })], { fn: "add" }))).toEqual([
      (123456789 + 2 ** 31 - 1) | 0,
    ]);
    const { node, bindings } = matrix("f32", [[-1.9, 1.9]]);
    expect(run(makeNode("cast", [node], { to: "i32" }), bindings)).toEqual([-1, 1]);
    expect(run(makeNode("cast", [node], { to: "bool" }), bindings)).toEqual([1, 1]);
  });

  test("division and remainder of negative integers go down", () => {
    const { node, bindings } = matrix("i32", [[-7, 7]]);
    const four = makeSource("fill", type("i32", 1, 2), { value: 4 });
    expect(run(makeNode("binary", [node, four], { fn: "idiv" }), bindings)).toEqual([-2, 1]);
    expect(run(makeNode("binary", [node, four], { fn: "mod" }), bindings)).toEqual([1, 3]);
  });
});

describe("composites", () => {
  test("the conv state is the last inputs before the activation, oldest first", () => {
    const x = input("x", type("f32", 1, 2, 1));
    const state = makeSource("state", type("f32", 1, 3, 1), { name: "s" });
    const taps = makeSource("param", type("f32", 1, 3), { name: "w", packed: null });
    const conv = makeNode("causalConv1d", [x, taps, state], { width: 3, bias: false, activation: "relu", past: null });
    const graph = graphOf(makeNode("get", [conv], { index: 0 }), [], [{ state: "s", value: makeNode("get", [conv], { index: 1 }) }]);
    const bindings: Bindings = {
      symbols: {},
      inputs: { x: tensor("f32", [1, 2, 1], [10, -20]) },
      params: { w: tensor("f32", [1, 3], [1, 2, 3]) },
      states: { s: tensor("f32", [1, 3, 1], [100, 4, 5]) },
    };
    const r = interpretGraph(graph, bindings);
    expect([...r.outputs["y"]!.data]).toEqual([4 + 2 * 5 + 3 * 10, 0]); // 5 + 20 - 60 is negative
    expect([...r.states["s"]!.data]).toEqual([5, 10, -20]);
    expect([...bindings.states!["s"]!.data]).toEqual([100, 4, 5]);
  });

  test("rows of attention that see nothing give zeros, even over NaNs", () => {
    const q = input("q", type("f32", 1, 1, 1, 1));
    const k = input("k", type("f32", 1, 1, 2, 1));
    const ids = input("ids", type("i32", 1, 2));
    const n = makeNode("attention", [q, k, k, ids], { scale: 1, causal: true, ids: true, past: i32(1) });
    const inputs = (of: number[], keys: number[]): Partial<Bindings> => ({
      inputs: { q: tensor("f32", [1, 1, 1, 1], [1]), k: tensor("f32", [1, 1, 2, 1], keys), ids: tensor("i32", [1, 2], of) },
    });
    expect(run(n, inputs([-1, -1], [1, 2]))).toEqual([0]);
    expect(run(n, inputs([0, 1], [NaN, 2]))).toEqual([2]);
    expect(run(n, inputs([1, 2], [NaN, 2]))).toEqual([2]);
    expect(run(n, inputs([1, -1], [3, 2]))).toEqual([3]); // padding continues the sequence before it
  });

  test("the loss of no labels is NaN", () => {
    const logits = input("l", type("f32", 1, 1, 2));
    const labels = input("t", type("i32", 1, 1));
    const n = makeNode("crossEntropy", [logits, labels], { ignoreIndex: -100 });
    const inputs = (label: number): Partial<Bindings> => ({
      inputs: { l: tensor("f32", [1, 1, 2], [3, 3]), t: tensor("i32", [1, 1], [label]) },
    });
    expect(run(n, inputs(-100))).toEqual([NaN]);
    expect(run(n, inputs(1))).toEqual([Math.fround(Math.log(2))]);
    expect(() => run(n, inputs(2))).toThrow("label 2 is outside the table");
  });
});

describe("bindings", () => {
  const x = input("x", type("f32", seq, 2));

  test("are checked against the graph", () => {
    const call = (bindings: Partial<Bindings>) => (): unknown => run(x, bindings, [seq]);
    expect(call({})).toThrow("no value for seq");
    expect(call({ symbols: { seq: 9 } })).toThrow("a wrong value for seq");
    expect(call({ symbols: { seq: 3 } })).toThrowErrorMatchingInlineSnapshot(`
      [UserError: input: input x is not given
        expected  f32[seq, 2] = f32[3, 2]
        fix: bind it; bound are none]
    `);
    expect(call({ symbols: { seq: 3 }, inputs: { x: tensor("f32", [2, 2], [1, 2, 3, 4]) } })).toThrowErrorMatchingInlineSnapshot(`
      [UserError: input: input x has the wrong type
        expected  f32[seq, 2] = f32[3, 2]
        got       f32[2, 2]
        fix: check the symbols and the tensor]
    `);
    expect(call({ symbols: { seq: 2 }, inputs: { x: tensor("i32", [2, 2], [1, 2, 3, 4]) } })).toThrow("has the wrong type");
  });

  test("indices and slices that only their values show to be outside", () => {
    const rows = { symbols: { seq: 2 }, inputs: { x: tensor("f32", [2, 2], [1, 2, 3, 4]) } };
    const index = makeSource("fill", type("i32", 1), { value: 2 });
    expect(() => run(makeNode("gather", [x, index], {}), rows, [seq])).toThrow("index 2 is outside the table");
    const late = makeNode("slice", [x], { axis: 0, start: i32(1), size: 2 }, { name: "tail" });
    expect(() => run(late, rows, [seq])).toThrowErrorMatchingInlineSnapshot(`
      [UserError: tail: slice: outside the axis
        expected  start and start + size between 0 and 2
        got       start 1, size 2
        fix: the symbols' values ask for more than there is; a cache may be full]
    `);
  });

  test("a state that is not given is zero, and one that is not updated stays", () => {
    const s = makeSource("state", type("bf16", 2), { name: "s" });
    const zero = interpretGraph(graphOf(s), { symbols: {} });
    expect([...zero.outputs["y"]!.data]).toEqual([0, 0]);
    expect(zero.states["s"]!.dtype).toBe("bf16");
    const kept = interpretGraph(graphOf(s), { symbols: {}, states: { s: tensor("bf16", [2], [1, 2]) } });
    expect([...kept.states["s"]!.data]).toEqual([1, 2]);
  });

  test("a packed weight is its checkpoint tensors one below the other", () => {
    const parts = [
      { tensor: "q", shape: [1, 2] },
      { tensor: "k", shape: [2, 2] },
    ];
    const w = makeSource("param", type("f32", 3, 2), {
      name: "qk",
      packed: { parts, layout: { kind: "panels", width: 8 } },
    });
    const q = tensor("f32", [1, 2], [1, 2]);
    expect(run(w, { params: { q, k: tensor("f32", [2, 2], [3, 4, 5, 6]) } })).toEqual([1, 2, 3, 4, 5, 6]);
    expect(() => run(w, { params: { q } })).toThrow("param k is not given");
  });
});
