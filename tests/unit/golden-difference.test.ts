import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { differenceOf } from "../../models/auto/golden/difference.ts";
import type { Difference } from "../../models/auto/golden/difference.ts";

const floats = (...values: number[]): Float32Array => Float32Array.from(values);

function difference(
  ours: Float32Array | Int32Array,
  theirs: Float32Array | Int32Array,
  more: { shape?: number[]; real?: Int32Array } = {},
): Difference {
  const { shape = [ours.length], ...rest } = more;
  return differenceOf({ name: "x", shape, values: ours, ...rest }, { shape, values: theirs }, 0.1);
}

describe("how far a tensor is from the reference", () => {
  test("floats: the greatest and the mean error, and the first that is farther off than the tolerance", () => {
    const { agrees, elements, maxError, meanError, largest, first } = difference(floats(1, 2.25, 3, -4.5), floats(1.0625, 2, 3, -4), {
      shape: [2, 2],
    });
    expect({ agrees, elements, maxError, largest }).toEqual({ agrees: false, elements: 4, maxError: 0.5, largest: 4 });
    expect(meanError).toBeCloseTo((0.0625 + 0.25 + 0.5) / 4, 6);
    expect(first).toEqual({ index: [0, 1], expected: 2, got: 2.25 });
    expect(difference(floats(1, 2), floats(1.0625, 2)).agrees).toBe(true);
  });

  test("what is removed has to be removed on both sides; infinities and NaN are no numbers to subtract", () => {
    expect(difference(floats(-Infinity, 1, NaN), floats(-Infinity, 1, NaN))).toMatchObject({
      agrees: true,
      unlike: 0,
      maxError: 0,
      largest: 1,
    });
    for (const [ours, theirs] of [
      [-Infinity, 3],
      [3, -Infinity],
      [Infinity, -Infinity],
      [NaN, 1],
      [1, NaN],
    ] as const)
      expect(difference(floats(0, ours), floats(0, theirs))).toMatchObject({
        agrees: false,
        unlike: 1,
        maxError: 0,
        first: { index: [1] },
      });
  });

  test("tokens are equal or not, however large the tolerance", () => {
    const shape = [2, 2];
    expect(difference(Int32Array.of(1, 2, 3, 4), Int32Array.of(1, 2, 3, 4), { shape }).agrees).toBe(true);
    const differs = differenceOf(
      { name: "x", shape, values: Int32Array.of(1, 2, 3, 4) },
      { shape, values: Int32Array.of(1, 2, 9, 4) },
      100,
    );
    expect(differs).toMatchObject({ agrees: false, first: { index: [1, 0], expected: 9, got: 3 } });
  });

  test("padding is not compared", () => {
    const real = Int32Array.of(0, 1);
    const more = { shape: [1, 2, 2], real };
    expect(difference(floats(9, NaN, 1, 2), floats(0, 0, 1, 2), more)).toMatchObject({ agrees: true, elements: 2, largest: 2 });
    expect(difference(floats(9, 9, 1, 2), floats(0, 0, 1, 3), more)).toMatchObject({ agrees: false, first: { index: [0, 1, 1] } });
  });

  test("another shape or kind is a difference of its own", () => {
    const ours = { name: "x", shape: [2, 1], values: floats(1, 2) };
    expect(differenceOf(ours, { shape: [1, 2], values: floats(1, 2) }, 0.1)).toMatchObject({
      agrees: false,
      mismatch: "the file has [1, 2], the model gives [2, 1]",
    });
    expect(differenceOf(ours, { shape: [2, 1], values: Int32Array.of(1, 2) }, 0.1)).toMatchObject({
      agrees: false,
      mismatch: "expected floats, the file has the other",
    });
    // A loss is stored as a scalar or as a list of one.
    expect(differenceOf({ ...ours, shape: [1], values: floats(1) }, { shape: [], values: floats(1) }, 0.1).agrees).toBe(true);
  });

  test("the error of any tensors is what a straight loop finds", () => {
    const numbers = fc.float({ min: -8, max: 8, noNaN: true });
    fc.assert(
      fc.property(fc.array(fc.tuple(numbers, numbers), { minLength: 1, maxLength: 20 }), (pairs) => {
        const [ours, theirs] = [0, 1].map((side) => Float32Array.from(pairs, (pair) => pair[side]!)) as [Float32Array, Float32Array];
        const errors = Array.from(ours, (value, i) => Math.abs(value - theirs[i]!));
        const { maxError, meanError, agrees, first } = difference(ours, theirs);
        expect(maxError).toBe(Math.max(...errors));
        expect(meanError).toBeCloseTo(errors.reduce((sum, error) => sum + error, 0) / errors.length, 9);
        expect(agrees).toBe(errors.every((error) => error <= 0.1));
        expect(first?.index[0] ?? -1).toBe(errors.findIndex((error) => error > 0.1));
      }),
    );
  });
});
