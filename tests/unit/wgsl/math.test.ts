import { beforeAll, describe, expect, test } from "vitest";
import { wgslBackend } from "../../../backends/wgsl/index.ts";
import { allocate, f16Value, read, round } from "../../../compiler/ir/dtype.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";
import { add, binary, cast, i32, idiv, intVar, load, mod, mul, select, sub, unary } from "../../../compiler/ir/expr.ts";
import { applyBinary, applyUnary } from "../../../compiler/ir/operators.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { UnaryFn } from "../../../compiler/ir/operators.ts";
import type { ThreadProgram } from "../../../compiler/ir/thread.ts";
import { lavapipe, lavapipeAvailable } from "../../support/webgpu.ts";
import { openDevice, Runner } from "../../support/wgsl-run.ts";

/** What kernels compute with, on a device: elementary functions, conversions, division of integers, numbers that are none. */
const bits = new Int32Array(1);
const float = new Float32Array(bits.buffer);

function rank(x: number): number {
  float[0] = x;
  const b = bits[0]!;
  return b < 0 ? -(b & 0x7fffffff) : b;
}

const LEAST = 2 ** -126;
/** Units in the last place from the correctly rounded result; devices may take subnormal numbers for zero. */
function ulps(got: number, exact: number): number {
  const want = Math.fround(exact);
  if (Number.isNaN(want) || Number.isNaN(got)) return Number.isNaN(want) && Number.isNaN(got) ? 0 : Infinity;
  if (!Number.isFinite(want) || !Number.isFinite(got)) return want === got ? 0 : Infinity;
  if (Math.abs(want) < LEAST && Math.abs(got) <= LEAST) return 0;
  return Math.abs(rank(got) - rank(want));
}

const grid = (low: number, high: number, n: number): number[] =>
  Array.from({ length: n }, (_, i) => Math.fround(low + ((high - low) * i) / (n - 1)));

/** Floats of all sizes and both signs. */
function everywhere(): number[] {
  const xs: number[] = [0, -0, Infinity, -Infinity, NaN];
  for (let b = 0x00800000; b < 0x7f800000; b += 9973 * 64)
    for (const sign of [0, 0x80000000]) {
      bits[0] = b | sign;
      xs.push(float[0]!);
    }
  return xs;
}

interface Input {
  readonly dtype: DType;
  readonly xs: readonly number[];
}

const THREADS = 64;

/** out[i] = value(inputs[0][i], ...) for all i. */
function elementwise(inputs: readonly Input[], out: DType, value: (...xs: Expr[]) => Expr): { program: ThreadProgram; count: number } {
  const count = Math.ceil(inputs[0]!.xs.length / THREADS) * THREADS;
  const index = add(mul(intVar("bx", 0, count / THREADS - 1), THREADS), intVar("tid", 0, THREADS - 1));
  const program: ThreadProgram = {
    name: "elementwise",
    params: [
      ...inputs.map(({ dtype }, i) => ({ name: `p${i}`, dtype, access: "read" as const })),
      { name: "out", dtype: out, access: "write" },
    ],
    symbols: [],
    grid: [i32(count / THREADS), i32(1), i32(1)],
    threads: THREADS,
    lanes: 32,
    shared: [],
    regs: [],
    body: [
      {
        op: "store",
        buffer: "out",
        dtype: out,
        index,
        value: value(...inputs.map(({ dtype }, i) => load(`p${i}`, dtype, index))),
        guard: null,
      },
    ],
  };
  return { program, count };
}

