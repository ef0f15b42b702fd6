import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  bf16BitsToF32,
  bf16ToF32,
  decodeFloats,
  decodeIntegers,
  encodeFloats,
  f16BitsToF32,
  f16ToF32,
  f32ToBf16,
  f32ToBf16Bits,
  f32ToF16,
  f32ToF16Bits,
  tokenRange,
} from "../../runtime/numeric.ts";

const everyPattern = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** A half taken apart by its definition, without the bit tricks under test. */
function halfByDefinition(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  if (exponent === 31) return mantissa === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * mantissa * 2 ** -24 : sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

/** The finite value nearest to x among those of `decode`, ties to the even pattern, by comparing with both neighbours. */
function nearestByNeighbours(x: number, bits: number, decode: (bits: number) => number): void {
  const distance = (candidate: number): number => Math.abs(decode(candidate) - x);
  const own = distance(bits);
  for (const other of [bits - 1, bits + 1]) {
    if (other < 0 || other > 0xffff || !Number.isFinite(decode(other)) || Math.sign(decode(other)) * Math.sign(decode(bits)) < 0) continue;
    expect(own).toBeLessThanOrEqual(distance(other));
    if (own === distance(other)) expect(bits % 2).toBe(0);
  }
}

describe("every 16-bit pattern", () => {
  test("bf16 -> f32 -> bf16 gives the pattern back, NaN payloads included", () => {
    const wide = new Float32Array(65536);
    const back = new Uint16Array(65536);
    bf16ToF32(everyPattern, wide);
    f32ToBf16(wide, back);
    expect(back).toEqual(everyPattern);
  });

  test("f16 -> f32 -> f16 gives the pattern back, NaN payloads included", () => {
    const wide = new Float32Array(65536);
    const back = new Uint16Array(65536);
    f16ToF32(everyPattern, wide);
    f32ToF16(wide, back);
    expect(back).toEqual(everyPattern);
  });

  test("f16 values are those of the definition; scalar and bulk agree", () => {
    const wide = new Float32Array(65536);
    f16ToF32(everyPattern, wide);
    for (let i = 0; i < 65536; i += 1) {
      expect(Object.is(wide[i], halfByDefinition(i)) && Object.is(f16BitsToF32(i), halfByDefinition(i)), `pattern ${i}`).toBe(true);
      if (!Number.isNaN(wide[i])) {
        expect(f32ToF16Bits(wide[i] as number)).toBe(i);
        expect(f32ToBf16Bits(bf16BitsToF32(i)) === i || Number.isNaN(bf16BitsToF32(i))).toBe(true);
      }
    }
  });
});

describe("rounding", () => {
  test("bf16 is the nearest, ties to even", () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (x) => {
        const bits = f32ToBf16Bits(x);
        if (Number.isFinite(bf16BitsToF32(bits))) nearestByNeighbours(x, bits, bf16BitsToF32);
        else expect(Math.abs(x)).toBeGreaterThanOrEqual(2 ** 127 * (2 - 2 ** -8));
      }),
      { numRuns: 2000 },
    );
  });

  test("f16 is the nearest, ties to even, subnormals included", () => {
    const near = fc.oneof(
      fc.float({ noNaN: true, noDefaultInfinity: true, min: -70000, max: 70000 }),
      fc.float({ noNaN: true, min: Math.fround(-(2 ** -13)), max: Math.fround(2 ** -13) }),
    );
    fc.assert(
      fc.property(near, (x) => {
        const bits = f32ToF16Bits(x);
        if (Number.isFinite(f16BitsToF32(bits))) nearestByNeighbours(x, bits, halfByDefinition);
        else expect(Math.abs(x)).toBeGreaterThanOrEqual(65520);
      }),
      { numRuns: 2000 },
    );
  });

  test.each([
    [65519.99609375, 0x7bff],
    [65520, 0x7c00],
    [-65520, 0xfc00],
    [2 ** -24, 1],
    [2 ** -25, 0],
    [2 ** -25 * (1 + 2 ** -20), 1],
    [1.5 * 2 ** -24, 2],
    [2.5 * 2 ** -24, 2],
    [2 ** -14 - 2 ** -26, 0x400],
    [-0, 0x8000],
    [Infinity, 0x7c00],
  ])("f16 of %d is %d", (value, bits) => {
    expect(f32ToF16Bits(value)).toBe(bits);
  });

  test("a NaN whose payload lies in the dropped bits is still a NaN", () => {
    const nan = new Float32Array(new Uint32Array([0x7f800001, 0xff800001]).buffer);
    const target = new Uint16Array(2);
    f32ToBf16(nan, target);
    expect([...target]).toEqual([0x7fc0, 0xffc0]);
    f32ToF16(nan, target);
    expect([...target]).toEqual([0x7e00, 0xfe00]);
  });

  test("encode then decode is the identity on values that the type holds, at any byte offset", () => {
    const values = Float32Array.from([0, -0, 1, -2.5, 0.125, Infinity]);
    for (const dtype of ["F64", "F32", "F16", "BF16"] as const) {
      const encoded = encodeFloats(dtype, values);
      const shifted = new Uint8Array(encoded.length + 1);
      shifted.set(encoded, 1);
      expect(decodeFloats(dtype, encoded)).toEqual(values);
      expect(decodeFloats(dtype, shifted.subarray(1))).toEqual(values);
    }
    expect(() => decodeFloats("F32", new Uint8Array(3))).toThrow(RangeError);
    expect(() => f32ToBf16(new Float32Array(2), new Uint16Array(3))).toThrow("source has 2 elements and target 3");
  });
});

describe("integers", () => {
  const bytesOf = (values: readonly bigint[]): Uint8Array => new Uint8Array(BigInt64Array.from(values).buffer);

  test("I64 and I32 ids come back as they are", () => {
    fc.assert(
      fc.property(fc.array(fc.integer()), (values) => {
        const range = { min: -(2 ** 31), max: 2 ** 31 - 1 };
        expect([...decodeIntegers("I64", bytesOf(values.map(BigInt)), range, "ids")]).toEqual(values);
        expect([...decodeIntegers("I32", new Uint8Array(Int32Array.from(values).buffer), range, "ids")]).toEqual(values);
      }),
    );
  });

  test.each([-1n, 64n, 1n << 32n, (1n << 32n) + 5n, -(1n << 40n), 2n ** 63n - 1n])("id %d outside a vocabulary of 64 is named", (id) => {
    expect(() => decodeIntegers("I64", bytesOf([3n, id]), tokenRange(64), "in.safetensors input_ids")).toThrow(
      `in.safetensors input_ids: element 1 is ${id}, expected an integer from 0 to 63`,
    );
  });
});
