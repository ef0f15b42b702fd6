import type { DType } from "../../compiler/ir/dtype.ts";
import type { Tensor } from "../../compiler/run/graph.ts";
import { tensor } from "../../compiler/run/graph.ts";
import { sizeOf } from "../../compiler/run/tensor.ts";

/** Numbers that depend on the seed only, so that a failing case is its seed. */
export interface Random {
  /** In [low, high). */
  uniform(low: number, high: number): number;
  /** In low .. high. */
  integer(low: number, high: number): number;
  values(count: number, low: number, high: number): Float64Array;
  tensor(dtype: DType, shape: readonly number[], low: number, high: number): Tensor;
}

/** mulberry32 */
export function random(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const self: Random = {
    uniform: (low, high) => low + (high - low) * next(),
    integer: (low, high) => Math.floor(self.uniform(low, high + 1)),
    values: (count, low, high) => Float64Array.from({ length: count }, () => self.uniform(low, high)),
    tensor: (dtype, shape, low, high) =>
      tensor(
        dtype,
        shape,
        dtype === "i32"
          ? self.values(sizeOf(shape), 0, 1).map((u) => low + Math.floor(u * (high - low + 1)))
          : self.values(sizeOf(shape), low, high),
      ),
  };
  return self;
}

/**
 * The largest difference between two arrays, relative to 1 + the largest magnitude among the expected values. NaN equals NaN and an infinity itself; any
 * other pairing with one of them is an infinite difference.
 */
export function difference(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (got.length !== expected.length) return Infinity;
  let scale = 1;
  for (let i = 0; i < expected.length; i++) if (Number.isFinite(expected[i]!)) scale = Math.max(scale, 1 + Math.abs(expected[i]!));
  let worst = 0;
  for (let i = 0; i < got.length; i++) {
    if (Object.is(got[i], expected[i])) continue;
    const d = Math.abs(got[i]! - expected[i]!);
    worst = Math.max(worst, Number.isNaN(d) ? Infinity : d);
  }
  return worst / scale;
}
