import { BYTES } from "../ir/dtype.ts";
import { add, cast, i32, mul, walk } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import type { Stmt } from "../ir/thread.ts";
import { coordinates } from "../ir/tile.ts";
import type { Tile } from "../ir/tile.ts";
import { isVector, isVectorCondition, mentions, rowMajor } from "./affine.ts";
import { plainLoad } from "./copy.ts";
import { both, lowerExpr, NOWHERE, strideOf, together, when } from "./context.ts";
import type { Context } from "./context.ts";

/** A shared tile that all lanes of a block fill: each its part, in vectors where what is loaded has them. */
export function lowerLoad(dst: Tile, value: Expr, ctx: Context): readonly Stmt[] {
  const vectors = vectorLoad(dst, value, ctx);
  if (vectors) return vectors;
  const width = runOf(dst, value, ctx);
  return together({ ...dst, cols: dst.cols / width }, ctx, (row, group, inside) =>
    Array.from({ length: width }, (_, i): Stmt => {
      const col = add(mul(group, width), i);
      const v = cast(lowerExpr(value, { ...NOWHERE, row, col }, null, ctx), dst.dtype);
      const index = rowMajor(row, strideOf(dst, ctx), col);
      return { op: "store", buffer: dst.name, dtype: dst.dtype, index, value: v, guard: both(inside, null) };
    }),
  );
}

/**
 * Neighbours that one lane computes, so that a target can load and store them as a vector: where all that the value loads lies along the columns, and elements of
 * shared tiles do if it loads nothing else.
 */
function runOf(dst: Tile, value: Expr, ctx: Context): number {
  const width = Math.floor(ctx.caps.vectorBytes / BYTES[dst.dtype]);
  if (width <= 1 || dst.cols % width !== 0 || strideOf(dst, ctx) % width !== 0) return 1;
  const [, col] = coordinates(dst);
  const found: { along: boolean; across: boolean } = { along: false, across: false };
  walk(value, (e) => {
    if (e.op === "elem") found.along ||= isVector(rowMajor(e.row, ctx.strides.get(e.tile) ?? 1, e.col), col, width);
    if (e.op !== "load" || !mentions(e.index, col)) return;
    if (isVector(e.index, col, width)) found.along = true;
    else found.across = true;
  });
  return found.along && !found.across ? width : 1;
}

/** A plain copy of aligned consecutive elements moves in vectors of the target's width. */
function vectorLoad(dst: Tile, value: Expr, ctx: Context): readonly Stmt[] | null {
  const width = ctx.caps.vectorBytes / BYTES[dst.dtype];
  const from = plainLoad(value, dst.dtype);
  if (!from || width <= 1 || !Number.isInteger(width) || dst.cols % width !== 0) return null;
  const { buffer, dtype, index, guard } = from;
  const [, col] = coordinates(dst);
  if (!isVector(index, col, width) || (guard && !isVectorCondition(guard, col, width))) return null;
  const name = ctx.fresh("v");
  ctx.regs.push({ name, dtype, count: width, uniform: false });
  const narrow: Tile = { ...dst, cols: dst.cols / width };
  return together(narrow, ctx, (row, group, inside) => {
    const at = { ...NOWHERE, row, col: mul(group, width) };
    const holds = guard && lowerExpr(guard, at, null, ctx);
    return when(inside, [
      {
        op: "loadVec",
        reg: name,
        index: i32(0),
        width,
        buffer,
        dtype,
        at: lowerExpr(index, at, null, ctx),
        guard: holds && both(holds, null),
      },
      {
        op: "storeVec",
        reg: name,
        index: i32(0),
        width,
        buffer: dst.name,
        dtype,
        at: rowMajor(row, strideOf(dst, ctx), at.col),
        guard: null,
      },
    ]);
  });
}
