import type { Computed } from "./section.ts";
import type { GoldenTensor } from "./tensors.ts";

/** How far a computed tensor is from the reference. */
export interface Difference {
  readonly name: string;
  /** Whether nothing is farther off than the tolerance, and tokens are equal. */
  readonly agrees: boolean;
  /** Elements compared; those at padding are not. */
  readonly elements: number;
  /** Of the elements that are finite on both sides. */
  readonly maxError: number;
  readonly meanError: number;
  /** The largest magnitude in the reference. */
  readonly largest: number;
  /** Elements that are infinite or no number on one side only, or not in the same way. */
  readonly unlike: number;
  /** The first element that differs, in row-major order; null when all agree. */
  readonly first: { readonly index: readonly number[]; readonly expected: number; readonly got: number } | null;
  /** Why nothing could be compared; null otherwise. */
  readonly mismatch: string | null;
}

/** Holds a computed tensor to the reference. Tokens have to be equal; floats within `tolerance`, and infinite where the reference is. */
export function differenceOf({ name, shape, values, real }: Computed, reference: GoldenTensor, tolerance: number): Difference {
  const none = { name, elements: 0, maxError: 0, meanError: 0, largest: 0, unlike: 0, first: null };
  const integers = values instanceof Int32Array;
  if (integers !== reference.values instanceof Int32Array)
    return { ...none, agrees: false, mismatch: `expected ${integers ? "integers" : "floats"}, the file has the other` };
  if (!sameShape(shape, reference.shape))
    return { ...none, agrees: false, mismatch: `the file has [${reference.shape.join(", ")}], the model gives [${shape.join(", ")}]` };
  const width = real === undefined ? 1 : values.length / real.length;
  let [elements, maxError, sum, largest, unlike, first] = [0, 0, 0, 0, 0, -1];
  for (let i = 0; i < values.length; i += 1) {
    if (real?.[Math.floor(i / width)] === 0) continue;
    const [got, expected] = [values[i]!, reference.values[i]!];
    elements += 1;
    if (Number.isFinite(expected)) largest = Math.max(largest, Math.abs(expected));
    if (Number.isFinite(got) && Number.isFinite(expected)) {
      const error = Math.abs(got - expected);
      maxError = Math.max(maxError, error);
      sum += error;
      if (first < 0 && error > (integers ? 0 : tolerance)) first = i;
    } else if (!Object.is(got, expected)) {
      unlike += 1;
      if (first < 0) first = i;
    }
  }
  return {
    name,
    agrees: first < 0,
    elements,
    maxError,
    meanError: elements > unlike ? sum / (elements - unlike) : 0,
    largest,
    unlike,
    first: first < 0 ? null : { index: indexOf(first, shape), expected: reference.values[first]!, got: values[first]! },
    mismatch: null,
  };
}

/** A loss may be stored as a scalar or as a list of one. */
function sameShape(a: readonly number[], b: readonly number[]): boolean {
  const scalar = (shape: readonly number[]): boolean => shape.every((size) => size === 1);
  return (scalar(a) && scalar(b)) || (a.length === b.length && a.every((size, i) => size === b[i]));
}

function indexOf(flat: number, shape: readonly number[]): number[] {
  let rest = flat;
  return shape
    .toReversed()
    .map((size) => {
      const at = rest % size;
      rest = Math.floor(rest / size);
      return at;
    })
    .reverse();
}
