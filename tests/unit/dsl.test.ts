import { describe, expect, it } from "vitest";
import type { Graph, NodeOf } from "../../compiler/ir/graph.ts";
import { topological } from "../../compiler/ir/graph.ts";
import { printGraph } from "../../compiler/ir/graph-text.ts";
import type { Tensor as Value, Tensors } from "../../compiler/run/graph.ts";
import { interpretGraph, tensor } from "../../compiler/run/graph.ts";
import type { AnyTensor, ModelOptions } from "../../dsl/index.ts";
import * as dsl from "../../dsl/index.ts";

const dims = { batch: [1, 4], seq: [1, 8], two: 2, three: 3, four: 4, hidden: 4, heads: 2, size: 2 } as const;

/** Traces `build`, whose result is called `out`. */
const trace = (build: () => AnyTensor, options: Partial<ModelOptions> = {}): Graph =>
  dsl.model("test", { dims, ...options }, () => ({ out: build() }));

interface Given {
  readonly symbols?: Readonly<Record<string, number>>;
  readonly inputs?: Tensors;
  readonly params?: Tensors;
  readonly states?: Tensors;
}
/** Traces and interprets `build`. */
function evaluate(build: () => AnyTensor, given: Given = {}, options: Partial<ModelOptions> = {}): Value {
  const graph = trace(build, options);
  return interpretGraph(graph, { ...given, symbols: { batch: 1, seq: 1, ...given.symbols } }).outputs["out"]!;
}
const values = (...args: Parameters<typeof evaluate>): number[] => [...evaluate(...args).data].map((x) => Math.round(x * 1e5) / 1e5);

const matrix = (): dsl.Tensor<["two", "three"]> => dsl.literal("m", ["two", "three"], Float32Array.of(1, 2, 3, 4, 5, 6));
const row = (): dsl.Tensor<["three"]> => dsl.literal("r", ["three"], Float32Array.of(10, 20, 30));
const column = (): dsl.Tensor<["two", 1]> => dsl.literal("c", ["two", 1], Float32Array.of(100, 200));

describe("elementwise", () => {
  it("broadcasts from the right, by name, with numbers and literal ones", () => {
    expect(values(() => dsl.add(matrix(), row()))).toEqual([11, 22, 33, 14, 25, 36]);
    expect(values(() => dsl.sub(row(), matrix()))).toEqual([9, 18, 27, 6, 15, 24]);
    expect(values(() => dsl.add(column(), row()))).toEqual([110, 120, 130, 210, 220, 230]);
    expect(values(() => dsl.mul(matrix(), 2))).toEqual([2, 4, 6, 8, 10, 12]);
    expect(values(() => dsl.div(dsl.full([], 12), matrix()))).toEqual([12, 6, 4, 3, 2.4, 2]);
    expect(values(() => dsl.pow(matrix(), 2))).toEqual([1, 4, 9, 16, 25, 36]);
    expect(values(() => dsl.min(dsl.max(matrix(), 2), 4))).toEqual([2, 2, 3, 4, 4, 4]);
  });

  it("compares, selects and combines", () => {
    const pick = (mask: () => dsl.Tensor<["two", "three"], "bool">): number[] => values(() => dsl.select(mask(), matrix(), dsl.neg(row())));
    expect(pick(() => dsl.lt(matrix(), 3))).toEqual([1, 2, -30, -10, -20, -30]);
    expect(pick(() => dsl.gt(matrix(), 3))).toEqual([-10, -20, -30, 4, 5, 6]);
    expect(pick(() => dsl.and(dsl.ge(matrix(), 2), dsl.le(matrix(), 4)))).toEqual([-10, 2, 3, 4, -20, -30]);
    expect(pick(() => dsl.or(dsl.eq(matrix(), 1), dsl.not(dsl.ne(matrix(), 6))))).toEqual([1, -20, -30, -10, -20, 6]);
  });

  it("has the functions of one operand", () => {
    const at = (f: (x: dsl.Tensor<[1]>) => AnyTensor, x: number): number => evaluate(() => f(dsl.full([1], x))).data[0]!;
    const cases: readonly [(x: dsl.Tensor<[1]>) => AnyTensor, (x: number) => number][] = [
      [dsl.abs, Math.abs],
      [dsl.exp, Math.exp],
      [dsl.floor, Math.floor],
      [dsl.sin, Math.sin],
      [dsl.cos, Math.cos],
      [dsl.tanh, Math.tanh],
      [dsl.relu, (x) => Math.max(x, 0)],
      [dsl.sigmoid, (x) => 1 / (1 + Math.exp(-x))],
      [dsl.silu, (x) => x / (1 + Math.exp(-x))],
      [(x) => dsl.activate(x, "silu"), (x) => x / (1 + Math.exp(-x))],
      [dsl.softplus, (x) => Math.log1p(Math.exp(x))],
      [dsl.geluTanh, (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))],
      [(x) => dsl.sub(dsl.gelu(x), dsl.mul(x, dsl.mul(dsl.add(dsl.erf(dsl.mul(x, Math.SQRT1_2)), 1), 0.5))), () => 0],
      [(x) => dsl.log(dsl.exp(x)), (x) => x],
      [(x) => dsl.sqrt(dsl.mul(x, x)), Math.abs],
      [(x) => dsl.rsqrt(dsl.exp(x)), (x) => Math.exp(-x / 2)],
      [(x) => dsl.log1p(dsl.exp(x)), (x) => Math.log1p(Math.exp(x))],
      [(x) => dsl.cast(x, "i32"), Math.trunc],
    ];
    for (const x of [-1.5, 0.75]) for (const [ours, theirs] of cases) expect(at(ours, x)).toBeCloseTo(theirs(x), 5);
  });
});

