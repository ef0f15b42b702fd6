import fc from "fast-check";
import type { Caps } from "../../../compiler/backend.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";
import { add, binary, cast, div, exp, f32, idiv, mod, mul, neg, sub, unary } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { GemmProblem, ProductOut, Prologue } from "../../../compiler/template.ts";
import { dimension, memory, seed, size, storage } from "./case.ts";
import type { Array_, Case, Memory } from "./case.ts";

interface Shape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly symbolic: boolean;
  readonly weights: number;
  /** Two weights of one buffer without panels, which has so many rows of the one and then of the other in turns, where they divide n; 0: a buffer each. */
  readonly turns: number;
  readonly panels: boolean;
  readonly stat: "none" | "sum" | "max";
  readonly outs: number;
  /** Where these columns end in, with a state of three values each that is replaced in place; nobody gets them as they are. */
  readonly step: readonly [from: number, to: number] | null;
  readonly a: DType;
  readonly w: DType;
  readonly out: DType;
  readonly seed: number;
}

interface Sizes {
  readonly n: fc.Arbitrary<number>;
  readonly k: fc.Arbitrary<number>;
}

/** Rows of weights that are whole vectors for several warps, and more of them than workers. */
export const longRows = ({ workers }: Caps): Sizes => ({
  n: fc.integer({ min: workers, max: 4 * workers + 24 }),
  k: fc.constantFrom(1024, 1024, 1536, 2048),
});

const turns = fc.constantFrom(0, 0, 1, 2, 8, 32);

/** Products for `gemm` and `gemv`, up to `rows` rows: one or two weights, a norm or nothing before, a gate, a bias and a second result after, a step of a state for some columns. */
export const gemmCase = (caps: Caps, rows = 40, sizes: Sizes = { n: size(70), k: size(70) }): fc.Arbitrary<Case<GemmProblem>> =>
  fc
    .record({
      m: size(rows),
      ...sizes,
      symbolic: fc.boolean(),
      weights: fc.constantFrom(1, 1, 2),
      turns,
      panels: fc.boolean(),
      stat: fc.constantFrom("none", "sum", "max"),
      outs: fc.constantFrom(1, 1, 2),
      step: fc.option(fc.tuple(fc.nat(80), fc.nat(80))),
      a: storage,
      w: storage,
      out: storage,
      seed,
    })
    .map(({ step, ...s }) => make({ ...s, step: step && rangeIn(s.n, step) }, caps.panel, rows));

/** Products whose operands both lie in memory in one 16-bit type, as `gemm-stream` takes them: as for `gemm`, or in parts of k; of at most so many rows and columns. */
export const streamCase = (rows = 40, columns = 70): fc.Arbitrary<Case<GemmProblem>> =>
  fc
    .record({
      m: size(rows),
      n: size(columns),
      k: fc.constantFrom(8, 64, 96, 136, 256, 512),
      symbolic: fc.boolean(),
      weights: fc.constantFrom(1, 1, 2),
      turns,
      outs: fc.constantFrom(1, 1, 2),
      step: fc.option(fc.tuple(fc.nat(80), fc.nat(80))),
      parts: fc.constantFrom(1, 1, 2, 4),
      w: fc.constantFrom<DType>("bf16", "f16"),
      out: storage,
      seed,
    })
    .map(({ step, parts, ...s }) => {
      const shape: Shape = { ...s, panels: false, stat: "none", a: s.w, step: step && rangeIn(s.n, step) };
      return parts > 1 && s.k % (32 * parts) === 0 ? inParts(shape, parts, rows) : make(shape, 0, rows);
    });

