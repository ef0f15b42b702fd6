import { applyBinary, applyUnary } from "../ir/operators.ts";
import type { Attrs } from "../ir/graph.ts";
import type { Around, Tensor } from "./tensor.ts";
import { around, copyBlock, sizeOf, stridesOf } from "./tensor.ts";

/** What the primitives do to numbers. Results are not rounded yet: the interpreter does that once for each operation, so sums accumulate in double precision. */

export function unary(x: Tensor, fn: Attrs["unary"]["fn"]): Float64Array {
  const out = new Float64Array(x.data.length);
  for (let i = 0; i < out.length; i++) out[i] = applyUnary(fn, x.data[i]!);
  return out;
}

export function binary(a: Tensor, b: Tensor, fn: Attrs["binary"]["fn"]): Float64Array {
  const out = new Float64Array(a.data.length);
  // a 32-bit product does not fit a double exactly, and its low bits are what wrapping keeps
  if (fn === "mul" && a.dtype === "i32") for (let i = 0; i < out.length; i++) out[i] = Math.imul(a.data[i]!, b.data[i]!);
  else for (let i = 0; i < out.length; i++) out[i] = applyBinary(fn, a.data[i]!, b.data[i]!);
  return out;
}

export function select(cond: Tensor, a: Tensor, b: Tensor): Float64Array {
  const out = new Float64Array(a.data.length);
  for (let i = 0; i < out.length; i++) out[i] = cond.data[i] ? a.data[i]! : b.data[i]!;
  return out;
}

/** Floats become integers by dropping the fraction; rounding to the result's dtype does the rest. */
export const cast = (x: Tensor, to: Attrs["cast"]["to"]): Float64Array => (to === "i32" ? x.data.map(Math.trunc) : x.data.slice());

export function iota(shape: readonly number[], axis: number): Float64Array {
  const { outer, n, inner } = around(shape, axis);
  const out = new Float64Array(outer * n * inner);
  for (let i = 0; i < out.length; i++) out[i] = Math.floor(i / inner) % n;
  return out;
}

export function broadcast(x: Tensor, shape: readonly number[], axes: readonly number[]): Float64Array {
  const own = stridesOf(x.shape);
  const strides = shape.map(() => 0);
  for (const [i, axis] of axes.entries()) strides[axis] = x.shape[i] === 1 ? 0 : own[i]!;
  return gathered(x, shape, strides, 0);
}

export function transpose(x: Tensor, perm: readonly number[]): Float64Array {
  const own = stridesOf(x.shape);
  return gathered(x, perm.map((p) => x.shape[p]!), perm.map((p) => own[p]!), 0); // prettier-ignore
}

export function slice(x: Tensor, shape: readonly number[], axis: number, start: number): Float64Array {
  const strides = stridesOf(x.shape);
  return gathered(x, shape, strides, start * strides[axis]!);
}

function gathered(x: Tensor, shape: readonly number[], strides: readonly number[], offset: number): Float64Array {
  const out = new Float64Array(sizeOf(shape));
  copyBlock({ data: out, offset: 0, strides: stridesOf(shape) }, { data: x.data, offset, strides }, shape);
  return out;
}

/** Writes all of `x` into `out`, a tensor of `shape`, from `start` along `axis`. */
export function place(out: Float64Array, shape: readonly number[], x: Tensor, axis: number, start: number): void {
  const strides = stridesOf(shape);
  copyBlock({ data: out, offset: start * strides[axis]!, strides }, { data: x.data, offset: 0, strides: stridesOf(x.shape) }, x.shape);
}

export function reduce(x: Tensor, { fn, axis }: Attrs["reduce"]): Float64Array {
  const { outer, n, inner } = around(x.shape, axis);
  const out = new Float64Array(outer * inner);
  for (let o = 0; o < outer; o++)
    for (let k = 0; k < inner; k++) {
      const at = (i: number): number => x.data[(o * n + i) * inner + k]!;
      let best = 0;
      let value = at(0);
      for (let i = 1; i < n; i++) {
        if (fn === "sum") value += at(i);
        else if (fn !== "argmax") value = applyBinary(fn, value, at(i));
        else if (at(i) > value) {
          value = at(i);
          best = i;
        }
      }
      out[o * inner + k] = fn === "argmax" ? best : value;
    }
  return out;
}

export function scan(x: Tensor, axis: number): Float64Array {
  const { outer, n, inner }: Around = around(x.shape, axis);
  const out = x.data.slice();
  for (let o = 0; o < outer; o++)
    for (let i = 1; i < n; i++) {
      const row = (o * n + i) * inner;
      for (let k = 0; k < inner; k++) out[row + k] = out[row - inner + k]! + out[row + k]!;
    }
  return out;
}

/** Rows of `data`. `outside`: an index that has no row. */
export function gather(data: Tensor, indices: Tensor): Float64Array | { readonly outside: number } {
  const rows = data.shape[0]!;
  const width = data.data.length / rows;
  const out = new Float64Array(indices.data.length * width);
  for (const [i, row] of indices.data.entries()) {
    if (!(row >= 0 && row < rows)) return { outside: row };
    out.set(data.data.subarray(row * width, (row + 1) * width), i * width);
  }
  return out;
}

export function matmul(a: Tensor, b: Tensor, transB: boolean): Float64Array {
  const rank = b.shape.length;
  const K = a.shape[a.shape.length - 1]!;
  const N = b.shape[transB ? rank - 2 : rank - 1]!;
  const batches = rank === 2 ? 1 : sizeOf(b.shape.slice(0, -2));
  const M = a.data.length / K / batches;
  const out = new Float64Array(batches * M * N);
  for (let i = 0; i < batches; i++)
    (transB ? rowsByRows : rowsByColumns)(out.subarray(i * M * N), a.data.subarray(i * M * K), b.data.subarray(i * N * K), M, N, K);
  return out;
}

/** out[m, n] = sum over k of a[m, k] * b[n, k]; four rows of b at a time share each read of a. */
function rowsByRows(out: Float64Array, a: Float64Array, b: Float64Array, M: number, N: number, K: number): void {
  for (let m = 0; m < M; m++) {
    const row = m * K;
    let n = 0;
    for (; n + 4 <= N; n += 4) {
      const b0 = n * K;
      const b1 = b0 + K;
      const b2 = b1 + K;
      const b3 = b2 + K;
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      for (let k = 0; k < K; k++) {
        const x = a[row + k]!;
        s0 += x * b[b0 + k]!;
        s1 += x * b[b1 + k]!;
        s2 += x * b[b2 + k]!;
        s3 += x * b[b3 + k]!;
      }
      const o = m * N + n;
      out[o] = s0;
      out[o + 1] = s1;
      out[o + 2] = s2;
      out[o + 3] = s3;
    }
    for (; n < N; n++) {
      let s = 0;
      for (let k = 0; k < K; k++) s += a[row + k]! * b[n * K + k]!;
      out[m * N + n] = s;
    }
  }
}

/** out[m, n] = sum over k of a[m, k] * b[k, n], a row of b at a time. */
function rowsByColumns(out: Float64Array, a: Float64Array, b: Float64Array, M: number, N: number, K: number): void {
  for (let m = 0; m < M; m++)
    for (let k = 0; k < K; k++) {
      const x = a[m * K + k]!;
      for (let n = 0; n < N; n++) out[m * N + n] = out[m * N + n]! + x * b[k * N + n]!;
    }
}
