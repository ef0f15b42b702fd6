import { describe, expect, test } from "vitest";
import { CulmError } from "../../compiler/diagnostics.ts";
import { add, i32, intVar, load, mul } from "../../compiler/ir/expr.ts";
import { printGraph } from "../../compiler/ir/graph-text.ts";
import { verify } from "../../compiler/ir/graph-verify.ts";
import type { Graph, Node, TensorType } from "../../compiler/ir/graph.ts";
import { topological } from "../../compiler/ir/graph.ts";
import { makeNode, makeSource } from "../../compiler/ir/ops.ts";

const batch = intVar("batch", 1, 8);
const seq = intVar("seq", 1, 128);
const hidden: TensorType = { dtype: "f32", shape: [batch, seq, 4] };
const place = { at: { file: "model.ts", line: 7, col: 3 }, name: "layers.0.mixer" };

const x = makeSource("input", hidden, { name: "x" });
const w = makeSource("param", { dtype: "bf16", shape: [4, 4] }, { name: "w", packed: null });
const state = makeSource("state", { dtype: "f32", shape: [batch, 3, 4] }, { name: "conv" });
const taps = makeSource("param", { dtype: "f32", shape: [4, 3] }, { name: "taps", packed: null });
const y = makeNode("matmul", [x, w], { transB: true }, place);
const conv = makeNode("causalConv1d", [y, taps, state], { width: 3, bias: false, activation: "silu", past: null }, place);
const result = makeNode("get", [conv], { index: 0 }, place);
const next = makeNode("get", [conv], { index: 1 }, place);
const table = makeSource("literal", { dtype: "i32", shape: [2] }, { name: "table", data: Int32Array.of(1, 2) });
const last = makeNode("slice", [result], { axis: 1, start: add(seq, -1), size: 1 });

const good: Graph = {
  name: "toy",
  symbols: [batch, seq],
  outputs: [
    { name: "y", value: last },
    { name: "rows", value: makeNode("gather", [w, table], {}) },
  ],
  updates: [{ state: "conv", value: next }],
};

test("text of a graph", () => {
  expect(printGraph(good)).toMatchInlineSnapshot(`
    "graph toy(batch in 1..8, seq in 1..128) {
      %0: f32[batch, seq, 4] = input {name: x}
      %1: bf16[4, 4] = param {name: w}
      %2: f32[batch, seq, 4] = matmul %0, %1 {transB: true}  # layers.0.mixer
      %3: f32[4, 3] = param {name: taps}
      %4: f32[batch, 3, 4] = state {name: conv}
      %5: (f32[batch, seq, 4], f32[batch, 3, 4]) = causalConv1d %2, %3, %4 {width: 3, bias: false, activation: silu}  # layers.0.mixer
      %6: f32[batch, 3, 4] = get %5 {index: 1}  # layers.0.mixer
      %7: f32[batch, seq, 4] = get %5 {index: 0}  # layers.0.mixer
      %8: f32[batch, 1, 4] = slice %7 {axis: 1, start: (seq + -1), size: 1}
      %9: i32[2] = literal {name: table, data: 2 values, hash ded89066}
      %10: bf16[2, 4] = gather %1, %9
      out y = %8
      out rows = %10
      state conv := %6
    }
    "
  `);
});

test("the text shows which table a literal holds", () => {
  const of = (...data: number[]): string =>
    printGraph({
      ...good,
      outputs: [{ name: "t", value: makeSource("literal", { dtype: "i32", shape: [2] }, { name: "t", data: Int32Array.from(data) }) }],
    });
  expect(of(1, 2)).toBe(of(1, 2));
  expect(of(1, 2)).not.toBe(of(2, 1));
});

test("operands come before their users, each once", () => {
  const order = topological(good);
  for (const [i, n] of order.entries()) for (const input of n.inputs) expect(order.indexOf(input)).toBeLessThan(i);
  expect(new Set(order).size).toBe(order.length);
});