describe("rounding", () => {
  // 1 + 2^-8 lies in the middle of two bf16, 1 + 3 * 2^-8 too: ties go to the even one
  const x = (): dsl.Tensor<["four"]> => dsl.literal("x", ["four"], Float32Array.of(1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 / 3, -1e30));

  it("leaves f32 with what a storage type can hold", () => {
    const rounded = evaluate(() => dsl.round(x(), "bf16"));
    expect(rounded.dtype).toBe("f32");
    expect([...rounded.data].slice(0, 2)).toEqual([1, 1 + 2 ** -6]);
    expect([...rounded.data]).toEqual([...tensor("bf16", [4], [1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 / 3, -1e30]).data]);
    expect([...evaluate(() => dsl.round(x(), "f32")).data]).toEqual([
      ...tensor("f32", [4], [1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 / 3, -1e30]).data,
    ]);
  });

  it("happens before a norm's weight multiplies, and after", () => {
    const weight = (): dsl.Tensor<["four"]> => dsl.literal("w", ["four"], Float32Array.of(1.5, 0.75, 1.25, 2));
    const y = evaluate(() => dsl.rmsNorm(dsl.reshape(x(), [1, "four"]), weight(), 1e-5, "bf16"));
    const plain = evaluate(() => dsl.rmsNorm(dsl.reshape(x(), [1, "four"]), dsl.full(["four"], 1), 1e-5));
    const inBf16 = (values: readonly number[]): number[] => [...tensor("bf16", [4], values).data];
    const scaled = inBf16([...plain.data]).map((v, i) => v * [1.5, 0.75, 1.25, 2][i]!);
    expect([...y.data]).toEqual(inBf16(scaled));
  });

  it("of a rotation is of each product and sum", () => {
    const q = [0.3, -1.7, 2.2, 0.9, 0.123, 5];
    const [c, s] = [
      [0.77, -0.2],
      [0.61, 0.98],
    ] as const;
    const r = (value: number): number => tensor("bf16", [1], [value]).data[0]!;
    const y = evaluate(() =>
      dsl.rope(
        dsl.literal("q", [1, 1, 1, 6], Float32Array.from(q, r)),
        dsl.literal("p", [1, 1], Int32Array.of(0)),
        { cos: dsl.literal("c", [1, 2], Float32Array.from(c)), sin: dsl.literal("s", [1, 2], Float32Array.from(s)) },
        "bf16",
      ),
    );
    const turned = [0, 1].flatMap((j) => [[r(q[j]!), r(q[j + 2]!), r(c[j]!), r(s[j]!)] as const]);
    expect([...y.data]).toEqual([
      ...turned.map(([low, high, cos, sin]) => r(r(low * cos) - r(high * sin))),
      ...turned.map(([low, high, cos, sin]) => r(r(high * cos) + r(low * sin))),
      r(q[4]!),
      r(q[5]!),
    ]);
  });
});