const all = everywhere();
const angles = [...grid(-100, 100, 4000), ...grid(0, 1e5, 20000), ...grid(99000, 1e5, 4000)];
const cases: readonly { readonly fn: UnaryFn; readonly xs: readonly number[]; readonly ulps: number; readonly absolute?: number }[] = [
  { fn: "exp", xs: [...all, ...grid(-87, 88.7, 20000), 88.72283, 88.7229, -104, -1e30], ulps: 2 },
  { fn: "exp2", xs: [...all, ...grid(-126, 127.99, 20000), 127.99999, 128, -150, -1e30], ulps: 2 },
  { fn: "log", xs: [...all, ...grid(0.5, 2, 10000), ...grid(0.999, 1.001, 2000)], ulps: 2 },
  { fn: "log1p", xs: [...all, ...grid(-1, 3, 10000), ...grid(-1e-3, 1e-3, 2000), -1], ulps: 4 },
  { fn: "tanh", xs: [...all, ...grid(-10, 10, 10000)], ulps: 4 },
  { fn: "erf", xs: [...all, ...grid(-5, 5, 10000)], ulps: 3 },
  { fn: "sin", xs: angles, ulps: 2, absolute: 2e-7 },
  { fn: "cos", xs: angles, ulps: 2, absolute: 2e-7 },
  { fn: "sqrt", xs: all, ulps: 3 },
  { fn: "rsqrt", xs: [...all.filter((x) => x > 0 && x < Infinity)], ulps: 3 },
  { fn: "floor", xs: [...all, ...grid(-10, 10, 1001), 8388607.5, -8388607.5, 1e30], ulps: 0 },
  { fn: "neg", xs: all, ulps: 0 },
  { fn: "abs", xs: all, ulps: 0 },
];

