import type { DType } from "../ir/dtype.ts";
import { round } from "../ir/dtype.ts";

/** A value of the interpreter: row-major, every element held in double precision, whatever `dtype` says about which numbers may occur. */
export interface Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** A tensor of these values, rounded to `dtype`. */
export function tensor(dtype: DType, shape: readonly number[], values: ArrayLike<number>): Tensor {
  if (values.length !== sizeOf(shape)) throw new Error(`${values.length} values do not fill [${shape.join(", ")}]`);
  const data = Float64Array.from(values);
  roundInPlace(data, dtype);
  return { dtype, shape, data };
}

export const zeros = (dtype: DType, shape: readonly number[]): Tensor => ({ dtype, shape, data: new Float64Array(sizeOf(shape)) });

export function roundInPlace(data: Float64Array, dtype: DType): void {
  if (dtype === "f32") for (let i = 0; i < data.length; i++) data[i] = Math.fround(data[i]!);
  else for (let i = 0; i < data.length; i++) data[i] = round(data[i]!, dtype);
}

export function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i]!;
  }
  return strides;
}

/** One side of a copy: element (i, j, ...) lies at `offset + i * strides[0] + j * strides[1] + ...`. */
export interface View {
  readonly data: Float64Array;
  readonly offset: number;
  readonly strides: readonly number[];
}

/** Copies a block of `shape` from one place to another. A stride of 0 repeats; every movement of data in the graph is one or more of these. */
export function copyBlock(to: View, from: View, shape: readonly number[]): void {
  const last = shape.length - 1;
  const go = (axis: number, dst: number, src: number): void => {
    if (axis > last) {
      to.data[dst] = from.data[src]!;
      return;
    }
    const n = shape[axis]!;
    const dstStep = to.strides[axis]!;
    const srcStep = from.strides[axis]!;
    if (axis === last) for (let i = 0; i < n; i++) to.data[dst + i * dstStep] = from.data[src + i * srcStep]!;
    else for (let i = 0; i < n; i++) go(axis + 1, dst + i * dstStep, src + i * srcStep);
  };
  go(0, to.offset, from.offset);
}

/** The axes of a row-major tensor around one of them: element (o, i, k) lies at `(o * n + i) * inner + k`. */
export interface Around {
  readonly outer: number;
  readonly n: number;
  readonly inner: number;
}
export const around = (shape: readonly number[], axis: number): Around => ({
  outer: sizeOf(shape.slice(0, axis)),
  n: shape[axis]!,
  inner: sizeOf(shape.slice(axis + 1)),
});
