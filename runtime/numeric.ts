import { UserError } from "./errors.ts";

/**
 * Conversions between the storage types of a checkpoint and float32.
 *
 * Scalars go through JavaScript numbers, where every NaN is one NaN. The bulk versions work on the bits and keep a NaN's sign and as much of
 * its payload as fits, so that all 65 536 patterns of bf16 and f16 survive a round trip through float32.
 * All of them read and write little-endian memory, as a safetensors file and every host that Node runs on do.
 */

const scratchF32 = new Float32Array(1);
const scratchU32 = new Uint32Array(scratchF32.buffer);

function bitsOf(value: number): number {
  scratchF32[0] = value;
  return scratchU32[0]!;
}

function floatOf(bits: number): number {
  scratchU32[0] = bits;
  return scratchF32[0]!;
}

/** float32 bits to bf16 bits, to nearest, ties to even. A NaN stays a NaN even where its payload lies in the dropped half. */
function bf16FromBits(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) {
    const kept = bits >>> 16;
    return (kept & 0x7f) === 0 ? kept | 0x40 : kept;
  }
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** float32 bits to IEEE half bits, to nearest, ties to even, with subnormals, infinities and NaN. */
function f16FromBits(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x47800000) {
    if (magnitude <= 0x7f800000) return sign | 0x7c00;
    const payload = (magnitude >>> 13) & 0x3ff;
    return sign | 0x7c00 | (payload === 0 ? 0x200 : payload);
  }
  if (magnitude >= 0x38800000) {
    const rebiased = magnitude - 0x38000000;
    // A carry out of the mantissa raises the exponent, and out of the largest exponent gives infinity: both are the right answer.
    return sign | ((rebiased + 0xfff + ((rebiased >>> 13) & 1)) >>> 13);
  }
  // At most half of the smallest subnormal (2^-25): zero, the tie included.
  if (magnitude <= 0x33000000) return sign;
  const mantissa = (magnitude & 0x7fffff) | 0x800000;
  const shift = 126 - (magnitude >>> 23);
  const half = 1 << (shift - 1);
  const rest = mantissa & ((1 << shift) - 1);
  let units = mantissa >>> shift;
  if (rest > half || (rest === half && (units & 1) === 1)) units += 1;
  return sign | units;
}

/** IEEE half bits to float32 bits, exactly. */
function bitsFromF16(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >>> 10) & 0x1f;
  let mantissa = half & 0x3ff;
  if (exponent === 0x1f) return (sign | 0x7f800000 | (mantissa << 13)) >>> 0;
  if (exponent !== 0) return (sign | ((exponent + 112) << 23) | (mantissa << 13)) >>> 0;
  if (mantissa === 0) return sign >>> 0;
  let shifted = 113;
  while ((mantissa & 0x400) === 0) {
    mantissa <<= 1;
    shifted -= 1;
  }
  return (sign | (shifted << 23) | ((mantissa & 0x3ff) << 13)) >>> 0;
}

let halfTable: Uint32Array | undefined;

/** float32 bits of all 65 536 halves (256 KiB), made at first use: a lookup is several times faster than taking a half apart. */
function halves(): Uint32Array {
  if (halfTable === undefined) {
    halfTable = new Uint32Array(65536);
    for (let i = 0; i < 65536; i += 1) halfTable[i] = bitsFromF16(i);
  }
  return halfTable;
}

/** The bf16 nearest to `value` (ties to even), as 16 bits. */
export function f32ToBf16Bits(value: number): number {
  return bf16FromBits(bitsOf(value));
}

/** The number that 16 bf16 bits stand for. */
export function bf16BitsToF32(bits: number): number {
  return floatOf((bits & 0xffff) << 16);
}

/** The IEEE half nearest to `value` after rounding it to float32 (ties to even), as 16 bits. */
export function f32ToF16Bits(value: number): number {
  return f16FromBits(bitsOf(value));
}

/** The number that 16 IEEE half bits stand for. */
export function f16BitsToF32(bits: number): number {
  return floatOf(bitsFromF16(bits & 0xffff));
}

function sameLength(what: string, source: { readonly length: number }, target: { readonly length: number }): void {
  if (source.length !== target.length) {
    throw new RangeError(`${what}: source has ${source.length} elements and target ${target.length}; give two views of one length`);
  }
}

function bitView(floats: Float32Array): Uint32Array {
  return new Uint32Array(floats.buffer, floats.byteOffset, floats.length);
}

/** float32 to bf16, element by element. @throws RangeError when the lengths differ. */
export function f32ToBf16(source: Float32Array, target: Uint16Array): void {
  sameLength("f32ToBf16", source, target);
  const bits = bitView(source);
  for (let i = 0; i < bits.length; i += 1) target[i] = bf16FromBits(bits[i]!);
}

/** bf16 to float32, exactly. @throws RangeError when the lengths differ. */
export function bf16ToF32(source: Uint16Array, target: Float32Array): void {
  sameLength("bf16ToF32", source, target);
  const bits = bitView(target);
  for (let i = 0; i < bits.length; i += 1) bits[i] = source[i]! << 16;
}