describe("verify", () => {
  const errorOf = (change: Partial<Graph>): string => {
    try {
      verify({ ...good, ...change });
    } catch (e) {
      if (e instanceof CulmError) return `\n${e.message}`;
      throw e;
    }
    return "no error";
  };
  const output = (value: Node): Partial<Graph> => ({ outputs: [{ name: "y", value }] });

  test("accepts a good graph", () => {
    expect(errorOf({})).toBe("no error");
  });

  test("a pass that changed an operand and not the type", () => {
    const wide = makeSource("param", { dtype: "bf16", shape: [6, 4] }, { name: "w", packed: null });
    expect(errorOf(output({ ...y, inputs: [x, wide] }))).toMatchInlineSnapshot(`
      "
      model.ts:7:3  layers.0.mixer: matmul: the node's type is not what its operands give
        expected  f32[batch, seq, 6]
        got       f32[batch, seq, 4]"
    `);
  });

  test("a pass that made an ill-typed node", () => {
    const wide = makeSource("param", { dtype: "bf16", shape: [4, 6] }, { name: "w", packed: null });
    expect(errorOf(output({ ...y, inputs: [x, wide] }))).toMatchInlineSnapshot(`
      "
      model.ts:7:3  layers.0.mixer: matmul: inner sizes differ
        a         f32[batch, seq, 4]  input x
        b         bf16[4, 6]          param w
        expected  b [..., N, K] with K = 4, the last axis of a
        got       K = 6
        fix: correct the weight's shape or the operand"
    `);
  });

  test("a tuple as a result", () => {
    expect(errorOf(output(conv))).toMatchInlineSnapshot(`
      "
      model.ts:7:3  layers.0.mixer: causalConv1d: output y is the tuple of all results of causalConv1d
        expected  one result
        got       (f32[batch, seq, 4], f32[batch, 3, 4])"
    `);
    expect(errorOf({ updates: [{ state: "conv", value: conv }] })).toMatchInlineSnapshot(`
      "
      model.ts:7:3  layers.0.mixer: causalConv1d: update of state conv is the tuple of all results of causalConv1d
        expected  one result
        got       (f32[batch, seq, 4], f32[batch, 3, 4])"
    `);
  });

  test("updates", () => {
    expect(errorOf({ updates: [{ state: "ssm", value: next }] })).toMatchInlineSnapshot(`
      "
      the graph updates state ssm but never reads it
        fix: read the state, or make it an output: its type is not known otherwise"
    `);
    expect(errorOf({ updates: [{ state: "conv", value: result }] })).toMatchInlineSnapshot(`
      "
      model.ts:7:3  layers.0.mixer: get: state conv is replaced by a value of another type
        expected  f32[batch, 3, 4]
        got       f32[batch, seq, 4]"
    `);
    expect(errorOf({ updates: [...good.updates, ...good.updates] })).toMatchInlineSnapshot(`
      "
      there are two state updates called conv
        fix: give them different names"
    `);
  });

  test("names", () => {
    const twin = makeSource("param", { dtype: "bf16", shape: [2, 4] }, { name: "w", packed: null }, place);
    expect(errorOf({ outputs: [...good.outputs, { name: "z", value: twin }] })).toMatchInlineSnapshot(`
      "
      model.ts:7:3  layers.0.mixer: param: two nodes are called param w
        expected  one node for each name
        got       bf16[4, 4] and bf16[2, 4]"
    `);
    expect(errorOf({ outputs: [...good.outputs, ...good.outputs] })).toMatchInlineSnapshot(`
      "
      there are two outputs called y
        fix: give them different names"
    `);
    expect(errorOf({ symbols: [batch, seq, intVar("seq", 1, 4)] })).toMatchInlineSnapshot(`
      "
      there are two symbols called seq
        fix: give them different names"
    `);
  });

  test("one table may be written down twice, two tables may not share a name", () => {
    const type: TensorType = { dtype: "i32", shape: [2] };
    const twice = (data: Int32Array): Partial<Graph> => ({
      outputs: [...good.outputs, { name: "z", value: makeSource("literal", type, { name: "table", data }) }],
    });
    expect(errorOf(twice(table.attrs.data as Int32Array))).toBe("no error");
    expect(errorOf(twice(Int32Array.of(3, 4)))).toContain("two nodes are called literal table");
  });

  test("outputs that a call may do without", () => {
    const [, rows] = good.outputs;
    const asked = (min: number, max: number): Partial<Graph> => {
      const when = intVar("asked", min, max);
      return { symbols: [...good.symbols, when], outputs: [{ ...rows!, when }] };
    };
    expect(errorOf(asked(0, 1))).toBe("no error");
    expect(printGraph({ ...good, ...asked(0, 1) })).toMatch(/out rows = %\d+ when asked$/m);
    expect(errorOf(asked(0, 2))).toMatchInlineSnapshot(`
      "
      output rows is wanted where asked is 1
        expected  a symbol of the graph from 0 to 1
        got       0 to 2"
    `);
    expect(errorOf({ outputs: [{ ...rows!, when: intVar("asked", 0, 1) }] })).toContain("wanted where asked is 1");
  });

  test("symbols", () => {
    expect(errorOf({ symbols: [batch] })).toMatchInlineSnapshot(`
      "
      input: symbol seq in 1..128 is not declared by the graph
        expected  batch
        got       seq"
    `);
    const other = intVar("seq", 1, 64);
    expect(errorOf(output(makeNode("scalar", [], { expr: mul(other, 2) }, place)))).toMatchInlineSnapshot(`
      "
      model.ts:7:3  layers.0.mixer: scalar: symbol seq in 1..64 is not declared by the graph
        expected  batch, seq
        got       seq"
    `);
    expect(errorOf(output(makeNode("scalar", [], { expr: load("b", "i32", i32(0)) }, place)))).toMatchInlineSnapshot(`
      "
      model.ts:7:3  layers.0.mixer: scalar: an expression over symbols reads memory
        expected  constants, symbols and arithmetic
        got       load"
    `);
  });
});
