import fc from "fast-check";
import type { DType } from "../../../compiler/ir/dtype.ts";
import { allocate, read, write } from "../../../compiler/ir/dtype.ts";
import { cast, intVar, i32, load } from "../../../compiler/ir/expr.ts";
import type { Expr, Var } from "../../../compiler/ir/expr.ts";
import type { Access, Param } from "../../../compiler/ir/tile.ts";
import type { HostArray } from "../../../compiler/run/tile.ts";
import type { Frame } from "../../../compiler/template.ts";

/** A problem for a template, memory for it, and what its outputs must be (a plain reference in double precision, from the stored inputs). */
export interface Case<P> {
  readonly problem: P;
  readonly buffers: Readonly<Record<string, HostArray>>;
  readonly symbols: Readonly<Record<string, number>>;
  /** For each buffer that the program writes, all of its elements; NaN where it must not write (the element then keeps its value). */
  readonly expected: Readonly<Record<string, ArrayLike<number>>>;
  /** Absolute and relative; rounding to a storage type is allowed for on top. */
  readonly tolerance: number;
  /** The sizes and switches of the case, for a failing property's report. */
  readonly about: string;
}

/** Numbers in [0, 1), the same for the same seed. */
export function random(seed: number): () => number {
  let s = seed >>> 0;
  return () => {
    s = (s + 0x6d2b79f5) >>> 0;
    let t = Math.imul(s ^ (s >>> 15), 1 | s);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Collects the buffers of a case: memory, parameter list, and readers for the reference. */
export interface Memory {
  readonly params: readonly Param[];
  readonly buffers: Readonly<Record<string, HostArray>>;
  /** A buffer with random contents in [low, high). */
  input(dtype: DType, count: number, low?: number, high?: number): Array_;
  /** A buffer to be written, holding a value that no result has. */
  output(dtype: DType, count: number, access?: Access): Array_;
  frame(name: string, symbols: readonly Var[]): Frame;
}
export interface Array_ {
  readonly name: string;
  readonly dtype: DType;
  readonly data: HostArray;
  /** The stored number. */
  get(i: number): number;
  set(i: number, x: number): void;
  /** The load of an element, widened to f32. */
  at(index: Expr): Expr;
}

export const UNTOUCHED = -12345;

export function memory(seed: number): Memory {
  const next = random(seed);
  const params: Param[] = [];
  const buffers: Record<string, HostArray> = {};
  const make = (dtype: DType, count: number, access: Access, value: () => number): Array_ => {
    const name = `p${params.length}`;
    const data = allocate(dtype, Math.max(1, count));
    for (let i = 0; i < data.length; i++) write(data, dtype, i, value());
    // of half of the inputs a program may know that nothing else writes them
    params.push({ name, dtype, access, ...(access === "read" && params.length % 2 === 1 ? { constant: true } : {}) });
    buffers[name] = data;
    return {
      name,
      dtype,
      data,
      get: (i) => read(data, dtype, i),
      set: (i, x) => {
        write(data, dtype, i, x);
      },
      at: (index) => {
        const e = load(name, dtype, index);
        return dtype === "i32" || dtype === "bool" ? e : cast(e, "f32");
      },
    };
  };
  return {
    params,
    buffers,
    input: (dtype, count, low = -1, high = 1) => make(dtype, count, "read", () => low + (high - low) * next()),
    output: (dtype, count, access = "write") => make(dtype, count, access, () => UNTOUCHED),
    frame: (name, symbols) => ({ name, params, symbols }),
  };
}

/** Sizes that meet edges: 1, primes, exact multiples, and everything up to `max`. */
export const size = (max: number): fc.Arbitrary<number> =>
  fc.oneof(fc.constantFrom(...[1, 2, 7, 8, 13, 16, 17, 31, 32, 61, 64].filter((n) => n <= max)), fc.integer({ min: 1, max }));

export const seed: fc.Arbitrary<number> = fc.integer({ min: 0, max: 2 ** 31 - 1 });
export const storage: fc.Arbitrary<DType> = fc.constantFrom<DType>("f32", "bf16", "f16");

/** A dimension as a program sees it: the number itself, or a symbol whose range is wider than the value of the run. */
export function dimension(
  name: string,
  value: number,
  symbolic: boolean,
  most: number,
): { readonly expr: Expr; readonly symbols: Var[]; readonly values: Record<string, number> } {
  if (!symbolic) return { expr: i32(value), symbols: [], values: {} };
  const v = intVar(name, 1, most);
  return { expr: v, symbols: [v], values: { [name]: value } };
}

/** How far a result may be from the reference: its own rounding, and the arithmetic's. */
const ulp: Readonly<Record<DType, number>> = { f32: 2 ** -23, bf16: 2 ** -8, f16: 2 ** -10, i32: 0, bool: 0 };
/** The least normal number: those below it are as far apart as those right above it. */
const normal: Readonly<Record<DType, number>> = { f32: 2 ** -126, bf16: 2 ** -126, f16: 2 ** -14, i32: 0, bool: 0 };

/** How far a result may be from `expected` because it is stored as `dtype`. */
export const rounding = (dtype: DType, expected: number): number => ulp[dtype] * Math.max(Math.abs(expected), normal[dtype]);

/** Compares every written buffer with what a case expects; returns the differences, none when all is well. */
export function differences(c: Case<{ readonly frame: Frame }>, got: Readonly<Record<string, HostArray>>): string[] {
  const found: string[] = [];
  for (const [name, want] of Object.entries(c.expected)) {
    const { dtype } = c.problem.frame.params.find((p) => p.name === name)!;
    for (let i = 0; i < want.length; i++) {
      const expected = Number.isNaN(want[i]) ? read(c.buffers[name]!, dtype, i) : want[i]!;
      const value = read(got[name]!, dtype, i);
      const allowed = Number.isNaN(want[i]) ? 0 : c.tolerance * (1 + Math.abs(expected)) + rounding(dtype, expected);
      if (!(Math.abs(value - expected) <= allowed) && value !== expected) found.push(`${name}[${i}] is ${value}, expected ${expected}`);
    }
  }
  return found.length > 8 ? [...found.slice(0, 8), `and ${found.length - 8} more`] : found;
}

/** A copy of the buffers, so that a program does not write into the case. */
export const copyBuffers = (c: Case<unknown>): Record<string, HostArray> =>
  Object.fromEntries(Object.entries(c.buffers).map(([name, data]) => [name, data.slice()]));