describe("layout", () => {
  it("reshapes, transposes, renames", () => {
    const flat = (): dsl.Tensor<["heads*size"]> => dsl.literal("h", ["heads*size"], Float32Array.of(1, 2, 3, 4));
    expect(values(() => dsl.transpose(dsl.reshape(flat(), ["heads", "size"]), ["size", "heads"]))).toEqual([1, 3, 2, 4]);
    expect(evaluate(() => dsl.reshape(matrix(), ["two", 1, "three"])).shape).toEqual([2, 1, 3]);
    const renamed = trace(() => dsl.rename(flat(), { "heads*size": "hidden" }));
    expect(renamed.outputs[0]!.value.op).toBe("literal");
    expect(() => trace(() => dsl.rename(row(), { three: "four" }))).toThrow("rename: 'three' and 'four' differ in size");
  });

  it("slices, with positions from the end and at run time", () => {
    expect(values(() => dsl.slice(matrix(), "three", { start: 1, size: 2 }))).toEqual([2, 3, 5, 6]);
    expect(values(() => dsl.slice(matrix(), "three", { start: -2, size: "two" }))).toEqual([2, 3, 5, 6]);
    expect(values(() => dsl.at(matrix(), "two", -1))).toEqual([4, 5, 6]);
    const first = (position: number): string => printGraph(trace(() => dsl.at(dsl.reshape(matrix(), ["two", 1, "three"]), 1, position)));
    // of one position nothing is cut out
    for (const position of [0, -1]) expect(first(position)).not.toContain("slice");
    expect(() => first(1)).toThrow(/slice/);
    const symbols = { past: [0, 2] } as const;
    expect(values(() => dsl.at(matrix(), "three", dsl.symbol("past")), { symbols: { past: 1 } }, { symbols })).toEqual([2, 5]);
    expect(() => trace(() => dsl.slice(matrix(), "three", { start: 2, size: 2 }))).toThrow("the slice leaves the axis");
  });

  it("takes the last elements, as many as another axis has", () => {
    expect(values(() => dsl.last(matrix(), "three", "two"))).toEqual([2, 3, 5, 6]);
    expect(values(() => dsl.last(matrix(), "three", 3))).toEqual([1, 2, 3, 4, 5, 6]);
    const x = (): AnyTensor => dsl.last(dsl.input("x", ["seq", "two"]), "seq", "kept");
    const given = { symbols: { seq: 3, kept: 2 }, inputs: { x: tensor("f32", [3, 2], [1, 2, 3, 4, 5, 6]) } };
    expect(values(x, given, { dims: { ...dims, kept: [1, 8] } })).toEqual([3, 4, 5, 6]);
    expect(() => trace(() => dsl.last(matrix(), "two", "three"))).toThrow("the slice leaves the axis");
  });

  it("splits into pieces in the order written", () => {
    const wide = (): dsl.Tensor<["two", "heads*size+three"]> =>
      dsl.literal(
        "w",
        ["two", "heads*size+three"],
        Float32Array.from({ length: 14 }, (_, i) => i),
      );
    const axis = "heads*size+three";
    expect(values(() => dsl.split(wide(), axis, { a: ["heads", "size"], b: "three" }).b)).toEqual([4, 5, 6, 11, 12, 13]);
    expect(values(() => dsl.split(wide(), axis, { b: "three", a: ["heads", "size"] }).b)).toEqual([0, 1, 2, 7, 8, 9]);
    expect(evaluate(() => dsl.split(wide(), axis, { a: ["heads", "size"], three: 3 }).a).shape).toEqual([2, 2, 2]);
    expect(() => trace(() => dsl.split(wide(), axis, { a: "four", b: "two" }).a)).toThrow(
      /split: the pieces of 'heads\*size\+three' do not add up[^]*expected +\[heads\*size\+three=7\][^]*got +a \[four=4\] \+ b \[two=2\] = 6/,
    );
    expect(() => trace(() => dsl.split(wide(), axis, { a: "four", three: 4 }).a)).toThrow("piece 'three' has 4 elements");
    expect(() => trace(() => dsl.split(wide(), axis, { a: "batch" }).a)).toThrow("'batch' is known only at run time");
  });

  it("concatenates, pads and gathers", () => {
    expect(values(() => dsl.concat(matrix(), dsl.literal("s", ["two", 1], Float32Array.of(7, 8)), "three"))).toEqual([
      1, 2, 3, 7, 4, 5, 6, 8,
    ]);
    expect(values(() => dsl.pad(row(), "three", { low: 1, value: -1, as: "four" }))).toEqual([-1, 10, 20, 30]);
    expect(() => trace(() => dsl.pad(row(), "three", { high: 2, as: "four" }))).toThrow(
      "pad made [5] where the language expected [four=4]",
    );
    const rows = (): dsl.Tensor<["size"], "i32"> => dsl.literal("i", ["size"], Int32Array.of(1, 0));
    expect(values(() => dsl.gather(matrix(), rows()))).toEqual([4, 5, 6, 1, 2, 3]);
  });
});

