import { describe, expect, test } from "vitest";
import { caps } from "../../../backends/llvm/caps.ts";
import { add, binary, cast, i32, intVar, load, mul, unary } from "../../../compiler/ir/expr.ts";
import { applyBinary, applyUnary } from "../../../compiler/ir/operators.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { UnaryFn } from "../../../compiler/ir/operators.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import { hostLevels, runNative } from "../../support/native.ts";

const bits = new Int32Array(1);
const float = new Float32Array(bits.buffer);

/** Floats in order, as integers, so that neighbours differ by one. */
function rank(x: number): number {
  float[0] = x;
  const b = bits[0]!;
  return b < 0 ? -(b & 0x7fffffff) : b;
}

/** Distance in units in the last place from the correctly rounded result; not finite where only one of the two is a NaN or infinite. */
function ulps(got: number, exact: number): number {
  const want = Math.fround(exact);
  if (Number.isNaN(want) || Number.isNaN(got)) return Number.isNaN(want) && Number.isNaN(got) ? 0 : Infinity;
  if (!Number.isFinite(want) || !Number.isFinite(got)) return want === got ? 0 : Infinity;
  return Math.abs(rank(got) - rank(want));
}

/** p2[i] = value(p0[i], p1[i]) for all i, lane by lane or one after another. */
function elementwise(form: "vector" | "scalar", W: number, count: number, value: (x: Expr, y: Expr) => Expr): ThreadProgram {
  const tid = intVar("tid", 0, W - 1);
  const i = intVar("i", 0, count - 1);
  const store = (index: Expr): Stmt => ({
    op: "store",
    buffer: "p2",
    dtype: "f32",
    index,
    value: value(load("p0", "f32", index), load("p1", "f32", index)),
    guard: null,
  });
  const vectors = count / W;
  const v = intVar("v", 0, vectors - 1);
  return {
    name: "elementwise",
    params: [
      { name: "p0", dtype: "f32", access: "read" },
      { name: "p1", dtype: "f32", access: "read" },
      { name: "p2", dtype: "f32", access: "write" },
    ],
    symbols: [],
    grid: [i32(1), i32(1), i32(1)],
    threads: W,
    lanes: W,
    shared: [],
    regs: [],
    body: [
      form === "vector"
        ? { op: "for", var: v, count: i32(vectors), unroll: false, body: [store(add(mul(v, W), tid))] }
        : { op: "for", var: i, count: i32(count), unroll: false, body: [store(i)] },
    ],
  };
}

/** Every 2^k-th float there is, and its neighbours: all exponents, both signs, subnormals, infinities, NaN. */
function everywhere(): number[] {
  const xs: number[] = [0, -0, Infinity, -Infinity, NaN];
  for (let b = 0; b < 0x7f800000; b += 9973 * 16)
    for (const sign of [0, 0x80000000])
      for (const d of [0, 1]) {
        bits[0] = (b + d) | sign;
        xs.push(float[0]!);
      }
  return xs;
}

function grid(low: number, high: number, n: number): number[] {
  return Array.from({ length: n }, (_, i) => Math.fround(low + ((high - low) * i) / (n - 1)));
}

interface Accuracy {
  readonly fn: UnaryFn;
  readonly xs: readonly number[];
  readonly ulps: number;
  /** Where results are near zero without the argument being so, the error is measured against this much instead of the last place. */
  readonly absolute?: number;
}

