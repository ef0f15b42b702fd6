import { describe, expect, test } from "vitest";
import { CulmError } from "../../compiler/diagnostics.ts";
import type { DType } from "../../compiler/ir/dtype.ts";
import { f32, i32, intVar, sub } from "../../compiler/ir/expr.ts";
import { printTypes } from "../../compiler/ir/graph-text.ts";
import type { Attrs, Dim, Node, Op } from "../../compiler/ir/graph.ts";
import type { Declared } from "../../compiler/ir/ops.ts";
import { makeNode, makeSource, OPS } from "../../compiler/ir/ops.ts";

const batch = intVar("batch", 1, 8);
const seq = intVar("seq", 1, 128);
const site = { file: "models/toy/model.ts", line: 7, col: 3 };

let sources = 0;
const x = (dtype: DType, ...shape: Dim[]): Node => makeSource("input", { dtype, shape }, { name: `x${sources++}` });
/** An operation at a known place; `x` operands are called x0, x1, ... in the order they are made. */
function make<K extends Exclude<Op, Declared>>(op: K, inputs: Node[], attrs: Attrs[K]): Node {
  sources = 0;
  return makeNode(op, inputs, attrs, { at: site, name: `layers.3.${op}` });
}
const typeOfNode = <K extends Exclude<Op, Declared>>(op: K, inputs: Node[], attrs: Attrs[K]): string =>
  printTypes(make(op, inputs, attrs).types);
function errorOf(f: () => unknown): string {
  sources = 0;
  try {
    f();
  } catch (e) {
    if (e instanceof CulmError) return `\n${e.message}`;
    throw e;
  }
  return "no error";
}

const ssd: Attrs["ssdScan"] = { chunk: 4, softplus: true, dtMin: 0, dtMax: Infinity, past: null };
const ssdInputs = (H: number, G: number): Node[] => [
  x("f32", batch, seq, H, 2),
  x("f32", batch, seq, H),
  x("f32", H),
  x("f32", batch, seq, G, 5),
  x("f32", batch, seq, G, 5),
  x("f32", H),
  x("f32", H),
  x("bf16", batch, H, 2, 5),
];
const replay: Attrs["ssdReplay"] = { softplus: true, dtMin: 0, dtMax: Infinity, held: i32(0) };
const replayInputs = (length: number, time: Dim = 1): Node[] => [
  x("f32", batch, time, 4, 3),
  x("f32", batch, time, 4),
  x("f32", 4),
  x("f32", batch, time, 2, 5),
  x("f32", batch, time, 2, 5),
  x("f32", 4),
  x("f32", 4),
  x("bf16", batch, 4, 3, 5),
  x("f16", batch, length, 4, 3),
  x("bf16", batch, 16, 2, 5),
  x("f32", batch, 16, 4),
];
const attention: Attrs["attention"] = { scale: 1, causal: true, ids: false, past: i32(0) };

