import fc from "fast-check";
import {
  add,
  and,
  binary,
  cast,
  div,
  eq,
  exp,
  f32,
  ge,
  i32,
  idiv,
  lt,
  mod,
  mul,
  neg,
  select,
  sub,
  unary,
} from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { RowProblem } from "../../../compiler/template.ts";
import { dimension, memory, seed, size, storage } from "./case.ts";
import type { Case, Memory } from "./case.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";

interface Shape {
  readonly kind: keyof typeof KINDS;
  readonly rows: number;
  readonly cols: number;
  readonly symbolic: boolean;
  readonly dtype: DType;
  readonly out: DType;
  readonly seed: number;
}

/** The kinds of kernels that fusion generates: pointwise, norms, softmax, argmax, state updates in place. */
export const rowCase = (): fc.Arbitrary<Case<RowProblem>> =>
  fc
    .record({
      kind: fc.constantFrom(...(Object.keys(KINDS) as (keyof typeof KINDS)[])),
      rows: size(40),
      cols: fc.oneof(size(70), fc.integer({ min: 1, max: 300 })),
      symbolic: fc.boolean(),
      dtype: storage,
      out: storage,
      seed,
    })
    .map((s) => {
      const mem = memory(s.seed);
      const rows = dimension("rows", s.rows, s.symbolic, 64);
      const { parts, expected, tolerance } = KINDS[s.kind](mem, s);
      const problem: RowProblem = { frame: mem.frame(`rows_${s.kind}`, rows.symbols), rows: rows.expr, cols: s.cols, ...parts };
      return { problem, buffers: mem.buffers, symbols: rows.values, expected, tolerance: tolerance ?? 1e-5, about: JSON.stringify(s) };
    });

interface Made {
  readonly parts: Pick<RowProblem, "steps" | "stores">;
  readonly expected: Record<string, ArrayLike<number>>;
  readonly tolerance?: number;
}

const table = (s: Shape, f: (row: number, col: number) => number): Float64Array =>
  Float64Array.from({ length: s.rows * s.cols }, (_, i) => f(Math.floor(i / s.cols), i % s.cols));
const column = (s: Shape, f: (row: number) => number): Float64Array => Float64Array.from({ length: s.rows }, (_, i) => f(i));
const fold = (s: Shape, f: (col: number) => number, combine: (a: number, b: number) => number, start: number): number => {
  let x = start;
  for (let col = 0; col < s.cols; col++) x = combine(x, f(col));
  return x;
};
const plus = (a: number, b: number): number => a + b;