/** The same product, of which the kernel stores the sums of `parts` equal runs of k. */
function inParts(s: Shape, parts: number, most: number): Case<GemmProblem> {
  const mem = memory(s.seed);
  const a = mem.input(s.a, s.m * s.k);
  const w = weight(mem, s.w, s.n, s.k, 0);
  const sums = mem.output("f32", parts * s.m * s.n);
  const m = dimension("rows", s.m, s.symbolic, most);
  const expected = new Float64Array(parts * s.m * s.n);
  const run = s.k / parts;
  for (let i = 0; i < expected.length; i++) {
    const [col, row, part] = [i % s.n, Math.floor(i / s.n) % s.m, Math.floor(i / s.n / s.m)];
    for (let k = part * run; k < (part + 1) * run; k++) expected[i]! += a.get(row * s.k + k) * w.get(col, k);
  }
  const problem: GemmProblem = {
    frame: mem.frame("gemm_test", m.symbols),
    m: m.expr,
    n: s.n,
    k: s.k,
    a: { stat: null, value: (row, k) => a.at(add(mul(row, s.k), k)) },
    weights: [{ buffer: w.buffer.name, dtype: s.w, panel: 0 }],
    outs: [],
    parts: { count: parts, buffer: sums.name, index: (part, row, col) => add(mul(add(mul(part, m.expr), row), s.n), col) },
  };
  const about = JSON.stringify({ ...s, parts });
  return { problem, buffers: mem.buffers, symbols: m.values, expected: { [sums.name]: expected }, tolerance: 2e-5, about };
}

const PLAIN = {
  symbolic: false,
  weights: 1,
  turns: 0,
  panels: false,
  stat: "none",
  outs: 1,
  step: null,
  a: "f32",
  w: "f32",
  out: "f32",
  seed: 1,
} as const;

/** One product of a given size. */
export const gemmOf = (s: Pick<Shape, "m" | "n" | "k"> & Partial<Shape>, caps: Caps): Case<GemmProblem> =>
  make({ ...PLAIN, ...s }, caps.panel, s.m);

/** Columns from and to, at least one; half of the time where tiles end. */
function rangeIn(n: number, [a, b]: readonly [number, number]): readonly [number, number] {
  const from = (a % 2 === 0 ? 16 * a : a) % n;
  const to = b % 2 === 0 ? Math.min(n, from + 16) : from + 1 + (b % (n - from));
  return [from, to];
}

function make(s: Shape, panels: number, most: number): Case<GemmProblem> {
  const mem = memory(s.seed);
  const inTurns = s.weights === 2 && s.turns > 0 && s.n % s.turns === 0;
  const panel = s.panels && !inTurns ? panels : 0;
  const a = mem.input(s.a, s.m * s.k);
  const scale = mem.input("f32", s.k);
  const bias = mem.input("f32", s.n);
  const weights = inTurns
    ? takingTurns(s.turns, weight(mem, s.w, 2 * s.n, s.k, 0))
    : Array.from({ length: s.weights }, () => weight(mem, s.w, s.n, s.k, panel));
  const outs = Array.from({ length: s.outs }, (_, i) => mem.output(i === 0 ? s.out : "f32", s.m * s.n));
  const [from, to] = s.step ?? [0, 0];
  const state = s.step && mem.output(s.out, s.m * 3 * (to - from), "readwrite");
  const y = s.step && mem.output("f32", s.m * (to - from));
  if (state) for (let i = 0; i < state.data.length; i++) state.set(i, Math.sin(i + s.seed)); // prettier-ignore
  const m = dimension("rows", s.m, s.symbolic, most);
  const around: readonly (readonly [number, number])[] = [[0, from], [to, s.n]]; // prettier-ignore
  const plain = s.step ? around.filter(([first, end]) => first < end) : [null];

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
    weights: weights.map(({ buffer, rows }) => ({ buffer: buffer.name, dtype: s.w, panel, ...(rows ? { rows } : {}) })),
    outs: [
      ...outs.flatMap((o, i) =>
        plain.map((columns): ProductOut => ({
          buffer: o.name,
          dtype: o.dtype,
          columns,
          // the second result is stored transposed, with a bias
          index: (row, col) => (i === 0 ? add(mul(row, s.n), col) : add(mul(col, m.expr), row)),
          value: (acc, _, col) => (i === 0 ? productOf(acc) : binary("max", add(productOf(acc), bias.at(col)), f32(0))),
        })),
      ),
      ...(s.step && state && y ? stepOuts(s.step, state, y) : []),
    ],
  };

  const left = reference(s, a, scale);
  const result = outs.map(() => new Float64Array(s.m * s.n));
  const [stepped, after] = [new Float64Array(s.m * (to - from)), new Float64Array(s.m * 3 * (to - from))];
  for (let row = 0; row < s.m; row++)
    for (let col = 0; col < s.n; col++) {
      const acc = weights.map((w) => {
        let x = 0;
        for (let k = 0; k < s.k; k++) x += left[row * s.k + k]! * w.get(col, k);
        return x;
      });
      const product = acc.length === 1 ? acc[0]! : (acc[0]! / (1 + Math.exp(-acc[0]!))) * acc[1]!;
      const isPlain = col < from || col >= to;
      result[0]![row * s.n + col] = isPlain ? product : NaN;
      if (result[1]) result[1][col * s.m + row] = isPlain ? Math.max(product + bias.get(col), 0) : NaN;
      if (isPlain || !state) continue;
      const place = (i: number): number => (row * 3 + i) * (to - from) + col - from;
      stepped[row * (to - from) + col - from] = 2 * product + state.get(place(1)) * state.get(place(2));
      after[place(0)] = state.get(place(1));
      after[place(1)] = state.get(place(2));
      after[place(2)] = product;
    }
  return {
    problem,
    buffers: mem.buffers,
    symbols: m.values,
    expected: {
      ...Object.fromEntries(outs.map((o, i) => [o.name, result[i]!])),
      ...(state && y ? { [state.name]: after, [y.name]: stepped } : {}),
    },
    // of a product of two sums, the error of either counts as often as the other is large
    tolerance: 2e-5 * (s.weights > 1 ? 4 : 1),
    about: JSON.stringify(s),
  };
}

