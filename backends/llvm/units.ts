import type { MatrixUnit } from "../../compiler/backend.ts";
import { constant } from "../../compiler/ir/expr.ts";

/**
 * A CPU's matrix unit is its vector FMA: one row, as many columns as a register has lanes, one step of k. `block` is the micro-kernel's register
 * tile: rows x vectors of accumulators, which with the operands must fit the register file.
 */
export const fmaUnit = (lanes: number, block: readonly [number, number]): MatrixUnit => ({
  name: `fma.f32x${lanes}`,
  m: 1,
  n: lanes,
  k: 1,
  lanes,
  elems: 1,
  inputs: ["f32", "bf16", "f16"],
  coord: (lane) => [constant(0, "i32"), lane],
  block,
});
