/** Element types. Arithmetic happens in `f32` and `i32` (and `bool` for conditions); `f16` and `bf16` are storage types that are cast on the way in and out. */
export type DType = "f32" | "f16" | "bf16" | "i32" | "bool";

export const DTYPES: readonly DType[] = ["f32", "f16", "bf16", "i32", "bool"];

/** Bytes one element takes in a buffer. `bool` is one byte. */
export const BYTES: Readonly<Record<DType, number>> = { f32: 4, f16: 2, bf16: 2, i32: 4, bool: 1 };

export const isFloat = (d: DType): boolean => d === "f32" || d === "f16" || d === "bf16";

/** The largest finite f32. */
export const LARGEST_F32 = 3.4028234663852886e38;

const f32View = new Float32Array(1);
const u32View = new Uint32Array(f32View.buffer);

/** The bit pattern of `x` rounded to bfloat16, ties to even; a NaN stays a NaN. */
export function bf16Bits(x: number): number {
  f32View[0] = x;
  const u = u32View[0]!;
  if ((u & 0x7fffffff) > 0x7f800000) return (u >>> 16) | 0x40;
  return ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The number that a bfloat16 bit pattern stands for. */
export function bf16Value(bits: number): number {
  u32View[0] = (bits & 0xffff) << 16;
  return f32View[0]!;
}

const FRACTION_BITS = 23;

/** `x` as an f32 with so many bits of its fraction: the nearest one, and from the middle the one away from zero. Infinities and NaN stay. */
export function roundFraction(x: number, bits: number): number {
  f32View[0] = x;
  if (!Number.isFinite(f32View[0])) return x;
  const dropped = FRACTION_BITS - bits;
  u32View[0] = ((u32View[0]! + 2 ** (dropped - 1)) >>> dropped) * 2 ** dropped;
  return f32View[0];
}

/** The bit pattern of `x` rounded to IEEE half precision, ties to even, with subnormals and infinities. */
export function f16Bits(x: number): number {
  f32View[0] = x;
  const u = u32View[0]!;
  const sign = (u >>> 16) & 0x8000;
  const magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // rounds to 65536 or more
  if (magnitude < 0x38800000) {
    // subnormal: the half's unit in the last place is 2^-24
    f32View[0] = x;
    const scaled = Math.abs(f32View[0]) * 16777216;
    const floor = Math.floor(scaled);
    const rest = scaled - floor;
    return sign | (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

/** The number that a half-precision bit pattern stands for. */
export function f16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** `x` rounded to the nearest value that `dtype` can hold. `i32` wraps like two's complement, `bool` is 0 or 1. */
export function round(x: number, dtype: DType): number {
  switch (dtype) {
    case "f32":
      return Math.fround(x);
    case "bf16":
      return bf16Value(bf16Bits(x));
    case "f16":
      return f16Value(f16Bits(x));
    case "i32":
      return x | 0;
    case "bool":
      return x ? 1 : 0;
  }
}

/** Host memory for `count` elements of `dtype`, as the typed array whose elements are the stored bit patterns (f16 and bf16: Uint16Array). */
export function allocate(dtype: DType, count: number): Float32Array | Int32Array | Uint16Array | Uint8Array {
  switch (dtype) {
    case "f32":
      return new Float32Array(count);
    case "i32":
      return new Int32Array(count);
    case "f16":
    case "bf16":
      return new Uint16Array(count);
    case "bool":
      return new Uint8Array(count);
  }
}

/** Reads element `i` of host memory laid out as `allocate` makes it. */
export function read(data: { readonly [i: number]: number }, dtype: DType, i: number): number {
  const x = data[i]!;
  return dtype === "bf16" ? bf16Value(x) : dtype === "f16" ? f16Value(x) : x;
}

/** Writes `x`, rounded to `dtype`, as element `i` of host memory laid out as `allocate` makes it. */
export function write(data: { [i: number]: number }, dtype: DType, i: number, x: number): void {
  data[i] = dtype === "bf16" ? bf16Bits(x) : dtype === "f16" ? f16Bits(x) : dtype === "bool" ? (x ? 1 : 0) : x;
}