const productOf = (acc: readonly Expr[]): Expr => (acc.length === 1 ? acc[0]! : mul(div(acc[0]!, add(exp(neg(acc[0]!)), 1)), acc[1]!));

/** Twice the product and what the state's two last values give; the state moves on by one, oldest first. */
function stepOuts(columns: readonly [number, number], state: Array_, y: Array_): readonly ProductOut[] {
  const [from, to] = columns;
  const at = (row: Expr, i: number, col: Expr): Expr => add(mul(add(mul(row, 3), i), to - from), sub(col, from));
  const move = (i: number, value: ProductOut["value"]): ProductOut => ({
    buffer: state.name,
    dtype: state.dtype,
    columns,
    index: (row, col) => at(row, i, col),
    value: (...given) => cast(value(...given), state.dtype),
  });
  return [
    {
      buffer: y.name,
      dtype: "f32",
      columns,
      index: (row, col) => add(mul(row, to - from), sub(col, from)),
      value: (acc, row, col) => add(mul(productOf(acc), 2), mul(state.at(at(row, 1, col)), state.at(at(row, 2, col)))),
    },
    move(0, (_, row, col) => state.at(at(row, 1, col))),
    move(1, (_, row, col) => state.at(at(row, 2, col))),
    move(2, (acc) => productOf(acc)),
  ];
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

interface Weight {
  readonly buffer: Array_;
  readonly rows?: (n: Expr) => Expr;
  get(n: number, k: number): number;
}

/** Two weights of which a buffer has `turn` rows at a time. */
const takingTurns = (turn: number, { buffer, get }: Weight): readonly Weight[] =>
  [0, turn].map((from) => ({
    buffer,
    rows: (n) => add(add(mul(idiv(n, turn), 2 * turn), mod(n, turn)), from),
    get: (n, k) => get(Math.floor(n / turn) * 2 * turn + (n % turn) + from, k),
  }));

/** A [n, k] weight, row-major or in panels with zeros below its last row. */
function weight(mem: Memory, dtype: DType, n: number, k: number, panel: number): Weight {
  const rows = panel === 0 ? n : Math.ceil(n / panel) * panel;
  const buffer = mem.input(dtype, rows * k);
  const index = (row: number, i: number): number =>
    panel === 0 ? row * k + i : Math.floor(row / panel) * panel * k + i * panel + (row % panel);
  for (let row = n; row < rows; row++) for (let i = 0; i < k; i++) buffer.set(index(row, i), 0);
  return { buffer, get: (row, i) => buffer.get(index(row, i)) };
}
