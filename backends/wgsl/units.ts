import type { MatrixUnit } from "../../compiler/backend.ts";
import { add, idiv, mod, mul } from "../../compiler/ir/expr.ts";

/** Lanes of a warp as a grid, at most twice as wide as high. */
export function laneGrid(lanes: number): readonly [rows: number, cols: number] {
  const rows = 2 ** Math.floor(Math.log2(lanes) / 2);
  return [rows, lanes / rows];
}

/**
 * Multiply-add on registers: each lane owns down x across elements of a warp's tile and computes them from rows of both operands that it reads four k at a
 * time. A lane's rows and columns are as far apart as the lane grid is large, so that lanes next to each other read rows next to each other: with
 * rows of an odd number of vectors those lie in different banks of workgroup memory.
 */
export function fmaTile(lanes: number, down: number, across: number): MatrixUnit {
  const [rows, cols] = laneGrid(lanes);
  return {
    name: `fma.${down}x${across}`,
    m: rows * down,
    n: cols * across,
    k: 4,
    lanes,
    elems: down * across,
    inputs: ["f32"],
    coord: (lane, i) => [add(idiv(lane, cols), mul(idiv(i, across), rows)), add(mod(lane, cols), mul(mod(i, across), cols))],
    block: [down, across],
  };
}

/** The matrices of 16 x 16 of which Dawn's subgroup matrices multiply halves and add them up in singles. */
export function subgroupMatrix(lanes: number): MatrixUnit {
  const edge = 16;
  return {
    name: `subgroup_matrix.${edge}x${edge}x${edge}`,
    m: edge,
    n: edge,
    k: edge,
    lanes,
    elems: (edge * edge) / lanes,
    inputs: ["f16"],
    // where the registers get them from workgroup memory: lanes next to each other take elements next to each other
    coord: (lane, i) => [idiv(add(mul(i, lanes), lane), edge), mod(add(mul(i, lanes), lane), edge)],
    block: [1, 1],
    exchangeBytes: 4 * edge * edge,
  };
}

export const isSubgroupMatrix = (unit: MatrixUnit): boolean => unit.name.startsWith("subgroup_matrix");