describe("reductions", () => {
  it("along a named axis", () => {
    expect(values(() => dsl.sum(matrix(), "two"))).toEqual([5, 7, 9]);
    expect(values(() => dsl.amax(matrix(), "three"))).toEqual([3, 6]);
    expect(values(() => dsl.amin(matrix(), "three"))).toEqual([1, 4]);
    expect(values(() => dsl.mean(matrix(), "three"))).toEqual([2, 5]);
    expect(values(() => dsl.argmax(dsl.neg(matrix()), "three"))).toEqual([0, 0]);
    expect(values(() => dsl.cumsum(matrix(), "three"))).toEqual([1, 3, 6, 4, 9, 15]);
    expect(values(() => dsl.sum(dsl.softmax(matrix(), "three"), "three"))).toEqual([1, 1]);
    expect(values(() => dsl.logSumExp(matrix(), "two"))).toEqual(
      [1, 2, 3].map((x) => Math.round((x + 3 + Math.log1p(Math.exp(-3))) * 1e5) / 1e5),
    );
  });

  it("means over an axis whose size is known at run time", () => {
    const inputs = { x: tensor("f32", [3, 2], [1, 2, 3, 4, 5, 12]) };
    expect(values(() => dsl.mean(dsl.input("x", ["seq", "two"]), "seq"), { symbols: { seq: 3 }, inputs })).toEqual([3, 6]);
  });

  it("cross-entropy leaves out what is not labelled", () => {
    const given = { inputs: { x: tensor("f32", [1, 2, 3], [0, 0, 0, 1, 2, 3]), y: tensor("i32", [1, 2], [2, -100]) }, symbols: { seq: 2 } };
    const loss = (): AnyTensor => dsl.crossEntropy(dsl.input("x", ["batch", "seq", "three"]), dsl.input("y", ["batch", "seq"], "i32"));
    expect(evaluate(loss, given).data[0]).toBeCloseTo(Math.log(3), 6);
  });
});

