import type { MatrixUnit } from "../compiler/backend.ts";
import { add, idiv, mod, mul } from "../compiler/ir/expr.ts";

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

/** Bytes along k that an operand of wgmma has in shared memory, and the most columns of one instruction (PTX ISA, wgmma). */
export const WGMMA = { rowBytes: 128, columns: 256 } as const;

/**
 * CUDA's wgmma of sm_90a: four warps multiply 64 rows, 16 each with the lane map of mma.sync, by 8 to 256 columns. What instructions take together is up to the
 * printer: neighbours in a row of unit tiles are neighbours in the registers.
 */
export const wgmma64: MatrixUnit = {
  name: "wgmma.m64k16",
  m: 64,
  n: 8,
  k: 16,
  lanes: 128,
  elems: 4,
  inputs: ["bf16", "f16"],
  coord: (lane, i) => {
    const [row, col] = mma16816.coord(mod(lane, 32), i);
    return [add(mul(idiv(lane, 32), 16), row), col];
  },
  block: [1, 1],
  asynchronous: WGMMA,
};

/** CUDA's mma.sync of f32 whose operands keep the 10 bits of a fraction that tf32 has: the lane map of m16n8k16, and half of its products. */
export const mma1688: MatrixUnit = {
  name: "mma.m16n8k8.tf32",
  m: 16,
  n: 8,
  k: 8,
  lanes: 32,
  elems: 4,
  inputs: ["f32"],
  fraction: 10,
  coord: (lane, i) => mma16816.coord(lane, i),
  block: [1, 1],
};

/** The lane map of CUDA's mma.sync m16n8k16. */
export const mma16816: MatrixUnit = {
  name: "mma.m16n8k16",
  m: 16,
  n: 8,
  k: 16,
  lanes: 32,
  elems: 4,
  inputs: ["bf16", "f16"],
  coord: (lane, i) => [add(idiv(lane, 4), mul(idiv(i, 2), 8)), add(mul(mod(lane, 4), 2), mod(i, 2))],
  block: [1, 1],
};
