import fc from "fast-check";
import type { Caps } from "../../../compiler/backend.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";
import { add, binary, div, exp, f32, mul, neg, unary } from "../../../compiler/ir/expr.ts";
import type { GemmProblem, Prologue } from "../../../compiler/template.ts";
import { dimension, memory, seed, size, storage } from "./case.ts";
import type { Array_, Case, Memory } from "./case.ts";

interface Shape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly symbolic: boolean;
  readonly weights: number;
  readonly panels: boolean;
  readonly stat: "none" | "sum" | "max";
  readonly outs: number;
  readonly a: DType;
  readonly w: DType;
  readonly out: DType;
  readonly seed: number;
}

/** Products for `gemm` and `gemv`, up to `rows` rows: one or two weights, a norm or nothing before, a gate, a bias and a second result after. */
export const gemmCase = (caps: Caps, rows = 40): fc.Arbitrary<Case<GemmProblem>> =>
  fc
    .record({
      m: size(rows),
      n: size(70),
      k: size(70),
      symbolic: fc.boolean(),
      weights: fc.constantFrom(1, 1, 2),
      panels: fc.boolean(),
      stat: fc.constantFrom("none", "sum", "max"),
      outs: fc.constantFrom(1, 1, 2),
      a: storage,
      w: storage,
      out: storage,
      seed,
    })
    .map((s) => make(s, caps, rows));

function make(s: Shape, caps: Caps, most: number): Case<GemmProblem> {
  const mem = memory(s.seed);
  const panel = s.panels ? caps.panel : 0;
  const a = mem.input(s.a, s.m * s.k);
  const scale = mem.input("f32", s.k);
  const bias = mem.input("f32", s.n);
  const weights = Array.from({ length: s.weights }, () => weight(mem, s.w, s.n, s.k, panel));
  const outs = Array.from({ length: s.outs }, (_, i) => mem.output(i === 0 ? s.out : "f32", s.m * s.n));
  const m = dimension("rows", s.m, s.symbolic, most);

  const prologues: Record<Shape["stat"], Prologue> = {
    none: { stat: null, value: (row, k) => a.at(add(mul(row, s.k), k)) },
    sum: {
      stat: { fn: "sum", value: (row, k) => square(a.at(add(mul(row, s.k), k))) },
      value: (row, k, stat) => mul(mul(a.at(add(mul(row, s.k), k)), unary("rsqrt", add(mul(stat!, 1 / s.k), 0.01))), scale.at(k)),
    },
    max: {
      stat: { fn: "max", value: (row, k) => unary("abs", a.at(add(mul(row, s.k), k))) },
      value: (row, k, stat) => div(a.at(add(mul(row, s.k), k)), add(stat!, 1)),
    },
  };
  const problem: GemmProblem = {
    frame: mem.frame("gemm_test", m.symbols),
    m: m.expr,
    n: s.n,
    k: s.k,
    a: prologues[s.stat],
    weights: weights.map((w) => ({ buffer: w.buffer.name, dtype: s.w, panel })),
    outs: outs.map((o, i) => ({
      buffer: o.name,
      dtype: o.dtype,
      // the second result is stored transposed, with a bias
      index: (row, col) => (i === 0 ? add(mul(row, s.n), col) : add(mul(col, m.expr), row)),
      value: (acc, _, col) => {
        const product = acc.length === 1 ? acc[0]! : mul(div(acc[0]!, add(exp(neg(acc[0]!)), 1)), acc[1]!);
        return i === 0 ? product : binary("max", add(product, bias.at(col)), f32(0));
      },
    })),
  };

  const left = reference(s, a, scale);
  const result = outs.map(() => new Float64Array(s.m * s.n));
  for (let row = 0; row < s.m; row++)
    for (let col = 0; col < s.n; col++) {
      const acc = weights.map((w) => {
        let x = 0;
        for (let k = 0; k < s.k; k++) x += left[row * s.k + k]! * w.get(col, k);
        return x;
      });
      const product = acc.length === 1 ? acc[0]! : (acc[0]! / (1 + Math.exp(-acc[0]!))) * acc[1]!;
      result[0]![row * s.n + col] = product;
      if (result[1]) result[1][col * s.m + row] = Math.max(product + bias.get(col), 0);
    }
  return {
    problem,
    buffers: mem.buffers,
    symbols: m.values,
    expected: Object.fromEntries(outs.map((o, i) => [o.name, result[i]!])),
    tolerance: 2e-5,
    about: JSON.stringify(s),
  };
}

const square = (x: ReturnType<typeof f32>): ReturnType<typeof f32> => mul(x, x);

/** The left operand with its prologue applied. */
function reference(s: Shape, a: Array_, scale: Array_): Float64Array {
  const left = new Float64Array(s.m * s.k);
  for (let row = 0; row < s.m; row++) {
    let sum = 0,
      max = 0;
    for (let k = 0; k < s.k; k++) {
      const x = a.get(row * s.k + k);
      sum += x * x;
      max = Math.max(max, Math.abs(x));
    }
    for (let k = 0; k < s.k; k++) {
      const x = a.get(row * s.k + k);
      left[row * s.k + k] = s.stat === "none" ? x : s.stat === "max" ? x / (max + 1) : (x / Math.sqrt(sum / s.k + 0.01)) * scale.get(k);
    }
  }
  return left;
}

/** A [n, k] weight, row-major or in panels with zeros below its last row. */
function weight(
  mem: Memory,
  dtype: DType,
  n: number,
  k: number,
  panel: number,
): { readonly buffer: Array_; get(n: number, k: number): number } {
  const rows = panel === 0 ? n : Math.ceil(n / panel) * panel;
  const buffer = mem.input(dtype, rows * k);
  const index = (row: number, i: number): number =>
    panel === 0 ? row * k + i : Math.floor(row / panel) * panel * k + i * panel + (row % panel);
  for (let row = n; row < rows; row++) for (let i = 0; i < k; i++) buffer.set(index(row, i), 0);
  return { buffer, get: (row, i) => buffer.get(index(row, i)) };
}
