import { TRUE, add, and, binary, cast, i32, idiv, isConst, load, lt, mod, reg } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import type { Stmt } from "../ir/thread.ts";
import type { Stmt as TileStmt } from "../ir/tile.ts";
import { rowMajor } from "./affine.ts";
import type { Piece } from "./barriers.ts";
import { both, eachUnitRow, layoutOf, spansWarp, when } from "./context.ts";
import type { Context } from "./context.ts";
import { rowPlaceOf } from "./layout.ts";
import type { Place } from "./layout.ts";
import { COMBINE, ownElements } from "./reduce-own.ts";
import { lowerParts } from "./reduce-parts.ts";

/**
 * Each lane reduces its own elements of a row, the lanes that share the row reduce theirs, and the warps along the row meet in shared memory. Into a shared tile
 * they do not meet (reduce-parts.ts).
 */
export function lowerReduce(s: Extract<TileStmt, { op: "rowReduce" }>, ctx: Context): readonly Piece[] {
  const { dst, fn, src } = s;
  const l = layoutOf(src, ctx);
  if (dst.scope === "shared") return lowerParts(s, ctx);
  if (dst.rows !== src.rows || dst.cols !== 1)
    throw ctx.error(`rowReduce of ${src.name} [${src.rows}, ${src.cols}] into ${dst.name} [${dst.rows}, ${dst.cols}]`);
  const combine = (a: Expr, b: Expr): Expr => binary(COMBINE[fn], a, b);
  // rows that no lane has among the first `rows` are left out; where some lanes have one, all take part and those store
  const perRow = (body: (at: Place, r: Expr, slot: number) => readonly Stmt[]): readonly Stmt[] =>
    eachUnitRow(l, ctx, (r) =>
      l.rows.first.flatMap((_, slot) => {
        const at = rowPlaceOf(l, ctx.lane, r, slot);
        const counts = s.rows === null ? TRUE : lt(at.row, s.rows);
        return isConst(counts, 0) ? [] : body({ ...at, inside: and(at.inside, counts) }, r, slot);
      }),
    );
  const finish = (at: Place, value: Expr): Stmt => ({
    op: "assign",
    reg: dst.name,
    index: at.index,
    value: s.accumulate ? combine(reg(dst.name, dst.dtype, at.index), value) : value,
  });
  if (src.cols === 1)
    return [{ op: "piece", body: perRow((at) => when(at.inside, [finish(at, cast(reg(src.name, src.dtype, at.index), dst.dtype))])) }];

  const across = l.groups[1];
  // Where warps meet, all rows are reduced before any is written: a target whose lanes meet in shared memory too then needs its barriers once for several.
  const together = across > 1 ? l.fm * l.rows.slots : 1;
  const own = ownElements(s, l, together, ctx);
  const value = (r: Expr, slot: number): Expr => reg(own.reg, dst.dtype, own.index(r, slot));
  const direct = across === 1 && !s.accumulate && s.rows === null;
  // the reduced value of a row, the same in all lanes that share it
  const row = direct ? dst.name : ctx.fresh("u");
  if (!direct) ctx.regs.push({ name: row, dtype: dst.dtype, count: together, uniform: across === 1 && spansWarp(l, ctx) });
  const meet = (r: Expr, slot: number, index: Expr): Stmt =>
    l.rows.masks.length > 0
      ? { op: "laneReduce", reg: row, index, fn, value: value(r, slot), masks: l.rows.masks }
      : { op: "assign", reg: row, index, value: value(r, slot) };
  const lanes = (r: Expr, slot: number, index: Expr): readonly Stmt[] => [...own.body(r, slot), meet(r, slot, index)];
  if (direct) return [{ op: "piece", body: perRow((at, r, slot) => lanes(r, slot, at.index)) }];
  const reduced = reg(row, dst.dtype, 0);
  if (across === 1)
    return [{ op: "piece", body: perRow((at, r, slot) => [...lanes(r, slot, i32(0)), ...when(at.inside, [finish(at, reduced)])]) }];

  const meeting = ctx.fresh("part");
  ctx.shared.push({ name: meeting, dtype: dst.dtype, count: across * src.rows });
  const first = and(...l.rows.masks.map((mask) => lt(mod(idiv(ctx.lane.lane, mask), 2), 1)));
  const held = (index: Expr): Expr => (together === 1 ? i32(0) : index);
  const put = (at: Place): Stmt => ({
    op: "store",
    buffer: meeting,
    dtype: dst.dtype,
    index: rowMajor(ctx.lane.warpCol, src.rows, at.row),
    value: reg(row, dst.dtype, held(at.index)),
    guard: both(at.inside, first),
  });
  const parts = (at: Place): Expr[] => Array.from({ length: across }, (_, j) => load(meeting, dst.dtype, add(at.row, j * src.rows)));
  const found: Piece = {
    op: "piece",
    body: [...perRow((_, r, slot) => own.body(r, slot)), ...perRow((at, r, slot) => [meet(r, slot, held(at.index))])],
  };
  // a piece of its own: before it, and no earlier, lanes wait for those that still read what was put there before
  const shared: Piece = { op: "piece", body: perRow((at) => [put(at)]) };
  return [found, shared, { op: "piece", body: perRow((at) => when(at.inside, [finish(at, parts(at).reduce(combine))])) }];
}
