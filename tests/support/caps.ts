import type { Caps, MatrixUnit } from "../../compiler/backend.ts";
import { NO_REQUIREMENTS } from "../../compiler/backend.ts";
import { add, idiv, i32, mod, mul } from "../../compiler/ir/expr.ts";

/** A CPU of no particular make: eight lanes, packed weights, operands read in place. */
export const vectorCaps: Caps = {
  name: "test-vector",
  dtypes: new Set(["f32", "f16", "bf16", "i32", "bool"]),
  lanes: 8,
  maxThreads: 8,
  sharedBytes: 1 << 24,
  vectorBytes: 4,
  asyncCopy: false,
  indexableRegisters: true,
  directOperands: true,
  arena: "one",
  maxBuffers: Infinity,
  requires: NO_REQUIREMENTS,
  panel: 16,
  units: [
    {
      name: "fma8",
      m: 1,
      n: 8,
      k: 1,
      lanes: 8,
      elems: 1,
      inputs: ["f32", "bf16", "f16"],
      coord: (lane) => [i32(0), lane],
      block: [6, 2],
    },
  ],
  workers: 2,
};

/** A GPU of no particular make: warps of 32 lanes, 48 KB of shared memory, a 16x8x16 matrix unit with the usual lane map. */
export const warpCaps: Caps = {
  name: "test-warp",
  dtypes: new Set(["f32", "f16", "bf16", "i32", "bool"]),
  lanes: 32,
  maxThreads: 256,
  sharedBytes: 48 * 1024,
  vectorBytes: 16,
  asyncCopy: true,
  indexableRegisters: false,
  directOperands: false,
  arena: "one",
  maxBuffers: Infinity,
  requires: NO_REQUIREMENTS,
  panel: 0,
  units: [
    {
      name: "mma16x8x16",
      m: 16,
      n: 8,
      k: 16,
      lanes: 32,
      elems: 4,
      inputs: ["f32"],
      coord: (lane, i) => [add(idiv(lane, 4), mul(idiv(i, 2), 8)), add(mul(mod(lane, 4), 2), mod(i, 2))],
      block: [1, 1],
    },
  ],
  workers: 4,
};

/** Plain multiply-add with a warp of 32 as 4 rows of 8. */
export const fmaUnit: MatrixUnit = {
  name: "fma4x8",
  m: 4,
  n: 8,
  k: 1,
  lanes: 32,
  elems: 1,
  inputs: ["f32"],
  coord: (lane) => [idiv(lane, 8), mod(lane, 8)],
  block: [1, 1],
};
