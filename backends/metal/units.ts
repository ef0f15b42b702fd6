import type { MatrixUnit } from "../../compiler/backend.ts";
import { add, idiv, mod, mul } from "../../compiler/ir/expr.ts";

/** What simdgroup matrices are made of, and what Metal calls it. */
const ELEMENTS = { f32: "float", f16: "half", bf16: "bfloat" } as const;

export const EDGE = 8;

/**
 * A simdgroup's product of 8 x 8 matrices of one type, summed up in f32. Which lane holds what of a matrix is not documented: a lane's registers are filled from
 * memory, in which it takes neighbours, so that a row of eight is what four lanes store together.
 */
export const simdgroupMatrix = (dtype: keyof typeof ELEMENTS): MatrixUnit => ({
  name: matrixType(dtype),
  m: EDGE,
  n: EDGE,
  k: EDGE,
  lanes: 32,
  elems: 2,
  inputs: [dtype],
  coord: (lane, i) => [idiv(lane, 4), add(mul(mod(lane, 4), 2), i)],
  block: [1, 1],
  exchangeBytes: EXCHANGE_BYTES,
});

/** One matrix of f32. */
export const EXCHANGE_BYTES = 4 * EDGE * EDGE;

export const isSimdgroupMatrix = (unit: MatrixUnit): boolean => unit.name.startsWith("simdgroup_");

/** The type of a matrix with elements of `dtype`. */
export const matrixType = (dtype: keyof typeof ELEMENTS): string => `simdgroup_${ELEMENTS[dtype]}${EDGE}x${EDGE}`;
