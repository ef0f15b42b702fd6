import { add, ceilDiv, i32, idiv, intVar, isConst, lt, min, mod, mul, rangeOf } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { substituteStmts } from "../../compiler/ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../../compiler/ir/thread.ts";

/** Blocks of an axis that is folded; the rest of it goes to another axis. A power of two divides cheaply. */
const FOLD = 32768;

const AXES = ["bx", "by", "bz"] as const;

/** Cuts an axis that may be too long into pieces of FOLD blocks and numbers the pieces along another axis; blocks past the end do nothing. */
export function foldGrid(p: ThreadProgram, most: readonly [number, number, number]): ThreadProgram {
  const long = p.grid.findIndex((g, axis) => rangeOf(g).max > most[axis]!);
  if (long < 0) return p;
  const count = p.grid[long]!;
  const pieces = ceilDiv(count, FOLD);
  const other = [0, 1, 2].filter((axis) => axis !== long).find((axis) => rangeOf(p.grid[axis]!).max * rangeOf(pieces).max <= most[axis]!);
  if (other === undefined)
    throw new Error(`${p.name}: a grid of ${p.grid.map((g) => rangeOf(g).max).join(" x ")} blocks is more than ${most.join(" x ")}`);
  const grid = p.grid.map((g, axis) => (axis === long ? min(count, FOLD) : axis === other ? mul(g, pieces) : g)) as [Expr, Expr, Expr];
  const blockVar = (axis: number, of: ThreadProgram["grid"]): Expr => {
    const blocks = rangeOf(of[axis]!).max;
    return isConst(of[axis]!, 1) ? i32(0) : intVar(AXES[axis]!, 0, Math.max(0, blocks - 1));
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
  return foldGrid({ ...p, grid, body: [inside] }, most);
}
