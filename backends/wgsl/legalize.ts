import type { Caps } from "../../compiler/backend.ts";
import { add, ceilDiv, i32, idiv, intVar, isConst, lt, min, mod, mul, rangeOf } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { substituteStmts } from "../../compiler/ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../../compiler/ir/thread.ts";
import { unrollThread } from "../../compiler/lower/unroll.ts";
import { vectoriseThread } from "../../compiler/lower/vectorise.ts";

/**
 * Brings a program into the form that `print` writes down as it is: loops over registers written out, since WGSL's variables have no numbers, accesses to
 * neighbours joined, and no more workgroups along an axis than WebGPU allows.
 */
export function legalize(program: ThreadProgram, caps: Caps): ThreadProgram {
  return foldGrid(vectoriseThread(unrollThread(program), caps.vectorBytes));
}

/** WebGPU's maxComputeWorkgroupsPerDimension. */
const MOST_BLOCKS = 65535;
/** Blocks of an axis that is folded; the rest of it goes to another axis. A power of two divides cheaply. */
const FOLD = 32768;

const AXES = ["bx", "by", "bz"] as const;

/** Cuts an axis that may be too long into pieces of FOLD blocks and numbers the pieces along another axis; blocks past the end do nothing. */
export function foldGrid(p: ThreadProgram): ThreadProgram {
  const long = p.grid.findIndex((g) => rangeOf(g).max > MOST_BLOCKS);
  if (long < 0) return p;
  const count = p.grid[long]!;
  const pieces = ceilDiv(count, FOLD);
  const other = [0, 1, 2].filter((axis) => axis !== long).find((axis) => rangeOf(p.grid[axis]!).max * rangeOf(pieces).max <= MOST_BLOCKS);
  if (other === undefined)
    throw new Error(`wgsl ${p.name}: ${p.grid.map((g) => rangeOf(g).max).join(" x ")} workgroups are more than WebGPU can start`);
  const grid = p.grid.map((g, axis) => (axis === long ? min(count, FOLD) : axis === other ? mul(g, pieces) : g)) as [Expr, Expr, Expr];
  const blockVar = (axis: number, of: ThreadProgram["grid"]): Expr => {
    const most = rangeOf(of[axis]!).max;
    return isConst(of[axis]!, 1) ? i32(0) : intVar(AXES[axis]!, 0, Math.max(0, most - 1));
  };
  const within = blockVar(long, grid),
    both = blockVar(other, grid);
  const index = add(mul(mod(both, pieces), FOLD), within);
  const before = blockVar(other, p.grid);
  const body = substituteStmts(
    p.body,
    new Map([[blockVar(long, p.grid), index], ...(isConst(before) ? [] : [[before, idiv(both, pieces)] as const])]),
  );
  const inside: Stmt = { op: "if", cond: lt(index, count), body, otherwise: [] };
  return foldGrid({ ...p, grid, body: [inside] });
}