describe("weights", () => {
  const params = (g: Graph): string[] => topological(g).flatMap((n) => (n.op === "param" ? [`${n.attrs.name} ${n.types[0]!.dtype}`] : []));
  const mlp = (): AnyTensor =>
    dsl.scope("layers.0", () =>
      dsl.rmsNorm(dsl.linear(dsl.input("x", ["batch", "hidden"]), "mlp.up", { out: "three", bias: true }), "mlp.norm", 1e-5),
    );

  it("are called after the module path, stored as the model says, and read as f32", () => {
    const g = trace(mlp, { weights: "bf16", checkpointName: (path) => `model.${path}` });
    expect(params(g)).toEqual([
      "model.layers.0.mlp.up.weight bf16",
      "model.layers.0.mlp.up.bias bf16",
      "model.layers.0.mlp.norm.weight bf16",
    ]);
    const product = topological(g).find((n): n is NodeOf<"matmul"> => n.op === "matmul")!;
    expect([product.name, product.attrs.transB, product.inputs[1]!.op]).toEqual(["layers.0.mlp.up", true, "param"]);
    expect(params(trace(mlp))).toEqual(["layers.0.mlp.up.weight f32", "layers.0.mlp.up.bias f32", "layers.0.mlp.norm.weight f32"]);
    expect(printGraph(g)).toMatchSnapshot();
  });

  it("of the same name are one, and must agree", () => {
    const table = (): dsl.Tensor<["three", "hidden"]> => dsl.param("table", ["three", "hidden"]);
    const tied = trace(() => dsl.matmulT(dsl.gather(table(), dsl.input("ids", ["batch"], "i32")), table()), { weights: "f16" });
    expect(topological(tied).filter((n) => n.op === "param")).toHaveLength(1);
    // the table is read as it is stored, and the rows picked from it become f32
    expect(
      topological(tied)
        .filter((n) => n.op === "cast")
        .map((n) => n.inputs[0]!.op),
    ).toEqual(["gather"]);
    expect(() => trace(() => dsl.matmul(table(), dsl.param("table", ["hidden", "three"])))).toThrow("param: 'table' is declared twice");
  });

  it("of a stated type are exactly that", () => {
    expect(params(trace(() => dsl.cast(dsl.param("w", ["three"], "f16"), "f32"), { weights: "bf16" }))).toEqual(["w f16"]);
  });

  it("matmul multiplies with leading axes", () => {
    const inputs = { a: tensor("f32", [2, 1, 2], [1, 2, 3, 4]), b: tensor("f32", [2, 2, 3], [1, 2, 3, 4, 5, 6, 1, 0, 0, 0, 1, 0]) };
    const given = { inputs, symbols: { batch: 2 } };
    expect(values(() => dsl.matmul(dsl.input("a", ["two", 1, "size"]), dsl.input("b", ["two", "size", "three"])), given)).toEqual([
      9, 12, 15, 3, 4, 0,
    ]);
    const shared = { inputs: { a: inputs.a, b: tensor("f32", [1, 2, 2], [1, 0, 1, 1]) }, symbols: { batch: 1 } };
    expect(values(() => dsl.matmulT(dsl.input("a", ["two", 1, "size"]), dsl.input("b", [1, "heads", "size"])), shared)).toEqual([
      1, 3, 3, 7,
    ]);
  });
});