describe.skipIf(!lavapipeAvailable)("on lavapipe", () => {
  let run: (inputs: readonly Input[], out: DType, value: (...xs: Expr[]) => Expr) => Promise<number[]>;
  beforeAll(async () => {
    const caps = wgslBackend.caps("base");
    const runner = new Runner(await openDevice(lavapipe(), caps), caps);
    run = async (inputs, out, value) => {
      const { program, count } = elementwise(inputs, out, value);
      const buffers = Object.fromEntries(
        inputs.map(({ dtype, xs }, i) => {
          const data = allocate(dtype, count);
          data.set(xs);
          return [`p${i}`, data];
        }),
      );
      const result = allocate(out, count);
      await runner.run(program, { ...buffers, out: result });
      return inputs[0]!.xs.map((_, i) => read(result, out, i));
    };
  });
  const f32s = (xs: readonly number[]): Input => ({ dtype: "f32", xs });

  test.each(cases)("$fn is within $ulps ulp", async ({ fn, xs, ulps: allowed, absolute }) => {
    const got = await run([f32s(xs)], "f32", (x) => unary(fn, x));
    xs.forEach((x, i) => {
      const exact = applyUnary(fn, Math.fround(x));
      const off = ulps(got[i]!, exact);
      if (off <= allowed || (absolute !== undefined && Math.abs(got[i]! - exact) <= absolute)) return;
      expect.fail(`${fn}(${x}) is ${got[i]!}, exactly ${exact}: ${off} ulp`);
    });
  });

  test("pow is within 4 ulp, and keeps the rules for zeros, infinities, NaN and negative bases", async () => {
    const special = [0, -0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 2.5, -2.5, 1e30, -1e30, 1e-30, Infinity, -Infinity, NaN, 16777217, -8388607];
    const [xs, ys]: [number[], number[]] = [[], []];
    for (const x of special) for (const y of special) (xs.push(x), ys.push(y));
    for (const x of grid(0.01, 40, 100)) for (const y of grid(-20, 20, 51)) (xs.push(x), ys.push(y));
    const got = await run([f32s(xs), f32s(ys)], "f32", (x, y) => binary("pow", x, y));
    xs.forEach((x, i) => {
      const exact = Math.pow(Math.fround(x), Math.fround(ys[i]!));
      const off = ulps(got[i]!, exact);
      if (off > 4) expect.fail(`pow(${x}, ${ys[i]!}) is ${got[i]!}, exactly ${exact}: ${off} ulp`);
    });
  });

  test.each(["min", "max", "lt", "le", "eq", "ne"] as const)("%s agrees with the definition, NaN included", async (fn) => {
    const special = [0, -1, 1, 2.5, Infinity, -Infinity, NaN, 1e-30];
    const pairs = special.flatMap((x) => special.map((y) => [x, y] as const));
    const inputs = [f32s(pairs.map(([x]) => x)), f32s(pairs.map(([, y]) => y))];
    const got = await run(inputs, "f32", (x, y) => (fn === "min" || fn === "max" ? binary(fn, x, y) : cast(binary(fn, x, y), "f32")));
    expect(got).toEqual(pairs.map(([x, y]) => Math.fround(applyBinary(fn, Math.fround(x), Math.fround(y)))));
  });

  test("a number is unlike itself only when it is none", async () => {
    const got = await run([f32s([1, NaN, Infinity])], "i32", (x) => cast(binary("ne", x, x), "i32"));
    expect(got).toEqual([0, 1, 0]);
  });

  test("infinities and NaN are constants", async () => {
    const pick = (x: Expr): Expr => select(binary("lt", x, 1), -Infinity, select(binary("lt", x, 2), Infinity, NaN));
    expect(await run([f32s([0, 1, 2])], "f32", (x) => pick(x))).toEqual([-Infinity, Infinity, NaN]);
  });

  const rounded = [...all, ...grid(-3, 3, 3000), ...grid(-1e-6, 1e-6, 500), 65504, 65519.99, 65520, 1e6, 5.9e-8, 2.9e-8, 3e-8, 6.1e-5];
  test.each(["bf16", "f16", "bool"] as const)("%s is stored as the definition rounds, several to a word", async (dtype) => {
    const got = await run([f32s(rounded)], dtype, (x) => cast(x, dtype));
    rounded.forEach((x, i) => {
      const want = round(Math.fround(x), dtype);
      if (!Object.is(got[i], want) && !(want === 0 && got[i] === 0)) expect.fail(`${dtype}(${x}) is ${got[i]!}, not ${want}`);
    });
  });

  test.each(["bf16", "f16"] as const)("every %s is read as what it is", async (dtype) => {
    const patterns = Array.from({ length: 65536 }, (_, i) => i);
    const got = await run([{ dtype, xs: patterns }], "f32", (x) => cast(x, "f32"));
    patterns.forEach((p, i) => {
      const data = Uint16Array.of(p);
      const want = read(data, dtype, 0);
      const subnormal = dtype === "f16" ? Math.abs(f16Value(p)) < 2 ** -14 : Math.abs(want) < LEAST;
      if (!Object.is(got[i], want) && got[i] !== want && !(subnormal && got[i] === 0))
        expect.fail(`${dtype} 0x${p.toString(16)} is read as ${got[i]!}, not ${want}`);
    });
  });

  test("integers are divided downwards, by constants and by numbers", async () => {
    const xs = [-100, -33, -32, -31, -8, -7, -1, 0, 1, 6, 7, 8, 31, 32, 33, 1000, 2 ** 31 - 1, -(2 ** 31) + 40];
    const pairs = xs.flatMap((x) => [1, 2, 3, 7, 8, 32, 100].map((y) => [x, y] as const));
    const inputs: Input[] = [
      { dtype: "i32", xs: pairs.map(([x]) => x) },
      { dtype: "i32", xs: pairs.map(([, y]) => y) },
    ];
    for (const fn of ["idiv", "mod"] as const)
      expect(await run(inputs, "i32", (x, y) => binary(fn, x, y))).toEqual(pairs.map(([x, y]) => applyBinary(fn, x, y)));
    expect(await run(inputs.slice(0, 1), "i32", (x) => sub(mul(idiv(x, 7), 100), mod(x, 32)))).toEqual(
      pairs.map(([x]) => (Math.imul(Math.floor(x / 7), 100) - applyBinary("mod", x, 32)) | 0),
    );
  });
});
