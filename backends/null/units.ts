import type { MatrixUnit } from "../../compiler/backend.ts";
import { add, i32, idiv, mod, mul } from "../../compiler/ir/expr.ts";

/** The lane map of Apple's simdgroup_matrix 8x8. */
export const simdgroup8: MatrixUnit = {
  name: "simdgroup8x8",
  m: 8,
  n: 8,
  k: 8,
  lanes: 32,
  elems: 2,
  inputs: ["f32", "f16", "bf16"],
  coord: (lane, i) => [
    add(mul(idiv(lane, 16), 4), mod(idiv(lane, 2), 4)),
    add(add(mul(mod(idiv(lane, 8), 2), 4), mul(mod(lane, 2), 2)), i),
  ],
  block: [1, 1],
};

/** Plain multiply-add with a warp of 32 as 4 rows of 8: what a GPU computes f32 products with. */
export const fma4x8: MatrixUnit = {
  name: "fma4x8",
  m: 4,
  n: 8,
  k: 1,
  lanes: 32,
  elems: 1,
  inputs: ["f32", "bf16", "f16"],
  coord: (lane) => [idiv(lane, 8), mod(lane, 8)],
  block: [1, 1],
};

/** Vector multiply-add of a CPU with 8 lanes. */
export const fma8: MatrixUnit = {
  name: "fma8",
  m: 1,
  n: 8,
  k: 1,
  lanes: 8,
  elems: 1,
  inputs: ["f32", "bf16", "f16"],
  coord: (lane) => [i32(0), lane],
  block: [6, 2],
};