describe("state", () => {
  const x = (): dsl.Tensor<["batch", "hidden"]> => dsl.input("x", ["batch", "hidden"]);
  it("is read as it was, and is for the next call what it is set to", () => {
    const graph = trace(() => {
      const total = dsl.scope("a", () => dsl.state("total", ["batch", "hidden"]));
      dsl.setState(total, dsl.add(total, x()));
      return total;
    });
    const given = { symbols: { batch: 1, seq: 1 }, inputs: { x: tensor("f32", [1, 4], [1, 2, 3, 4]) } };
    const first = interpretGraph(graph, given);
    const second = interpretGraph(graph, { ...given, states: first.states });
    expect([...first.outputs["out"]!.data]).toEqual([0, 0, 0, 0]);
    expect([...second.outputs["out"]!.data]).toEqual([1, 2, 3, 4]);
    expect([...second.states["a.total"]!.data]).toEqual([2, 4, 6, 8]);
  });

  it("is set exactly once, to something like itself", () => {
    const held = (): dsl.State<["batch", "hidden"]> => dsl.state("s", ["batch", "hidden"]);
    expect(() => trace(() => held())).toThrow(/tests\/unit\/dsl\.test\.ts:\d+:\d+ {2}s: this state is declared but nothing updates it/);
    expect(() => trace(() => { const s = held(); dsl.setState(s, x()); dsl.setState(s, x()); return x(); })).toThrow("state 's' is set twice"); // prettier-ignore
    expect(() => trace(() => dsl.add(held(), held()))).toThrow("state 's' is declared twice");
    expect(() => trace(() => { dsl.setState(held(), dsl.sum(x(), "hidden") as never); return x(); })).toThrow("state 's' cannot hold this value"); // prettier-ignore
    expect(() => trace(() => dsl.writeState(held(), { axis: "seq" as never, start: dsl.symbol("batch") }, x()))).toThrow(
      "state 's' has no axis 'seq'",
    );
  });

  it("sequences that are not by the batch of what they are given to are refused", () => {
    const x = (): dsl.Tensor<["batch", "seq", "four"]> => dsl.input("x", ["batch", "seq", "four"]);
    const ids = dsl.input.bind(null, "ids") as unknown as (axes: string[], dtype: "i32") => dsl.Tensor<["batch", "four"], "i32">;
    const conv = (axes: string[], ends: string[]): AnyTensor =>
      dsl.causalConv1d(x(), "conv", {
        width: 2,
        sequences: { ids: ids(axes, "i32"), past: dsl.symbol("seq"), ends: dsl.input("ends", ends as ["batch"], "i32") },
      });
    expect(() => trace(() => conv(["seq", "four"], ["batch"]))).toThrow(
      "causalConv1d: the sequences [seq, four] with ends [batch] are not by 'batch'",
    );
    expect(() => trace(() => conv(["batch", "four"], ["seq"]))).toThrow("with ends [seq] are not by 'batch'");
    expect(() => trace(() => conv(["batch", "four"], ["batch"]))).not.toThrow();
  });

  it("attention over a cache in two calls is attention over all at once", () => {
    const rows = Array.from({ length: 2 * 3 * 2 * 2 }, (_, i) => Math.sin(i * 1.7));
    const q = (): dsl.Tensor<["batch", "seq", "heads", "size"]> => dsl.input("x", ["batch", "seq", "heads", "size"]);
    // one key head: the first query head
    const keys = (): dsl.Tensor<["batch", "seq", 1, "size"]> =>
      dsl.reshape(dsl.at(dsl.transpose(q(), ["heads", "batch", "seq", "size"]), "heads", 0), ["batch", "seq", 1, "size"]);
    const stored = (): dsl.Tensor<["batch", "seq", 1, "size"]> => dsl.cast(dsl.cast(keys(), "bf16"), "f32");
    const whole = evaluate(() => dsl.attention(q(), stored(), stored()), {
      symbols: { batch: 2, seq: 3 },
      inputs: { x: tensor("f32", [2, 3, 2, 2], rows) },
    });
    const cached = (): AnyTensor =>
      dsl.attention(q(), keys(), keys(), { cache: dsl.kvCache(["batch", 1, "four", "size"], dsl.symbol("past"), "bf16") });
    const graph = trace(cached, { symbols: { past: [0, 3] } });
    const part = (from: number, count: number): Value =>
      tensor(
        "f32",
        [2, count, 2, 2],
        [0, 1].flatMap((b) => rows.slice((b * 3 + from) * 4, (b * 3 + from + count) * 4)),
      );
    const first = interpretGraph(graph, { symbols: { batch: 2, seq: 2, past: 0 }, inputs: { x: part(0, 2) } });
    const second = interpretGraph(graph, { symbols: { batch: 2, seq: 1, past: 2 }, inputs: { x: part(2, 1) }, states: first.states });
    const at = (v: Value, b: number, t: number, of: number): number[] => [...v.data.subarray((b * of + t) * 4, (b * of + t + 1) * 4)];
    for (const b of [0, 1])
      for (const t of [0, 1, 2]) {
        const [got, of, index] = t < 2 ? [first, 2, t] as const : [second, 1, 0] as const; // prettier-ignore
        at(got.outputs["out"]!, b, index, of).forEach((y, i) => expect(y).toBeCloseTo(at(whole, b, t, 3)[i]!, 6));
      }
  });
});

