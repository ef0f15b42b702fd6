import { add, and, binary, i32, idiv, lt, mod, mul, reg, select, shuffle } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import type { Stmt } from "../ir/thread.ts";
import type { Stmt as TileStmt } from "../ir/tile.ts";
import { rowMajor } from "./affine.ts";
import type { Piece } from "./barriers.ts";
import { both, layoutOf } from "./context.ts";
import type { Context } from "./context.ts";
import { rowBase } from "./layout.ts";
import { COMBINE, ownElements } from "./reduce-own.ts";

type Reduce = Extract<TileStmt, { op: "rowReduce" }>;

/**
 * Into a shared tile with a column for each warp along the rows: each warp puts what it has found of every row there, and no lane waits for another warp. The lanes
 * of a warp halve the rows among them: with the lane that differs in one bit of the number, each gives away what it has of one half of the rows and gets what
 * the other has of its own half. So 8 rows take 9 exchanges instead of 40.
 */
export function lowerParts(s: Reduce, ctx: Context): readonly Piece[] {
  const { dst, src } = s;
  const l = layoutOf(src, ctx);
  const across = l.groups[1];
  if (dst.rows !== src.rows || across !== dst.cols || l.fn * l.unit.n * across !== src.cols)
    throw ctx.error(
      `rowReduce of ${src.name} [${src.rows}, ${src.cols}] into ${dst.name} [${dst.rows}, ${dst.cols}]: its columns are not what ${across} warps side by side find`,
    );
  if (l.unit.m !== 1 || l.fm * l.groups[0] !== src.rows)
    throw ctx.error(`rowReduce of ${src.name} into ${dst.name}: rows of ${l.unit.name} do not lie across the lanes, all of them`);
  const own = ownElements(s, l, l.fm, ctx);
  const rows = Array.from({ length: l.fm }, (_, r) => i32(r));
  const halved = halve(s, l.fm, l.rows.masks, (r) => ({ name: own.reg, index: own.index(i32(r), 0) }), ctx);
  const total = ctx.fresh("u");
  ctx.regs.push({ name: total, dtype: dst.dtype, count: halved.count, uniform: false });
  const kept = rows.slice(0, halved.count);
  const meet = kept.map((r): Stmt => {
    const value = reg(own.reg, dst.dtype, own.index(r, 0));
    return halved.masks.length > 0
      ? { op: "laneReduce", reg: total, index: r, fn: s.fn, value, masks: halved.masks }
      : { op: "assign", reg: total, index: r, value };
  });
  const first = halved.masks.map((mask) => lt(bitOf(mask, ctx), 1));
  const put = kept.map((r): Stmt => {
    const row = add(add(rowBase(l, ctx.lane), halved.first), r);
    const index = rowMajor(row, ctx.strides.get(dst.name)!, ctx.lane.warpCol);
    return { op: "store", buffer: dst.name, dtype: dst.dtype, index, value: reg(total, dst.dtype, r), guard: both(and(...first), null) };
  });
  // a piece of its own: before it, and no earlier, lanes wait for those that still read what was put there before
  return [
    { op: "piece", body: [...rows.flatMap((r) => own.body(r, 0)), ...halved.body, ...meet] },
    { op: "piece", body: put },
  ];
}

const bitOf = (mask: number, ctx: Context): Expr => mod(idiv(ctx.lane.lane, mask), 2);

/** Rows halved among lanes as often as they can be: each is left with `count` of them from `first` on, of which lanes that differ by `masks` have parts. */
interface Halved {
  readonly body: readonly Stmt[];
  readonly count: number;
  readonly first: Expr;
  readonly masks: readonly number[];
}

function halve(
  s: Reduce,
  rows: number,
  masks: readonly number[],
  at: (row: number) => { readonly name: string; readonly index: Expr },
  ctx: Context,
): Halved {
  const [mask] = masks;
  if (mask === undefined || rows % 2 !== 0) return { body: [], count: rows, first: i32(0), masks };
  const half = rows / 2;
  const second = lt(0, bitOf(mask, ctx));
  const value = (row: number): Expr => reg(at(row).name, s.dst.dtype, at(row).index);
  const body = Array.from({ length: half }, (_, r): Stmt => {
    const [low, high] = [value(r), value(r + half)];
    const sum = binary(COMBINE[s.fn], select(second, high, low), shuffle(select(second, low, high), mask));
    return { op: "assign", reg: at(r).name, index: at(r).index, value: sum };
  });
  const rest = halve(s, half, masks.slice(1), at, ctx);
  return { ...rest, body: [...body, ...rest.body], first: add(mul(bitOf(mask, ctx), half), rest.first) };
}