/** float32 to IEEE half, element by element. @throws RangeError when the lengths differ. */
export function f32ToF16(source: Float32Array, target: Uint16Array): void {
  sameLength("f32ToF16", source, target);
  const bits = bitView(source);
  for (let i = 0; i < bits.length; i += 1) target[i] = f16FromBits(bits[i]!);
}

/** IEEE half to float32, exactly. @throws RangeError when the lengths differ. */
export function f16ToF32(source: Uint16Array, target: Float32Array): void {
  sameLength("f16ToF32", source, target);
  const bits = bitView(target);
  const table = halves();
  for (let i = 0; i < bits.length; i += 1) bits[i] = table[source[i]!]!;
}

/** The storage types that decodeFloats reads. */
export type FloatDType = "F64" | "F32" | "F16" | "BF16";

const floatBytes: Readonly<Record<FloatDType, number>> = { F64: 8, F32: 4, F16: 2, BF16: 2 };

export function isFloatDType(dtype: string): dtype is FloatDType {
  return Object.hasOwn(floatBytes, dtype);
}

/** `bytes` on an address that a typed array of `size`-byte elements accepts: the same memory where it is, a copy where it is not. */
function aligned(bytes: Uint8Array, size: number): Uint8Array {
  return bytes.byteOffset % size === 0 ? bytes : bytes.slice();
}

/**
 * Little-endian elements of a storage type as float32 (F64 is rounded to nearest).
 * @throws RangeError when `bytes` is not a whole number of elements.
 */
export function decodeFloats(dtype: FloatDType, bytes: Uint8Array): Float32Array {
  const size = floatBytes[dtype];
  if (bytes.length % size !== 0)
    throw new RangeError(`decodeFloats: ${bytes.length} bytes are not whole ${dtype} elements of ${size} bytes`);
  const count = bytes.length / size;
  const source = aligned(bytes, size);
  const target = new Float32Array(count);
  switch (dtype) {
    case "F64":
      target.set(new Float64Array(source.buffer, source.byteOffset, count));
      break;
    case "F32":
      target.set(new Float32Array(source.buffer, source.byteOffset, count));
      break;
    case "F16":
      f16ToF32(new Uint16Array(source.buffer, source.byteOffset, count), target);
      break;
    case "BF16":
      bf16ToF32(new Uint16Array(source.buffer, source.byteOffset, count), target);
      break;
  }
  return target;
}

/** float32 as the little-endian bytes of a storage type: a copy, F16 and BF16 rounded to nearest even. */
export function encodeFloats(dtype: FloatDType, values: Float32Array): Uint8Array {
  const bytes = new Uint8Array(values.length * floatBytes[dtype]);
  switch (dtype) {
    case "F64":
      new Float64Array(bytes.buffer).set(values);
      break;
    case "F32":
      new Float32Array(bytes.buffer).set(values);
      break;
    case "F16":
      f32ToF16(values, new Uint16Array(bytes.buffer));
      break;
    case "BF16":
      f32ToBf16(values, new Uint16Array(bytes.buffer));
      break;
  }
  return bytes;
}

/** The integers that decodeIntegers accepts: from `min` to `max`, both included. */
export interface IntegerRange {
  readonly min: number;
  readonly max: number;
}

/** The token ids of a vocabulary: 0 to `vocabSize - 1`. */
export function tokenRange(vocabSize: number): IntegerRange {
  return { min: 0, max: vocabSize - 1 };
}

/**
 * Little-endian I64 or I32 elements (token ids, masks, positions) as Int32, each checked against `range`.
 * @throws UserError naming `where`, the element, the range and the value; RangeError when `bytes` is not a whole number of elements.
 */
export function decodeIntegers(dtype: "I64" | "I32", bytes: Uint8Array, range: IntegerRange, where: string): Int32Array {
  const size = dtype === "I64" ? 8 : 4;
  if (bytes.length % size !== 0)
    throw new RangeError(`decodeIntegers: ${bytes.length} bytes are not whole ${dtype} elements of ${size} bytes`);
  const source = aligned(bytes, 4);
  const words = new Int32Array(source.buffer, source.byteOffset, source.length / 4);
  const stride = size / 4;
  const target = new Int32Array(words.length / stride);
  for (let i = 0; i < target.length; i += 1) {
    const low = words[i * stride]!;
    // A 64-bit value fits 32 bits exactly when its high word repeats the low word's sign.
    const fits = stride === 1 || words[i * 2 + 1] === low >> 31;
    if (!fits || low < range.min || low > range.max) {
      const value = stride === 1 ? low : new DataView(source.buffer, source.byteOffset).getBigInt64(i * 8, true);
      throw new UserError(`${where}: element ${i} is ${value}, expected an integer from ${range.min} to ${range.max}`);
    }
    target[i] = low;
  }
  return target;
}