describe("a trace", () => {
  const message = (build: () => unknown): string => {
    try {
      build();
    } catch (error) {
      if (error instanceof dsl.CulmError) return error.message;
      throw error;
    }
    return "nothing was thrown";
  };

  it("knows what a name stands for", () => {
    const shape = (axis: string): readonly unknown[] => trace(() => dsl.full([axis], 0)).outputs[0]!.value.types[0]!.shape;
    expect(shape("heads*size+3*four+1")).toEqual([17]);
    expect(shape("batch")).toMatchObject([{ op: "var", name: "batch", min: 1, max: 4 }]);
    expect(message(() => shape("width"))).toMatch(
      /full: |'width' is not a dimension of model 'test'\n {2}expected {2}one of batch, seq, two[^]*fix: declare it/,
    );
    expect(message(() => shape("batch*seq"))).toContain(
      "axis 'batch*seq': 'batch' is known only at run time and cannot be merged or added",
    );
    expect(message(() => trace(() => dsl.full([0], 1)))).toContain("0 is not the size of an axis");
  });

  it("refuses declarations that contradict themselves", () => {
    const declare = (options: ModelOptions) => (): unknown => dsl.model("m", options, () => ({}));
    expect(message(declare({ dims: { a: 0 } }))).toContain("dimension 'a' is not a positive integer");
    expect(message(declare({ dims: { a: [3, 2] } }))).toContain("'a' has no range of integers from 1");
    expect(message(declare({ dims: { a: [0, 2] } }))).toContain("'a' has no range of integers from 1");
    expect(message(declare({ dims: { a: [1, 2] }, symbols: { a: [0, 1] } }))).toContain("'a' stands in dims and in symbols");
    const wanted = { dims: {}, symbols: { wanted: [0, 1] as const } };
    expect(message(declare({ ...wanted, optional: { y: "wanted" } }))).toContain("there is no output 'y'");
    expect(message(() => dsl.model("m", { ...wanted, optional: { y: "asked" } }, () => ({ y: dsl.full([1], 0) })))).toContain(
      "no symbol 'asked' that says whether it is wanted",
    );
    expect(message(() => trace(() => dsl.scalar("past")))).toContain("'past' is not a run-time number of this model");
    expect(message(() => trace(() => dsl.iota([])))).toContain("iota needs an axis");
  });

  it("is one at a time, and ends when it fails", () => {
    expect(message(() => dsl.silu(dsl.full([1], 0)))).toContain("outside a model");
    expect(message(() => trace(() => { trace(() => row()); return row(); }))).toContain("model 'test' is traced inside model 'test'"); // prettier-ignore
    expect(message(() => trace(() => dsl.full(["nothing"], 0)))).not.toBe("nothing was thrown");
    expect(values(() => row())).toEqual([10, 20, 30]);
  });

  it("says where an operand came from", () => {
    const text = message(() =>
      trace(() => dsl.scope("layers.9", () => dsl.matmul(dsl.silu(matrix()), dsl.param("mlp.up", ["four", "two"]) as never))),
    );
    expect(text.replace(/dsl\.test\.ts:\d+:\d+/g, "dsl.test.ts:L:C")).toMatchInlineSnapshot(`
      "tests/unit/dsl.test.ts:L:C  layers.9: matmul: [two, three] x [four, two]: inner dimension 'three' does not meet 'four'
        a  f32[two=2, three=3]  from activation at dsl.test.ts:L:C
        b  f32[four=4, two=2]   from checkpoint tensor layers.9.mlp.up at dsl.test.ts:L:C"
    `);
  });
});