const all = everywhere();
const cases: readonly Accuracy[] = [
  { fn: "exp", xs: [...all, ...grid(-105, 90, 40000), 88.72283, 88.72284, -87.33655, -103.97, -103.98], ulps: 1 },
  { fn: "exp2", xs: [...all, ...grid(-151, 129, 40000), 127.99999, 128, -126.5, -149, -149.5, -150.1], ulps: 2 },
  { fn: "log", xs: [...all, ...grid(0.5, 2, 20000), ...grid(0, 1e-37, 2000)], ulps: 1 },
  { fn: "log1p", xs: [...all, ...grid(-1, 3, 20000), ...grid(-1e-3, 1e-3, 5000), -1], ulps: 2 },
  { fn: "tanh", xs: [...all, ...grid(-10, 10, 20000)], ulps: 2 },
  { fn: "erf", xs: [...all, ...grid(-5, 5, 20000)], ulps: 2 },
  {
    fn: "sin",
    xs: [...all.filter((x) => !(Math.abs(x) > 1e6 && Math.abs(x) < Infinity)), ...grid(-100, 100, 20000), ...grid(0, 262144, 20000)],
    ulps: 2,
    absolute: 1.2e-7,
  },
  {
    fn: "cos",
    xs: [...all.filter((x) => !(Math.abs(x) > 1e6 && Math.abs(x) < Infinity)), ...grid(-100, 100, 20000), ...grid(0, 262144, 20000)],
    ulps: 2,
    absolute: 1.2e-7,
  },
  { fn: "sqrt", xs: all, ulps: 0 },
  { fn: "rsqrt", xs: [...all.filter((x) => x !== 0 && !Object.is(x, -0)), 0], ulps: 1 },
  { fn: "floor", xs: [...all, ...grid(-10, 10, 1001), 8388607.5, -8388607.5, 8388608, 1e30], ulps: 0 },
  { fn: "neg", xs: all, ulps: 0 },
  { fn: "abs", xs: all, ulps: 0 },
];

describe.each(hostLevels)("on %s", (level) => {
  const target = caps(level);
  const W = target.lanes;

  const run = (
    form: "vector" | "scalar",
    xs: readonly number[],
    ys: readonly number[],
    value: (x: Expr, y: Expr) => Expr,
  ): Float32Array => {
    const count = Math.ceil(xs.length / W) * W;
    const [p0, p1, p2] = [new Float32Array(count), new Float32Array(count), new Float32Array(count)];
    p0.set(xs);
    p1.set(ys);
    runNative(elementwise(form, W, count, value), target, { p0, p1, p2 });
    return p2;
  };

  test.each(cases)("$fn is within $ulps ulp", ({ fn, xs, ulps: allowed, absolute }) => {
    for (const form of ["vector", "scalar"] as const) {
      const got = run(form, xs, [], (x) => unary(fn, x));
      xs.forEach((x, i) => {
        const exact = applyUnary(fn, Math.fround(x));
        const off = ulps(got[i]!, exact);
        if (off <= allowed || (absolute !== undefined && Math.abs(got[i]! - exact) <= absolute)) return;
        expect.fail(`${form} ${fn}(${x}) is ${got[i]!}, exactly ${exact}: ${off} ulp`);
      });
    }
  });

  test("pow is within 1 ulp, and keeps the rules for zeros, infinities, NaN and negative bases", () => {
    const special = [0, -0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 2.5, -2.5, 1e30, -1e30, 1e-30, Infinity, -Infinity, NaN, 16777217, -8388607];
    const [xs, ys]: [number[], number[]] = [[], []];
    for (const x of special) for (const y of special) (xs.push(x), ys.push(y));
    for (const x of grid(0.01, 40, 200)) for (const y of grid(-20, 20, 101)) (xs.push(x), ys.push(y));
    for (const form of ["vector", "scalar"] as const) {
      const got = run(form, xs, ys, (x, y) => binary("pow", x, y));
      xs.forEach((x, i) => {
        const exact = Math.pow(Math.fround(x), Math.fround(ys[i]!));
        const off = ulps(got[i]!, exact);
        if (off > 1) expect.fail(`${form} pow(${x}, ${ys[i]!}) is ${got[i]!}, exactly ${exact}: ${off} ulp`);
      });
    }
  });

  test.each(["min", "max", "lt", "le", "eq", "ne", "div"] as const)("%s agrees with the definition, NaN included", (fn) => {
    const special = [0, -1, 1, 2.5, Infinity, -Infinity, NaN, 1e-40];
    const pairs = special.flatMap((x) => special.map((y) => [x, y] as const));
    const xs = pairs.map(([x]) => x);
    const ys = pairs.map(([, y]) => y);
    const compares = fn !== "min" && fn !== "max" && fn !== "div";
    for (const form of ["vector", "scalar"] as const) {
      const got = run(form, xs, ys, (x, y) => (compares ? cast(binary(fn, x, y), "f32") : binary(fn, x, y)));
      pairs.forEach(([x, y], i) => {
        const want = Math.fround(applyBinary(fn, Math.fround(x), Math.fround(y)));
        if (!(got[i] === want || (Number.isNaN(want) && Number.isNaN(got[i]!))))
          expect.fail(`${form} ${fn}(${x}, ${y}) is ${got[i]!}, not ${want}`);
      });
    }
  });
});