const KINDS = {
  /** Two results, one of them guarded, and a temp that both use. */
  pointwise(mem: Memory, s: Shape): Made {
    const x = mem.input(s.dtype, s.rows * s.cols),
      bias = mem.input("f32", s.cols);
    const y = mem.output(s.out, s.rows * s.cols),
      z = mem.output("f32", s.rows * s.cols);
    const place = (row: Expr, col: Expr): Expr => add(mul(row, s.cols), col);
    const silu = (v: number): number => v / (1 + Math.exp(-v));
    return {
      parts: {
        steps: [
          { name: "sum", kind: "temp", value: (row, col) => add(x.at(place(row, col)), bias.at(col)) },
          { name: "act", kind: "temp", value: (_, __, get) => div(get("sum"), add(exp(neg(get("sum"))), 1)) },
        ],
        stores: [
          { buffer: y.name, dtype: y.dtype, per: "element", index: place, value: (_, __, get) => get("act"), guard: null },
          {
            buffer: z.name,
            dtype: "f32",
            per: "element",
            index: place,
            value: (row, _, get) => add(get("act"), cast(row, "f32")),
            guard: (row, col) => eq(mod(add(row, col), 3), 0),
          },
        ],
      },
      expected: {
        [y.name]: table(s, (r, c) => silu(x.get(r * s.cols + c) + bias.get(c))),
        [z.name]: table(s, (r, c) => ((r + c) % 3 === 0 ? silu(x.get(r * s.cols + c) + bias.get(c)) + r : NaN)),
      },
    };
  },

  /** y = w x / sqrt(mean x^2 + eps), and the mean square itself, one a row. */
  rmsNorm(mem: Memory, s: Shape): Made {
    const x = mem.input(s.dtype, s.rows * s.cols),
      w = mem.input("f32", s.cols);
    const y = mem.output(s.out, s.rows * s.cols),
      mean = mem.output("f32", s.rows);
    const place = (row: Expr, col: Expr): Expr => add(mul(row, s.cols), col);
    const square = (r: number): number => fold(s, (c) => x.get(r * s.cols + c) ** 2, plus, 0) / s.cols;
    return {
      parts: {
        steps: [
          { name: "x", kind: "temp", value: (row, col) => x.at(place(row, col)) },
          { name: "square", kind: "sum", value: (_, __, get) => mul(get("x"), get("x")) },
        ],
        stores: [
          {
            buffer: y.name,
            dtype: y.dtype,
            per: "element",
            index: place,
            value: (_, col, get) => mul(mul(get("x"), unary("rsqrt", add(mul(get("square"), 1 / s.cols), 0.001))), w.at(col)),
            guard: null,
          },
          {
            buffer: mean.name,
            dtype: "f32",
            per: "row",
            index: (row) => row,
            value: (_, __, get) => mul(get("square"), 1 / s.cols),
            guard: null,
          },
        ],
      },
      expected: {
        [y.name]: table(s, (r, c) => (w.get(c) * x.get(r * s.cols + c)) / Math.sqrt(square(r) + 0.001)),
        [mean.name]: column(s, square),
      },
    };
  },

  /** Two reductions, the second of what the first leaves; the last `cols / 2` of the first row are masked out. */
  softmax(mem: Memory, s: Shape): Made {
    const x = mem.input(s.dtype, s.rows * s.cols, -8, 8);
    const y = mem.output(s.out, s.rows * s.cols);
    const place = (row: Expr, col: Expr): Expr => add(mul(row, s.cols), col);
    const top = (r: number): number => fold(s, (c) => x.get(r * s.cols + c), Math.max, -Infinity);
    const e = (r: number, c: number): number => Math.exp(x.get(r * s.cols + c) - top(r));
    const total = column(s, (r) => fold(s, (c) => e(r, c), plus, 0));
    return {
      parts: {
        steps: [
          { name: "top", kind: "max", value: (row, col) => x.at(place(row, col)) },
          { name: "e", kind: "temp", value: (row, col, get) => exp(sub(x.at(place(row, col)), get("top"))) },
          { name: "total", kind: "sum", value: (_, __, get) => get("e") },
        ],
        stores: [
          { buffer: y.name, dtype: y.dtype, per: "element", index: place, value: (_, __, get) => div(get("e"), get("total")), guard: null },
        ],
      },
      expected: { [y.name]: table(s, (r, c) => e(r, c) / total[r]!) },
    };
  },

  /** The least index that attains the maximum; few distinct values, so that there are ties. */
  argmax(mem: Memory, s: Shape): Made {
    const x = mem.input(s.dtype, s.rows * s.cols);
    for (let i = 0; i < s.rows * s.cols; i++) x.set(i, Math.round(x.get(i) * 3));
    const y = mem.output("i32", s.rows);
    const at = (row: Expr, col: Expr): Expr => x.at(add(mul(row, s.cols), col));
    const best = (r: number): number =>
      fold(
        s,
        (c) => c,
        (a, c) => (x.get(r * s.cols + c) > x.get(r * s.cols + a) ? c : a),
        0,
      );
    return {
      parts: {
        steps: [
          { name: "top", kind: "max", value: at },
          { name: "index", kind: "min", value: (row, col, get) => select(eq(at(row, col), get("top")), col, i32(2 ** 31 - 1)) },
        ],
        stores: [{ buffer: y.name, dtype: "i32", per: "row", index: (row) => row, value: (_, __, get) => get("index"), guard: null }],
      },
      expected: { [y.name]: column(s, best) },
    };
  },

  /** A state that decays in place, and what is read from it: one step of a state-space model, rows = batch x heads x channels. */
  stateStep(mem: Memory, s: Shape): Made {
    const x = mem.input("f32", s.rows),
      inward = mem.input(s.dtype, s.cols),
      outward = mem.input(s.dtype, s.cols);
    const decay = mem.input("f32", s.rows, 0, 1);
    const state = mem.output(s.out, s.rows * s.cols, "readwrite"),
      y = mem.output("f32", s.rows);
    for (let i = 0; i < s.rows * s.cols; i++) state.set(i, ((i * 7) % 11) / 11 - 0.5);
    const place = (row: Expr, col: Expr): Expr => add(mul(row, s.cols), col);
    const next = table(s, (r, c) => state.get(r * s.cols + c) * decay.get(r) + x.get(r) * inward.get(c));
    return {
      parts: {
        steps: [
          {
            name: "next",
            kind: "temp",
            value: (row, col) => add(mul(state.at(place(row, col)), decay.at(row)), mul(x.at(row), inward.at(col))),
          },
          { name: "y", kind: "sum", value: (_, col, get) => mul(get("next"), outward.at(col)) },
        ],
        stores: [
          { buffer: state.name, dtype: state.dtype, per: "element", index: place, value: (_, __, get) => get("next"), guard: null },
          { buffer: y.name, dtype: "f32", per: "row", index: (row) => row, value: (row, _, get) => add(get("y"), x.at(row)), guard: null },
        ],
      },
      expected: { [state.name]: next, [y.name]: column(s, (r) => fold(s, (c) => next[r * s.cols + c]! * outward.get(c), plus, x.get(r))) },
    };
  },

  /** Every row is shifted by one and added to, in place: elements that others replace are read. */
  shift(mem: Memory, s: Shape): Made {
    const state = mem.output(s.dtype, s.rows * s.cols, "readwrite"),
      x = mem.input("f32", s.rows);
    for (let i = 0; i < s.rows * s.cols; i++) state.set(i, ((i * 5) % 13) / 13);
    const place = (row: Expr, col: Expr): Expr => add(mul(row, s.cols), col);
    const old = table(s, (r, c) => state.get(r * s.cols + c));
    return {
      parts: {
        steps: [],
        stores: [
          {
            buffer: state.name,
            dtype: state.dtype,
            per: "element",
            index: place,
            value: (row, col) =>
              select(lt(col, s.cols - 1), state.at(place(row, binary("min", add(col, 1), i32(s.cols - 1)))), mul(x.at(row), f32(0.5))),
            guard: null,
          },
        ],
      },
      expected: { [state.name]: table(s, (r, c) => (c < s.cols - 1 ? old[r * s.cols + c + 1]! : x.get(r) * 0.5)) },
    };
  },

  /** Independent sums, one of a guarded load, and an integer maximum. */
  statistics(mem: Memory, s: Shape): Made {
    const x = mem.input(s.dtype, s.rows * s.cols),
      y = mem.output("f32", s.rows * 2),
      last = mem.output("i32", s.rows);
    const at = (row: Expr, col: Expr): Expr => x.at(add(mul(row, s.cols), col));
    const half = idiv(i32(s.cols), 2);
    return {
      parts: {
        steps: [
          { name: "all", kind: "sum", value: at },
          { name: "late", kind: "sum", value: (row, col) => select(ge(col, half), at(row, col), 0) },
          { name: "last", kind: "max", value: (row, col) => select(and(lt(at(row, col), f32(0)), ge(col, 0)), col, i32(-1)) },
        ],
        stores: [
          { buffer: y.name, dtype: "f32", per: "row", index: (row) => mul(row, 2), value: (_, __, get) => get("all"), guard: null },
          {
            buffer: y.name,
            dtype: "f32",
            per: "row",
            index: (row) => add(mul(row, 2), 1),
            value: (_, __, get) => get("late"),
            guard: null,
          },
          { buffer: last.name, dtype: "i32", per: "row", index: (row) => row, value: (_, __, get) => get("last"), guard: null },
        ],
      },
      expected: {
        [y.name]: Float64Array.from({ length: s.rows * 2 }, (_, i) =>
          fold(s, (c) => (i % 2 === 0 || c >= Math.floor(s.cols / 2) ? x.get(Math.floor(i / 2) * s.cols + c) : 0), plus, 0),
        ),
        [last.name]: column(s, (r) => fold(s, (c) => (x.get(r * s.cols + c) < 0 ? c : -1), Math.max, -1)),
      },
      tolerance: 1e-4,
    };
  },
};