describe("result types", () => {
  const results: { [K in Exclude<Op, Declared>]: [inputs: () => Node[], attrs: Attrs[K], type: string] } = {
    scalar: [() => [], { expr: sub(seq, 1) }, "i32[]"],
    unary: [() => [x("f32", batch, 3)], { fn: "exp" }, "f32[batch, 3]"],
    binary: [() => [x("i32", 3), x("i32", 3)], { fn: "lt" }, "bool[3]"],
    select: [() => [x("bool", 3), x("bf16", 3), x("bf16", 3)], {}, "bf16[3]"],
    cast: [() => [x("bool", 3)], { to: "f16" }, "f16[3]"],
    broadcast: [() => [x("f32", seq, 1)], { shape: [batch, seq, 4], axes: [1, 2] }, "f32[batch, seq, 4]"],
    reshape: [() => [x("f32", batch, 1, seq, 6, 2)], { shape: [batch, seq, 3, 4] }, "f32[batch, seq, 3, 4]"],
    transpose: [() => [x("f32", batch, seq, 3)], { perm: [2, 0, 1] }, "f32[3, batch, seq]"],
    slice: [() => [x("f32", batch, seq)], { axis: 1, start: sub(seq, 1), size: 1 }, "f32[batch, 1]"],
    pad: [() => [x("f32", batch, 3)], { axis: 1, low: 1, high: 2, value: 0 }, "f32[batch, 6]"],
    concat: [() => [x("f32", batch, 3), x("f32", batch, 4)], { axis: 1 }, "f32[batch, 7]"],
    reduce: [() => [x("f32", batch, seq)], { fn: "argmax", axis: 1 }, "i32[batch]"],
    scan: [() => [x("i32", batch, seq)], { fn: "sum", axis: 1 }, "i32[batch, seq]"],
    gather: [() => [x("bf16", 100, 8), x("i32", batch, seq)], {}, "bf16[batch, seq, 8]"],
    update: [() => [x("bf16", batch, 2, 64, 8), x("bf16", batch, 2, seq, 8)], { axis: 2, start: seq }, "bf16[batch, 2, 64, 8]"],
    matmul: [() => [x("f32", batch, seq, 8), x("bf16", 16, 8)], { transB: true }, "f32[batch, seq, 16]"],
    get: [() => [makeNode("ssdScan", ssdInputs(4, 2), ssd)], { index: 1 }, "bf16[batch, 4, 2, 5]"],
    activation: [() => [x("bf16", batch, 3)], { fn: "silu" }, "f32[batch, 3]"],
    softmax: [() => [x("f32", batch, seq)], { axis: 1 }, "f32[batch, seq]"],
    rmsNorm: [() => [x("bf16", batch, 8), x("bf16", 8)], { eps: 1e-5 }, "f32[batch, 8]"],
    gatedRmsNorm: [() => [x("f32", batch, 8), x("f32", batch, 8), x("f32", 8)], { eps: 1e-5 }, "f32[batch, 8]"],
    rope: [
      () => [x("f32", batch, seq, 2, 8), x("i32", batch, seq), x("f32", 99, 2), x("f32", 99, 2)],
      { rotary: 4 },
      "f32[batch, seq, 2, 8]",
    ],
    causalConv1d: [
      () => [x("f32", batch, seq, 6), x("f32", 6, 4), x("f32", 6), x("i32", batch, 99), x("i32", batch), x("bf16", batch, 4, 6)],
      { width: 4, bias: true, activation: "silu", past: i32(0) },
      "(f32[batch, seq, 6], bf16[batch, 4, 6])",
    ],
    ssdScan: [() => ssdInputs(4, 2), ssd, "(f32[batch, seq, 4, 2], bf16[batch, 4, 2, 5])"],
    ssdReplay: [
      () => replayInputs(16),
      replay,
      "(f32[batch, 1, 4, 3], bf16[batch, 4, 3, 5], f16[batch, 16, 4, 3], bf16[batch, 16, 2, 5], f32[batch, 16, 4])",
    ],
    attention: [
      () => [x("f32", batch, seq, 4, 8), x("bf16", batch, 2, 99, 8), x("bf16", batch, 2, 99, 8), x("i32", batch, 99)],
      { ...attention, ids: true },
      "f32[batch, seq, 4, 8]",
    ],
    crossEntropy: [() => [x("f32", batch, seq, 9), x("i32", batch, seq)], { ignoreIndex: -100 }, "f32[]"],
    processLogits: [() => [x("f32", batch, 9), x("bool", batch, 9), x("f32", batch, 5)], {}, "f32[batch, 9]"],
    sampleToken: [() => [x("f32", batch, 9), x("f32", batch)], {}, "i32[batch]"],
  };
  for (const [op, [inputs, attrs, type]] of Object.entries(results))
    test(op, () => {
      expect(typeOfNode(op as "unary", inputs(), attrs as Attrs["unary"])).toBe(type);
    });

  test("matmul of batches, and of a weight stored by columns", () => {
    expect(typeOfNode("matmul", [x("f32", batch, 3, seq, 8), x("f32", batch, 3, 8, 5)], { transB: false })).toBe("f32[batch, 3, seq, 5]");
    expect(typeOfNode("matmul", [x("f16", seq, 8), x("f16", 8, 5)], { transB: false })).toBe("f32[seq, 5]");
  });

  test("sources have the type that is stated", () => {
    const type = { dtype: "f32", shape: [2, 3] } as const;
    expect(makeSource("param", type, { name: "w", packed: null }).types).toEqual([type]);
    expect(makeSource("fill", type, { value: 1 }).types).toEqual([type]);
    expect(makeSource("literal", type, { name: "t", data: new Float32Array(6) }).types).toEqual([type]);
    expect(makeSource("iota", { dtype: "i32", shape: [seq] }, { axis: 0 }).types).toEqual([{ dtype: "i32", shape: [seq] }]);
  });

  test("every operation has a row that names its operands", () => {
    const conv = { width: 4, bias: false, activation: null, past: null };
    expect(OPS.causalConv1d.operands(conv)).toEqual(["x", "weight", "state"]);
    expect(OPS.causalConv1d.operands({ ...conv, bias: true, past: i32(0) })).toEqual(["x", "weight", "bias", "ids", "ends", "state"]);
    expect(OPS.ssdScan.operands({ ...ssd, past: i32(0) }).slice(-2)).toEqual(["ids", "state"]);
    expect(OPS.attention.operands({ ...attention, ids: true })).toEqual(["q", "k", "v", "ids"]);
    expect(OPS.concat.operands({ axis: 0 }, 3)).toEqual(["part0", "part1", "part2"]);
  });
});

