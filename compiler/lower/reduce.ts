import type { DType } from "../ir/dtype.ts";
import { add, and, binary, cast, constant, i32, idiv, load, lt, mod, mul, reg } from "../ir/expr.ts";
import type { BinaryFn, Expr } from "../ir/expr.ts";
import type { Stmt } from "../ir/thread.ts";
import type { ReduceFn, Stmt as TileStmt } from "../ir/tile.ts";
import { rowMajor } from "./affine.ts";
import type { Piece } from "./barriers.ts";
import { both, eachUnitRow, layoutOf, segments, spansWarp, unrolled, when } from "./context.ts";
import type { Context } from "./context.ts";
import { placeOf, rowPlaceOf } from "./layout.ts";
import type { FragLayout, Place } from "./layout.ts";

const COMBINE: Readonly<Record<ReduceFn, BinaryFn>> = { sum: "add", max: "max", min: "min" };

/** What takes part in a reduction without changing it. */
function identity(fn: ReduceFn, dtype: DType): Expr {
  if (fn === "sum") return constant(0, dtype);
  const low = dtype === "i32" ? -(2 ** 31) : -Infinity;
  const high = dtype === "i32" ? 2 ** 31 - 1 : Infinity;
  return constant(fn === "max" ? low : high, dtype);
}

/** Running values a lane keeps while it reduces a long row of its own elements, so that one addition need not wait for the last. */
const CHAINS = 4;

/**
 * Each lane reduces its own elements of a row, the lanes that share the row reduce theirs, and the warps along the row meet in shared memory, which is all where
 * the result lies there. */
