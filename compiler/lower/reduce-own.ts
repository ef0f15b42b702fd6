import type { DType } from "../ir/dtype.ts";
import { add, binary, cast, constant, i32, mul, reg } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import type { BinaryFn } from "../ir/operators.ts";
import type { Stmt } from "../ir/thread.ts";
import type { ReduceFn, Stmt as TileStmt } from "../ir/tile.ts";
import { segments, unrolled, when } from "./context.ts";
import type { Context } from "./context.ts";
import { placeOf } from "./layout.ts";
import type { FragLayout } from "./layout.ts";

export const COMBINE: Readonly<Record<ReduceFn, BinaryFn>> = { sum: "add", max: "max", min: "min" };

/** What takes part in a reduction without changing it. */
function identity(fn: ReduceFn, dtype: DType): Expr {
  if (fn === "sum") return constant(0, dtype);
  const low = dtype === "i32" ? -(2 ** 31) : -Infinity;
  const high = dtype === "i32" ? 2 ** 31 - 1 : Infinity;
  return constant(fn === "max" ? low : high, dtype);
}

/** Running values a lane keeps while it reduces a long row of its own elements, so that one addition need not wait for the last. */
const CHAINS = 4;

/** What a lane has of the rows before it meets other lanes. */
export interface OwnElements {
  /** Statements that combine the lane's elements of a row. */
  readonly body: (r: Expr, slot: number) => readonly Stmt[];
  /** The register that they leave the result in. */
  readonly reg: string;
  readonly index: (r: Expr, slot: number) => Expr;
}

/** This lane's elements of a row, combined into `value`; `together` rows have theirs at the same time. */
export function ownElements(s: Extract<TileStmt, { op: "rowReduce" }>, l: FragLayout, together: number, ctx: Context): OwnElements {
  const { src, dst, fn } = s;
  const start = identity(fn, dst.dtype);
  const combine = (a: Expr, b: Expr): Expr => binary(COMBINE[fn], a, b);
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
        return when(at.inside, [put(j, combine(acc(j), cast(reg(l.array, src.dtype, at.index), dst.dtype)))]);
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
  return { body, reg: name, index: (r, slot) => at(r, slot, 0) };
}