describe("errors say where, what of what, and what to do", () => {
  test("inner sizes", () => {
    const a = makeNode("softmax", [x("f32", batch, seq, 8192)], { axis: 2 }, { at: { ...site, line: 6 }, name: "layers.3.norm" });
    const w = makeSource("param", { dtype: "bf16", shape: [4096, 8448] }, { name: "layers.3.out_proj.weight", packed: null });
    expect(errorOf(() => make("matmul", [a, w], { transB: true }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.matmul: matmul: inner sizes differ
        a         f32[batch, seq, 8192]  from softmax at models/toy/model.ts:6:3 (layers.3.norm)
        b         bf16[4096, 8448]       param layers.3.out_proj.weight
        expected  b [..., N, K] with K = 8192, the last axis of a
        got       K = 8448
        fix: correct the weight's shape or the operand"
    `);
  });

  test("a forgotten transB", () => {
    expect(errorOf(() => make("matmul", [x("f32", 2, 8), x("f32", 5, 8)], { transB: false }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.matmul: matmul: inner sizes differ
        a         f32[2, 8]  input x0
        b         f32[5, 8]  input x1
        expected  b [..., K, N] with K = 8, the last axis of a
        got       K = 5
        fix: b looks transposed: set transB"
    `);
  });

  test("number of operands", () => {
    expect(errorOf(() => make("attention", [x("f32", 1, 1, 1, 1), x("f32", 1, 1, 1, 1)], attention))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.attention: attention: wrong number of operands
        q         f32[1, 1, 1, 1]  input x0
        k         f32[1, 1, 1, 1]  input x1
        expected  3 (q, k, v)
        got       2
        fix: give the operands that the attributes ask for"
    `);
    expect(errorOf(() => make("concat", [], { axis: 0 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.concat: concat: wrong number of operands
        expected  1 (part0)
        got       0
        fix: give the operands that the attributes ask for"
    `);
  });

  test("a tuple used as a tensor", () => {
    expect(errorOf(() => make("cast", [makeNode("ssdScan", ssdInputs(1, 1), ssd)], { to: "bf16" }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.cast: cast: x is the tuple of all results of ssdScan
        x  (f32[batch, seq, 1, 2], bf16[batch, 1, 2, 5])  from ssdScan
        fix: take one result with get"
    `);
    expect(errorOf(() => make("get", [makeNode("ssdScan", ssdInputs(1, 1), ssd)], { index: 2 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.get: get: there is no result 2
        tuple     (f32[batch, seq, 1, 2], bf16[batch, 1, 2, 5])  from ssdScan
        expected  0 to 1
        got       2
        fix: name a result that the operation has"
    `);
    expect(errorOf(() => make("get", [x("f32", 2)], { index: 0 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.get: get: the operand has one result
        tuple  f32[2]  input x0
        fix: use the operand itself"
    `);
  });

  test("a symbol is not a number, even when its range has one value", () => {
    const one = intVar("one", 1, 1);
    expect(errorOf(() => make("binary", [x("f32", one), x("f32", 1)], { fn: "add" }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.binary: binary: shapes differ
        a         f32[one]  input x0
        b         f32[1]    input x1
        expected  equal shapes, here [one]
        got       [1]
        fix: broadcast the smaller operand first"
    `);
  });

  test("dtypes", () => {
    expect(errorOf(() => make("unary", [x("bf16", 3)], { fn: "exp" }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.unary: unary: x has dtype bf16
        x         bf16[3]  input x0
        expected  f32
        got       bf16
        fix: cast x to f32 first"
    `);
    expect(errorOf(() => make("binary", [x("f32", 3), x("i32", 3)], { fn: "add" }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.binary: binary: dtypes differ
        a         f32[3]  input x0
        b         i32[3]  input x1
        expected  equal dtypes, here f32
        got       i32
        fix: cast one of the operands first"
    `);
    expect(errorOf(() => make("binary", [x("i32", 3), x("i32", 3)], { fn: "div" }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.binary: binary: an operand of div has dtype i32
        a         i32[3]  input x0
        b         i32[3]  input x1
        expected  f32
        got       i32
        fix: cast an operand of div to f32 first"
    `);
    expect(errorOf(() => make("select", [x("f32", 3), x("f32", 3), x("f32", 3)], {}))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.select: select: cond has dtype f32
        cond      f32[3]  input x0
        a         f32[3]  input x1
        b         f32[3]  input x2
        expected  bool
        got       f32
        fix: cast cond to bool first"
    `);
    expect(errorOf(() => make("scalar", [], { expr: f32(1) }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.scalar: scalar: the expression is f32
        expected  i32
        got       f32
        fix: cast the node that uses it instead"
    `);
  });

  test("broadcast", () => {
    expect(errorOf(() => make("broadcast", [x("f32", 3)], { shape: [batch, 4], axes: [1] }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.broadcast: broadcast: axis 0 does not fit the result's axis 1
        x         f32[3]  input x0
        expected  4 or 1
        got       3
        fix: only axes of size 1 repeat; check the shapes"
    `);
    expect(errorOf(() => make("broadcast", [x("f32", 3, 4)], { shape: [4, 3], axes: [1, 0] }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.broadcast: broadcast: axes do not place the operand in the result
        x         f32[3, 4]  input x0
        expected  2 increasing axes of [4, 3]
        got       [1, 0]
        fix: name one axis of the result for each axis of the operand; transpose first to change their order"
    `);
  });

  test("reshape", () => {
    expect(errorOf(() => make("reshape", [x("f32", batch, seq, 6)], { shape: [batch, 6, seq] }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.reshape: reshape: cannot reshape [batch, seq, 6] to [batch, 6, seq]
        x         f32[batch, seq, 6]  input x0
        expected  the same elements in the same order: equal products of the numbers, symbols kept where they are
        got       [1, batch, 1, seq, 6] against [1, batch, 6, seq, 1] (numbers between symbols multiplied)
        fix: split or merge neighbouring numeric axes only"
    `);
    expect(errorOf(() => make("reshape", [x("f32", 6)], { shape: [4, 2] }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.reshape: reshape: cannot reshape [6] to [4, 2]
        x         f32[6]  input x0
        expected  the same elements in the same order: equal products of the numbers, symbols kept where they are
        got       [6] against [8] (numbers between symbols multiplied)
        fix: split or merge neighbouring numeric axes only"
    `);
    expect(errorOf(() => make("reshape", [x("f32", 6)], { shape: [12, 0.5] }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.reshape: reshape: a dimension is not positive
        x         f32[6]  input x0
        expected  whole numbers of at least 1, or symbols whose range starts at 1 or more
        got       [12, 0.5]
        fix: check the sizes that this shape is computed from"
    `);
  });

  test("transpose", () => {
    expect(errorOf(() => make("transpose", [x("f32", 2, 3)], { perm: [0, 0] }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.transpose: transpose: not a permutation of the axes
        x         f32[2, 3]  input x0
        expected  each of 0 to 1 once
        got       [0, 0]
        fix: list every axis once"
    `);
  });

  test("slice, pad, concat", () => {
    expect(errorOf(() => make("slice", [x("f32", 10)], { axis: 0, start: i32(7), size: 4 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.slice: slice: the slice leaves the axis
        x         f32[10]  input x0
        expected  start and start + size between 0 and 10
        got       start 7, size 4
        fix: correct start or size"
    `);
    expect(errorOf(() => make("slice", [x("f32", seq)], { axis: 0, start: i32(1), size: seq }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.slice: slice: the slice leaves the axis
        x         f32[seq]  input x0
        expected  start and start + size between 0 and seq
        got       start 1, size seq
        fix: correct start or size"
    `);
    expect(errorOf(() => make("slice", [x("f32", 10)], { axis: 1, start: i32(0), size: 1 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.slice: slice: axis 1 does not exist
        x         f32[10]  input x0
        expected  0 to 0, for [10]
        got       1
        fix: name an axis of the operand"
    `);
    expect(errorOf(() => make("pad", [x("f32", seq)], { axis: 0, low: 1, high: 0, value: 0 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.pad: pad: axis 0 is the symbol seq
        x         f32[seq]  input x0
        expected  a size known when the model is built
        got       seq
        fix: give axis 0 a number"
    `);
    expect(errorOf(() => make("pad", [x("f32", 3)], { axis: 0, low: -1, high: 0, value: 0 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.pad: pad: the padding is negative or not whole
        x         f32[3]  input x0
        expected  low, high >= 0
        got       low -1, high 0
        fix: use slice to remove elements"
    `);
    expect(errorOf(() => make("concat", [x("f32", 3, 2), x("f32", 3, 4)], { axis: 0 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.concat: concat: part 1 does not fit part 0
        part0     f32[3, 2]  input x0
        part1     f32[3, 4]  input x1
        expected  [3, 2], except on axis 0
        got       [3, 4]
        fix: all axes but the concatenated one have to agree"
    `);
    expect(errorOf(() => make("concat", [x("f32", seq, 2), x("f32", 3, 2)], { axis: 0 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.concat: concat: axis 0 of part 0 is the symbol seq
        part0     f32[seq, 2]  input x0
        part1     f32[3, 2]    input x1
        expected  a size known when the model is built
        got       seq
        fix: give axis 0 of part 0 a number"
    `);
  });

  test("reduce, gather, update", () => {
    expect(errorOf(() => make("reduce", [x("f32")], { fn: "sum", axis: 0 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.reduce: reduce: axis 0 does not exist
        x         f32[]  input x0
        expected  a tensor with at least one axis
        got       0
        fix: name an axis of the operand"
    `);
    expect(errorOf(() => make("gather", [x("f32", 9, 2), x("f32", 3)], {}))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.gather: gather: indices has dtype f32
        data      f32[9, 2]  input x0
        indices   f32[3]     input x1
        expected  i32
        got       f32
        fix: cast indices to i32 first"
    `);
    expect(errorOf(() => make("update", [x("bf16", batch, 9), x("bf16", 9, batch)], { axis: 1, start: i32(0) }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.update: update: the value does not fit the target
        target    bf16[batch, 9]  input x0
        value     bf16[9, batch]  input x1
        expected  [batch, 9], shorter on axis 1
        got       [9, batch]
        fix: transpose or reshape the value to the target's axes"
    `);
    expect(errorOf(() => make("update", [x("f32", 9), x("f32", 9)], { axis: 0, start: i32(1) }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.update: update: the update leaves the axis
        target    f32[9]  input x0
        value     f32[9]  input x1
        expected  start and start + size between 0 and 9
        got       start 1, size 9
        fix: correct start or size"
    `);
  });

  test("norms", () => {
    expect(errorOf(() => make("rmsNorm", [x("f32", batch, 8), x("f32", 6)], { eps: 1e-5 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.rmsNorm: rmsNorm: weight has the wrong shape
        x         f32[batch, 8]  input x0
        weight    f32[6]         input x1
        expected  [last axis of x] = [8]
        got       [6]
        fix: make weight [8], or correct the operand that it has to agree with"
    `);
    expect(errorOf(() => make("rmsNorm", [x("f32", batch, seq), x("f32", 6)], { eps: 1e-5 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.rmsNorm: rmsNorm: the last axis is the symbol seq
        x         f32[batch, seq]  input x0
        weight    f32[6]           input x1
        expected  a size known when the model is built
        got       seq
        fix: give the last axis a number"
    `);
    expect(errorOf(() => make("gatedRmsNorm", [x("f32", 8), x("f32", 8), x("f32", 8)], { eps: NaN }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.gatedRmsNorm: gatedRmsNorm: eps is NaN
        x         f32[8]  input x0
        gate      f32[8]  input x1
        weight    f32[8]  input x2
        expected  a number of at least 0
        got       NaN
        fix: correct eps"
    `);
  });

  test("rope", () => {
    const inputs = (): Node[] => [x("f32", batch, seq, 2, 8), x("i32", batch, seq), x("f32", 99, 2), x("f32", 99, 2)];
    expect(errorOf(() => make("rope", inputs(), { rotary: 10 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.rope: rope: cannot rotate 10 of 8 dimensions
        x          f32[batch, seq, 2, 8]  input x0
        positions  i32[batch, seq]        input x1
        cos        f32[99, 2]             input x2
        sin        f32[99, 2]             input x3
        expected   an even number from 2 to 8
        got        10
        fix: check the rotary fraction (partial_rotary_factor) and the head size"
    `);
    expect(errorOf(() => make("rope", inputs(), { rotary: 8 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.rope: rope: cos has the wrong shape
        x          f32[batch, seq, 2, 8]  input x0
        positions  i32[batch, seq]        input x1
        cos        f32[99, 2]             input x2
        sin        f32[99, 2]             input x3
        expected   [maxPositions, rotary / 2] = [99, 4]
        got        [99, 2]
        fix: make cos [99, 4], or correct the operand that it has to agree with"
    `);
  });

  test("causalConv1d", () => {
    const inputs = (): Node[] => [x("f32", batch, seq, 6), x("f32", 6, 4), x("f32", batch, 3, 6)];
    expect(errorOf(() => make("causalConv1d", inputs(), { width: 4, bias: false, activation: null, past: null }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.causalConv1d: causalConv1d: state has the wrong shape
        x         f32[batch, seq, 6]  input x0
        weight    f32[6, 4]           input x1
        state     f32[batch, 3, 6]    input x2
        expected  [batch, width, channels] = [batch, 4, 6]
        got       [batch, 3, 6]
        fix: make state [batch, 4, 6], or correct the operand that it has to agree with"
    `);
  });

  test("ssdScan", () => {
    expect(errorOf(() => make("ssdScan", ssdInputs(4, 3), ssd))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.ssdScan: ssdScan: the heads do not divide into groups
        x         f32[batch, seq, 4, 2]  input x0
        dt        f32[batch, seq, 4]     input x1
        A         f32[4]                 input x2
        B         f32[batch, seq, 3, 5]  input x3
        C         f32[batch, seq, 3, 5]  input x4
        D         f32[4]                 input x5
        dtBias    f32[4]                 input x6
        state     bf16[batch, 4, 2, 5]   input x7
        expected  a multiple of 3 heads
        got       4 heads
        fix: check n_heads and n_groups"
    `);
    expect(errorOf(() => make("ssdScan", ssdInputs(2, 1), { ...ssd, dtMin: 1, dtMax: 0.5 }))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.ssdScan: ssdScan: the limits of dt are empty
        x         f32[batch, seq, 2, 2]  input x0
        dt        f32[batch, seq, 2]     input x1
        A         f32[2]                 input x2
        B         f32[batch, seq, 1, 5]  input x3
        C         f32[batch, seq, 1, 5]  input x4
        D         f32[2]                 input x5
        dtBias    f32[2]                 input x6
        state     bf16[batch, 2, 2, 5]   input x7
        expected  dtMin <= dtMax
        got       1 and 0.5
        fix: check time_step_limit"
    `);
  });

  test("ssdReplay", () => {
    const refusals: [() => unknown, string][] = [
      [() => make("ssdReplay", replayInputs(16, seq), replay), "a step takes one position a row"],
      [() => make("ssdReplay", replayInputs(8), replay), "Bs has the wrong shape"],
      [() => make("ssdReplay", [...replayInputs(16).slice(0, -1), x("bf16", batch, 16, 4)], replay), "dts has dtype bf16"],
      [() => make("ssdReplay", replayInputs(16), { ...replay, held: f32(0) }), "held is f32"],
      [() => make("ssdReplay", replayInputs(16), { ...replay, dtMin: 2, dtMax: 1 }), "the limits of dt are empty"],
      [() => make("ssdReplay", replayInputs(16).slice(0, -1), replay), "wrong number of operands"],
    ];
    for (const [attempt, what] of refusals) expect(errorOf(attempt)).toContain(what);
  });

  test("sequence ids", () => {
    const conv = { width: 4, bias: false, activation: null, past: i32(0) };
    const convOf = (ids: Node, ends: Node): unknown => make("causalConv1d", [x("f32", batch, seq, 6), x("f32", 6, 4), ids, ends, x("f32", batch, 4, 6)], conv); // prettier-ignore
    const scanOf = (ids: Node): unknown => make("ssdScan", [...ssdInputs(2, 1).slice(0, -1), ids, x("f32", batch, 2, 2, 5)], { ...ssd, past: i32(0) }); // prettier-ignore
    const refusals: [() => unknown, string][] = [
      [() => convOf(x("f32", batch, 99), x("i32", batch)), "ids has dtype f32"],
      [() => convOf(x("i32", batch), x("i32", batch)), "ids has the wrong number of axes"],
      [() => convOf(x("i32", seq, 99), x("i32", batch)), "ids has the wrong shape"],
      [() => convOf(x("i32", batch, 99), x("i32", batch, 1)), "ends has the wrong number of axes"],
      [() => convOf(x("i32", batch, 99), x("f32", batch)), "ends has dtype f32"],
      [() => scanOf(x("bf16", batch, 99)), "ids has dtype bf16"],
      [() => scanOf(x("i32", 3, 99)), "ids has the wrong shape"],
      [() => make("ssdScan", ssdInputs(2, 1), { ...ssd, past: i32(0) }), "wrong number of operands"],
      [() => make("ssdScan", [...ssdInputs(2, 1).slice(0, -1), x("i32", batch, 99), x("f32", batch, 2, 2, 5)], { ...ssd, past: f32(0) }), "past is f32"], // prettier-ignore
    ];
    for (const [attempt, what] of refusals) expect(errorOf(attempt)).toContain(what);
  });

  test("attention", () => {
    const inputs = (H: number, Hkv: number): Node[] => [
      x("f32", batch, seq, H, 8),
      x("f32", batch, Hkv, 99, 8),
      x("f32", batch, Hkv, 98, 8),
    ];
    expect(errorOf(() => make("attention", inputs(4, 3), attention))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.attention: attention: query heads do not divide into key/value heads
        q         f32[batch, seq, 4, 8]  input x0
        k         f32[batch, 3, 99, 8]   input x1
        v         f32[batch, 3, 98, 8]   input x2
        expected  a multiple of 3 query heads
        got       4
        fix: check num_attention_heads and num_key_value_heads"
    `);
    expect(errorOf(() => make("attention", inputs(4, 2), attention))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.attention: attention: v has the wrong shape
        q         f32[batch, seq, 4, 8]  input x0
        k         f32[batch, 2, 99, 8]   input x1
        v         f32[batch, 2, 98, 8]   input x2
        expected  [shape of k] = [batch, 2, 99, 8]
        got       [batch, 2, 98, 8]
        fix: make v [batch, 2, 99, 8], or correct the operand that it has to agree with"
    `);
  });

  test("crossEntropy", () => {
    expect(errorOf(() => make("crossEntropy", [x("f32", batch, seq, 9), x("i32", seq, batch)], { ignoreIndex: -100 })))
      .toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.crossEntropy: crossEntropy: labels do not fit the logits
        logits    f32[batch, seq, 9]  input x0
        labels    i32[seq, batch]     input x1
        expected  [batch, seq] = [batch, seq]
        got       [seq, batch]
        fix: give one label for each position of batch x seq"
    `);
  });

  test("processLogits and sampleToken", () => {
    expect(errorOf(() => make("processLogits", [x("f32", batch, 9), x("f32", batch, 9), x("f32", batch, 5)], {}))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.processLogits: processLogits: seen has dtype f32
        logits    f32[batch, 9]  input x0
        seen      f32[batch, 9]  input x1
        settings  f32[batch, 5]  input x2
        expected  bool
        got       f32
        fix: cast seen to bool first"
    `);
    expect(errorOf(() => make("processLogits", [x("f32", batch, 9), x("bool", batch, 9), x("f32", batch, 6)], {}))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.processLogits: processLogits: settings has the wrong shape
        logits    f32[batch, 9]   input x0
        seen      bool[batch, 9]  input x1
        settings  f32[batch, 6]   input x2
        expected  [batch, settings] = [batch, 5]
        got       [batch, 6]
        fix: make settings [batch, 5], or correct the operand that it has to agree with"
    `);
    expect(errorOf(() => make("sampleToken", [x("f32", batch, 2 ** 25), x("f32", batch)], {}))).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  layers.3.sampleToken: sampleToken: a vocabulary of 33554432
        scores    f32[batch, 33554432]  input x0
        draw      f32[batch]            input x1
        expected  at most 16777216
        got       33554432
        fix: sample on the host"
    `);
  });

  test("sources", () => {
    const literal = (): Node =>
      makeSource("literal", { dtype: "f32", shape: [4] }, { name: "cos", data: new Float32Array(3) }, { at: site });
    expect(errorOf(literal)).toMatchInlineSnapshot(`
      "
      models/toy/model.ts:7:3  literal: the data does not fill the shape
        expected  4 values for [4]
        got       3 values
        fix: give as many values as the shape has elements"
    `);
    expect(errorOf(() => makeSource("fill", { dtype: "f32", shape: [0] }, { value: 1 }))).toMatchInlineSnapshot(`
      "
      fill: a dimension is not positive
        expected  whole numbers of at least 1, or symbols whose range starts at 1 or more
        got       [0]
        fix: check the sizes that this shape is computed from"
    `);
    expect(errorOf(() => makeSource("iota", { dtype: "f32", shape: [3] }, { axis: 0 }))).toMatchInlineSnapshot(`
      "
      iota: an iota has dtype f32
        expected  i32
        got       f32
        fix: cast an iota to i32 first"
    `);
  });
});