export function lowerReduce(s: Extract<TileStmt, { op: "rowReduce" }>, ctx: Context): readonly Piece[] {
  const { dst, fn, src } = s;
  const l = layoutOf(src, ctx);
  if (dst.rows !== src.rows || (dst.cols !== 1 && dst.scope === "frag"))
    throw ctx.error(`rowReduce of ${src.name} [${src.rows}, ${src.cols}] into ${dst.name} [${dst.rows}, ${dst.cols}]`);
  const combine = (a: Expr, b: Expr): Expr => binary(COMBINE[fn], a, b);
  const perRow = (body: (at: Place, r: Expr, slot: number) => readonly Stmt[]): readonly Stmt[] =>
    eachUnitRow(l, ctx, (r) => l.rows.first.flatMap((_, slot) => body(rowPlaceOf(l, ctx.lane, r, slot), r, slot)));
  const finish = (at: Place, value: Expr): Stmt => ({
    op: "assign",
    reg: dst.name,
    index: at.index,
    value: s.accumulate ? combine(reg(dst.name, dst.dtype, at.index), value) : value,
  });
  if (src.cols === 1)
    return [{ op: "piece", body: perRow((at) => when(at.inside, [finish(at, cast(reg(src.name, src.dtype, at.index), dst.dtype))])) }];

  const across = l.groups[1];
  if (dst.scope === "shared" && (across !== dst.cols || l.fn * l.unit.n * across !== src.cols))
    throw ctx.error(
      `rowReduce of ${src.name} into ${dst.name}: its ${dst.cols} columns are not what ${across} warps side by side have found`,
    );
  // Where warps meet, all rows are reduced before any is written: a target whose lanes meet in shared memory too then needs its barriers once for several.
  const together = across > 1 || dst.scope === "shared" ? l.fm * l.rows.slots : 1;
  const own = ownElements(s, l, identity(fn, dst.dtype), combine, together, ctx);
  const direct = across === 1 && !s.accumulate && dst.scope === "frag";
  // the reduced value of a row, the same in all lanes that share it
  const row = direct ? dst.name : ctx.fresh("u");
  if (!direct)
    ctx.regs.push({ name: row, dtype: dst.dtype, count: together, uniform: across === 1 && together === 1 && spansWarp(l, ctx) });
  const meet = (r: Expr, slot: number, index: Expr): Stmt =>
    l.rows.masks.length > 0
      ? { op: "laneReduce", reg: row, index, fn, value: own.value(r, slot), masks: l.rows.masks }
      : { op: "assign", reg: row, index, value: own.value(r, slot) };
  const lanes = (r: Expr, slot: number, index: Expr): readonly Stmt[] => [...own.body(r, slot), meet(r, slot, index)];
  if (direct) return [{ op: "piece", body: perRow((at, r, slot) => lanes(r, slot, at.index)) }];
  const reduced = reg(row, dst.dtype, 0);
  if (across === 1 && dst.scope === "frag")
    return [{ op: "piece", body: perRow((at, r, slot) => [...lanes(r, slot, i32(0)), ...when(at.inside, [finish(at, reduced)])]) }];

  const meeting = dst.scope === "shared" ? dst.name : ctx.fresh("part");
  if (dst.scope === "frag") ctx.shared.push({ name: meeting, dtype: dst.dtype, count: across * src.rows });
  const first = and(...l.rows.masks.map((mask) => lt(mod(idiv(ctx.lane.lane, mask), 2), 1)));
  const held = (index: Expr): Expr => (together === 1 ? i32(0) : index);
  const put = (at: Place): Stmt => ({
    op: "store",
    buffer: meeting,
    dtype: dst.dtype,
    index:
      dst.scope === "shared"
        ? rowMajor(at.row, ctx.strides.get(dst.name)!, ctx.lane.warpCol)
        : rowMajor(ctx.lane.warpCol, src.rows, at.row),
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
  if (dst.scope === "shared") return [found, shared];
  return [found, shared, { op: "piece", body: perRow((at) => when(at.inside, [finish(at, parts(at).reduce(combine))])) }];
}

/** This lane's elements of a row, combined into `value`; `together` rows have theirs at the same time. */
function ownElements(
  s: Extract<TileStmt, { op: "rowReduce" }>,
  l: FragLayout,
  start: Expr,
  combine: (a: Expr, b: Expr) => Expr,
  together: number,
  ctx: Context,
): { readonly body: (r: Expr, slot: number) => readonly Stmt[]; readonly value: (r: Expr, slot: number) => Expr } {
  const { src, dst } = s;
  const chains = l.fn >= 4 * CHAINS ? CHAINS : 1;
  const name = ctx.fresh("t");
  ctx.regs.push({ name, dtype: dst.dtype, count: chains * together, uniform: false });
  const at = (r: Expr, slot: number, j: number): Expr => (together === 1 ? i32(j) : add(mul(add(mul(r, l.rows.slots), slot), chains), j));
  const body = (r: Expr, slot: number): readonly Stmt[] => {
    const acc = (j: number): Expr => reg(name, dst.dtype, at(r, slot, j));
    const put = (j: number, value: Expr): Stmt => ({ op: "assign", reg: name, index: at(r, slot, j), value });
    const elements = l.rows.slotOf.flatMap((of, i) => (of === slot ? [i] : []));
    const step = (c: Expr, j: number): readonly Stmt[] =>
      elements.flatMap((i) => {
        const at = placeOf(l, ctx.lane, r, c, i);
        return when(at.inside, [put(j, combine(acc(j), cast(reg(src.name, src.dtype, at.index), dst.dtype)))]);
      });
    const out: Stmt[] = [];
    for (let j = 0; j < chains; j++) out.push(put(j, start));
    for (const [from, count] of segments(l.fn, src.cols, l.unit.n, l.groups[1])) {
      const turns = Math.floor(count / chains);
      const turn = (c: Expr): readonly Stmt[] => Array.from({ length: chains }, (_, j) => step(add(mul(c, chains), from + j), j)).flat();
      out.push(...ctx.loop("c", turns, unrolled(l, ctx), turn));
      for (let c = turns * chains; c < count; c++) out.push(...step(i32(from + c), 0));
    }
    for (let j = 1; j < chains; j++) out.push(put(0, combine(acc(0), acc(j))));
    return out;
  };
  return { body, value: (r, slot) => reg(name, dst.dtype, at(r, slot, 0)) };
}
